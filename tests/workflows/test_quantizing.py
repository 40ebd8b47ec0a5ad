"""A training in 8-bit integers: taken where quick heads lose nothing by it, else left, and told either way."""

from __future__ import annotations

import os

import conftest
import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from headstart.config import read_config
from headstart.data import sources
from headstart.encoding import graphs
from headstart.workflows import quantizing, train

pytestmark = pytest.mark.slow  # quantizes networks


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a training of a toy in int8, its pictures and its cache; the cache is shared by all tests here."""
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    save_file(create_model("test_resnet").state_dict(), folder / "toy.safetensors")
    conftest.draw_folders(folder / "photos")
    flags = {"encoder.backbone": "test_resnet@64", "encoder.weights": str(folder / "toy.safetensors")}
    config = read_config(None, flags=flags | {"encoder.precision": "int8"})
    return {"dataset": sources.read(folder / "photos"), "config": config, "cache": folder / "cache"}


def trained(asked: dict[str, object]) -> train.TrainingResult:
    return train.train(asked["dataset"], asked["config"], cache=asked["cache"])


def test_int8_is_taken_where_heads_lose_nothing_and_found_again(
    asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantizing, "CALIBRATED", 8)
    monkeypatch.setattr(quantizing, "MOST_WORSE", 10.0)
    usual = os.umask(0o002)  # that of most people's machines
    try:
        first = trained(asked)
    finally:
        os.umask(usual)
    assert first.plan.encoder.precision == "int8"
    assert first.classifier.encoders[0].quantized is not None
    assert "int8" in {one.code for one in first.findings}
    monkeypatch.setattr(graphs, "quantized", None)  # calling it fails
    monkeypatch.setattr(quantizing, "has_int8", lambda: False)
    again = trained(asked)
    assert "slow-int8" in {one.code for one in again.findings}
    assert again.classifier.encoders[0].quantized.digest == first.classifier.encoders[0].quantized.digest


def test_where_heads_lose_the_usual_precision_is_taken_and_told(
    asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantizing, "CALIBRATED", 8)
    monkeypatch.setattr(quantizing, "MOST_WORSE", -10.0)
    done = trained(asked)
    assert done.plan.encoder.precision in ("f32", "bf16")
    assert done.classifier.encoders[0].quantized is None
    told = next(one for one in done.findings if one.code == "not-int8")
    assert "log-loss" in told.message
    assert told.severity == "warning"
