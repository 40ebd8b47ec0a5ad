"""Held-out logits and labels → what a classifier makes of logits: probabilities, sets of classes, "none of these".

The three rules travel together: fitted on the same training pictures that the head had not learned from, saved in one
piece, applied in one call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headstart.learning.calibration import Calibration
from headstart.learning.conformal import SetRule
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.records import Floats


@dataclass(frozen=True, slots=True)
class PredictionRules:
    """What is made of logits.

    Attributes:
        calibration: Logits → probabilities.
        sets: Probabilities → sets; None: nothing is said of sets.
        out_of_distribution: Features → "none of these"; None: nothing is ever refused.
    """

    calibration: Calibration = field(default_factory=Calibration)
    sets: SetRule | None = None
    out_of_distribution: OutOfDistributionRule | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What was made of the logits of N pictures.

    Attributes:
        probabilities: (N, K).
        sets: (N, K) whether a class is in the picture's set; None without a rule.
        p_value: (N,) in (0, 1), see `OutOfDistributionRule.p_value`; None without a rule.
        known: (N,) False for pictures that look like none of the classes; None without a rule.
    """

    probabilities: NDArray[np.float64]
    sets: NDArray[np.bool_] | None
    p_value: NDArray[np.float64] | None
    known: NDArray[np.bool_] | None


def apply(rules: PredictionRules, logits: Floats, features: Floats) -> Applied:
    """Return what the rules make of logits (N, K) and features (N, D); each row depends on its own picture alone."""
    probabilities = rules.calibration.probabilities(logits)
    sets = None if rules.sets is None else rules.sets.sets(probabilities)
    if rules.out_of_distribution is None:
        return Applied(probabilities, sets, None, None)
    p_value = rules.out_of_distribution.p_value(logits, features)
    return Applied(probabilities, sets, p_value, p_value >= rules.out_of_distribution.refused)
