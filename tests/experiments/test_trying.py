"""Ranking backbones: the sample, figures out of fold, differences in pairs, and what is on the Pareto front."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from shots import drawn, learner_of

from headstart.data.splits import Grouping
from headstart.errors import DataError
from headstart.experiments import trying
from headstart.experiments.trying import Answers, Cost, Trial
from headstart.records import Dataset, Sample


def dataset(**classes: int) -> Dataset:
    names = [(label, f"{label}/{index:03d}") for label, count in classes.items() for index in range(count)]
    return Dataset(Path("photos"), tuple(Sample(Path(name), name, label) for label, name in names))


def answers(losses: np.ndarray) -> Answers:
    return Answers(np.arange(len(losses)), losses < 0.7, losses, 1.0)


def ranked(**tried: tuple[float, np.ndarray]) -> dict[str, Trial]:
    """Return name → its trial, of name → pictures a second and losses."""
    told = [(name, Cost((64,), rate, 50, False, 10, 0.1), answers(losses)) for name, (rate, losses) in tried.items()]
    size = len(next(iter(tried.values()))[1])
    alone = Grouping(np.arange(size), np.arange(size), np.zeros(size, dtype=bool))
    return {one.candidate: one for one in trying.rank(told, 2, alone, 0)}


def test_each_class_has_its_share_of_the_sample_and_four_pictures_at_least():
    pictures = dataset(ash=800, birch=200, cedar=6, elm=2)
    counts = Counter(pictures.select(trying.draw(pictures, 100, 0)).labels)
    assert counts == {"ash": 75, "birch": 19, "cedar": 4, "elm": 2}


def test_the_sample_depends_on_names_and_seed_not_on_the_order_of_rows():
    pictures = dataset(ash=80, birch=40)
    turned = pictures.select(range(119, -1, -1))

    def names(one: Dataset, seed: int) -> set[str]:
        return {sample.name for sample in one.select(trying.draw(one, 30, seed))}

    assert names(pictures, 0) == names(turned, 0) != names(pictures, 1)


def test_of_more_classes_than_there_is_room_for_some_are_drawn_whole():
    pictures = dataset(**{f"class{number}": 9 for number in range(100)})
    counts = Counter(pictures.select(trying.draw(pictures, 40, 0)).labels)
    assert set(counts.values()) == {4}
    assert len(counts) == 10


def test_the_best_comes_first_and_the_others_are_compared_with_it_in_pairs():
    losses = np.random.default_rng(0).exponential(1.0, 200)
    trials = ranked(worse=(10, losses + 0.1), best=(5, losses))
    assert list(trials) == ["best", "worse"]
    assert trials["worse"].difference == pytest.approx((0.1, 0.1, 0.1))
    assert trials["worse"].surely_worse
    assert trials["worse"].log_loss.low < trials["best"].log_loss.value  # apart, nobody could tell
    assert repr(trials["best"]).startswith("Trial(best, accuracy 0.")


def test_what_may_be_chance_is_not_called_worse_and_the_fastest_of_those_is_found():
    generator = np.random.default_rng(0)
    losses = generator.exponential(1.0, 200)
    trials = ranked(best=(5, losses), alike=(9, losses + generator.normal(0.01, 1, 200)), worse=(90, losses + 1))
    assert [one.surely_worse for one in trials.values()] == [False, False, True]
    assert trying.fastest(tuple(trials.values())).candidate == "alike"


def test_on_the_front_is_what_nothing_else_beats_in_speed_and_accuracy():
    right = {share: np.where(np.arange(100) < share, 0.1, 2.0) for share in (60, 70, 80)}
    trials = ranked(slow=(5, right[80]), beaten=(4, right[70]), fast=(20, right[60]), same=(19, right[60]))
    assert [name for name, one in trials.items() if one.on_front] == ["slow", "fast"]


def test_pictures_are_answered_by_heads_that_had_not_learned_from_their_group():
    features, resemblance = drawn(things=60, shots=6, spread=0.1)
    learner = learner_of(features)
    apart, together = (trying.probe(learner, groups) for groups in (np.arange(len(features)), resemblance.same_object))
    assert apart.right.mean() > together.right.mean() + 0.2
    assert apart.losses.mean() < together.losses.mean()


def test_a_sample_of_single_groups_is_refused():
    features, _ = drawn(things=20, shots=1, spread=0.1)
    with pytest.raises(DataError, match="can be left out to measure"):
        trying.probe(learner_of(features), features.targets)


def test_what_was_chosen_before_is_where_the_next_search_begins():
    features, _ = drawn(things=60, shots=1, spread=0.1)
    learner = learner_of(features)
    first = trying.probe(learner, np.arange(60))
    assert trying.probe(learner, np.arange(60), first.l2).l2 == first.l2
