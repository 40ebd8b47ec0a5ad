"""Held-out probabilities and labels → the rule that gives each picture a set of classes which holds the true one at a
chosen rate.

Split conformal prediction (Vovk, Gammerman and Shafer 2005): a score says how little a class suits a picture, and the
set holds every class whose score is no larger than a quantile of the true classes' scores. The rate is promised for
pictures like those it was fitted on, on average over them; nothing here makes the probabilities better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart.records import Finding, Integers, found

Array = NDArray[np.float64]
Method = Literal["lac", "aps"]

# With n pictures the coverage that is met follows a Beta distribution of standard deviation about
# sqrt(level * (1 - level) / (n + 2)): 2 points at 200 and level 0.9. Smaller classes would get quantiles made of noise.
FEWEST_PER_CLASS = 200


@dataclass(frozen=True, slots=True)
class SetRule:
    """Which classes a picture may belong to.

    Attributes:
        method: "lac", the smallest sets on average (Sadinle, Lei and Wasserman 2019), or "aps", which are small for
            easy pictures and large for hard ones (Romano, Sesia and Candès 2020).
        level: The share of pictures whose set shall hold the true class, in (0, 1).
        quantile: The largest score that is let in; infinite where there was too little to fit it on, and every class
            is in the set.
        by_class: (K,) the same for each class on its own (class-conditional, or Mondrian; Vovk 2012); the shared
            quantile where a class was too small. None: no class was large enough.
    """

    method: Method
    level: float
    quantile: float
    by_class: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no rule.

        Raises:
            ValueError: With the first value that is out of range.
        """
        if self.method not in ("lac", "aps"):
            raise ValueError(f"method cannot be {self.method!r}; it is 'lac' or 'aps'")
        if not 0 < self.level < 1:
            raise ValueError(f"level cannot be {self.level!r}; it lies between 0 and 1")

    def sets(self, probabilities: Array) -> NDArray[np.bool_]:
        """Return (N, K): whether the class is in the picture's set; all False in rows that have a NaN.

        The most probable class is always in it, whatever its score: an empty set tells nobody anything, and coverage
        only rises.
        """
        limit = self.quantile if self.by_class is None else np.array(self.by_class)
        inside = _scores(probabilities, self.method) <= limit
        inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
        inside[np.isnan(probabilities).any(axis=1)] = False
        return inside


def fit(
    probabilities: Array,
    targets: Integers,
    *,
    level: float = 0.9,
    method: Method = "lac",
    fewest: int = FEWEST_PER_CLASS,
) -> SetRule:
    """Return the rule whose sets hold the true class of a share `level` of new pictures.

    Without ties the mean coverage lies between `level` and `level + 1 / (N + 1)`, a little above where a set would be
    empty without its most probable class.

    Args:
        probabilities: (N, K) of pictures that the head has not learned from; rows that are not finite are left aside.
        targets: (N,) positions of the true classes.
        level: In (0, 1).
        method: "lac" or "aps".
        fewest: Rows that a class needs for a quantile of its own.
    """
    usable = np.isfinite(probabilities).all(axis=1)
    targets = targets[usable]
    own = _scores(probabilities[usable], method)[np.arange(len(targets)), targets]
    shared = _quantile(own, level)
    limits = [shared] * probabilities.shape[1]
    rows_of = {k: np.flatnonzero(targets == k) for k in range(len(limits))}
    large = [k for k, rows in rows_of.items() if len(rows) >= fewest]
    for k in large:
        limits[k] = _quantile(own[rows_of[k]], level)
    return SetRule(method, level, shared, tuple(limits) if large else None)


def findings(rule: SetRule) -> list[Finding]:
    """Return what to know of a rule: whether its sets say anything."""
    enough = math.ceil(rule.level / (1 - rule.level) - 1e-9)
    return found(
        "sets-hold-everything",
        "note",
        f"fewer than {enough} pictures were held out, too few for sets that hold the true class {rule.level:.1%} of "
        "the time, so each set holds every class",
        ["quantile infinite"] if math.isinf(rule.quantile) else [],
        "More training pictures, or a smaller calibration.level, make sets that say something.",
    )


def _scores(probabilities: Array, method: Method) -> Array:
    """Return (N, K): how little each class suits each picture, in [0, 1]."""
    if method == "lac":
        return 1 - probabilities
    # The probability of all classes that come before it. With its own included, as APS is often told, a sure picture
    # would score near 1 though it is right, and at an accuracy of 0.9 sets for 0.9 would hold the true class 99.8 times
    # of 100 and five classes instead of one. Of equals, the first comes first.
    order = np.argsort(-probabilities, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)[:, :-1]
    scores = np.zeros_like(probabilities)
    np.put_along_axis(scores, order[:, 1:], before, axis=1)
    return scores


def _quantile(scores: Array, level: float) -> float:
    """Return the ceil((n + 1) * level)-th smallest of n scores, or infinity if that is beyond the last."""
    place = math.ceil((len(scores) + 1) * level - 1e-9)  # 0.55 * 100 is 55.000000000000007
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf
