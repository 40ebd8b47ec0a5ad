"""A classifier → files that other runtimes run, to probabilities, in float32 or with their networks in 8-bit integers.

- `onnx`: `model.onnx`, one file, any batch, and of pictures any height and width;
- `openvino`: `model.xml` and `model.bin`, the same;
- `timm`: `config.json` and `model.safetensors`, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads:
  of one network, one view and a linear head, into which temperature and factors are folded.

Whether the files answer as the classifier does is found out in `parity`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from headstart import storage
from headstart.delivery import integers
from headstart.encoding import graphs, quantized
from headstart.encoding.network import Network, quiet
from headstart.errors import ConfigError, MissingExtraError
from headstart.model.classifier import Classifier
from headstart.model.portable import Input, Portable
from headstart.records import Place, Preprocess, Progress, silence

Form = Literal["onnx", "openvino", "timm"]
Quantize = Literal["none", "int8"]
FORMS: tuple[Form, ...] = ("onnx", "openvino", "timm")
INPUTS: tuple[Input, ...] = ("pictures", "tensors")
QUANTIZE: tuple[Quantize, ...] = ("none", "int8")
FILES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "timm": ("config.json", "model.safetensors"),
}
OPSET = 18
CALIBRATING = "Calibrating int8"  # a stage
TOLD = "headstart"  # the key of what Headstart says in the metadata of a file
OUTPUTS = ("probabilities", "familiarity")
# Names of what stays in float32 beside a network: the scopes of `Portable`, and what it does itself, as each form
# calls them. Resampling has to come out in whole levels, and of one layer and a softmax there is nothing to gain.
PRECISE: Mapping[str, tuple[str, ...]] = {
    "onnx": (r"/(head|familiarity|seen\.\d+/resampled)/.*", r"/[A-Z]\w*"),
    "openvino": (r"__module\.(head|familiarity|seen\.\d+\.resampled)[./].*", r"aten::.*", r"__module/.*"),
}

Tensors = Mapping[str, Any]  # input of an export → what it is given


@dataclass(frozen=True, slots=True)
class Target:
    """What a classifier is to become.

    Attributes:
        form: From `FORMS`.
        input: From `INPUTS`: decoded pictures of any size, or tensors that are prepared for each network.
        quantize: From `QUANTIZE`: whether the networks compute in 8-bit integers.
    """

    form: Form
    input: Input = "pictures"
    quantize: Quantize = "none"

    def __post_init__(self) -> None:
        """Refuse what there is not.

        Raises:
            ConfigError: With the value, and those that there are.
        """
        known = ("--to", self.form, FORMS), ("--input", self.input, INPUTS), ("--quantize", self.quantize, QUANTIZE)
        for flag, value, values in known:
            if value not in values:
                raise ConfigError(f"{flag} is {value!r}; it is one of {', '.join(values)}.")
        if self.form == "timm" and (self.input, self.quantize) != ("pictures", "none"):
            flag = "--input" if self.input != "pictures" else "--quantize"
            raise ConfigError(
                f"{flag} does not go with --to timm: a model of timm takes tensors, in float32, and its transform "
                "prepares them.",
                "--to onnx and --to openvino go with it.",
            )

    @property
    def name(self) -> str:
        """E.g. `onnx`, `openvino-int8`, `onnx-tensors`."""
        more = [self.quantize] * (self.quantize != "none") + [self.input] * (self.input != "pictures")
        return "-".join([self.form, *more])


def write(classifier: Classifier, target: Target, folder: Path) -> list[Path]:
    """Write a classifier in another form, in float32, into an empty folder, and return the files.

    Raises:
        ConfigError: The classifier cannot be told in this form; the text says why.
        MissingExtraError: What writes the form is not installed.
        StorageError: The folder cannot be written.
    """
    with storage.storage_errors(folder, "Name another folder with --out."):
        if target.form == "timm":
            return _write_timm(classifier, folder)
        writer = _write_onnx if target.form == "onnx" else _write_openvino
        return [writer(classifier, target.input, folder)]


def quantize(
    source: Path,
    target: Target,
    folder: Path,
    feed: Callable[[Place], Tensors],
    pictures: Sequence[Place],
    progress: Progress = silence,
) -> None:
    """Write what `write` left in a folder once more into another one, its networks in 8-bit integers.

    Args:
        source: Where the files of the form in float32 lie.
        target: Whose form it is.
        folder: Where those in 8-bit integers go.
        feed: A file → what the export is given of it.
        pictures: Some hundred files, by which the range of every number is found.
        progress: Hears when it begins and ends.

    Raises:
        MissingExtraError: What quantizes is not installed.
    """
    name, precise = FILES[target.form][0], PRECISE[target.form]
    progress(CALIBRATING, 0, 1)
    if target.form == "onnx":
        onnx = _onnx()
        model = onnx.load(str(source / name))
        with integers.silent():
            small = quantized.quantize_but(model, pictures, lambda path: dict(feed(path)), precise, one_range=True)
        small = integers.fused(small)
        del small.metadata_props[:]
        small.metadata_props.extend(model.metadata_props)
        onnx.checker.check_model(small)
        onnx.save(small, str(folder / name))
    else:
        ov = graphs.openvino()
        model = ov.Core().read_model(str(source / name))
        small = quantized.quantize_but(model, pictures, lambda path: list(feed(path).values()), precise)
        ov.save_model(small, str(folder / name), compress_to_fp16=False)
    progress(CALIBRATING, 1, 1)


def inputs(classifier: Classifier, taken: Input) -> dict[str, tuple[Preprocess, ...]]:
    """Return the names of what an export takes, each with how the pictures in it are to be prepared.

    Decoded pictures are prepared inside: they are one input for all networks.
    """
    wanted = tuple(network.preprocess for network in classifier.backbone.networks)
    if taken == "pictures":
        return {"pictures": wanted}
    numbers = [""] if len(wanted) == 1 else [f"_{number}" for number in range(1, len(wanted) + 1)]
    return {f"tensors{number}": (one,) for number, one in zip(numbers, wanted, strict=True)}


def told(classifier: Classifier, taken: Input = "pictures") -> dict[str, Any]:
    """Return what a program that runs an export should know: it stands in the metadata of the files."""
    rule = classifier.rules.out_of_distribution
    limit = -np.inf if rule is None else rule.limit
    return {
        "classes": list(classifier.classes),
        "inputs": {name: _described(taken, wanted[0]) for name, wanted in inputs(classifier, taken).items()},
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


def _described(taken: Input, wanted: Preprocess) -> str:
    if taken == "pictures":
        return "uint8 (N, H, W, 3): RGB, upright; transparency over preprocess.background"
    return (
        f"float32 (N, 3, {wanted.size}, {wanted.size}): RGB as networks.preprocess has it, (value / 255 - mean) / std"
    )


def _example(wanted: Sequence[Preprocess], taken: Input) -> torch.Tensor:
    """Return two pictures, decoded ones of no size that a network has, so that no size is taken for a number."""
    side = wanted[0].size
    if taken == "tensors":
        return torch.zeros(2, 3, side, side)
    return torch.zeros(2, side + 13, side + 29, 3, dtype=torch.uint8)


def _write_onnx(classifier: Classifier, taken: Input, folder: Path) -> Path:
    onnx, module, path = _onnx(), Portable(classifier, taken), folder / "model.onnx"
    wanted, outputs = inputs(classifier, taken), OUTPUTS[: 1 if module.familiarity is None else 2]
    free = {0: "batch", 1: "height", 2: "width"} if taken == "pictures" else {0: "batch"}
    with quiet(), torch.inference_mode():
        torch.onnx.export(
            module,
            tuple(_example(one, taken) for one in wanted.values()),
            str(path),
            input_names=list(wanted),
            output_names=list(outputs),
            dynamic_axes=dict.fromkeys(wanted, free) | {name: {0: "batch"} for name in outputs},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    entry = model.metadata_props.add()
    entry.key, entry.value = TOLD, json.dumps(told(classifier, taken), ensure_ascii=False)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _write_openvino(classifier: Classifier, taken: Input, folder: Path) -> Path:
    ov, module, path = graphs.openvino(), Portable(classifier, taken), folder / "model.xml"
    wanted = inputs(classifier, taken)
    examples = tuple(_example(one, taken) for one in wanted.values())
    with quiet(), torch.inference_mode():
        traced = torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]
        model = ov.convert_model(traced, example_input=examples)
    for one, (name, (first, *_)) in zip(model.inputs, wanted.items(), strict=True):
        shape = [-1, -1, -1, 3] if taken == "pictures" else [-1, 3, first.size, first.size]
        one.get_node().set_element_type(ov.Type.u8 if taken == "pictures" else ov.Type.f32)
        one.get_node().set_partial_shape(ov.PartialShape(shape))
        one.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()
    for output, name in zip(model.outputs, OUTPUTS, strict=False):
        output.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(told(classifier, taken), ensure_ascii=False), TOLD)
    ov.save_model(model, str(path), compress_to_fp16=False)
    return path


def _write_timm(classifier: Classifier, folder: Path) -> list[Path]:
    _check_timm(classifier)
    network, head = classifier.backbone.networks[0], classifier.head
    factors, offsets = classifier.rules.calibration.affine(head.shape.classes)
    timm: Any = importlib.import_module("timm")
    with quiet():
        module = timm.create_model(network.name, num_classes=head.shape.classes, **network.arguments)
    layer = module.get_classifier()
    stem = next(name for name, inner in module.named_modules() if inner is layer)
    folded = {f"{stem}.weight": head.weight * factors[:, None], f"{stem}.bias": head.bias * factors + offsets}
    state = {name: value.contiguous() for name, value in network.module.state_dict().items()}
    state |= {name: torch.from_numpy(values).float() for name, values in folded.items()}
    module.load_state_dict(state)
    paths = [folder / name for name in FILES["timm"]]
    config = _timm_config(classifier, network, stem)
    storage.write_whole(paths[0], (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    save_file(state, paths[1], metadata={"format": "pt"})
    return paths


def _check_timm(classifier: Classifier) -> None:
    """Refuse a classifier that timm's format does not hold."""
    networks = classifier.backbone.networks
    reasons = [
        (len(networks) > 1, f"it has {len(networks)} networks"),
        (len(classifier.views) > 1, f"it answers with the mean over {' and '.join(classifier.views)}"),
        (not classifier.head.shape.linear, "its head has hidden layers"),
        (networks[0].preprocess.resize != "crop", f"its pictures are prepared by {networks[0].preprocess.resize}"),
    ]
    if why := [reason for holds, reason in reasons if holds]:
        raise ConfigError(
            "timm's format holds one network with one linear layer behind a centre crop; of this model "
            f"{', and '.join(why)}.",
            "--to onnx and --to openvino take every model.",
        )


def _timm_config(classifier: Classifier, network: Network, stem: str) -> dict[str, Any]:
    """Return what timm reads beside the weights; `stem` is what it calls its classifier."""
    preprocess, classes = network.preprocess, list(classifier.classes)
    return {
        "architecture": network.name.partition(".")[0],
        "num_classes": len(classes),
        "num_features": network.dim,
        "model_args": dict(network.arguments),
        "label_names": classes,
        "pretrained_cfg": {
            "input_size": [3, preprocess.size, preprocess.size],
            "crop_pct": preprocess.crop,
            "crop_mode": "center",
            "interpolation": preprocess.interpolation,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": len(classes),
            "classifier": stem,
            "label_names": classes,
        },
        TOLD: told(classifier),
    }


def _onnx() -> Any:
    with extra():
        return importlib.import_module("onnx")


@contextlib.contextmanager
def extra() -> Iterator[None]:
    """Say how what writes and runs ONNX is installed.

    Raises:
        MissingExtraError: Something cannot be imported within.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("--to onnx", "onnx") from error
