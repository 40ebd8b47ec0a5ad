"""Why pictures get their answers: as records, as files, and on the page."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran
from PIL import Image

import headstart as hs
from headstart.encoding import runtime, stages
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import DEFAULT
from headstart.errors import ArtifactError
from headstart.evaluation import explanation
from headstart.evaluation.showcase import Mistake, Showcase
from headstart.learning.heads import averaged
from headstart.report import album, explained, origin
from headstart.workflows.train import TrainingResult


@pytest.fixture
def learned_from(small_result: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What the small model learned from; the features of these are in the cache."""
    monkeypatch.setenv("HEADSTART_CACHE", str(small_result.dataset.root.parent / "cache"))
    return [small_result.dataset[row].path for row in small_result.splits.train]


def test_an_explanation_holds_the_answer_its_rival_and_where_both_looked(model_folder: Path, learned_from: list[Path]):
    (one,) = hs.explain(model_folder, learned_from[:1])
    assert one.prediction == hs.load(model_folder).predict(learned_from[0])
    assert one.rival == one.prediction.top[1][0]
    assert one.picture.shape == (64, 64, 3)
    for heat in (one.heat, one.rival_heat):
        assert heat.shape == (64, 64)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        assert heat.max() <= 1


def test_a_picture_learned_from_is_most_like_itself(model_folder: Path, learned_from: list[Path]):
    explanations = hs.explain(model_folder, learned_from[:3])
    for path, one in zip(learned_from, explanations, strict=False):
        nearest = one.nearest[0]
        assert nearest.sample.path == path
        assert nearest.sample.label == path.parent.name
        assert nearest.alike == pytest.approx(1, abs=1e-3)
        assert one.nearest[1].alike <= nearest.alike
        assert one.compared >= len(learned_from)


def test_beside_a_network_that_was_trained_the_frozen_ones_find_what_is_alike(
    model_folder: Path, learned_from: list[Path]
):
    frozen = hs.load(model_folder)
    (network,) = frozen.backbone.networks
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        next(module.parameters()).mul_(1.01)
    trained = Backbone((stages.retrained(network, module),))
    encoders = (*runtime.build_all(trained, frozen.encoders[0].plan), *frozen.encoders)
    head = averaged(frozen.head, frozen.head, 0.6)
    backbone = Backbone((*trained.networks, network))
    rules = dataclasses.replace(frozen.rules, out_of_distribution=None)
    both = hs.Classifier(backbone, encoders, head, rules, frozen.classes, views=frozen.views)
    for _ in range(2):  # the second time, what the first looked at is kept
        (one,) = explanation.explain(both, learned_from[:1], origin.learned(model_folder, frozen), cache=DEFAULT)
        assert one.nearest[0].sample.path == learned_from[0]
        assert one.compared >= len(learned_from)


def test_without_the_features_of_what_was_learned_nothing_is_most_alike(model_folder: Path, photos: Path):
    picture = next(photos.glob("ash/*"))
    assert [(one.nearest, one.compared) for one in hs.explain(model_folder, picture)] == [((), 0)]
    assert hs.explain(hs.load(model_folder), picture)[0].nearest == ()  # nor if nothing is known of them


def test_pictures_in_memory_and_what_is_none_keep_their_places(model_folder: Path, photos: Path):
    good = next(photos.glob("birch/*"))
    broken, array = hs.explain(model_folder, [b"no picture", np.asarray(Image.open(good))])
    assert broken.prediction.status == "error"
    assert broken.heat is None
    assert str(broken) == "picture 0: not one of JPEG, PNG, WEBP, BMP, TIFF, GIF"
    assert array.prediction.label == "birch"
    assert array.heat.any()


def test_what_was_learned_from_is_checked_when_it_is_read(model_folder: Path, photos: Path, tmp_path: Path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    table = (folder / "pictures.csv").read_text()
    (folder / "pictures.csv").write_text(table.replace(table.split(",")[-1].strip(), "../../etc"))
    with pytest.raises(ArtifactError, match=r"pictures\.csv is damaged: \.\./\.\./etc is no SHA-256"):
        hs.explain(folder, next(photos.glob("ash/*")))


def test_explain_draws_pictures_and_writes_what_they_show(
    model_folder: Path, learned_from: list[Path], tmp_path: Path, run: Callable[..., Ran]
):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    hostile = shutil.copy(learned_from[0], tmp_path / "$x_{1}$ <b>.png")
    ran = run("explain", model_folder, hostile, tmp_path / "broken.jpg", "--out", tmp_path / "why")
    assert ran.code == 1
    label = learned_from[0].parent.name
    assert f"<b>.png: {label} " in ran.out
    assert f"most alike: {label} (1.00)" in ran.out
    assert "1 of 2 pictures could not be used" in ran.err
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["001_x_1_b.png", "explanations.json"]
    with Image.open(tmp_path / "why" / "001_x_1_b.png") as drawn:
        assert drawn.width > 1000
    good, bad = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert good["drawn"] == "001_x_1_b.png"
    assert good["nearest"][0]["label"] == label
    assert np.shape(good["heat"]) == (16, 16)
    assert (bad["status"], bad["heat"], bad["drawn"]) == ("error", None, None)


def test_explain_prints_json_and_says_what_it_could_not_find(
    model_folder: Path, photos: Path, tmp_path: Path, run: Callable[..., Ran]
):
    picture = next(photos.glob("cedar/*"))
    ran = run("explain", model_folder, picture, "--out", tmp_path / "why", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)[0]["label"] == "cedar"
    assert "not in the cache" in ran.err


def test_explain_writes_nothing_among_what_it_reads(model_folder: Path, photos: Path, run: Callable[..., Ran]):
    ran = run("explain", model_folder, photos / "ash", "--out", photos / "ash")
    assert ran.code == 2
    assert "which is read" in ran.err
    ran = run("explain", model_folder, photos / "ash", "--out", next(photos.glob("ash/*")))
    assert "is a file; a folder was expected" in ran.err


def test_the_worst_errors_have_heat_maps_as_many_as_there_is_time_for(small_result: TrainingResult):
    rows, classifier = range(6), small_result.classifier
    wrong = tuple(Mistake(row, (("birch", 0.9), ("ash", 0.1)), 0.1, ()) for row in rows)
    shown = Showcase(6, wrong, heads=((classifier.backbone, classifier.head),))
    result = dataclasses.replace(small_result, showcase=shown, seconds=1000.0)
    kept = album.of(result)
    assert [one["heat_map"] for one in kept["mistakes"]] == [len(kept["pictures"]) - 6 + row for row in rows]
    hurried = album.of(dataclasses.replace(result, seconds=0.0))
    assert ["heat_map" in one for one in hurried["mistakes"]] == [True, *[False] * 5]
    assert len(str(kept)) - len(str(hurried)) < 5 * 2 * album.MOST_BYTES


def test_heat_glows_and_its_absence_is_grey():
    picture = np.full((4, 4, 3), (200, 100, 30), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    shown = explained.overlay(picture, heat)
    assert len(set(shown[3, 3].tolist())) == 1
    assert shown[0, 0].max() > 1.5 * shown[3, 3].max()
