"""Logits of pictures the head has not learned from → the temperature that makes its probabilities honest.

Temperature scaling (Guo et al. 2017): one number divides all logits, so the order of the classes, and with it the
accuracy, stays as it is. It is fitted on out-of-fold logits of the training part, never on the pictures that measure.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from headstart.records import Floats, Integers

LOW, HIGH = 0.02, 50.0  # temperatures that are looked at
FEWEST = 30  # out-of-fold pictures below which a temperature would be noise


def fit_temperature(logits: Floats, truth: Integers) -> tuple[float, float]:
    """Return (temperature, mean log-loss in nats at it).

    Args:
        logits: (N, K) out-of-sample.
        truth: (N,) positions of the true classes.
    """
    rows = np.arange(len(truth))
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(wide / math.exp(log_temperature), axis=1)[rows, truth].mean())

    found = minimize_scalar(loss, bounds=(math.log(LOW), math.log(HIGH)), method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x), float(found.fun)


def probabilities(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Return (N, K) float64 rows that sum to 1."""
    result: NDArray[np.float64] = softmax(logits.astype(np.float64) / temperature, axis=1)
    return result
