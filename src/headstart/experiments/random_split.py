"""What a random split would have reported: one that parts groups, near-duplicates and same-object pictures. Of a split
that the data brings: what it would have reported as it came, leaks included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.data import splits
from headstart.errors import DataError
from headstart.learning.learner import NOBODY, Fitted, Learner
from headstart.plans import Plan
from headstart.predictions import Interval
from headstart.records import Dataset, Integers


@dataclass(frozen=True, slots=True)
class Measured:
    """Which pictures measured a head.

    Attributes:
        rows: (M,) of them.
        right: (M,) whether the answer was right.
        learned: Rows that the head had learned from.
    """

    rows: Integers
    right: NDArray[np.bool_]
    learned: Integers


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """The figure of a split that heeds nothing.

    Attributes:
        accuracy: Of a head of the same kind.
        leaked: How many measured pictures have one of their group among those learned from.
        measured: Which measured it.
    """

    accuracy: Interval
    leaked: int
    measured: Measured


def measure(learner: Learner, fitted: Fitted, groups: Integers, plan: Plan) -> RandomSplit | None:
    """Return what such a split reports; None if it is as honest as the one that was made.

    Args:
        learner: Of heads of the same kind.
        fitted: On the honest split; its `best` serves here too.
        groups: (N,) that were heeded.
        plan: Share and seed.
    """
    features = learner.features
    learned, rows = _draw(features.dataset, plan)
    leaked = np.isin(groups[rows], groups[learned])
    if not leaked.any():
        return None
    head = learner.refit(learned, fitted.best, views=1)
    right = head.answers(rows) == features.targets[rows]
    accuracy = metrics.share_interval(right, groups[rows])
    return RandomSplit(accuracy, int(leaked.sum()), Measured(rows, right, learned))


def _draw(dataset: Dataset, plan: Plan) -> tuple[Integers, Integers]:
    """Return rows to learn from and rows that measure, with no regard to what belongs together; none where that fails.

    Of a split that the data brings, as it came.
    """
    if splits.is_given(dataset):
        part = np.array([part or "train" for part in dataset.packed.splits])
        return np.flatnonzero(part == "train"), np.flatnonzero(part == ("test" if "test" in part else "validation"))
    try:
        drawn = splits.split(dataset, np.arange(len(dataset)), plan.split.validation, plan.seed)
    except DataError:
        return NOBODY, NOBODY
    return drawn.train, drawn.validation
