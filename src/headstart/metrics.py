"""Arrays → numbers: pure functions of probabilities and true classes, each a weighted mean so that one piece of code
gives the figure and its bootstrap interval; shares of rows have Wilson's interval instead, which holds what it promises
for few rows as well. Nothing here knows pictures, files or names.

Throughout: `probabilities` (N, K) with rows that sum to 1, `targets` (N,) positions of the true classes, `weights`
(..., N) how often each row counts (None: once). The result has the leading shape of `weights`; figures are in [0, 1]
unless stated otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.predictions import Interval
from headstart.records import Integers

Array = NDArray[np.float64]
Metric = Callable[[Array, Integers, Array | None], Any]

SMALLEST = 1e-15  # what a probability is clipped to before its logarithm, as in scikit-learn's log_loss of old
BINS = 15


def _mean(values: Array, weights: Array | None) -> Any:
    """Return the weighted mean over rows; `values` is (N,) or (N, M)."""
    if weights is None:
        return values.mean(axis=0)
    total = weights.sum(axis=-1)
    return (weights @ values) / (total if values.ndim == 1 else total[..., None])


def accuracy(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose most probable class is the true one."""
    return _mean(_right(probabilities, targets), weights)


def top5_accuracy(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose true class is among the five most probable; ties count against."""
    return _mean(_among_five(probabilities, targets), weights)


def log_loss(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the mean of -ln(probability of the true class), in nats, from 0 upwards."""
    return _mean(losses(probabilities, targets), weights)


def losses(probabilities: Array, targets: Integers) -> Array:
    """Return (N,) the log-loss of each row, in nats."""
    own = probabilities[np.arange(len(targets)), targets]
    return np.asarray(-np.log(np.clip(own, SMALLEST, 1.0)), dtype=float)


def brier(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the mean squared distance to the one-hot targets, in [0, 2] (Brier 1950, all classes summed)."""
    own = probabilities[np.arange(len(targets)), targets]
    return _mean((probabilities**2).sum(axis=1) - 2 * own + 1, weights)


def ece(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the expected calibration error of the top class in 15 equal-width bins (Guo et al. 2017)."""
    bins, gaps = _bins(probabilities, targets)
    member = np.eye(BINS)[bins] * gaps[:, None]  # (N, BINS): confidence minus correctness, in the row's bin
    return np.abs(_mean(member, weights)).sum(axis=-1)


def macro_f1(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the unweighted mean of the F1 of every class that occurs in the targets or in the predictions."""
    hits, predicted, actual = _counts(probabilities, targets, weights)
    occurs = (predicted + actual) > 0
    f1 = np.divide(2 * hits, predicted + actual, out=np.zeros_like(hits), where=occurs)
    return f1.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


OVERALL: dict[str, Metric] = {
    "accuracy": accuracy,
    "top5_accuracy": top5_accuracy,
    "log_loss": log_loss,
    "macro_f1": macro_f1,
    "brier": brier,
    "ece": ece,
}
RATES = ("macro_f1", "precision", "f1")  # in [0, 1], yet no shares of rows that are known beforehand
POINTS = 50  # of a risk-coverage curve
Z = NormalDist().inv_cdf(0.975)  # 97.5 % of the normal distribution lie below


def confusion(probabilities: Array, targets: Integers) -> Integers:
    """Return (K, K) counts: rows are the true classes, columns the predicted ones."""
    classes = probabilities.shape[1]
    flat = targets * classes + probabilities.argmax(axis=1)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def reliability(probabilities: Array, targets: Integers) -> tuple[tuple[float, float, int], ...]:
    """Return (mean confidence, accuracy, count) for each of the 15 confidence bins that holds a row."""
    bins, gaps = _bins(probabilities, targets)
    confidence = probabilities.max(axis=1)
    correct = confidence - gaps
    rows = [(bins == index) for index in range(BINS)]
    return tuple((float(confidence[r].mean()), float(correct[r].mean()), int(r.sum())) for r in rows if r.any())


def risk_coverage(confidence: Array, correct: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return (share answered, error among them) when the least confident rows are refused first.

    At most 50 points, evenly spaced over the share, the last of them at 1. Equally confident rows are refused in no
    order: the error is that expected of a random one.

    Args:
        confidence: (N,) in any unit; only the order counts.
        correct: (N,) whether the answer is right.
    """
    risk = _selective_risk(confidence, correct)
    answered = np.unique(np.arange(1, POINTS + 1) * len(risk) // POINTS)
    return tuple((float(n / len(risk)), float(risk[n - 1])) for n in answered[answered > 0])


def aurc(confidence: Array, correct: NDArray[np.bool_]) -> float:
    """Return the area under the whole risk-coverage curve: the mean over its N points (Geifman and El-Yaniv 2017)."""
    return float(_selective_risk(confidence, correct).mean()) if len(correct) else np.nan


def share_interval(hits: NDArray[Any], groups: Integers | None = None) -> Interval:
    """Return the share of rows that are hits, with Wilson's interval for as many rows as these are worth.

    Rows of one group tell less than as many rows of their own. The variance over the groups says how much less: the
    rows are divided by the design effect (Kish 1965), Student's t stands for the normal quantile where groups are few
    (Korn and Graubard 1998), and the result stays between copies, the worst that a group can hold, and independence.
    Without any row the value is NaN and the interval all of [0, 1]. What no formula mends: with a dozen groups of many
    rows, of which a rare one fails as a whole, the interval is too narrow when none of those was drawn.

    Args:
        hits: (N,) bool, or 0 and 1.
        groups: (N,) integers; None: every row is its own group.
    """
    if len(hits) == 0:
        return Interval(np.nan, 0.0, 1.0)
    value = float(np.mean(hits))
    low, high = wilson(value, len(hits) if groups is None else _worth(np.asarray(hits, dtype=float), groups))
    return Interval(value, min(low, value), max(high, value))


def mean_interval(values: Array, groups: Integers | None = None, rounds: int = 1000, seed: int = 0) -> Interval:
    """Return the mean of the rows with a bootstrap's interval (Efron 1979).

    Args:
        values: (N,) in any unit.
        groups: (N,) rows of one group are drawn together, since they are not independent; None: rows one by one.
        rounds: Bootstrap resamples.
        seed: Of the resampling; with the same one, and the same groups, the same rows are drawn.
    """
    drawn = _mean(values, resample(len(values), groups, rounds, seed))
    return _interval("mean", values.mean(), drawn, _units(groups, np.ones(len(values), dtype=bool)))


def change_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Return how much larger the share of hits became among the same rows, in [-1, 1], with an interval.

    Half a row is added to each of the four cells of right and wrong, before and after (Agresti and Min 2005), so that a
    few rows of which none changed are not taken for certainty, as a bootstrap would have it.

    Args:
        before: (N,), at least one.
        after: (N,).

    >>> import numpy as np
    >>> str(change_interval(np.ones(30, dtype=bool), np.ones(30, dtype=bool)))
    '0.000 [-0.061, 0.061]'
    """
    rows, won, lost = len(before) + 2, int((after & ~before).sum()) + 0.5, int((before & ~after).sum()) + 0.5
    centre = (won - lost) / rows
    half = Z * math.sqrt((won + lost) - (won - lost) ** 2 / rows) / rows
    value = (won - lost) / len(before)
    return Interval(value, min(value, centre - half), max(value, centre + half))


def overall_intervals(
    probabilities: Array,
    targets: Integers,
    groups: Integers | None = None,
    rounds: int = 1000,
    seed: int = 0,
    *,
    weights: Array | None = None,
) -> dict[str, Interval]:
    """Return every overall figure with its interval: `share_interval` for shares, else a bootstrap's (Efron 1979).

    Args:
        probabilities: (N, K).
        targets: (N,).
        groups: (N,) rows of one group are drawn together, since they are not independent; None: rows one by one.
        rounds: Bootstrap resamples.
        seed: Of the resampling.
        weights: What `resample` drew, where it is at hand.
    """
    weights = resample(len(targets), groups, rounds, seed) if weights is None else weights
    size = _units(groups, np.ones(len(targets), dtype=bool))
    return {
        name: share_interval(SHARES[name](probabilities, targets), groups)
        if name in SHARES
        else _interval(name, metric(probabilities, targets, None), metric(probabilities, targets, weights), size)
        for name, metric in OVERALL.items()
    }


def class_intervals(
    probabilities: Array,
    targets: Integers,
    groups: Integers | None = None,
    rounds: int = 1000,
    seed: int = 0,
    *,
    weights: Array | None = None,
) -> dict[int, dict[str, Interval]]:
    """Return, for each class that occurs in the targets, its figures with intervals.

    `recall` (the accuracy on that class's pictures), `precision` and `f1` look at all rows; `top5_accuracy`,
    `log_loss`, `brier` and `ece` at the rows that truly belong to the class. Arguments as in `overall_intervals`.
    """
    weights = resample(len(targets), groups, rounds, seed) if weights is None else weights
    once = np.ones((1, len(targets)))
    point = _class_rates(probabilities, targets, once)
    spread = _class_rates(probabilities, targets, weights)
    support = np.bincount(targets, minlength=probabilities.shape[1])
    result: dict[int, dict[str, Interval]] = {}
    for k in np.flatnonzero(support):
        own = targets == k
        size = _units(groups, own)
        drawn = weights[:, own]
        drawn = drawn[drawn.sum(axis=1) > 0]  # a resample without the class says nothing about it
        family = None if groups is None else groups[own]
        figures = {
            "recall": share_interval(_right(probabilities[own], targets[own]), family),
            "precision": _interval("precision", point["precision"][0, k], spread["precision"][:, k], size),
            "f1": _interval("f1", point["f1"][0, k], spread["f1"][:, k], size),
            "top5_accuracy": share_interval(_among_five(probabilities[own], targets[own]), family),
        }
        for name in ("log_loss", "brier", "ece"):
            value = OVERALL[name](probabilities[own], targets[own], None)
            rows = OVERALL[name](probabilities[own], targets[own], drawn)
            figures[name] = _interval(name, value, rows, size)
        result[int(k)] = figures
    return result


def resample(size: int, groups: Integers | None, rounds: int, seed: int) -> Array:
    """Return (rounds, N) counts: how often each row was drawn in each bootstrap resample of the groups."""
    generator = np.random.default_rng(seed)
    _, member = np.unique(np.arange(size) if groups is None else groups, return_inverse=True)
    units = int(member.max(initial=-1)) + 1
    counts = generator.multinomial(units, np.full(units, 1 / max(units, 1)), size=rounds)
    return counts[:, member].astype(float)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion seen in `size` trials (Wilson 1927)."""
    centre = (share + Z * Z / (2 * size)) / (1 + Z * Z / size)
    half = Z / (1 + Z * Z / size) * np.sqrt(share * (1 - share) / size + Z * Z / (4 * size * size))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _worth(hits: Array, groups: Integers) -> float:
    """Return how many independent rows tell as much about the share of hits as these do."""
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    share = hits.mean()
    if share in (0, 1):
        return float(len(size))  # nothing varies: each group has said the same once
    copies = len(hits) ** 2 / (size**2).sum()  # if the rows of a group were one row; all that one group can tell
    if len(size) == 1:
        return float(copies)
    between = (np.bincount(member, weights=hits - share) ** 2).sum() * len(size) / (len(size) - 1)
    effective = share * (1 - share) * len(hits) ** 2 / max(between, 1e-9)
    # Few misses make a poor estimate, however many groups have none: a count of c has the relative variance 1 / c, that
    # of chi-squared with 2 c degrees of freedom. Wilson's interval knows z² / size only, so the size can carry t / z.
    rare = len(np.unique(member[hits == (share < 0.5)]))
    effective *= (Z / student(min(2 * rare, len(size) - 1))) ** 2
    return float(np.clip(effective, copies, len(hits)))


@functools.cache
def student(degrees: int) -> float:
    """Return t > 0 between whose negative and which 95 % of Student's distribution lie, of a whole number of degrees.

    By bisection of the finite sum that the distribution is then (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).

    >>> [round(student(degrees), 4) for degrees in (1, 2, 10, 1000)]
    [12.7062, 4.3027, 2.2281, 1.9623]
    """
    odd = degrees % 2
    steps = np.arange(1 + odd, degrees - 1, 2)  # what each term is multiplied by to give the next: n / (n + 1)
    factors = np.concatenate([[1.0], np.cumprod(steps / (steps + 1))])
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / √degrees
    for _ in range(60):
        angle = (low + high) / 2
        terms = factors * np.cos(angle) ** (odd + 2 * np.arange(len(factors)))
        within = math.sin(angle) * float(terms.sum()) * (degrees > 1)
        within = 2 / math.pi * (angle + within) if odd else within
        low, high = (angle, high) if within < 0.95 else (low, angle)
    return math.tan(low) * math.sqrt(degrees)


def _interval(name: str, value: Any, draws: Array, size: int) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (value, value)
    if name in RATES and low == high:
        # 14 right out of 14: every resample says 1.0 as well, yet nobody may believe [1, 1].
        low, high = wilson(float(value), size)
    if name == "ece":
        low, high = _without_noise(float(value), draws, low, high)
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _without_noise(value: float, draws: Array, low: float, high: float) -> tuple[float, float]:
    """Return the ends of an interval without what resampling adds to a sum of absolute values.

    Chance makes each gap larger, and drawing again adds chance to chance. Taken off once, the interval lies about the
    value. Taken off as often as it is in there where all gaps are chance, √2 / (√2 - 1) times, the lower end says what
    may be left of the value: independent chances add up by their squares, so that drawing makes √2 out of 1.
    """
    added = max(0.0, float(np.nanmean(draws)) - value) if np.isfinite(draws).any() else 0.0
    return max(0.0, low - added * np.sqrt(2) / (np.sqrt(2) - 1)), high - added


def _units(groups: Integers | None, rows: NDArray[np.bool_]) -> int:
    """Return how many independent observations these rows are."""
    return int(rows.sum()) if groups is None else len(np.unique(groups[rows]))


def _right(probabilities: Array, targets: Integers) -> Array:
    """Return (N,) 1 where the most probable class is the true one, else 0."""
    return np.asarray(probabilities.argmax(axis=1) == targets, dtype=float)


def _among_five(probabilities: Array, targets: Integers) -> Array:
    """Return (N,) 1 where fewer than five other classes are at least as probable as the true one, else 0."""
    own = probabilities[np.arange(len(targets)), targets]
    better = (probabilities >= own[:, None]).sum(axis=1) - 1
    return np.asarray(better < 5, dtype=float)


SHARES = {"accuracy": _right, "top5_accuracy": _among_five}  # overall figures that are shares of rows → their hits


def _selective_risk(confidence: Array, correct: NDArray[np.bool_]) -> Array:
    """Return (N,): the error among the i + 1 most confident rows."""
    _, block, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(block, weights=~correct.astype(bool)) / size
    return np.cumsum(np.repeat(wrong, size)) / np.arange(1, len(correct) + 1)


def _bins(probabilities: Array, targets: Integers) -> tuple[Integers, Array]:
    """Return each row's confidence bin and its confidence minus its correctness."""
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return bins, confidence - (probabilities.argmax(axis=1) == targets)


def _counts(probabilities: Array, targets: Integers, weights: Array | None) -> tuple[Array, Array, Array]:
    """Return (..., K) weighted counts: right, predicted, actual."""
    classes = probabilities.shape[1]
    predicted = np.eye(classes)[probabilities.argmax(axis=1)]
    actual = np.eye(classes)[targets]
    weights = np.ones(len(targets)) if weights is None else weights
    return weights @ (predicted * actual), weights @ predicted, weights @ actual


def _class_rates(probabilities: Array, targets: Integers, weights: Array) -> dict[str, Array]:
    hits, predicted, actual = _counts(probabilities, targets, weights)
    absent = np.full_like(hits, np.nan)
    return {
        # Never predicted: 0, as scikit-learn has it, if there was something to find; else nothing can be said.
        "precision": np.divide(hits, predicted, out=np.where(actual > 0, 0.0, absent), where=predicted > 0),
        "f1": np.divide(2 * hits, predicted + actual, out=absent.copy(), where=actual > 0),
    }
