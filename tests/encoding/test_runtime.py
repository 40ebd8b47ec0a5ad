"""Engines: every encoder keeps the contract, and one that computes something else is found out and replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import contracts
import numpy as np
import pytest
import torch

from headstart.config import EncoderConfig
from headstart.encoding import pretrained, runtime
from headstart.encoding.eager import TorchEncoder
from headstart.encoding.encoder import Encoder
from headstart.encoding.runtime import OpenVinoEncoder
from headstart.errors import ConfigError
from headstart.records import Floats, Pixels

pytestmark = pytest.mark.slow  # compiles networks


def built(engine: str) -> Encoder:
    try:
        return contracts.encoder(engine)
    except ConfigError as error:
        pytest.skip(str(error))  # no bf16 in this processor


def fresh(engine: str = "openvino-f32") -> Encoder:
    """An encoder that was not compared yet, without compiling it again."""
    own = copy.copy(built(engine))
    own.trusted = None
    return own


def broken(spoil: Callable[[Floats], Floats]) -> Callable[..., Iterator[Floats]]:
    """`OpenVinoEncoder.encode` as an engine with a bug would do it."""
    real = OpenVinoEncoder.encode

    def encode(self: OpenVinoEncoder, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        return (spoil(vector) for vector in real(self, pictures))

    return encode


@pytest.mark.parametrize("engine", contracts.ENGINES)
def test_encoder_keeps_the_contract(engine: str):
    contracts.check_encoder(built(engine), contracts.noise(40))


@pytest.mark.parametrize("engine", contracts.ENGINES)
def test_engine_agrees_with_torch_within_its_bound(engine: str):
    own = fresh(engine)
    used, agreement = runtime.verified(own, contracts.noise(8))
    assert used is own
    assert agreement.pictures == 8
    assert agreement.relative_error <= runtime.BOUNDS[own.plan.precision][0]


def test_an_encoder_leaves_the_backbone_that_others_use_as_it_is():
    network = pretrained.load("lite0", size=contracts.SIZE)
    next(iter(runtime.build(network, fresh("torch-f32").plan).encode(contracts.noise(1))))
    assert all(weight.is_contiguous() for weight in network.module.parameters())


def test_pictures_are_pulled_ahead_but_not_all_at_once():
    pulled = []
    encoder = contracts.encoder()
    results = encoder.encode(pulled.append(1) or picture for picture in contracts.noise(1) * 500)
    next(results)
    assert 1 < len(pulled) <= encoder.ahead + 1  # and the one whose place is that of the first
    results.close()


@pytest.mark.parametrize("spoil", [lambda v: -v, lambda v: v * np.float32(np.nan), lambda v: v + 1])
def test_wrong_engine_is_replaced_with_a_warning(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Floats], Floats]):
    monkeypatch.setattr(OpenVinoEncoder, "encode", broken(spoil))
    with pytest.warns(UserWarning, match=r"openvino .* in f32 differs .* torch in f32 is used instead"):
        used, agreement = runtime.verified(fresh(), contracts.noise(8))
    assert isinstance(used, TorchEncoder)
    assert agreement.relative_error == 0


def test_wrong_bf16_falls_back_to_f32_of_the_same_engine(monkeypatch: pytest.MonkeyPatch):
    own, real = fresh("openvino-bf16"), OpenVinoEncoder.encode

    def encode(self: OpenVinoEncoder, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        return (vector if self.plan.precision == "f32" else -vector for vector in real(self, pictures))

    monkeypatch.setattr(OpenVinoEncoder, "encode", encode)
    with pytest.warns(UserWarning, match="openvino in f32 is used instead"):
        used, agreement = runtime.verified(own, contracts.noise(8))
    assert (used.plan.engine, used.plan.precision) == ("openvino", "f32")
    assert agreement.relative_error < 1e-3


def test_one_wrong_picture_of_eight_is_enough(monkeypatch: pytest.MonkeyPatch):
    last = contracts.noise(8)[-1]
    wrong = next(iter(contracts.encoder().encode([last])))
    monkeypatch.setattr(OpenVinoEncoder, "encode", broken(lambda v: v * 1.5 if np.array_equal(v, wrong) else v))
    with pytest.warns(UserWarning, match="is used instead"):
        runtime.verified(fresh(), contracts.noise(8))


def test_encoder_that_was_replaced_stays_replaced(monkeypatch: pytest.MonkeyPatch):
    own = fresh()
    monkeypatch.setattr(OpenVinoEncoder, "encode", broken(lambda v: -v))
    with pytest.warns(UserWarning, match="is used instead"):
        used, _ = runtime.verified(own, contracts.noise(2))
    assert runtime.verified(own, contracts.noise(8))[0] is used  # and warns no more


def test_compare_measures_the_worst_row():
    reference = np.eye(3, dtype=np.float32)
    features = reference.copy()
    features[1] = [0, 0, 1]
    agreement = runtime.compare(features, reference)
    assert agreement.relative_error == pytest.approx(2**0.5)
    assert (agreement.cosine, agreement.pictures) == (0, 3)


@pytest.mark.parametrize("row", [0, 1])
def test_compare_never_takes_nan_for_agreement(row: int):
    features = np.ones((2, 3), dtype=np.float32)
    features[row, 0] = np.nan
    agreement = runtime.compare(features, np.ones((2, 3), dtype=np.float32))
    assert not agreement.relative_error <= 1e9
    assert not agreement.cosine >= -1


def test_plan_is_never_automatic():
    plan = runtime.choose(EncoderConfig())
    assert plan.engine in ("openvino", "torch")
    assert plan.device in ("cpu", "cuda", "mps")
    assert plan.precision in ("f32", "bf16")


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_device_that_is_not_here_is_refused_by_name(device: str):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ConfigError, match=device):
        runtime.choose(EncoderConfig(device=device))


def test_openvino_runs_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="not on cuda"):
        runtime.choose(EncoderConfig(engine="openvino", device="cuda"))
