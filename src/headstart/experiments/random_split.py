"""What a random split would have reported: one that parts groups, near-duplicates and same-object pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.config import Plan
from headstart.data import splits
from headstart.errors import DataError
from headstart.learning.learner import Fitted, Learner
from headstart.predictions import Interval
from headstart.records import Dataset, Integers, Splits


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
    """Return what a random split reports; None if it is as honest as the one that was made.

    Args:
        learner: Of heads of the same kind.
        fitted: On the honest split; its `best` serves here too.
        groups: (N,) that were heeded.
        plan: Share and seed.
    """
    features = learner.features
    split = _draw(features.dataset, groups, plan)
    if split is None:
        return None
    head = learner.refit(split.train, fitted.best, views=1)
    rows = split.validation
    right = head.logits(rows).argmax(axis=1) == features.targets[rows]
    leaked = np.isin(groups[rows], groups[split.train])
    accuracy = metrics.share_interval(right, groups[rows])
    return RandomSplit(accuracy, int(leaked.sum()), Measured(rows, right, split.train))


def _draw(dataset: Dataset, groups: Integers, plan: Plan) -> Splits | None:
    """Return a split that heeds nothing but the parts of the data; None if no group is parted by it."""
    alone = np.arange(len(dataset))
    try:
        drawn = splits.split(dataset, alone, plan.split.validation, plan.seed)
    except DataError:
        return None
    return drawn if np.isin(groups[drawn.validation], groups[drawn.train]).any() else None
