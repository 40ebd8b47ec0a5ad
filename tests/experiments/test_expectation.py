"""What to expect of a head that learned from more pictures than those that were measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shots import drawn

from headstart.data import splits
from headstart.experiments import expectation
from headstart.experiments.expectation import Expectation, Turn
from headstart.records import Integers

EACH = 300  # pictures of each of three classes
LUCK = np.random.default_rng(1).permutation(3 * EACH) / (3 * EACH)


def error(rows: Integers) -> float:
    """Return how often a head that learned from so many rows is wrong."""
    return 0.02 + 2 * float(len(rows) / 3) ** -0.5


class Lawful:
    """Fits heads that are wrong as often as a law says, about the same pictures each time."""

    seed = 0
    features = drawn(3 * EACH, 1, 0.5)[0]

    def refit(self, rows: Integers, *_: object, **__: object) -> Any:
        """Return what answers so."""
        wrong = error(rows) > LUCK
        said = (self.features.targets + wrong) % 3
        return SimpleNamespace(best=1.0, answers=lambda asked: said[asked])


def expected(numbers: int = 5) -> Expectation | None:
    """Return what is expected of the head of all, those measured having been fitted without one fold each."""
    learner, rows = Lawful(), np.arange(3 * EACH)
    fold = splits.folds(learner.features.dataset, rows, numbers, 0)
    turns = [
        Turn(learner.refit(rows[fold != number]), rows[fold != number], rows[fold == number])
        for number in range(numbers)
    ]
    return expectation.expect(learner, turns, rows, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [2, 5])
def test_a_law_of_learning_curves_is_followed_to_all_pictures(numbers: int):
    told, rows = expected(numbers), np.arange(3 * EACH)
    assert told is not None
    gain = error(rows[: len(rows) * (numbers - 1) // numbers]) - error(rows)
    assert told.gain.low < gain < told.gain.high
    assert told.gain.value == pytest.approx(gain, rel=0.35)
    assert told.accuracy.low < 1 - error(rows) < told.accuracy.high
    assert (told.pictures, told.measured_from) == (900, 900 * (numbers - 1) // numbers)


def test_two_points_lead_to_the_third_of_any_law_with_that_exponent():
    exponents, sizes = np.array([0.3, 0.9]), np.array([[60.0, 10.0], [80.0, 14.0], [100.0, 17.0]])  # of two classes
    errors = (0.05 + 0.9 * sizes[..., None] ** -exponents).mean(axis=1)
    factors = expectation._factor(sizes, exponents)
    assert np.allclose(errors[1] - factors * (errors[0] - errors[1]), errors[2])


def test_of_a_head_that_learned_from_nothing_more_nothing_is_told():
    learner, rows = Lawful(), np.arange(3 * EACH)
    turn = Turn(learner.refit(rows), rows, rows[:30])
    assert expectation.expect(learner, [turn], rows, rows) is None  # type: ignore[arg-type]
