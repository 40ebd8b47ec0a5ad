"""Arrays → numbers: pure functions of probabilities and true classes, each a weighted mean so that one piece of code
gives the figure and its bootstrap interval. Nothing here knows pictures, files or names.

Throughout: `probabilities` (N, K) with rows that sum to 1, `truth` (N,) positions of the true classes, `weights`
(..., N) how often each row counts (None: once). The result has the leading shape of `weights`; figures are in [0, 1]
unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.records import Integers, Interval

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


def accuracy(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose most probable class is the true one."""
    return _mean((probabilities.argmax(axis=1) == truth).astype(float), weights)


def top5_accuracy(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose true class is among the five most probable; ties count against."""
    own = probabilities[np.arange(len(truth)), truth]
    better = (probabilities >= own[:, None]).sum(axis=1) - 1
    return _mean((better < 5).astype(float), weights)


def log_loss(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the mean of -ln(probability of the true class), in nats, from 0 upwards."""
    own = probabilities[np.arange(len(truth)), truth]
    return _mean(-np.log(np.clip(own, SMALLEST, 1.0)), weights)


def brier(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the mean squared distance to the one-hot truth, in [0, 2] (Brier 1950, all classes summed)."""
    own = probabilities[np.arange(len(truth)), truth]
    return _mean((probabilities**2).sum(axis=1) - 2 * own + 1, weights)


def ece(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the expected calibration error of the top class in 15 equal-width bins (Guo et al. 2017)."""
    bins, gaps = _bins(probabilities, truth)
    member = np.eye(BINS)[bins] * gaps[:, None]  # (N, BINS): confidence minus correctness, in the row's bin
    return np.abs(_mean(member, weights)).sum(axis=-1)


def macro_f1(probabilities: Array, truth: Integers, weights: Array | None = None) -> Any:
    """Return the unweighted mean of the F1 of every class that occurs in the truth or in the predictions."""
    hits, predicted, actual = _counts(probabilities, truth, weights)
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
PROPORTIONS = ("accuracy", "top5_accuracy", "macro_f1", "recall", "precision", "f1")


def confusion(probabilities: Array, truth: Integers) -> Integers:
    """Return (K, K) counts: rows are the true classes, columns the predicted ones."""
    classes = probabilities.shape[1]
    flat = truth * classes + probabilities.argmax(axis=1)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def reliability(probabilities: Array, truth: Integers) -> tuple[tuple[float, float, int], ...]:
    """Return (mean confidence, accuracy, count) for each of the 15 confidence bins that holds a row."""
    bins, gaps = _bins(probabilities, truth)
    confidence = probabilities.max(axis=1)
    correct = confidence - gaps
    rows = [(bins == index) for index in range(BINS)]
    return tuple((float(confidence[r].mean()), float(correct[r].mean()), int(r.sum())) for r in rows if r.any())


def overall_intervals(
    probabilities: Array, truth: Integers, groups: Integers | None = None, rounds: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return every overall figure with its percentile bootstrap interval (Efron 1979).

    Args:
        probabilities: (N, K).
        truth: (N,).
        groups: (N,) rows of one group are drawn together, since they are not independent; None: rows one by one.
        rounds: Bootstrap resamples.
        seed: Of the resampling.
    """
    weights = resample(len(truth), groups, rounds, seed)
    size = _units(groups, np.ones(len(truth), dtype=bool))
    return {
        name: _interval(name, metric(probabilities, truth, None), metric(probabilities, truth, weights), size)
        for name, metric in OVERALL.items()
    }


def class_intervals(
    probabilities: Array, truth: Integers, groups: Integers | None = None, rounds: int = 1000, seed: int = 0
) -> dict[int, dict[str, Interval]]:
    """Return, for each class that occurs in the truth, its figures with intervals.

    `recall` (the accuracy on that class's pictures), `precision` and `f1` look at all rows; `top5_accuracy`,
    `log_loss`, `brier` and `ece` at the rows that truly belong to the class.
    """
    weights = resample(len(truth), groups, rounds, seed)
    once = np.ones((1, len(truth)))
    point = _class_rates(probabilities, truth, once)
    spread = _class_rates(probabilities, truth, weights)
    support = np.bincount(truth, minlength=probabilities.shape[1])
    result: dict[int, dict[str, Interval]] = {}
    for k in np.flatnonzero(support):
        own = truth == k
        size = _units(groups, own)
        drawn = weights[:, own]
        drawn = drawn[drawn.sum(axis=1) > 0]  # a resample without the class says nothing about it
        figures = {
            name: _interval(name, point[name][0, k], spread[name][:, k], size) for name in ("recall", "precision", "f1")
        }
        for name in ("top5_accuracy", "log_loss", "brier", "ece"):
            value = OVERALL[name](probabilities[own], truth[own], None)
            rows = OVERALL[name](probabilities[own], truth[own], drawn)
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


def wilson(share: float, size: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion seen in `size` trials (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _interval(name: str, value: Any, draws: Array, size: int) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (value, value)
    if name in PROPORTIONS and low == high:
        # 14 right out of 14: every resample says 1.0 as well, yet nobody may believe [1, 1].
        low, high = wilson(float(value), size)
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _units(groups: Integers | None, rows: NDArray[np.bool_]) -> int:
    """Return how many independent observations these rows are."""
    return int(rows.sum()) if groups is None else len(np.unique(groups[rows]))


def _bins(probabilities: Array, truth: Integers) -> tuple[Integers, Array]:
    """Return each row's confidence bin and its confidence minus its correctness."""
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return bins, confidence - (probabilities.argmax(axis=1) == truth)


def _counts(probabilities: Array, truth: Integers, weights: Array | None) -> tuple[Array, Array, Array]:
    """Return (..., K) weighted counts: right, predicted, actual."""
    classes = probabilities.shape[1]
    predicted = np.eye(classes)[probabilities.argmax(axis=1)]
    actual = np.eye(classes)[truth]
    weights = np.ones(len(truth)) if weights is None else weights
    return weights @ (predicted * actual), weights @ predicted, weights @ actual


def _class_rates(probabilities: Array, truth: Integers, weights: Array) -> dict[str, Array]:
    hits, predicted, actual = _counts(probabilities, truth, weights)
    absent = np.full_like(hits, np.nan)
    return {
        "recall": np.divide(hits, actual, out=absent.copy(), where=actual > 0),
        # Never predicted: 0, as scikit-learn has it, if there was something to find; else nothing can be said.
        "precision": np.divide(hits, predicted, out=np.where(actual > 0, 0.0, absent), where=predicted > 0),
        "f1": np.divide(2 * hits, predicted + actual, out=absent.copy(), where=actual > 0),
    }
