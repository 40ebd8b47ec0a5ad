"""A budget: which level it buys, what it never does, and how it is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import SMALL, draw_folders

from headstart.cli.options import seconds_of
from headstart.config import TrainConfig, apply_recipe, read_config
from headstart.data import sources
from headstart.errors import ConfigError
from headstart.inspection import files
from headstart.inspection.files import Inspection
from headstart.levels import QUALITIES, Quality
from headstart.plans import refuse_contradictions, resolve_head
from headstart.records import Dataset, Sample
from headstart.workflows import budget, decide
from headstart.workflows.budget import Estimate
from headstart.workflows.decide import Decision

TAKES = {"fast": 40.0, "balanced": 100.0, "best": 500.0}


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    return files.inspect(sources.read(draw_folders(tmp_path / "photos", each=3)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Quality]:
    """Levels take what `TAKES` says, half of it to encode; which were measured."""
    asked: list[Quality] = []

    def estimate(quality: Quality, *_: object) -> Estimate:
        asked.append(quality)
        return Estimate(quality, TAKES[quality], 2.0, int(TAKES[quality]))

    monkeypatch.setattr(budget, "_estimate", estimate)
    monkeypatch.setattr(budget.decide, "decide", lambda config, _: config)
    return asked


def level(inspection: Inspection, **asked: object) -> Quality | str:
    """Return the level that a budget buys."""
    config: Decision | TrainConfig
    config, _ = budget.spend(TrainConfig(**asked), inspection, begun=time.monotonic(), cache=None)
    return config.quality


@pytest.mark.parametrize(("seconds", "quality"), [(50, "fast"), (120, "balanced"), (600, "best"), (1e6, "best")])
def test_the_highest_level_that_fits_is_taken(
    inspection: Inspection, measured: list[Quality], seconds: float, quality: Quality
):
    assert level(inspection, budget=float(seconds)) == quality


def test_a_level_that_was_asked_for_is_the_highest(inspection: Inspection, measured: list[Quality]):
    assert level(inspection, budget=1e6, quality="balanced") == "balanced"
    assert measured == ["fast", "balanced"]


def test_a_level_that_cannot_fit_is_not_even_measured(inspection: Inspection, measured: list[Quality]):
    level(inspection, budget=70.0)  # balanced would encode for 30 seconds at least, and does; best for 75
    assert measured == ["fast", "balanced"]


def test_a_budget_that_nothing_fits_is_refused_with_what_it_takes(inspection: Inspection, measured: list[Quality]):
    with pytest.raises(ConfigError, match="A budget of 30 seconds is too short: with quality fast.* takes about 4"):
        level(inspection, budget=30.0)


def test_time_that_is_gone_already_counts(inspection: Inspection, measured: list[Quality]):
    config, _ = budget.spend(TrainConfig(budget=600.0), inspection, begun=time.monotonic() - 480, cache=None)
    assert config.quality == "balanced"


@pytest.mark.slow
def test_what_was_measured_is_kept_and_costs_nothing_the_next_time(inspection: Inspection, tmp_path: Path):
    config = read_config(None, flags=SMALL | {"budget": 600.0, "quality": "fast"})
    first, second = (
        budget.spend(config, inspection, begun=time.monotonic(), cache=tmp_path / "cache")[1].estimates[0] for _ in "ab"
    )
    assert (first.missing, second.missing, second.pictures_per_second) == (0, 0, 0.0)  # all were measured
    assert first.pictures_per_second > 0


@pytest.mark.parametrize("text", ["", "soon", "10x", "-5m", "0", "1.2.3s", "m", "5m10h"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ConfigError, match="is no duration"):
        seconds_of(text)


def test_each_level_decides_what_was_left_open_and_nothing_else():
    for quality in QUALITIES:
        decided = apply_recipe(TrainConfig(quality=quality))
        assert "auto" not in (decided.encoder.backbone, decided.predict.views)
        kept = apply_recipe(read_config(None, ["encoder.backbone=lite0", f"quality={quality}"]))
        assert kept.encoder.backbone == "lite0"


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("settings", [[], ["recipe=tutorial"], ["head.hidden=[8]"], ["head.optimizer=adam"]])
def test_a_level_never_contradicts_what_was_asked_for(quality: str, settings: list[str]):
    config = read_config(None, [f"quality={quality}", *settings])
    refuse_contradictions(config)
    assert resolve_head(apply_recipe(config).head).finetune == ("all" if quality == "best" and not settings else "none")


@pytest.mark.parametrize(("names", "finetune", "folds"), [(("beagle", "whippet", "x"), "none", 5), ("xyz", "all", 0)])
def test_no_network_is_trained_on_what_it_knows_already(names: Sequence[str], finetune: str, folds: int):
    samples = tuple(Sample(Path(name), f"{name}{n}", name) for name in names for n in range(3))
    config = read_config(None, ["quality=best", "encoder.backbone=lite0"])
    plan = decide.decide(config, Dataset(Path(), samples)).plan
    assert (plan.head.finetune, plan.split.folds) == (finetune, folds)
    assert decide.decide(read_config(None, ["head.finetune=all"]), Dataset(Path(), samples)).plan.head.finetune == "all"


def test_mirror_images_that_show_something_else_are_never_looked_at():
    assert apply_recipe(read_config(None, ["quality=best"])).predict.views == "mirror"
    assert apply_recipe(read_config(None, ["quality=best", "pictures.mirror=false"])).predict.views == "original"


@pytest.mark.parametrize(
    ("parts", "settings", "watch"),
    [
        (("train", "validation", "test"), [], "validation"),
        (("train", "validation", "test"), ["split.folds=3"], "training"),
        (("train", "validation", "test"), ["finetune.watch=training"], "training"),
        (("train", "test"), [], "training"),
        (("train", "validation"), [], "training"),
    ],
)
def test_a_network_proves_itself_on_validation_pictures_where_others_measure(
    parts: tuple[str, ...], settings: list[str], watch: str
):
    samples = tuple(Sample(Path(f"{part}.jpg"), part, "a", split=part) for part in parts)
    config = read_config(None, ["head.finetune=all", "encoder.backbone=lite0", *settings])
    assert decide.decide(config, Dataset(Path(), samples)).plan.finetune.watch == watch
