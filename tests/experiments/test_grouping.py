"""What a figure owes to pictures that resemble those learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.config import CalibrationConfig, EncoderPlan, HeadConfig, PicturePlan, Plan, SplitConfig, resolve_head
from headstart.experiments import grouping
from headstart.experiments.grouping import Optimism
from headstart.inspection.duplicates import Resemblance
from headstart.learning import learner
from headstart.learning.learner import Material
from headstart.records import ClassNames, Dataset, Interval, Sample, Splits

NOTHING = np.array([], dtype=np.int64)


def plan() -> Plan:
    encoder = EncoderPlan("none", "", "torch", "cpu", "f32")
    head = resolve_head(HeadConfig(hidden=(), prior="none"))
    return Plan(
        "headstart", PicturePlan(32, "crop", False), encoder, SplitConfig(), head, CalibrationConfig(), 0, refit=False
    )


def drawn(things: int, shots: int, spread: float, classes: int = 3, seed: int = 0) -> tuple[Material, Resemblance]:
    """Return things that say little of their class, each photographed several times from close by."""
    generator = np.random.default_rng(seed)
    thing = np.repeat(np.arange(things), shots)
    targets = thing % classes
    centres = generator.normal(size=(things, 30)) + 0.35 * np.eye(classes, 30)[np.arange(things) % classes]
    values = (centres[thing] + spread * generator.normal(size=(len(thing), 30))).astype(np.float32)
    samples = tuple(Sample(Path(f"{n:04d}"), f"{n:04d}", "abc"[k]) for n, k in enumerate(targets))
    dataset, alone = Dataset(Path(), samples), np.arange(len(thing))
    parts = Splits(alone, NOTHING, NOTHING)
    digests = tuple(map(str, alone))
    material = Material(dataset, values[:, None], ClassNames("abc"), targets, digests, alone, parts)
    first = np.unique(thing, return_index=True)[1]
    return material, Resemblance(alone, first[thing], 0.8, 0.3)


def gap(material: Material, resemblance: Resemblance) -> Interval | None:
    return grouping.look_alike_gap(
        material, resemblance.same_object, None, plan()
    )  # no prior: the backbone is not asked


def test_a_figure_that_rests_on_look_alikes_has_a_gap():
    found = gap(*drawn(things=60, shots=6, spread=0.1))
    assert found is not None
    assert found.low > 0.2
    assert found.low <= found.value <= found.high


def test_look_alikes_that_do_not_help_leave_no_gap():
    found = []
    for seed in range(4):
        material, resemblance = drawn(things=300, shots=1, spread=0.1, seed=seed)
        paired = replace(
            resemblance, same_object=np.arange(300) // 6 * 6
        )  # called same-object pictures, though of other things
        found.append(gap(material, paired))
    assert abs(np.mean([one.value for one in found if one is not None])) < 0.04
    assert all(one is not None and one.low < grouping.MATTERS for one in found)


def test_without_look_alikes_nothing_is_said():
    material, resemblance = drawn(things=60, shots=1, spread=0.1)
    assert gap(material, resemblance) is None


@pytest.mark.parametrize(
    ("low", "asked", "together"),
    [(0.06, "if-it-matters", True), (0.04, "if-it-matters", False), (0.0, "together", True), (0.5, "apart", False)],
)
def test_look_alikes_stay_together_as_asked_or_where_it_matters(low: float, asked: str, together: bool):
    assert grouping.decide(Interval(0.6, low, 0.9), asked).together is together


def test_the_naive_split_is_none_where_nothing_was_heeded():
    material, _ = drawn(things=60, shots=1, spread=0.1)
    assert grouping.naive_split(material, plan()) is None


def test_the_naive_split_reports_more_than_new_things_will_bring():
    material, resemblance = drawn(things=60, shots=6, spread=0.1)
    grouped = replace(material, groups=resemblance.same_object)
    naive = grouping.naive_split(grouped, plan())
    assert naive is not None
    held = resemblance.same_object // 6 % 5 == 0
    honest = replace(grouped, parts=Splits(np.flatnonzero(~held), np.flatnonzero(held), NOTHING))
    learned = learner.learn(honest, None, plan())
    found = grouping.measure_naive(Optimism(None, True), grouped, resemblance, None, plan(), learned, naive)
    said = learned.head.logits(material.values[held, 0]).argmax(axis=1)
    assert found.naive is not None
    assert found.naive.low > (said == material.targets[held]).mean() + 0.1
    assert found.leaked > 0.9 * found.measured > 0


def test_bands_divide_all_measured_pictures_by_similarity():
    material, resemblance = drawn(things=60, shots=4, spread=0.3)
    rows, learned = np.arange(0, 240, 4), np.setdiff1d(np.arange(240), np.arange(0, 240, 4))
    bands = grouping.bands(material, replace(resemblance, alike=0.9, unlike=0.88), rows, rows % 8 == 0, learned)
    assert sum(band.pictures for band in bands) == 60
    assert sum(band.share for band in bands) == pytest.approx(1)
    assert [band.name for band in bands] == ["unlike", "between", "same-object"]
    assert all(one.high <= other.low for one, other in zip(bands, bands[1:], strict=False))
    assert sum(band.accuracy.value * band.pictures for band in bands) == pytest.approx(30)


def test_findings_say_what_was_kept_together_and_by_how_much_a_figure_flatters():
    lost = Interval(0.15, 0.1, 0.2)
    (kept,) = grouping.findings(Optimism(lost, True, naive=Interval(0.92, 0.9, 0.94)))
    assert (kept.code, kept.severity) == ("same-object pictures", "warning")
    assert "15 [10, 20] points" in kept.message
    assert "0.920" in kept.message
    (loose,) = grouping.findings(Optimism(lost, False))
    assert (loose.code, loose.severity) == ("optimistic", "warning")
    assert grouping.findings(Optimism(Interval(0.02, 0.0, 0.04), False)) == []
    assert grouping.findings(Optimism(None, False)) == []
