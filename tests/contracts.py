"""What every encoder, classifier and artifact must keep, as checks that run over each implementation; and the small
real things that several test files share: backbones, encoders, and files that somebody forged.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from headstart.config import EncoderConfig
from headstart.encoding import backbone as backbones
from headstart.encoding import graphs, pretrained, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.encoding.features import VIEWS
from headstart.encoding.graph import Graph
from headstart.learning.calibration import Calibration
from headstart.learning.heads import Head, Shape
from headstart.learning.modules import HeadModule
from headstart.learning.rules import PredictionRules
from headstart.model import artifact, formats
from headstart.model.classifier import Classifier
from headstart.records import ClassNames, Dataset, Pixels

SIZE = 64
ENGINES = ["torch-f32", "openvino-f32", "openvino-bf16"]


@functools.cache
def lite0(size: int = SIZE, resize: str = "crop") -> Backbone:
    """The smallest bundled backbone, at a size that is quick."""
    return backbones.load("lite0", size=size, resize=resize)


@functools.cache
def encoder(engine: str = "openvino-f32") -> Encoder:
    """`lite0` on one of `ENGINES`, compiled once a session; raises `ConfigError` where the processor has no bf16."""
    kind, precision = engine.split("-")
    return runtime.build(lite0().networks[0], runtime.choose(EncoderConfig("lite0", "", kind, "cpu", precision)))  # type: ignore[arg-type]


@functools.cache
def toys() -> Backbone:
    """Two of timm's toys with weights from a seed side by side, each with pictures of its own size and crop."""
    parts = toy("test_resnet", 64), toy("test_efficientnet", 48, 1.0)
    return Backbone(tuple(network for part in parts for network in part.networks))


@functools.cache
def toy(name: str, size: int, crop: float | None = None) -> Backbone:
    """One of timm's toys with weights from a seed."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        file = Path(folder, f"{name}.safetensors")
        save_file(timm.create_model(name).state_dict(), file)
        return Backbone((pretrained.load(name, str(file), size=size, crop=crop),))


@functools.cache
def toy_encoders() -> tuple[Encoder, ...]:
    """Of `toys`."""
    return runtime.build_all(toys(), runtime.choose(EncoderConfig("toys", "", "torch", "cpu", "f32")))


@functools.cache
def quantized_toys() -> tuple[Graph, ...]:
    """`toys` in 8-bit integers; needs NNCF, and some seconds once a session."""
    return tuple(graphs.quantized(one, noise(8, one.preprocess.size)) for one in toys().networks)


def quantized_toy_classifier() -> Classifier:
    """`toy_classifier` in 8-bit integers."""
    plan = runtime.choose(EncoderConfig("toys", "", "openvino", "cpu", "int8"))
    return replace(toy_classifier(), encoders=runtime.build_all(toys(), plan, quantized_toys()))


def toy_classifier(views: tuple[str, ...] = VIEWS) -> Classifier:
    """Of `toys`, with a head from a seed."""
    torch.manual_seed(0)
    known, rules = head(toys().dim, 2), PredictionRules(Calibration(1.5))
    return Classifier(toys(), toy_encoders(), known, rules, ClassNames(["a", "é\n,"]), views=views)


def head(features: int, classes: int, *hidden: int, batch_norm: bool = False) -> Head:
    """A head of random weights."""
    return HeadModule(Shape(features, classes, hidden, 0.5 if hidden else 0.0, batch_norm)).numbers()


def noise(count: int, size: int = SIZE) -> list[Pixels]:
    """Prepared pictures, each different."""
    return [np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8) for seed in range(count)]


def check_encoder(encoder: Encoder, pictures: Sequence[Pixels]) -> None:
    """Shape, dtype, order, and rows that depend on their own picture alone. Takes at least 34 different pictures."""
    whole = np.stack(list(encoder.encode(iter(pictures))))
    assert whole.shape == (len(pictures), encoder.dim)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    assert len(np.unique(whole, axis=0)) == len(pictures)
    assert list(encoder.encode([])) == []
    backwards = list(range(len(pictures)))[::-1]
    for rows in ([0], [5, 0, 5], list(range(1, 33)), list(range(33)), backwards):
        again = np.stack(list(encoder.encode(pictures[row] for row in rows)))
        np.testing.assert_array_equal(again, whole[rows])
    assert len(encoder.weights) == 64
    assert encoder.version
    assert encoder.preprocess.size == pictures[0].shape[0]


def check_classifier(classifier: Classifier, pictures: Sequence[Path], broken: Path) -> None:
    """Probabilities, names, order; a row is the same alone, in company, and beside a picture that cannot be used."""
    said = classifier.predict_many(pictures)
    assert said.names == tuple(map(str, pictures))
    assert said.probabilities.shape == (len(pictures), len(classifier.classes))
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1)
    backwards = classifier.predict_many(list(pictures)[::-1])
    np.testing.assert_array_equal(backwards.probabilities[::-1], said.probabilities)
    assert classifier.predict(pictures[0]) == said[0]
    mixed = classifier.predict_many([pictures[0], broken, *pictures[1:]])
    np.testing.assert_array_equal(np.delete(mixed.probabilities, 1, axis=0), said.probabilities)
    assert mixed[1].status == "error"
    assert mixed[1].error
    assert np.isnan(mixed.probabilities[1]).all()


def check_artifact(classifier: Classifier, folder: Path, pictures: Dataset) -> None:
    """What was saved comes back: the same names, and the same probabilities to the bit."""
    artifact.save(classifier, folder)
    back = artifact.load_classifier(folder)
    assert back.classes == classifier.classes
    assert back.temperature == classifier.temperature
    assert back.preprocess == classifier.preprocess
    assert back.views == classifier.views
    networks = [(one.name, one.digest, one.preprocess) for one in classifier.backbone.networks]
    assert [(one.name, one.digest, one.preprocess) for one in back.backbone.networks] == networks
    assert back.provenance == classifier.provenance
    assert back.encoders[0].plan.engine == classifier.encoders[0].plan.engine
    assert back.encoders[0].plan.precision == classifier.encoders[0].plan.precision
    np.testing.assert_array_equal(
        back.predict_many(pictures).probabilities, classifier.predict_many(pictures).probabilities
    )
    listed = json.loads((folder / "model.json").read_text(encoding="utf-8"))["files"]
    assert {path.name for path in folder.iterdir()} == {*listed, "model.json"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def rewrite(folder: Path, members: Mapping[str, bytes] | None = None, **changes: Any) -> Path:
    """Change an artifact as somebody with an editor would, with digests that agree again."""
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for name, data in (members or {}).items():
        (folder / name).write_bytes(data)
        content["files"][name] = hashlib.sha256(data).hexdigest()
    for name, value in changes.items():
        *sections, key = name.split("__")
        inner = content
        for section in sections:
            inner = inner[int(section) if isinstance(inner, list) else section]
        inner[key] = value
    if "digest" in content:
        content["digest"] = formats.seal(content)
    (folder / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def safetensors_file(header: Mapping[str, Any] | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file put together by hand, header length included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(begin: int, end: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


FORGED = {  # what its header says → the file
    "length-10^18": safetensors_file(b"{}", length=10**18),
    "length-100MB": safetensors_file(b"{}", length=100_000_000),
    "overlapping-offsets": safetensors_file({"a": _entry(0, 4), "b": _entry(2, 6)}, bytes(6)),
    "duplicate-keys": safetensors_file(
        b'{"a":%s,"a":%s}' % (json.dumps(_entry(0, 4)).encode(), json.dumps(_entry(4, 8)).encode()), bytes(8)
    ),
    "hole": safetensors_file({"a": _entry(0, 4), "b": _entry(8, 12)}, bytes(12)),
    "negative-offset": safetensors_file({"a": _entry(-4, 0)}, bytes(4)),
    "shape-mismatch": safetensors_file({"a": _entry(0, 4, (100,))}, bytes(4)),
    "petabytes": safetensors_file({"a": _entry(0, 4 * 10**15, (10**15,))}, bytes(4)),
    "deep-json": safetensors_file(b'{"a":' * 100_000),
    "no-json": safetensors_file(b"\xff\xfe\x00"),
    "empty": b"",
}
