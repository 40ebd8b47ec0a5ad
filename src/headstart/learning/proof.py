"""Logits of watched pictures, epoch by epoch → whether a fine-tuned network beats the frozen one, and by how much.

The same pictures are answered by both, so that the differences are paired; each side has its own temperature. The
pictures that choose the epoch and fit the temperatures are not those that measure: a tenth of the groups measures what
the others chose, in turn. The network wins where the 95 % interval of the difference of log-loss, from
resampled groups, lies below 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.learning import calibration
from headstart.predictions import Interval
from headstart.records import Floats, Integers

ROUNDS = 2000  # of resampling
FOLDS = 10  # in which the pictures measure; with halves the verdict hung on how they were drawn
FEWEST_GROUPS = 10  # that are watched; fewer tell nothing of other groups


@dataclass(frozen=True, slots=True)
class Proof:
    """How a fine-tuned network compares with the frozen one, on pictures that neither had learned from.

    Attributes:
        pictures: How many were watched.
        frozen: Mean log-loss in nats of the frozen one.
        tuned: The same of the fine-tuned one.
        difference: Of log-loss, tuned minus frozen: below 0 is better.
        accuracy: Difference of accuracy: above 0 is better.
    """

    pictures: int
    frozen: float
    tuned: float
    difference: Interval
    accuracy: Interval

    @property
    def won(self) -> bool:
        """Whether the fine-tuned one is surely better."""
        return self.difference.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "pictures": self.pictures,
            "log_loss_frozen": round(self.frozen, 6),
            "log_loss_tuned": round(self.tuned, 6),
            "log_loss_difference": [round(number, 6) for number in self.difference],
            "accuracy_difference": [round(number, 6) for number in self.accuracy],
        }

    def __str__(self) -> str:
        """Return e.g. `log-loss 0.71 instead of 0.95 (-0.24 [-0.35, -0.14]), accuracy +0.07 [+0.01, +0.13]`."""
        return (
            f"log-loss {self.tuned:.3f} instead of {self.frozen:.3f} ({_signed(self.difference)}), "
            f"accuracy {_signed(self.accuracy)}"
        )


def prove(frozen: Floats, epochs: Sequence[Floats], targets: Integers, groups: Integers, seed: int) -> Proof | None:
    """Return how the epochs of a fine-tuning compare with the frozen network; None where too little is watched to tell.

    Args:
        frozen: (W, K) logits of the frozen network on the watched pictures.
        epochs: (W, K) of the fine-tuned one after each epoch; the first is of epoch 0.
        targets: (W,) true classes.
        groups: (W,) rows of one group are not independent.
        seed: Of folds and resampling.
    """
    if not enough(groups):
        return None
    fold = _folds(groups, seed)
    own, right = np.empty((2, len(targets))), np.empty((2, len(targets)))
    for measuring in (fold == number for number in range(FOLDS)):
        for side, candidates in enumerate(([frozen], epochs)):
            scores, temperature = _chosen(candidates, targets, ~measuring)
            own[side, measuring] = losses(scores[measuring] / temperature, targets[measuring])
            right[side, measuring] = scores[measuring].argmax(axis=1) == targets[measuring]
    before, after = own.mean(axis=1).tolist()
    loss, accuracy = (_interval(figure[1] - figure[0], groups, seed) for figure in (own, right))
    return Proof(len(targets), before, after, loss, accuracy)


def enough(groups: Integers) -> bool:
    """Return whether so many pictures, of so many groups (W,), can tell one network from another."""
    return len(groups) >= calibration.FEWEST and len(np.unique(groups)) >= FEWEST_GROUPS


def losses(logits: NDArray[np.floating], targets: Integers) -> NDArray[np.float64]:
    """Return (N,) the cross-entropy of each row, in nats."""
    logs: NDArray[np.float64] = calibration.log_softmax(logits)
    return -logs[np.arange(len(targets)), targets]


def watched_loss(logits: Floats, targets: Integers) -> float:
    """Return the mean log-loss at its best temperature; infinite where a number is not finite."""
    return calibration.fit_temperature(logits, targets)[1] if np.isfinite(logits).all() else math.inf


def _chosen(
    candidates: Sequence[Floats], targets: Integers, choosing: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    """Return the logits of the epoch with the smallest loss on the pictures that choose, and its temperature there."""
    fitted = [calibration.fit_temperature(scores[choosing], targets[choosing]) for scores in candidates]
    best = int(np.argmin([loss for _, loss in fitted]))
    return candidates[best].astype(np.float64), fitted[best][0]


def _folds(groups: Integers, seed: int) -> Integers:
    """Return (W,) with whom each row measures: groups whole, the largest first, each where there are fewest rows."""
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    fold, rows = np.zeros(len(sizes), dtype=np.int64), np.zeros(FOLDS, dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold[group] = rows.argmin()
        rows[fold[group]] += sizes[group]
    result: Integers = fold[member]
    return result


def _interval(differences: NDArray[np.float64], groups: Integers, seed: int) -> Interval:
    return metrics.spread(float(differences.mean()), metrics.drawn_means(differences, groups, ROUNDS, seed))


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
