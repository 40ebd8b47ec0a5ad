"""Same-object pictures: whether they matter, what stays together, and that something is always measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shots import drawn, learner_of

from headstart.data.splits import Grouping
from headstart.experiments import grouping
from headstart.inspection.duplicates import Resemblance
from headstart.plans import SplitPlan
from headstart.predictions import Interval
from headstart.records import LabelledFeatures


def gap(features: LabelledFeatures, resemblance: Resemblance) -> Interval | None:
    return grouping.same_object_gap(learner_of(features), np.arange(len(features)), resemblance.same_object)


def decide(features: LabelledFeatures, resemblance: Resemblance, **asked: str) -> Grouping:
    return grouping.decide(learner_of(features), resemblance, SplitPlan(**asked))


def test_a_figure_that_rests_on_same_object_pictures_has_a_gap():
    found = gap(*drawn(things=60, shots=6, spread=0.1))
    assert found is not None
    assert found.low > 0.2
    assert found.low <= found.value <= found.high


def test_same_object_pictures_that_do_not_help_leave_no_gap():
    found = []
    for seed in range(4):
        features, resemblance = drawn(things=300, shots=1, spread=0.1, seed=seed)
        paired = replace(resemblance, same_object=np.arange(300) // 6 * 6)  # called so, though of other things
        found.append(gap(features, paired))
    assert abs(np.mean([one.value for one in found if one is not None])) < 0.04
    assert all(one is not None and one.low < grouping.MATTERS for one in found)


def test_without_same_object_pictures_nothing_is_said():
    assert gap(*drawn(things=60, shots=1, spread=0.1)) is None


def test_nothing_is_said_where_the_data_gives_nothing_to_learn_from():
    features, resemblance = drawn(things=6, shots=2, spread=0.1)
    measured = tuple(replace(sample, split="test") for sample in features.dataset)
    kept = replace(features, dataset=replace(features.dataset, samples=measured))
    assert gap(kept, resemblance) is None


@pytest.mark.parametrize("shots", [1500, 6])
def test_a_large_group_is_examined_all_the_same(shots: int, monkeypatch: pytest.MonkeyPatch):
    """A few things photographed more often than pictures are examined; taken whole, none of them would fit."""
    monkeypatch.setattr(grouping, "MOST", 300)
    features, resemblance = drawn(things=9 if shots > 6 else 120, shots=min(shots, 400), spread=0.1)
    found = gap(features, resemblance)
    assert found is not None
    assert found.value > 0.2


@pytest.mark.parametrize(
    ("low", "asked", "together"),
    [(0.06, "if-it-matters", True), (0.04, "if-it-matters", False), (0.0, "together", True), (0.5, "apart", False)],
)
def test_they_stay_together_as_asked_or_where_it_matters(
    low: float, asked: str, together: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(grouping, "same_object_gap", lambda *_: Interval(0.6, low, 0.9))
    features, resemblance = drawn(things=12, shots=2, spread=0.1)
    found = decide(features, resemblance, same_object=asked)
    assert found.same_object is together
    assert len(np.unique(found.groups)) == (12 if together else 24)
    assert found.origins == (("same-object pictures",) if together else ())


def test_near_duplicates_stay_together_unless_told_otherwise():
    features, _ = drawn(things=12, shots=2, spread=0.1)
    pairs = Resemblance(np.arange(24) // 2 * 2, np.arange(24) // 2 * 2, 0.8, 0.3)
    assert decide(features, pairs).origins == ("near-duplicates",)
    apart = decide(features, pairs, near_duplicates="apart")
    assert len(np.unique(apart.groups)) == 24


def test_groups_that_hold_whole_classes_leave_something_to_measure_and_it_is_told():
    features, _ = drawn(things=24, shots=1, spread=0.1)
    one = np.zeros(24, dtype=np.int64)  # what a fixed camera looks like to whoever compares backgrounds
    found = decide(features, Resemblance(one, one, 0.8, 0.3))
    assert len(np.unique(found.groups)) == 24
    assert not found.aside.any()
    (told,) = found.findings
    assert (told.code, told.names) == ("measured-apart", ("a", "b", "c"))
    assert "of 3 of 3 classes nothing could be measured" in told.message


def test_a_single_class_in_one_group_loosens_nothing():
    features, _ = drawn(things=24, shots=1, spread=0.1)
    groups = np.where(features.targets == 1, 1, np.arange(24))
    found = decide(features, Resemblance(groups, groups, 0.8, 0.3))
    assert len(np.unique(found.groups)) == 17
    assert found.findings == ()
