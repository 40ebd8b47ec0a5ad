"""The files of an export → the runtime that they are for, which is given the bytes of pictures.

Whatever a user of the export has to do with a picture is done here as the card tells it: decoded upright, and for an
export that takes tensors prepared and normalised.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import images
from headstart.delivery import exports
from headstart.delivery.exports import FILES, OUTPUTS, Target, Tensors
from headstart.encoding import graphs
from headstart.encoding.network import quiet
from headstart.errors import ArtifactError
from headstart.model import portable
from headstart.model.classifier import Classifier
from headstart.model.portable import Input
from headstart.records import Floats, Pixels, Place, Preprocess

Run = Callable[[Tensors], Floats]  # the inputs of one picture → (K,) probabilities


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs an export.

    Attributes:
        name: And its version, e.g. `onnxruntime 1.32.0`.
        run: The inputs of one picture → (K,) probabilities.
    """

    name: str
    run: Run


def opened(target: Target, folder: Path) -> Runtime:
    """Return what runs the export in a folder.

    Raises:
        MissingExtraError: The runtime is not installed.
        ArtifactError: It cannot run the files.
    """
    openers = {"onnx": _onnxruntime, "openvino": _openvino, "timm": _timm}
    name = {"onnx": "onnxruntime"}.get(target.form, target.form)
    with _runs(folder / FILES[target.form][0]):
        run = openers[target.form](folder)
    return Runtime(f"{name} {importlib.metadata.version(name).partition('-')[0]}", run)


def fed(classifier: Classifier, taken: Input, path: Place) -> Tensors:
    """Return what an export of a classifier is given of one file.

    Raises:
        PictureError: It cannot be used.
    """
    data, wanted = images.read_bytes(path), exports.inputs(classifier, taken)
    if taken == "pictures":
        background = classifier.preprocess.background
        return {name: images.decode(data, background=background).pixels[None] for name in wanted}
    return {name: _tensor(data, preprocess) for name, (preprocess,) in wanted.items()}


def _tensor(data: bytes, preprocess: Preprocess) -> Floats:
    return portable.prepared([images.load(data, preprocess).pixels], preprocess)


def _onnxruntime(folder: Path) -> Run:
    with exports.extra():
        runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda given: np.asarray(session.run([OUTPUTS[0]], dict(given))[0][0])


def _openvino(folder: Path) -> Run:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = graphs.openvino().Core().compile_model(str(folder / "model.xml"), "CPU", options)
    return lambda given: np.asarray(compiled(list(given.values()))[0][0])


def _timm(folder: Path) -> Run:
    timm: Any = importlib.import_module("timm")
    torch: Any = importlib.import_module("torch")
    pillow: Any = importlib.import_module("PIL.Image")
    with quiet():
        module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)

    def run(given: Tensors) -> Floats:
        """Give what timm's model makes of tensors, or of a picture that its own transform prepares."""
        pixels: Pixels | None = given["pictures"][0] if "pictures" in given else None
        with torch.inference_mode():
            prepared = (
                torch.from_numpy(given["tensors"]) if pixels is None else transform(pillow.fromarray(pixels))[None]
            )
            logits = module(prepared)
            return np.asarray(torch.softmax(logits, dim=1)[0].numpy())

    return run


@contextlib.contextmanager
def _runs(file: Path) -> Iterator[None]:
    """Say which file it is that a runtime cannot open, whatever class of error it has for that."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ArtifactError(f"{file} cannot be run: {str(error).strip()[-300:]}") from error
