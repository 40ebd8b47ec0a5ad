"""A training with a backbone of several networks: what it plans, keeps and saves."""

from __future__ import annotations

import json
from pathlib import Path

import contracts
import numpy as np
import pytest
from conftest import draw_folders
from safetensors.torch import save_file

import headstart as hs
from headstart import terminal
from headstart.config import read_config
from headstart.model import artifact
from headstart.workflows import check, prepare

pytestmark = pytest.mark.slow  # trains

TORCH = {"encoder.engine": "torch", "encoder.device": "cpu", "encoder.precision": "f32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and the toys of `contracts` in folders as timm's `save_for_hf` writes them."""
    home = tmp_path_factory.mktemp("several")
    draw_folders(home / "photos", each=12)
    for network in contracts.toys().networks:
        folder = home / network.name
        folder.mkdir()
        save_file(network.module.state_dict(), folder / "model.safetensors")
        config = {"architecture": network.name, "num_classes": 0, "pretrained_cfg": {"input_size": [3, 96, 96]}}
        (folder / "config.json").write_text(json.dumps(config))
    return home


@pytest.fixture(scope="module")
def result(place: Path) -> hs.TrainingResult:
    return trained(place, {"encoder.backbone": text(place)})


def text(place: Path) -> str:
    return f"local-dir:{place / 'test_resnet'}@64+local-dir:{place / 'test_efficientnet'}@48/1.0"


def trained(place: Path, flags: dict[str, object], file: Path | None = None) -> hs.TrainingResult:
    flags = flags if file else TORCH | flags
    return hs.train(hs.read(place / "photos"), read_config(file, flags=flags), cache=place / "cache")


def test_the_plan_asks_for_exactly_the_same(place: Path, result: hs.TrainingResult, tmp_path: Path):
    assert result.plan.encoder.backbone == text(place)
    (tmp_path / "plan.toml").write_text(result.plan.to_toml())
    again = trained(place, {}, tmp_path / "plan.toml")
    assert again.plan == result.plan
    sizes = [network.preprocess for network in result.classifier.backbone.networks]
    assert [network.preprocess for network in again.classifier.backbone.networks] == sizes
    expected = result.classifier.predict_many(place / "photos").probabilities
    np.testing.assert_array_equal(again.classifier.predict_many(place / "photos").probabilities, expected)


def test_what_is_saved_answers_as_what_was_trained(place: Path, result: hs.TrainingResult, tmp_path: Path):
    artifact.save(result.classifier, tmp_path / "model")
    back = artifact.load_classifier(tmp_path / "model")
    expected = result.classifier.predict_many(place / "photos").probabilities
    np.testing.assert_array_equal(back.predict_many(place / "photos").probabilities, expected)


def test_card_and_plan_name_every_network(
    result: hs.TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hs.save(result, tmp_path / "model")
    told = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "test_resnet at 64 px + test_efficientnet at 48 px" in told
    terminal.print_plan(result.plan, 36, 3)
    said = capsys.readouterr().err
    assert "64 + 48 px" in said
    assert "test_efficientnet@48/1.0" in said


def test_networks_without_a_size_have_that_of_the_pictures(place: Path):
    backbone = f"local-dir:{place / 'test_resnet'}+local-dir:{place / 'test_efficientnet'}@48"
    config = read_config(None, flags=TORCH | {"encoder.backbone": backbone, "pictures.size": 80})
    begun = prepare.begin(hs.read(place / "photos"), config)
    assert [network.preprocess.size for network in begun.backbone.networks] == [80, 48]
    assert begun.plan.encoder.backbone == backbone.replace("test_resnet", "test_resnet@80")


def test_a_check_looks_with_several_networks_too(place: Path):
    config = read_config(None, flags=TORCH | {"encoder.backbone": text(place)})
    codes = {finding.code for finding in check.check(place / "photos", config, cache=place / "cache")}
    assert "unreadable" not in codes
