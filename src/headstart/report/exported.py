"""A run → its model in another form, with the proof that both give the same answers, and a card, beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart import storage
from headstart.data import sources
from headstart.delivery import exports
from headstart.delivery.exports import FILES, Form, Parity
from headstart.errors import ArtifactError, ConfigError, ExportError
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import Progress, silence
from headstart.report import explained

PARITY, CARD = "parity.json", "README.md"
MOST = 400  # pictures of a proof
_USE = {
    "onnx": """import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
picture = np.asarray(ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB"))
probabilities, *_ = session.run(None, {"pictures": picture[None]})""",
    "openvino": """import numpy as np, openvino
from PIL import Image, ImageOps

model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
picture = np.asarray(ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB"))
probabilities = model([picture[None]])[0]""",
    "timm": """import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
probabilities = model(transform(picture)[None]).softmax(dim=1)""",
}


def export(
    model: str | Path,
    to: Form,
    out: str | Path,
    *,
    pictures: Sequence[str | Path] | None = None,
    progress: Progress = silence,
) -> Parity:
    """Write a model for another runtime, and have that runtime prove that it gives the same answers.

    Args:
        model: A folder that `headstart train` wrote.
        to: From `exports.FORMS`.
        out: A folder that is not there yet, or empty.
        pictures: Files, folders and glob patterns to compare on; None: of those that the model was measured on, so many
            as still lie where they lay, at most `MOST`.
        progress: Hears of every picture.

    Raises:
        ConfigError: The model cannot be told in that form, the folder holds something, or there are no pictures.
        ExportError: More labels differ than may; nothing is left behind.
        MissingExtraError: What writes or runs the form is not installed.
    """
    folder, run = Path(out), Path(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already, and is left alone.", "Name another folder with --out.")
    classifier = artifact.load_classifier(run)
    compared = _pictures(run, classifier, pictures)
    with storage.storage_errors(folder, "Name another folder with --out."):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            exports.write(classifier, to, made)
            parity = exports.prove(classifier, to, made, compared, progress)
            if not parity.holds:
                raise ExportError(
                    f"{parity}: more than {parity.allowed:.1%} of the labels differ, so nothing was written to "
                    f"{folder}.",
                    "`headstart predict` gives the model's own answers.",
                )
            _tell(made, run, classifier, parity)
            made.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return parity


def verify(
    model: str | Path, out: str | Path, *, pictures: Sequence[str | Path] | None = None, progress: Progress = silence
) -> Parity:
    """Compare an export once more with its model, on this machine; arguments and errors are those of `export`.

    Raises:
        ArtifactError: The folder holds no export, or a file of it has changed.
    """
    folder, run = Path(out), Path(model)
    try:
        before: dict[str, Any] = json.loads((folder / PARITY).read_text(encoding="utf-8"))
        form, files = before["form"], before["files"]
        names = FILES[form]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} is no export of Headstart: {PARITY} does not tell of one ({error}).") from error
    classifier = artifact.load_classifier(run)
    parity = exports.prove(classifier, form, folder, _pictures(run, classifier, pictures), progress)
    if changed := [name for name in names if parity.files[name] != files.get(name)]:
        raise ArtifactError(f"{folder / changed[0]} is not the file that {PARITY} tells of: it was changed or damaged.")
    if not parity.holds:
        raise ExportError(f"{parity}: more than {parity.allowed:.1%} of the labels differ on this machine.")
    return parity


def _pictures(run: Path, classifier: Classifier, asked: Sequence[str | Path] | None) -> list[Path]:
    """Return which pictures are compared on, at most `MOST`, the same ones each time."""
    if asked is not None:
        paths = [sample.path for sample in sources.read_pictures([str(one) for one in asked])]
        return [paths[row] for row in sorted(_order(len(paths))[:MOST])]
    learned, found = explained.learned(run, classifier), list[Path]()
    if learned is not None:
        places = ((learned.dataset[row].path, learned.digests[row]) for row in _order(len(learned.digests)))
        found = list(islice(filter(None, (explained.lies_at(*place) for place in places)), MOST))
    if not found:
        raise ConfigError(
            f"None of the pictures that {run} was made from lies where it lay, so there is nothing to compare on.",
            "Name some of the same kind with --pictures.",
        )
    return found


def _order(count: int) -> list[int]:
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    return order


def _tell(folder: Path, run: Path, classifier: Classifier, parity: Parity) -> None:
    """Write the proof and the card."""
    told = parity.to_dict() | {"model": str(run.resolve().name), "told": exports.told(classifier)}
    storage.write_whole(folder / PARITY, (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())
    limit = told["told"]["known_from"]
    unknown = "" if limit is None else f"A picture whose familiarity is below {limit:.6g} is none of the classes.\n"
    card = f"""# {run.resolve().name}, for {parity.runtime.partition(" ")[0]}

{len(classifier.classes)} classes: {", ".join(classifier.classes[:10])}{", …" if len(classifier.classes) > 10 else ""}.
Their names, in the order of the probabilities, are in `{PARITY}` under `told`, and in the metadata of the file.

```python
{_USE[parity.form]}
```

{unknown}
## Does it answer as the model does?

{parity}. At most {parity.allowed:.1%} of the labels may differ, or nothing would have been written.
`headstart export MODEL --to {parity.form} --out FOLDER --verify` compares once more, on any machine.
"""
    storage.write_whole(folder / CARD, card.encode())
