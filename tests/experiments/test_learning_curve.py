"""Fits on growing parts of the pictures: what is chosen, where the curve leads, which classes it names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headstart.errors import ConfigError
from headstart.experiments import learning_curve
from headstart.experiments.learning_curve import Design, LearningCurve
from headstart.records import ClassNames, Integers, Progress, silence

CLASSES = ClassNames(["ash", "birch", "cedar", "elm"])
EACH, MEASURED = 40, 150  # training and validation pictures of each class


def rows(each: int = EACH, measured: int = MEASURED) -> tuple[Integers, Integers, Integers]:
    """Return targets, training rows and validation rows of balanced classes."""
    targets = np.concatenate([np.repeat(np.arange(4), each), np.repeat(np.arange(4), measured)])
    return targets, np.arange(4 * each), np.arange(4 * each, len(targets))


def follow(
    law: Callable[[float, Integers], np.ndarray],
    seed: int = 0,
    each: int = EACH,
    progress: Progress = silence,
    **more,
) -> LearningCurve:
    """Return the curve of heads that err as often as the law says of n pictures and the classes."""
    targets, train, validation = rows(each)
    generator = np.random.default_rng(seed)
    difficulty = generator.random(len(validation))  # the same pictures are hard for all heads

    def fit(learned: Integers, share: float) -> np.ndarray:
        error = law(len(learned) / 4, targets[validation]) * (1 + 0.02 * generator.normal())
        said = np.where(difficulty < error, (targets[validation] + 1) % 4, targets[validation])
        return 0.1 + 0.6 * np.eye(4)[said]

    return learning_curve.measure(
        targets, CLASSES, train, validation, fit, design=Design(seed=seed, **more), progress=progress
    )


def power(n: float, targets: Integers) -> np.ndarray:
    return np.full(len(targets), 0.05 + 0.9 * n**-0.5)


def asked(each: int = EACH, groups: Integers | None = None, **more) -> list[tuple[Integers, float]]:
    """Return the rows and shares that a fit is asked for, in order."""
    targets, train, validation = rows(each, 10)
    heard: list[tuple[Integers, float]] = []

    def fit(learned: Integers, share: float) -> np.ndarray:
        heard.append((learned, share))
        return np.eye(4)[targets[validation]]

    learning_curve.measure(targets, CLASSES, train, validation, fit, groups=groups, design=Design(**more))
    return heard


@pytest.mark.slow
def test_the_intervals_of_a_known_law_hold_the_targets_in_most_of_40_draws():
    now, later = 0.05 + 0.9 * EACH**-0.5, 0.05 + 0.9 * (2 * EACH) ** -0.5
    curves = [follow(power, seed) for seed in range(40)]
    assert sum(result.doubled.low <= 1 - later <= result.doubled.high for result in curves) >= 36
    assert sum(result.gain.low <= now - later <= result.gain.high for result in curves) >= 36
    assert np.mean([result.gain.high - result.gain.low for result in curves]) < 0.08


def test_a_curve_that_has_levelled_out_promises_nothing():
    result = follow(lambda n, targets: np.full(len(targets), 0.2))
    assert result.gain.low <= 0 <= result.gain.high
    assert result.gain.high - result.gain.low < 0.03


def test_odds_of_error_that_follow_the_formula_are_found():
    def odds(n: float, targets: Integers) -> np.ndarray:
        return np.full(len(targets), 2 * n**-0.7 / (1 + 2 * n**-0.7))

    a, b, c = follow(odds).formula
    assert a + b * 40**-c == pytest.approx(2 * 40**-0.7, abs=0.03)
    assert follow(odds).at(80) == pytest.approx(1 - 2 * 80**-0.7 / (1 + 2 * 80**-0.7), abs=0.03)


def test_twice_as_many_pictures_are_where_the_formula_leads():
    result = follow(power)
    assert result.doubled.value == pytest.approx(result.at(2 * EACH))
    assert result.gain.value == pytest.approx(result.doubled.value - result.points[-1].accuracy.value)


def test_points_are_the_means_of_their_repeats():
    result = follow(power)
    assert [len(point.accuracies) for point in result.points] == [3, 3, 3, 3, 1]
    assert [point.pictures_per_class for point in result.points] == [4, 8, 16, 28, 40]
    assert [point.share for point in result.points] == [0.1, 0.2, 0.4, 0.7, 1]
    for point in result.points:
        assert point.accuracy.value == pytest.approx(np.mean(point.accuracies))
        assert point.accuracy.low < point.accuracy.value < point.accuracy.high


def test_heads_that_are_always_right_keep_doubled_within_bounds_and_an_interval():
    result = follow(lambda n, targets: np.zeros(len(targets)))
    assert result.doubled.high == 1
    assert 0.98 < result.doubled.low < 1
    assert result.by_class == ()


def test_a_part_holds_the_smaller_ones_of_its_repeat_and_the_same_share_of_each_class():
    heard = asked(repeats=1)
    for (smaller, _), (larger, _) in zip(heard, heard[1:], strict=False):
        assert set(smaller) < set(larger)
    assert [np.bincount(part // EACH).tolist() for part, _ in heard] == [[n] * 4 for n in (4, 8, 16, 28, 40)]
    assert [share for _, share in heard] == [0.1, 0.2, 0.4, 0.7, 1]


def test_repeats_choose_differently():
    first, second = (set(part) for part, share in asked(repeats=2) if share == 0.1)
    assert first != second


def test_groups_stay_whole_and_no_class_is_missing():
    targets, _, _ = rows(EACH, 10)
    groups = np.arange(len(targets)) // 7  # some of them have two classes
    for part, _ in asked(groups=groups):
        kept = np.isin(groups[: 4 * EACH], groups[part])
        assert np.array_equal(np.flatnonzero(kept), part)
        assert set(targets[part]) == {0, 1, 2, 3}


def test_a_class_of_one_picture_is_in_every_part():
    targets = np.array([0] + [1] * 20 + [0, 1])
    heard: list[Integers] = []

    def fit(learned: Integers, share: float) -> np.ndarray:
        heard.append(learned)
        return np.eye(2)

    learning_curve.measure(targets, ["ash", "birch"], np.arange(21), np.array([21, 22]), fit)
    assert all(0 in learned for learned in heard)


def test_shares_of_the_same_pictures_are_fitted_once():
    assert [len(part) for part, _ in asked(each=5, repeats=1)] == [4, 8, 16, 20]


def test_too_few_pictures_for_three_sizes_are_refused():
    with pytest.raises(ConfigError, match="a learning curve needs three different numbers"):
        asked(each=2)


@pytest.mark.parametrize("wrong", [{"shares": (0.0, 0.5)}, {"shares": (0.5, 1.5)}, {"repeats": 0}])
def test_shares_and_repeats_that_make_no_sense_are_refused(wrong: dict):
    with pytest.raises(ConfigError, match="a learning curve needs shares"):
        asked(**wrong)


def test_the_class_with_most_left_to_gain_is_named_first():
    def steep(n: float, targets: Integers) -> np.ndarray:
        return np.where(targets == 2, 1.5 * n**-0.4, 0.3 * n**-0.4)

    best, *others = follow(steep).by_class
    assert (best.name, best.pictures) == ("cedar", EACH)
    assert best.recall == pytest.approx(1 - 1.5 * EACH**-0.4, abs=0.1)
    assert best.gain > 1.2 * max(other.gain for other in others)


def test_a_class_with_few_validation_pictures_is_believed_less():
    def gain(measured: int) -> float:
        """Return the gain of a class that is wrong in half of so many pictures; the others are in one of ten."""
        targets = np.concatenate([np.repeat(np.arange(4), EACH), [0] * measured, np.tile([1, 2, 3], 100)])
        train, validation = np.arange(4 * EACH), np.arange(4 * EACH, len(targets))
        place = np.arange(len(validation))

        def fit(learned: Integers, share: float) -> np.ndarray:
            wrong = place % 10 < 1 / share if share < 1 else place % np.where(targets[validation] == 0, 2, 10) == 0
            return np.eye(4)[(targets[validation] + wrong) % 4]

        result = learning_curve.measure(targets, CLASSES, train, validation, fit, design=Design(repeats=1))
        return {row.name: row.gain for row in result.by_class}["ash"]

    assert gain(2) < 0.8 * gain(100)


def test_progress_hears_of_every_fit():
    heard: list[tuple[int, int]] = []
    follow(power, progress=lambda stage, done, total: heard.append((done, total)))
    assert heard == [(done, 13) for done in range(14)]


def test_the_same_seed_gives_the_same_curve():
    assert follow(power, seed=3) == follow(power, seed=3)
    assert follow(power, seed=3) != follow(power, seed=4)
