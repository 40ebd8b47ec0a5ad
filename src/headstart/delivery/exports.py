"""A classifier → files that other runtimes run, from decoded pictures to probabilities, with proof that they agree.

- `onnx`: `model.onnx`, one file, any batch, height and width;
- `openvino`: `model.xml` and `model.bin`, the same;
- `timm`: `config.json` and `model.safetensors`, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads:
  of one network, one view and a linear head, into which temperature and factors are folded.

The proof is made by the runtime that the files are for, from the bytes of pictures to labels. Beyond its bound nothing
is left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from headstart import storage
from headstart.data import images
from headstart.encoding import graphs
from headstart.encoding.network import quiet
from headstart.errors import ArtifactError, ConfigError, MissingExtraError, PictureError
from headstart.model.classifier import Classifier
from headstart.model.portable import Portable
from headstart.records import Floats, Pixels, Progress, numbered, silence

Form = Literal["onnx", "openvino", "timm"]
FORMS: tuple[Form, ...] = ("onnx", "openvino", "timm")
OPSET = 18
TOLD = "headstart"  # the key of what Headstart says in the metadata of a file
ALLOWED = 0.01  # share of labels that may differ
INPUT, OUTPUTS = "pictures", ("probabilities", "familiarity")

Runner = Callable[[Pixels], Floats]  # a decoded picture → (K,) probabilities


@dataclass(frozen=True, slots=True)
class Parity:
    """How an export compares with its classifier on the same files.

    Attributes:
        form: Of the export.
        runtime: What ran it, and its version.
        engine: What the classifier ran on.
        pictures: How many were compared.
        difference: The largest difference of a probability.
        flips: Pictures whose label differs.
        allowed: The share of labels that may differ.
        milliseconds: Of one picture in the runtime, decoding left out; the median.
        files: Name → bytes and SHA-256 of each file.
    """

    form: str
    runtime: str
    engine: str
    pictures: int
    difference: float
    flips: int
    allowed: float
    milliseconds: float
    files: Mapping[str, Mapping[str, Any]]

    @property
    def holds(self) -> bool:
        """Whether no more labels differ than may."""
        return self.flips <= self.allowed * self.pictures

    def __str__(self) -> str:
        """Return what a person wants to know of it."""
        size = sum(one["bytes"] for one in self.files.values()) / 1e6
        return (
            f"{self.runtime} gave {numbered('{n} other [label|labels]', self.flips)} than {self.engine} for "
            f"{numbered('{n} [picture|pictures]', self.pictures)}; the largest difference of a probability is "
            f"{self.difference:.4f}; {self.milliseconds:.0f} ms a picture, {size:.1f} MB"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"holds": self.holds}


def write(classifier: Classifier, form: Form, folder: Path) -> list[Path]:
    """Write a classifier in another form into an empty folder, and return the files.

    Raises:
        ConfigError: The classifier cannot be told in this form; the text says why.
        MissingExtraError: What writes the form is not installed.
        StorageError: The folder cannot be written.
    """
    writers = {"onnx": _write_onnx, "openvino": _write_openvino, "timm": _write_timm}
    if form not in writers:
        raise ConfigError(f"--to is {form!r}; it is one of {', '.join(FORMS)}.")
    with storage.storage_errors(folder, "Name another folder with --out."):
        return writers[form](classifier, folder)


def prove(
    classifier: Classifier, form: Form, folder: Path, pictures: Sequence[Path], progress: Progress = silence
) -> Parity:
    """Compare an export with its classifier, each from the bytes of the same pictures.

    Args:
        classifier: Of which it was made.
        form: Of the export.
        folder: Where it lies.
        pictures: Files; those that cannot be used are left out.
        progress: Hears of every picture.

    Raises:
        ConfigError: None of the pictures can be used.
        MissingExtraError: The runtime is not installed.
    """
    said = classifier.predict_many(list(pictures))
    run, runtime = _runner(form, folder)
    differences, flips, seconds = [], 0, []
    for row, path in enumerate(pictures):
        progress("Comparing", row, len(pictures))
        if row in said.errors:
            continue
        try:
            pixels = images.decode(images.read_bytes(path), background=classifier.preprocess.background).pixels
        except PictureError:  # it has changed since
            continue
        begun = time.perf_counter()
        probabilities = run(pixels)
        seconds.append(time.perf_counter() - begun)
        differences.append(float(np.abs(probabilities - said.probabilities[row]).max()))
        flips += int(probabilities.argmax() != said.probabilities[row].argmax())
    progress("Comparing", len(pictures), len(pictures))
    if not differences:
        raise ConfigError(f"None of {len(pictures)} pictures can be used.", "Name some with --pictures.")
    plan = classifier.encoders[0].plan
    engine = f"Headstart ({plan.engine} {plan.precision})"
    milliseconds = 1000 * statistics.median(seconds)
    figures = len(differences), max(differences), flips, ALLOWED, milliseconds
    return Parity(form, runtime, engine, *figures, _listed(folder, FILES[form]))


FILES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "timm": ("config.json", "model.safetensors"),
}


def told(classifier: Classifier) -> dict[str, Any]:
    """Return what a program that runs an export should know: it stands in the metadata of the files."""
    rule = classifier.rules.out_of_distribution
    limit = -np.inf if rule is None else rule.limit
    return {
        "classes": list(classifier.classes),
        "input": "uint8 (N, H, W, 3): RGB, upright; transparency over preprocess.background",
        "outputs": list(OUTPUTS[: 1 if rule is None else 2]),
        "known_from": float(limit) if np.isfinite(limit) else None,  # of familiarity; below, none of the classes
        "temperature": classifier.temperature,
        "views": list(classifier.views),
        "networks": [
            {"name": one.name, "digest": one.digest, "preprocess": asdict(one.preprocess)}
            for one in classifier.backbone.networks
        ],
        "versions": dict(classifier.provenance.versions),
    }


def _listed(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    contents = {name: (folder / name).read_bytes() for name in names}
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}


def _example(classifier: Classifier) -> torch.Tensor:
    """Return two pictures of no size that a network has, so that nothing of a size is taken for a number."""
    side = classifier.preprocess.size
    return torch.zeros(2, side + 13, side + 29, 3, dtype=torch.uint8)


def _write_onnx(classifier: Classifier, folder: Path) -> list[Path]:
    with _extra():
        onnx: Any = importlib.import_module("onnx")
    module, path = Portable(classifier), folder / "model.onnx"
    outputs = OUTPUTS[: 1 if module.familiarity is None else 2]
    free = {INPUT: {0: "batch", 1: "height", 2: "width"}} | {name: {0: "batch"} for name in outputs}
    with quiet(), torch.inference_mode():
        torch.onnx.export(
            module,
            (_example(classifier),),
            str(path),
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    entry = model.metadata_props.add()
    entry.key, entry.value = TOLD, json.dumps(told(classifier), ensure_ascii=False)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return [path]


def _write_openvino(classifier: Classifier, folder: Path) -> list[Path]:
    ov, path = graphs.openvino(), folder / "model.xml"
    module, example = Portable(classifier), _example(classifier)
    with quiet(), torch.inference_mode():
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        model = ov.convert_model(traced, example_input=example, input=[((-1, -1, -1, 3), ov.Type.u8)])
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=False):
        output.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(told(classifier), ensure_ascii=False), TOLD)
    ov.save_model(model, str(path), compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def _write_timm(classifier: Classifier, folder: Path) -> list[Path]:
    networks, shape = classifier.backbone.networks, classifier.head.shape
    reasons = [
        (len(networks) > 1, f"it has {len(networks)} networks"),
        (len(classifier.views) > 1, f"it answers with the mean over {' and '.join(classifier.views)}"),
        (not shape.linear, "its head has hidden layers"),
        (networks[0].preprocess.resize != "crop", f"its pictures are prepared by {networks[0].preprocess.resize}"),
    ]
    if why := [reason for holds, reason in reasons if holds]:
        raise ConfigError(
            "timm's format holds one network with one linear layer behind a centre crop; of this model "
            f"{', and '.join(why)}.",
            "--to onnx and --to openvino take every model.",
        )
    network, head = networks[0], classifier.head
    factors, offsets = classifier.rules.calibration.affine(shape.classes)
    weight, bias = (head.weight * factors[:, None], head.bias * factors + offsets)
    timm: Any = importlib.import_module("timm")
    preprocess = network.preprocess
    with quiet():
        module = timm.create_model(network.name, num_classes=shape.classes, **network.arguments)
    layer = module.get_classifier()
    stem = next(name for name, inner in module.named_modules() if inner is layer)
    state = {name: value.contiguous() for name, value in network.module.state_dict().items()}
    state |= {f"{stem}.weight": torch.from_numpy(weight).float(), f"{stem}.bias": torch.from_numpy(bias).float()}
    module.load_state_dict(state)
    config = {
        "architecture": network.name.partition(".")[0],
        "num_classes": shape.classes,
        "num_features": network.dim,
        "model_args": dict(network.arguments),
        "label_names": list(classifier.classes),
        "pretrained_cfg": {
            "input_size": [3, preprocess.size, preprocess.size],
            "crop_pct": preprocess.crop,
            "crop_mode": "center",
            "interpolation": preprocess.interpolation,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": shape.classes,
            "classifier": stem,
            "label_names": list(classifier.classes),
        },
        TOLD: told(classifier),
    }
    paths = [folder / name for name in FILES["timm"]]
    storage.write_whole(paths[0], (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    save_file(state, paths[1], metadata={"format": "pt"})
    return paths


def _runner(form: Form, folder: Path) -> tuple[Runner, str]:
    """Return what runs an export, and its name and version.

    Raises:
        MissingExtraError: The runtime is not installed.
        ArtifactError: It cannot be run.
    """
    if form == "onnx":
        with _extra():
            runtime: Any = importlib.import_module("onnxruntime")
        try:
            session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        except Exception as error:  # of the runtime, which has classes of its own
            raise ArtifactError(f"{folder / 'model.onnx'} cannot be run: {str(error).strip()[-300:]}") from error
        return lambda pixels: session.run([OUTPUTS[0]], {INPUT: pixels[None]})[0][0], _version("onnxruntime")
    if form == "openvino":
        try:
            options = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = graphs.openvino().Core().compile_model(str(folder / "model.xml"), "CPU", options)
        except Exception as error:  # as above
            raise ArtifactError(f"{folder / 'model.xml'} cannot be run: {str(error).strip()[-300:]}") from error
        return lambda pixels: compiled([pixels[None]])[0][0], _version("openvino")
    timm: Any = importlib.import_module("timm")
    pillow: Any = importlib.import_module("PIL.Image")
    with quiet():
        module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)

    def run(pixels: Pixels) -> Floats:
        with torch.inference_mode():
            logits = module(transform(pillow.fromarray(pixels))[None])
            return np.asarray(torch.softmax(logits, dim=1)[0].numpy())

    return run, _version("timm")


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package).partition('-')[0]}"


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("--to onnx", "onnx") from error
