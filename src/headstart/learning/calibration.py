"""Logits of pictures the head has not learned from → what makes its probabilities honest.

Temperature scaling (Guo et al. 2017): one number divides all logits, so the order of the classes, and with it the
accuracy, stays as it is. Vector scaling (same paper): each class has a factor and an offset of its own besides; it is
taken only where it proves better on pictures that it was not fitted to. Both are fitted on out-of-fold logits of the
training part, never on the pictures that measure.

Where none of n pictures is wrong, the likelihood alone would make the answers surer without end. So one picture in
n + 2 counts as wrong (the targets of Platt 1999, the rule of succession of Laplace): then the probability of all these
answers is 1 - 1 / (n + 2) on average, and where errors are many it changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.records import Finding, Floats, Integers, found

LOW, HIGH = 0.02, 50.0  # temperatures that are looked at
HELD = 1 << 24  # held-out logits at most that choose and calibrate: of 1,000 classes those of 16,777 rows
FEWEST = 30  # held-out pictures below which their log-loss is too noisy to choose an l2 penalty or an epoch by
FEW_ERRORS = 5  # held-out errors below which the doubt that is added is a sixth or more of what the probabilities say
PULL = 0.01  # penalty of vector scaling on factors other than 1 and offsets other than 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Logits → probabilities: softmax(factors · logits / temperature + offsets).

    Attributes:
        temperature: > 0; 1 where there was nothing to fit it on.
        factors: (K,) of vector scaling; None: 1.
        offsets: (K,) of vector scaling; None: 0.
    """

    temperature: float = 1.0
    factors: tuple[float, ...] | None = None
    offsets: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no calibration.

        Raises:
            ValueError: With the value that is out of range.
        """
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"the temperature is {self.temperature}")
        if len(self.factors or ()) != len(self.offsets or ()):
            raise ValueError("its vector scaling has not as many factors as offsets")
        if not np.isfinite([*(self.factors or ()), *(self.offsets or ())]).all():
            raise ValueError("a factor or offset of its vector scaling is not finite")

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return (N, K) float64 rows that sum to 1."""
        scaled = logits.astype(np.float64) / self.temperature
        if self.factors is not None:
            scaled = scaled * np.array(self.factors) + np.array(self.offsets)
        return np.exp(log_softmax(scaled))

    def affine(self, classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (K,) factors and (K,) offsets: the probabilities are softmax(factors · logits + offsets)."""
        factors, offsets = self.factors or np.ones(classes), self.offsets or np.zeros(classes)
        return np.array(factors) / self.temperature, np.array(offsets)

    def __str__(self) -> str:
        """Return e.g. `temperature 0.873`."""
        return f"temperature {self.temperature:.3f}" + (", vector scaling" if self.factors is not None else "")


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities that (N, K) logits stand for."""
    wide = logits.astype(np.float64)  # first, since in float32 the largest differences are infinite
    below = wide - wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    return result


def chosen(count: int, classes: int) -> Integers:
    """Return which of so many held-out rows choose and calibrate: of more than `HELD` numbers some, evenly spaced."""
    return arrays.spaced(count, HELD // classes)


def fit(
    logits: Floats,
    targets: Integers,
    fold: Integers,
    scaling: Literal["best", "temperature", "vector"] = "best",
    groups: Integers | None = None,
) -> Calibration:
    """Return the calibration of held-out logits; of none, the one that changes nothing.

    Args:
        logits: (N, K) of rows that the head had not learned from; rows that are not finite are left aside, of very many
            the `chosen` are taken.
        targets: (N,) positions of the true classes.
        fold: (N,) rows of one fold are left out together where "best" compares the two; with a single fold, and where
            a class has no row, it is the temperature.
        scaling: What to fit.
        groups: (N,) rows of one group are one observation; None: every row is its own group.
    """
    some = chosen(len(logits), logits.shape[1])
    logits, targets, fold, groups = logits[some], targets[some], fold[some], None if groups is None else groups[some]
    usable = _usable(logits)
    if not usable.any():
        return Calibration()
    logits, targets, fold = logits[usable], targets[usable], fold[usable]
    count = _observations(usable, groups)
    temperature, _ = fit_temperature(logits, targets, count)
    if scaling == "temperature" or (scaling == "best" and not _vector_wins(logits, targets, fold)):
        return Calibration(temperature)
    factors, offsets = _fit_vector(logits / temperature, targets, count)
    return Calibration(temperature, tuple(factors.tolist()), tuple(offsets.tolist()))


def findings(logits: Floats, targets: Integers, groups: Integers | None = None) -> list[Finding]:
    """Return what to know of a calibration that was fitted to these: whether too few errors bound its probabilities.

    Args:
        logits: (N, K), as for `fit`.
        targets: (N,).
        groups: (N,), as for `fit`.
    """
    usable = _usable(logits)
    count, total = _observations(usable, groups), int(usable.sum())
    errors = int((usable & (logits.argmax(axis=1) != targets)).sum())
    claimed = 1 - (errors + 1) / (count + 2)
    return found(
        "bounded-confidence",
        "note",
        f"{errors} of {total} held-out pictures were answered wrongly, too few errors to tell how sure the answers may "
        f"be, so for such pictures the probabilities are kept to about {claimed:.3f} on average; for pictures of "
        "another kind they may be far too sure",
        [f"{errors} errors"] if errors < FEW_ERRORS else [],
        "More pictures, above all difficult ones, tell what a probability is worth.",
    )


def fit_temperature(logits: Floats, targets: Integers, count: int | None = None) -> tuple[float, float]:
    """Return (temperature, mean log-loss in nats at it); one row in `count` + 2 counts as wrong while it is sought.

    Args:
        logits: (N, K) out-of-sample, finite.
        targets: (N,) positions of the true classes.
        count: Of independent rows; None: N.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and predictions do not need it

    wide = logits.astype(np.float64)
    below = wide - wide.max(axis=1, keepdims=True)
    wanted = (_smoothed(wide, targets, count) * below).sum() / len(below)
    room = np.empty_like(below)

    def loss(log_temperature: float) -> float:
        # the mean of wanted · log_softmax(logits / temperature), whose first term is the same but for the temperature
        np.exp(np.divide(below, math.exp(log_temperature), out=room), out=room)
        return float(np.log(room.sum(axis=1)).mean() - wanted / math.exp(log_temperature))

    best = minimize_scalar(loss, bounds=(math.log(LOW), math.log(HIGH)), method="bounded", options={"xatol": 1e-4})
    temperature = math.exp(best.x)
    return temperature, _loss(wide / temperature, targets)


def _usable(logits: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(logits).all(axis=1))


def _observations(usable: NDArray[np.bool_], groups: Integers | None) -> int:
    return int(usable.sum()) if groups is None else len(np.unique(groups[usable]))


def _smoothed(logits: NDArray[np.floating], targets: Integers, count: int | None = None) -> NDArray[np.float64]:
    """Return (N, K) what the probabilities are to be: 1 / (count + 2) for the best class that is not the true one."""
    rows, doubt = np.arange(len(targets)), 1 / ((len(targets) if count is None else count) + 2)
    others = logits.astype(np.float64)
    others[rows, targets] = -np.inf
    wanted = np.zeros_like(others)
    wanted[rows, targets] = 1 - doubt
    wanted[rows, others.argmax(axis=1)] += doubt
    return wanted


def _vector_wins(logits: Floats, targets: Integers, fold: Integers) -> bool:
    """Return whether vector scaling has the smaller log-loss on each half of the folds, fitted on the other.

    On each: a difference that comes and goes with the half is noise, and one number less is simpler.
    """
    halves = fold % 2 == 1
    classes = logits.shape[1]
    if min(len(np.unique(targets[halves])), len(np.unique(targets[~halves]))) < classes:
        return False
    for held in (halves, ~halves):
        temperature, _ = fit_temperature(logits[~held], targets[~held])
        scaled = logits / temperature
        factors, offsets = _fit_vector(scaled[~held], targets[~held])
        if _loss(scaled[held] * factors + offsets, targets[held]) >= _loss(scaled[held], targets[held]):
            return False
    return True


def _fit_vector(
    logits: NDArray[np.floating], targets: Integers, count: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (K,) factors and (K,) offsets, pulled towards 1 and 0."""
    from scipy.optimize import minimize  # as above

    wide, classes = logits.astype(np.float64), logits.shape[1]
    wanted = _smoothed(wide, targets, count)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        factors, offsets = flat[:classes], flat[classes:]
        logs = log_softmax(wide * factors + offsets)
        error = np.exp(logs) - wanted  # the gradient of the cross-entropy by the logits
        pull = np.concatenate([factors - 1, offsets])
        slope = np.concatenate([np.einsum("nk,nk->k", error, wide), error.sum(axis=0)]) / len(targets)
        return float(-(wanted * logs).sum(axis=1).mean() + 0.5 * PULL * pull @ pull), slope + PULL * pull

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    best = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 30, "ftol": 1e-6})
    return best.x[:classes], best.x[classes:]


def _loss(logits: NDArray[np.floating], targets: Integers) -> float:
    return float(-log_softmax(logits)[np.arange(len(targets)), targets].mean())
