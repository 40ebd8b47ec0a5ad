"""A run → its model in another form, with the proof that it answers as the model does, and a card, beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headstart import storage
from headstart.data import images, sources
from headstart.delivery import exports, parity, runtimes
from headstart.delivery.exports import FILES, Form, Quantize, Target
from headstart.delivery.parity import TIMED, Labelled, Parity
from headstart.encoding import quantized
from headstart.errors import ArtifactError, ConfigError, ExportError, PictureError
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.model.portable import Input
from headstart.records import Dataset, Learned, Place, Progress, Sample, silence
from headstart.report import origin, usage

PARITY, CARD = "parity.json", "README.md"
MOST = 400  # pictures that labels are compared on
CALIBRATED, MEASURED = 300, 2000  # pictures that int8 is calibrated with, and that its accuracy is measured on


class _Chosen(NamedTuple):
    """Pictures that labels are compared on, and those that the accuracy of 8-bit integers is measured on."""

    compared: list[Place]
    labelled: Labelled | None = None


def export(
    model: str | Path,
    to: Form,
    out: str | Path,
    *,
    input: Input = "pictures",
    quantize: Quantize = "none",
    pictures: Sequence[str | Path] | None = None,
    labelled: str | Path | None = None,
    progress: Progress = silence,
) -> Parity:
    """Write a model for another runtime, and have that runtime prove that it answers as the model does.

    Args:
        model: A folder that `headstart train` wrote.
        to: From `exports.FORMS`.
        out: A folder that is not there yet, or empty.
        input: What it takes: decoded `pictures` of any size, or float32 `tensors` that are prepared and normalised.
        quantize: `int8`: its networks in 8-bit integers, calibrated with pictures that the model learned from.
        pictures: Files, folders and glob patterns to compare on; None: of those that the model was made from, so many
            as still lie where they lay, at most `MOST`.
        labelled: A folder or a table of labelled pictures that the accuracy of int8 is measured on; None: those of the
            run that its head did not learn from, or where there are none those that int8 was not calibrated with.
        progress: Hears of every picture.

    Raises:
        ConfigError: The model cannot be told in that form, the folder holds something, or there are no pictures.
        ExportError: More labels differ than may, or int8 loses more accuracy than it may; nothing is left behind.
        MissingExtraError: What writes or runs the form is not installed.
    """
    target, folder, run = Target(to, input, quantize), Path(out), Path(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already, and is left alone.", "Name another folder with --out.")
    if quantize == "int8":
        quantized.require_nncf("--quantize int8")
    classifier = artifact.load_classifier(run)
    chosen = _choose(run, classifier, target, pictures, labelled)
    with storage.storage_errors(folder, "Name another folder with --out."):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            proof = _make(run, classifier, target, made, chosen, progress)
            if not proof.holds:
                raise ExportError(f"Nothing was written to {folder}: {proof.broken()}.", _instead(proof))
            _tell(made, run, classifier, proof)
            made.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return proof


def verify(
    model: str | Path,
    out: str | Path,
    *,
    pictures: Sequence[str | Path] | None = None,
    labelled: str | Path | None = None,
    progress: Progress = silence,
) -> Parity:
    """Compare an export once more with its model, on this machine; arguments and errors are those of `export`.

    Raises:
        ArtifactError: The folder holds no export, or a file of it is missing or has changed.
    """
    folder, run = Path(out), Path(model)
    target = _read(folder)
    classifier = artifact.load_classifier(run)
    chosen = _choose(run, classifier, target, pictures, labelled)
    proof = parity.prove(classifier, target, folder, chosen.compared, chosen.labelled, progress)
    if not proof.holds:
        raise ExportError(f"On this machine {folder} is not what it was: {proof.broken()}.", _instead(proof))
    return proof


def _read(folder: Path) -> Target:
    """Return what lies in a folder, whose files are those that were proved.

    Raises:
        ArtifactError: It is no export, or a file of it is missing or has changed.
    """
    try:
        before: dict[str, Any] = json.loads((folder / PARITY).read_text(encoding="utf-8"))
        target = Target(before["form"], before["input"], before["quantize"])
        wanted = {name: before["files"][name]["sha256"] for name in FILES[target.form]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} is no export of Headstart: {PARITY} does not tell of one ({error}).",
            "`headstart export` writes such a folder; name it with --out.",
        ) from error
    for name, digest in wanted.items():
        try:
            found = images.digest((folder / name).read_bytes())
        except OSError as error:
            raise ArtifactError(
                f"{folder / name} cannot be read: {error.strerror}.", "Export the model anew."
            ) from error
        if found != digest:
            raise ArtifactError(
                f"{folder / name} is not the file that {PARITY} tells of: it was changed or damaged.",
                "Export the model anew.",
            )
    return target


def _make(run: Path, classifier: Classifier, target: Target, made: Path, chosen: _Chosen, progress: Progress) -> Parity:
    """Write an export into a folder, and return the proof."""
    if target.quantize == "none":
        exports.write(classifier, target, made)
        return parity.prove(classifier, target, made, chosen.compared, chosen.labelled, progress)
    calibrated = _calibrated(run, classifier, chosen)
    plain = made / ".float32"
    plain.mkdir()
    exports.write(classifier, target, plain)
    exports.quantize(plain, target, made, partial(runtimes.fed, classifier, target.input), calibrated, progress)
    proof = parity.prove(classifier, target, made, chosen.compared, chosen.labelled, progress)
    now, before = parity.timed(classifier, target, (made, plain), chosen.compared[:TIMED])
    size = sum(file.stat().st_size for file in plain.iterdir())
    shutil.rmtree(plain)
    return replace(proof, milliseconds=now, unquantized={"milliseconds": before, "bytes": size})


def _instead(proof: Parity) -> str:
    if proof.accuracy is not None and not proof.accuracy.holds:
        return "Without --quantize it loses nothing; or measure on more pictures with --labelled."
    if proof.target.form == "timm":
        return "timm's transform resizes to whole pixels before it crops; --to onnx and --to openvino do as the model."
    return "`headstart predict` gives the model's own answers."


def _choose(
    run: Path,
    classifier: Classifier,
    target: Target,
    pictures: Sequence[str | Path] | None,
    labelled: str | Path | None,
) -> _Chosen:
    if target.quantize == "none":
        if labelled is not None:
            raise ConfigError("--labelled is what the accuracy of --quantize int8 is measured on.", "Leave it out.")
        return _Chosen(_pictures(run, classifier, pictures))
    measured = _measured(run, classifier) if labelled is None else _labelled(run, classifier, labelled)
    if pictures is not None:
        return _Chosen(_pictures(run, classifier, pictures), measured)
    return _Chosen([one.path for one in measured.dataset][:MOST], measured)


def _pictures(run: Path, classifier: Classifier, asked: Sequence[str | Path] | None) -> list[Place]:
    """Return which pictures are compared on, at most `MOST`, the same ones each time."""
    if asked is not None:
        paths = [sample.path for sample in sources.read_pictures([str(one) for one in asked])]
        return [paths[row] for row in sorted(_order(len(paths))[:MOST])]
    learned, found = origin.learned(run, classifier), list[Sample]()
    if learned is not None:
        found = list(islice(_lying(learned, _order(len(learned.digests))), MOST))
    if not found:
        raise ConfigError(
            f"None of the pictures that {run} was made from lies where it lay, so there is nothing to compare on.",
            "Name some of the same kind with --pictures.",
        )
    return [one.path for one in found]


def _measured(run: Path, classifier: Classifier) -> Labelled:
    """Return labelled pictures of the run: held out, or where there are none learned from and not calibrated with."""
    held, learned = origin.held_out(run, classifier), origin.learned(run, classifier)
    for among in (one for one in (held, learned) if one is not None):
        order = _order(len(among.digests))
        rows = order if among is held else order[: len(order) - _share(len(order))]
        if found := list(islice(_lying(among, rows), MEASURED)):
            return Labelled(Dataset(among.dataset.root, tuple(found)), 0 if among is held else len(found))
    raise ConfigError(
        f"None of the labelled pictures that {run} was made from lies where it lay, so what int8 costs cannot be told.",
        "Name some with --labelled.",
    )


def _labelled(run: Path, classifier: Classifier, asked: str | Path) -> Labelled:
    dataset, learned = sources.dataset_of(asked), origin.learned(run, classifier)
    dataset = dataset.select(sorted(_order(len(dataset))[:MEASURED]))
    known = set() if learned is None else set(learned.digests)
    return Labelled(dataset, sum(digest in known for digest in _digests(one.path for one in dataset)))


def _calibrated(run: Path, classifier: Classifier, chosen: _Chosen) -> list[Place]:
    """Return pictures that the model learned from and that nothing is measured on."""
    learned, found = origin.learned(run, classifier), list[Sample]()
    measured = () if chosen.labelled is None else (one.path for one in chosen.labelled.dataset)
    taken = set(_digests([*chosen.compared, *measured]))
    if learned is not None:
        order = _order(len(learned.digests))
        free = [row for row in order[len(order) - _share(len(order)) :] if learned.digests[row] not in taken]
        found = list(_lying(learned, free))
    if not found:
        raise ConfigError(
            f"int8 is calibrated with pictures that {run} learned from and that nothing is measured on; of these none "
            "lies where it lay.",
            "Export it where its pictures are, or without --quantize.",
        )
    return [one.path for one in found]


def _share(learned: int) -> int:
    """Return how many of the pictures learned from are left to calibrate with: never more than half."""
    return min(CALIBRATED, (learned + 1) // 2)


def _lying(of: Learned, rows: Iterable[int]) -> Iterator[Sample]:
    """Yield the pictures of these rows that still are what they were, each where it lies."""
    for row in rows:
        sample = of.dataset[row]
        if (path := origin.lies_at(sample.path, of.digests[row])) is not None:
            yield replace(sample, path=path)


def _digests(paths: Iterable[Place]) -> Iterator[str]:
    for path in paths:
        try:
            yield images.digest(images.read_bytes(path))
        except PictureError:
            continue


def _order(count: int) -> list[int]:
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    return order


def _tell(folder: Path, run: Path, classifier: Classifier, proof: Parity) -> None:
    """Write the proof and the card."""
    told = exports.told(classifier, proof.target.input)
    plain = proof.to_dict() | {"model": str(run.resolve().name), "told": told}
    storage.write_whole(folder / PARITY, (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode())
    limit = told["known_from"]
    unknown = "" if limit is None else f"A picture whose familiarity is below {limit:.6g} is none of the classes.\n"
    proved = "\n".join(f"- {line}." for line in proof.lines())
    more = "".join(f" --{name} {value}" for name, value in _flags(proof.target))
    card = f"""# {run.resolve().name}, for {proof.runtime.partition(" ")[0]}

{len(classifier.classes)} classes: {", ".join(classifier.classes[:10])}{", …" if len(classifier.classes) > 10 else ""}.
Their names, in the order of the probabilities, are in `{PARITY}` under `told`, and in the metadata of the file.

```python
{usage.code(classifier, proof.target)}
```

{unknown}
## Does it answer as the model does?

{proved}

Beyond one of these bounds nothing would have been written.
`headstart export MODEL --to {proof.target.form}{more} --out FOLDER --verify` compares once more, on any machine.
"""
    storage.write_whole(folder / CARD, card.encode())


def _flags(target: Target) -> Iterator[tuple[str, str]]:
    if target.input != "pictures":
        yield "input", target.input
    if target.quantize != "none":
        yield "quantize", target.quantize
