"""What a figure owes to pictures that resemble those learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shots import drawn, learner_of

from headstart.config import CalibrationConfig, HeadConfig
from headstart.data.splits import Grouping
from headstart.experiments import leakage, random_split
from headstart.experiments.leakage import LeakageReport
from headstart.experiments.random_split import Measured, RandomSplit
from headstart.plans import EncoderPlan, PicturePlan, Plan, PredictPlan, SplitPlan, resolve_head
from headstart.predictions import Interval
from headstart.records import Splits

NOTHING = np.array([], dtype=np.int64)


def plan() -> Plan:
    encoder, head = EncoderPlan("none", "", "torch", "cpu", "f32"), resolve_head(HeadConfig(hidden=(), prior="none"))
    return Plan(
        "headstart",
        "balanced",
        PicturePlan(32, "crop", False),
        PredictPlan("original"),
        encoder,
        SplitPlan(),
        head,
        CalibrationConfig(),
        0,
        refit=False,
    )


def halves(groups: np.ndarray) -> Splits:
    """Return a split that parts no group."""
    held = groups // 6 % 5 == 0
    return Splits(np.flatnonzero(~held), np.flatnonzero(held), NOTHING)


def test_there_is_no_random_split_where_nothing_was_heeded():
    features, _ = drawn(things=60, shots=1, spread=0.1)
    own, alone = learner_of(features), np.arange(60)
    fitted = own.fit(np.arange(48), np.arange(48, 60), alone)
    assert random_split.measure(own, fitted, alone, plan()) is None


def test_the_random_split_reports_more_than_new_things_will_bring():
    features, resemblance = drawn(things=60, shots=6, spread=0.1)
    own, honest = learner_of(features), halves(resemblance.same_object)
    fitted = own.fit(honest.train, honest.validation, resemblance.same_object)
    found = random_split.measure(own, fitted, resemblance.same_object, plan())
    right = fitted.logits(honest.validation).argmax(axis=1) == features.targets[honest.validation]
    assert found is not None
    assert found.accuracy.low > right.mean() + 0.1
    assert found.leaked > 0.9 * len(found.measured.rows) > 0


def test_where_same_object_pictures_stay_together_the_bands_are_of_the_random_split():
    features, resemblance = drawn(things=60, shots=6, spread=0.1)
    own, honest = learner_of(features), halves(resemblance.same_object)
    fitted = own.fit(honest.train, honest.validation, resemblance.same_object)
    groups = Grouping(resemblance.same_object, np.arange(360), np.zeros(360, dtype=bool), same_object=True)
    report = leakage.report(own, fitted, honest, groups, resemblance, plan())
    assert report.together
    assert report.random_split is not None
    assert sum(band.pictures for band in report.bands) == len(report.random_split.measured.rows)


def test_a_previous_split_that_parts_same_object_pictures_is_not_said_to_keep_them_together():
    features, resemblance = drawn(things=60, shots=6, spread=0.1)
    groups = Grouping(resemblance.same_object, np.arange(360), np.zeros(360, dtype=bool), same_object=True)
    own, apart = learner_of(features), halves(resemblance.same_object)
    mixed = Splits(np.flatnonzero(np.arange(360) % 5), np.arange(0, 360, 5), NOTHING)
    for split, together, parted in ((apart, True, 0.0), (mixed, False, 1.0)):
        split = replace(split, origin="previous run")
        fitted = own.fit(split.train, split.validation, resemblance.same_object)
        report = leakage.report(own, fitted, split, groups, resemblance, plan())
        assert (report.together, report.parted) == (together, parted)


def test_one_parted_thing_of_a_previous_split_does_not_make_all_figures_optimistic():
    features, resemblance = drawn(things=200, shots=2, spread=0.1)
    groups = Grouping(resemblance.same_object, np.arange(400), np.zeros(400, dtype=bool), same_object=True)
    train = np.append(0, np.arange(200, 400))  # of the thing that the first two show, the second measures
    split, own = Splits(train, np.arange(1, 200), NOTHING, origin="previous run"), learner_of(features)
    report = leakage.report(own, own.refit(train, 1.0), split, groups, resemblance, plan())
    assert (report.together, report.parted) == (True, 1 / 199)
    (told,) = leakage.findings(replace(report, gap=Interval(0.2, 0.15, 0.25)))
    assert told.code == "same-object"
    assert "kept on one side, but for 0.5% of the measured pictures" in told.message


def test_bands_divide_all_measured_pictures_by_similarity():
    features, resemblance = drawn(things=60, shots=4, spread=0.3)
    rows, learned = np.arange(0, 240, 4), np.setdiff1d(np.arange(240), np.arange(0, 240, 4))
    fitted = learner_of(features).refit(learned, 1.0)
    measured = Measured(rows, rows % 8 == 0, learned)
    bands = leakage.bands(fitted, measured, np.arange(240), replace(resemblance, alike=0.9, unlike=0.88))
    assert sum(band.pictures for band in bands) == 60
    assert sum(band.share for band in bands) == pytest.approx(1)
    assert [band.name for band in bands] == ["unlike", "between", "same-object"]
    assert all(one.high <= other.low for one, other in zip(bands, bands[1:], strict=False))
    assert sum(band.accuracy.value * band.pictures for band in bands) == pytest.approx(30)


def test_findings_say_what_was_kept_together_and_by_how_much_a_figure_flatters():
    lost, nobody = Interval(0.15, 0.1, 0.2), Measured(NOTHING, NOTHING.astype(bool), NOTHING)
    drawn_split = RandomSplit(Interval(0.92, 0.9, 0.94), 5, nobody)
    (kept,) = leakage.findings(LeakageReport(lost, True, random_split=drawn_split))
    assert (kept.code, kept.severity) == ("same-object", "warning")
    assert "15 [10, 20] points" in kept.message
    assert "0.920" in kept.message
    (loose,) = leakage.findings(LeakageReport(lost, False))
    assert (loose.code, loose.severity) == ("optimistic", "warning")
    assert leakage.findings(LeakageReport(Interval(0.02, 0.0, 0.04), False)) == []
    assert leakage.findings(LeakageReport()) == []


@pytest.mark.parametrize(("parted", "expected"), [(0.5, ["warning"]), (0.03, ["note"]), (0.01, [])])
def test_figures_of_a_previous_split_owe_no_more_than_the_share_that_it_parted(parted: float, expected: list[str]):
    found = leakage.findings(LeakageReport(Interval(0.15, 0.1, 0.2), False, parted=parted))
    assert [one.severity for one in found] == expected
    for one in found:
        assert f"parted {parted:.0%} of the measured pictures" in one.message
        assert "without --from" in one.advice


def test_a_given_split_tells_what_it_would_have_reported_as_it_came():
    features, _ = drawn(things=40, shots=3, spread=0.1)
    groups = np.arange(120) // 3 * 3
    samples = tuple(replace(s, split="test" if n % 6 == 0 else "train") for n, s in enumerate(features.dataset))
    given = replace(features, dataset=replace(features.dataset, samples=samples))
    own, rows = learner_of(given), np.arange(0, 120, 6)
    honest = Splits(np.flatnonzero(~np.isin(groups, groups[rows])), NOTHING, rows, origin="data")
    fitted = own.fit(honest.train, rows, groups)
    found = random_split.measure(own, fitted, groups, plan())
    assert found is not None
    assert found.leaked == len(found.measured.rows) == 20
    assert len(found.measured.learned) == 100
