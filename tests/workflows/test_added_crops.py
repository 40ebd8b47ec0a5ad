"""Crops in training: who gets them, when they are tried, and that predictions know nothing of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, draw_folders

from headstart.config import read_config
from headstart.data import sources
from headstart.experiments import crops as experiment
from headstart.predictions import Interval
from headstart.records import Dataset
from headstart.workflows import crops, prepare
from headstart.workflows.budget import Budget
from headstart.workflows.prepare import Prepared
from headstart.workflows.train import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures of which every third is for testing."""
    dataset = sources.read(draw_folders(tmp_path_factory.mktemp("crops") / "photos", each=6))
    parts = ("test", "train", "train")
    return replace(dataset, samples=tuple(replace(s, split=parts[row % 3]) for row, s in enumerate(dataset)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(pictures: Dataset, folder: Path) -> Prepared:
    """What is known of them before crops are drawn."""
    config = read_config(None, flags=SMALL | {"pictures.crops": "if-better"})
    return prepare.encode(prepare.begin(pictures, config), cache=folder)


def asked(prepared: Prepared, crops: int) -> Prepared:
    plan = prepared.plan
    return replace(prepared, plan=replace(plan, pictures=replace(plan.pictures, crops=crops)))


def test_pictures_for_testing_get_no_crops(prepared: Prepared, folder: Path):
    values = crops.add(asked(prepared, 2), None, cache=folder).features.values
    testing = np.array([sample.split == "test" for sample in prepared.features.dataset])
    assert values.shape == (18, 3, prepared.backbone.dim)
    np.testing.assert_array_equal(values[:, :1], prepared.features.values)
    assert np.abs(values[~testing, 1:]).max(axis=2).min() > 0
    assert not values[testing, 1:].any()


@pytest.mark.parametrize(("found", "count"), [(Interval(-0.2, -0.3, -0.1), 4), (Interval(-0.2, -0.5, 0.1), 0)])
def test_they_are_learned_from_only_where_they_surely_win(
    prepared: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch, found: Interval, count: int
):
    monkeypatch.setattr(experiment, "gain", lambda *_: found)
    result = crops.add(prepared, None, cache=folder)
    told = result.findings[-1]
    assert result.plan.pictures.crops == count
    assert result.features.values.shape[1] == 1 + count
    assert told.code == "crops"
    assert str(found) in told.message
    assert ("not learned from" in told.message) == (not count)


def test_where_there_is_no_time_they_are_not_tried(prepared: Prepared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(experiment, "gain", None)  # is not asked
    result = crops.add(prepared, Budget(60, time.monotonic() + 1, ()))
    assert result.plan.pictures.crops == 0
    assert "were not tried" in result.findings[-1].message


@pytest.mark.slow
def test_predictions_know_nothing_of_crops(pictures: Dataset, folder: Path):
    plain, more = (
        train(pictures, read_config(None, flags=SMALL | {"pictures.crops": count}), cache=folder) for count in (0, 2)
    )
    assert more.plan.pictures.crops == 2
    assert more.classifier.views == ("original",)
    assert not np.array_equal(*(one.classifier.head.weight for one in (plain, more)))
    held = pictures.select(more.splits.test)
    again = more.classifier.predict_many(held)
    np.testing.assert_array_equal(again.probabilities, more.predictions["test"].probabilities)
