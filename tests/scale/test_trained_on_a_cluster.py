"""A network trained by workers of a cluster, from pictures to figures: what is trained without one, up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import picture
from safetensors.torch import save_file
from serving import loopback

import headstart
from headstart.config import read_config
from headstart.learning import elsewhere

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("_this_machine_only")]
_this_machine_only = pytest.fixture(loopback)


def test_a_network_trained_with_a_cluster_is_that_trained_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for k, (name, colour) in enumerate([("ash", (120, 110, 100)), ("birch", (110, 120, 100))]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(80):
            picture(colour, 1000 * k + number).save(tmp_path / "photos" / name / f"{number}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "weights.safetensors")
    flags: dict[str, Any] = {
        "encoder.backbone": "test_resnet",
        "encoder.weights": str(tmp_path / "weights.safetensors"),
    }
    flags |= {"encoder.engine": "torch", "pictures.size": 32, "head.finetune": "all", "finetune.epochs": 2}
    asked = read_config(None, flags=flags)
    trained: list[int] = []
    follow = elsewhere._together

    def counted(team: Any, names: Any, *more: Any) -> Any:
        trained.append(len(names))
        return follow(team, names, *more)

    monkeypatch.setattr(elsewhere, "_together", counted)
    told = [
        headstart.train(tmp_path / "photos", asked, cache=tmp_path / f"cache {cluster}", cluster=cluster)
        for cluster in (None, "local:2")
    ]
    assert trained
    assert set(trained) == {2}
    alone, shared = (one.classifier.provenance.training["finetune"] for one in told)
    assert alone["kept"] == shared["kept"]
    assert alone["best_epoch"] == shared["best_epoch"]
    np.testing.assert_allclose(shared["watched_losses"], alone["watched_losses"], atol=1e-4)
    assert told[0].evaluation.overall["accuracy"] == told[1].evaluation.overall["accuracy"]
