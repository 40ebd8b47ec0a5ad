"""What a figure owes to pictures that resemble those learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.config import CalibrationConfig, EncoderPlan, HeadConfig, PicturePlan, Plan, SplitConfig, resolve_head
from headstart.data.duplicates import Kinship
from headstart.judging import optimism
from headstart.judging.optimism import Optimism
from headstart.learning import fitting
from headstart.learning.fitting import Material
from headstart.records import ClassNames, Dataset, Interval, Sample, Splits

NOTHING = np.array([], dtype=np.int64)


def plan() -> Plan:
    encoder = EncoderPlan("none", "", "torch", "cpu", "f32")
    head = resolve_head(HeadConfig(hidden=(), prior="none"))
    return Plan(
        "headstart", PicturePlan(32, "crop", False), encoder, SplitConfig(), head, CalibrationConfig(), 0, refit=False
    )


def drawn(things: int, shots: int, spread: float, classes: int = 3, seed: int = 0) -> tuple[Material, Kinship]:
    """Return things that say little of their class, each photographed several times from close by."""
    generator = np.random.default_rng(seed)
    thing = np.repeat(np.arange(things), shots)
    truth = thing % classes
    centres = generator.normal(size=(things, 30)) + 0.35 * np.eye(classes, 30)[np.arange(things) % classes]
    values = (centres[thing] + spread * generator.normal(size=(len(thing), 30))).astype(np.float32)
    samples = tuple(Sample(Path(f"{n:04d}"), f"{n:04d}", "abc"[k]) for n, k in enumerate(truth))
    dataset, alone = Dataset(Path(), samples), np.arange(len(thing))
    parts = Splits(alone, NOTHING, NOTHING)
    digests = tuple(map(str, alone))
    material = Material(dataset, values[:, None], ClassNames("abc"), truth, digests, alone, parts)
    first = np.unique(thing, return_index=True)[1]
    return material, Kinship(alone, first[thing], 0.8, 0.3)


def gap(material: Material, kinship: Kinship) -> Interval | None:
    return optimism.look_alike_gap(material, kinship.look_alikes, None, plan())  # no prior: the backbone is not asked


def test_a_figure_that_rests_on_look_alikes_has_a_gap():
    found = gap(*drawn(things=60, shots=6, spread=0.1))
    assert found is not None
    assert found.low > 0.2
    assert found.low <= found.value <= found.high


def test_look_alikes_that_do_not_help_leave_no_gap():
    found = []
    for seed in range(4):
        material, kinship = drawn(things=300, shots=1, spread=0.1, seed=seed)
        paired = replace(kinship, look_alikes=np.arange(300) // 6 * 6)  # called look-alikes, though of other things
        found.append(gap(material, paired))
    assert abs(np.mean([one.value for one in found if one is not None])) < 0.04
    assert all(one is not None and one.low < optimism.MATTERS for one in found)


def test_without_look_alikes_nothing_is_said():
    material, kinship = drawn(things=60, shots=1, spread=0.1)
    assert gap(material, kinship) is None


@pytest.mark.parametrize(
    ("low", "asked", "together"),
    [(0.06, "if-it-matters", True), (0.04, "if-it-matters", False), (0.0, "together", True), (0.5, "apart", False)],
)
def test_look_alikes_stay_together_as_asked_or_where_it_matters(low: float, asked: str, together: bool):
    assert optimism.decide(Interval(0.6, low, 0.9), asked).together is together


def test_the_naive_split_is_none_where_nothing_was_heeded():
    material, _ = drawn(things=60, shots=1, spread=0.1)
    assert optimism.naive_split(material, plan()) is None


def test_the_naive_split_reports_more_than_new_things_will_bring():
    material, kinship = drawn(things=60, shots=6, spread=0.1)
    grouped = replace(material, groups=kinship.look_alikes)
    naive = optimism.naive_split(grouped, plan())
    assert naive is not None
    held = kinship.look_alikes // 6 % 5 == 0
    honest = replace(grouped, parts=Splits(np.flatnonzero(~held), np.flatnonzero(held), NOTHING))
    learned = fitting.learn(honest, None, plan())
    found = optimism.measure_naive(Optimism(None, True), grouped, kinship, None, plan(), learned, naive)
    said = learned.head.logits(material.values[held, 0]).argmax(axis=1)
    assert found.naive is not None
    assert found.naive.low > (said == material.truth[held]).mean() + 0.1
    assert found.leaked > 0.9 * found.measured > 0


def test_bands_divide_all_measured_pictures_by_similarity():
    material, kinship = drawn(things=60, shots=4, spread=0.3)
    rows, learned = np.arange(0, 240, 4), np.setdiff1d(np.arange(240), np.arange(0, 240, 4))
    bands = optimism.bands(material, replace(kinship, alike=0.9, unlike=0.88), rows, rows % 8 == 0, learned)
    assert sum(band.pictures for band in bands) == 60
    assert sum(band.share for band in bands) == pytest.approx(1)
    assert [band.name for band in bands] == ["unlike", "between", "look-alike"]
    assert all(one.high <= other.low for one, other in zip(bands, bands[1:], strict=False))
    assert sum(band.accuracy.value * band.pictures for band in bands) == pytest.approx(30)


def test_findings_say_what_was_kept_together_and_by_how_much_a_figure_flatters():
    lost = Interval(0.15, 0.1, 0.2)
    (kept,) = optimism.findings(Optimism(lost, True, naive=Interval(0.92, 0.9, 0.94)))
    assert (kept.code, kept.severity) == ("look-alikes", "warning")
    assert "15 [10, 20] points" in kept.message
    assert "0.920" in kept.message
    (loose,) = optimism.findings(Optimism(lost, False))
    assert (loose.code, loose.severity) == ("optimistic", "warning")
    assert optimism.findings(Optimism(Interval(0.02, 0.0, 0.04), False)) == []
    assert optimism.findings(Optimism(None, False)) == []
