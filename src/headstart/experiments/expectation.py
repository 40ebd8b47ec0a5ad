"""Heads that were measured → what the saved one, which learned from more pictures, is expected to reach.

Each measured head is fitted once more without a quarter of its training pictures and says what the same pictures are.
What it loses is what that quarter had brought; what the further pictures of the saved head bring follows from the law
of learning curves, error = a + b · n^-c with c between 0 and 1, whatever a and b are. It is an estimate, told beside
the measured figure and never mixed into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.data import splits
from headstart.experiments.learning_curve import EXPONENTS
from headstart.learning.learner import Fitted, Learner
from headstart.predictions import Interval
from headstart.records import Integers

Array = NDArray[np.float64]

PARTS = 4  # of the training pictures, one of which is left away: four folds less one are to four as four are to five
ROUNDS = 1000


class Turn(NamedTuple):
    """A head that was measured.

    Attributes:
        fitted: It.
        learned: Rows that it learned from.
        measured: Rows that measured it.
    """

    fitted: Fitted
    learned: Integers
    measured: Integers


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the saved head is expected to reach; nothing of it is measured.

    Attributes:
        accuracy: Measured accuracy and gain together, in [0, 1].
        gain: What the further pictures add; it can be below 0 by chance.
        pictures: How many the saved head learned from.
        measured_from: How many the measured heads learned from, on average.
    """

    accuracy: Interval
    gain: Interval
    pictures: int
    measured_from: int


def expect(learner: Learner, turns: Sequence[Turn], saved: Integers, groups: Integers) -> Expectation | None:
    """Return what a head that learned from the saved rows is expected to reach; None where nothing tells.

    Args:
        learner: Fits the heads that learn from fewer pictures.
        turns: Heads that were measured, fitted the same way on parts of the saved rows.
        saved: Rows that the saved head learned from.
        groups: (N,) rows of one group are left away together, and drawn together for the intervals.
    """
    fewer = [_fewer(learner, turn.learned, groups) for turn in turns]
    sizes = _sizes(learner.features.targets, groups, turns, fewer, saved)
    if (sizes[:-1] == sizes[1:]).all(axis=1).any():
        return None
    before, now = _compared(learner, turns, fewer)
    families = groups[np.concatenate([turn.measured for turn in turns])]
    drawn = metrics.drawn_means(np.stack([now - before, now], axis=1), families, ROUNDS, learner.seed)
    factors, generator = _factor(sizes, EXPONENTS), np.random.default_rng(learner.seed)
    gain = float(factors.mean() * (now - before).mean())
    brought = drawn[:, 0] + _luck(now - before, turns) * generator.normal(size=ROUNDS)
    gains = generator.choice(factors, size=ROUNDS) * brought
    accuracy = metrics.spread(float(np.clip(now.mean() + gain, 0, 1)), np.clip(drawn[:, 1] + gains, 0, 1))
    return Expectation(
        accuracy, metrics.spread(gain, gains), len(saved), round(float(np.mean([len(t.learned) for t in turns])))
    )


def _fewer(learner: Learner, rows: Integers, groups: Integers) -> Integers:
    """Return the rows without a quarter of each class; its last group stays."""
    part = splits.folds(learner.features.dataset.select(rows), groups[rows], PARTS, learner.seed)
    kept: Integers = rows[part != 0]
    return kept


def _sizes(
    targets: Integers, groups: Integers, turns: Sequence[Turn], fewer: Sequence[Integers], saved: Integers
) -> Array:
    """Return (3, M) how many groups of each measured picture's class the fewer, the measured and the saved taught.

    In small classes that is not the share of all pictures: of three pictures, one that is measured leaves two.
    """

    def counted(rows: Integers) -> Integers:
        each = np.unique(np.stack([targets[rows], groups[rows]]), axis=1)[0]
        counts: Integers = np.maximum(1, np.bincount(each, minlength=int(targets.max()) + 1))
        return counts

    told = [
        np.stack([counted(rows)[targets[turn.measured]] for rows in (few, turn.learned, saved)])
        for few, turn in zip(fewer, turns, strict=True)
    ]
    return np.concatenate(told, axis=1).astype(np.float64)


def _compared(learner: Learner, turns: Sequence[Turn], fewer: Sequence[Integers]) -> Array:
    """Return (2, M) whether the heads that learned from fewer pictures are right, and whether the measured ones are."""
    right = []
    for turn, rows in zip(turns, fewer, strict=True):
        less = learner.refit(rows, turn.fitted.best, share=len(rows) / len(turn.learned), begin=turn.fitted)
        wanted = learner.features.targets[turn.measured]
        right.append([one.answers(turn.measured) == wanted for one in (less, turn.fitted)])
    return np.concatenate(right, axis=1).astype(np.float64)


def _luck(brought: Array, turns: Sequence[Turn]) -> float:
    """Return the standard error that the choice of the left quarters gives the mean; 0 where there is but one."""
    means = [part.mean() for part in np.split(brought, np.cumsum([len(turn.measured) for turn in turns])[:-1])]
    return float(np.std(means, ddof=1) / len(means) ** 0.5) if len(means) > 1 else 0.0


def _factor(sizes: Array, exponents: Array) -> Array:
    """Return, for each c, how many times what the left quarter brought the further pictures bring."""
    fewer, now, then = (sizes[..., None] ** -exponents).mean(axis=1)
    factor: Array = (now - then) / (fewer - now)
    return factor
