"""Arrays → numbers: pure functions of probabilities and true classes, each a weighted mean so that one piece of code
gives the figure and its bootstrap interval; shares of rows have Wilson's interval instead, which holds what it promises
for few rows as well. Nothing here knows pictures, files or names.

Throughout: `probabilities` (N, K) with rows that sum to 1, `targets` (N,) positions of the true classes, `weights`
(..., N) how often each row counts (None: once). The result has the leading shape of `weights`; figures are in [0, 1]
unless stated otherwise. Probabilities are looked at once, block by block (`look`), and resamples are drawn some rounds
at a time: memory grows with N and with K, not with their product nor with the rounds; what resamples say of very many
classes lies in a file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.predictions import Interval
from headstart.records import Integers

Array = NDArray[np.float64]
Metric = Callable[[Array, Integers, Array | None], Any]

SMALLEST = 1e-15  # what a probability is clipped to before its logarithm, as in scikit-learn's log_loss of old
BINS = 15
BLOCK = 2**23  # numbers that are held at once: of probabilities that are looked at, of counts that are drawn
PASS = 500  # classes whose resamples are looked at together
MANY = 25_000  # units from which on they are drawn one by one, at a tenth of the time: the same law by other numbers


@dataclass(frozen=True, slots=True)
class Answers:
    """What the figures need of each row; every array is (N,).

    Attributes:
        classes: K.
        targets: True classes.
        predicted: The most probable ones.
        confidence: Their probabilities.
        bins: Which of the `BINS` of confidence each row falls into.
        right: 1 where the most probable class is the true one, else 0.
        among_five: 1 where fewer than five other classes are at least as probable as the true one, else 0.
        losses: -ln(probability of the true class), in nats.
        brier: Squared distances to the one-hot targets.
    """

    classes: int
    targets: Integers
    predicted: Integers
    confidence: Array
    bins: Integers
    right: Array
    among_five: Array
    losses: Array
    brier: Array


def look(probabilities: Array, targets: Integers, rows: Integers | None = None) -> Answers:
    """Return what the figures need of rows of probabilities.

    Args:
        probabilities: (M, K).
        targets: (N,) true classes of the rows.
        rows: (N,) which rows; None: all M.
    """
    size, classes = len(targets), probabilities.shape[1]
    predicted = np.empty(size, dtype=np.int64)
    confidence, own, among_five, distances = np.empty((4, size))
    step = max(1, BLOCK // max(classes, 1))
    for part in (slice(begin, begin + step) for begin in range(0, size, step)):
        block = probabilities[part if rows is None else rows[part]]
        true = block[np.arange(len(block)), targets[part]]
        predicted[part], confidence[part], own[part] = block.argmax(axis=1), block.max(axis=1), true
        among_five[part] = (block >= true[:, None]).sum(axis=1) <= 5  # itself among them
        distances[part] = (block**2).sum(axis=1) - 2 * true + 1
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    right = np.asarray(predicted == targets, dtype=float)
    return Answers(classes, targets, predicted, confidence, bins, right, among_five, _losses(own), distances)


def _mean(values: Array, weights: Array | None) -> Any:
    """Return the weighted mean over rows; `values` is (N,) or (N, M)."""
    if weights is None:
        return values.mean(axis=0)
    total = weights.sum(axis=-1)
    return (weights @ values) / (total if values.ndim == 1 else total[..., None])


def accuracy(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose most probable class is the true one."""
    return _mean(look(probabilities, targets).right, weights)


def top5_accuracy(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the share of rows whose true class is among the five most probable; ties count against."""
    return _mean(look(probabilities, targets).among_five, weights)


def log_loss(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the mean of -ln(probability of the true class), in nats, from 0 upwards."""
    return _mean(losses(probabilities, targets), weights)


def losses(probabilities: Array, targets: Integers) -> Array:
    """Return (N,) the log-loss of each row, in nats."""
    return _losses(probabilities[np.arange(len(targets)), targets])


def _losses(own: Array) -> Array:
    return np.asarray(-np.log(np.clip(own, SMALLEST, 1.0)), dtype=float)


def brier(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the mean squared distance to the one-hot targets, in [0, 2] (Brier 1950, all classes summed)."""
    return _mean(look(probabilities, targets).brier, weights)


def ece(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the expected calibration error of the top class in 15 equal-width bins (Guo et al. 2017)."""
    return _ece(look(probabilities, targets), weights)


def _ece(answers: Answers, weights: Array | None) -> Any:
    weights = np.ones(len(answers.targets)) if weights is None else weights
    gaps = _sums(answers.bins, BINS, weights * (answers.confidence - answers.right))
    return np.abs(gaps).sum(axis=-1) / weights.sum(axis=-1)


def macro_f1(probabilities: Array, targets: Integers, weights: Array | None = None) -> Any:
    """Return the unweighted mean of the F1 of every class that occurs in the targets or in the predictions."""
    return _macro_f1(look(probabilities, targets), weights)


def _macro_f1(answers: Answers, weights: Array | None) -> Any:
    hits, predicted, actual = _counts(answers, np.ones(len(answers.targets)) if weights is None else weights)
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
_DRAWN: dict[str, Callable[[Answers, Array | None], Any]] = {  # overall figures that resamples give an interval
    "log_loss": lambda answers, weights: _mean(answers.losses, weights),
    "macro_f1": _macro_f1,
    "brier": lambda answers, weights: _mean(answers.brier, weights),
    "ece": _ece,
}
BY_CLASS = ("recall", "precision", "f1", "top5_accuracy", "log_loss", "brier", "ece")
_DRAWN_BY_CLASS = ("precision", "f1", "log_loss", "brier", "ece")
RATES = ("macro_f1", "precision", "f1")  # in [0, 1], yet no shares of rows that are known beforehand
POINTS = 50  # of a risk-coverage curve
Z = NormalDist().inv_cdf(0.975)  # 97.5 % of the normal distribution lie below


def confusion(answers: Answers) -> Integers:
    """Return (C, 3) true class, predicted class and count of the pairs that occur, in their order."""
    pairs, counts = np.unique(answers.targets * answers.classes + answers.predicted, return_counts=True)
    return np.stack([*np.divmod(pairs, answers.classes), counts], axis=1)


def reliability(answers: Answers) -> tuple[tuple[float, float, int], ...]:
    """Return (mean confidence, accuracy, count) for each of the 15 confidence bins that holds a row."""
    bins, confidence, right = answers.bins, answers.confidence, answers.right
    rows = [(bins == index) for index in range(BINS)]
    return tuple((float(confidence[r].mean()), float(right[r].mean()), int(r.sum())) for r in rows if r.any())


def risk_coverage(confidence: Array, correct: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return (share answered, error among them) when the least confident rows are refused first.

    At most 50 points, evenly spaced over the share, the last of them at 1. Equally confident rows are refused in no
    order: the error is that expected of a random one.

    Args:
        confidence: (N,) in any unit; only the order counts.
        correct: (N,) whether the answer is right.
    """
    _, block = np.unique(-confidence, return_inverse=True)
    risk = _risk(block, ~correct.astype(bool), np.ones(len(block)))
    answered = np.unique(np.arange(1, POINTS + 1) * len(risk) // POINTS)
    return tuple((float(n / len(risk)), float(risk[n - 1])) for n in answered[answered > 0])


def aurc(confidence: Array, correct: NDArray[np.bool_], weights: Array | None = None) -> Any:
    """Return the area under the whole risk-coverage curve: the mean over its N points (Geifman and El-Yaniv 2017)."""
    if not len(correct):
        return np.nan
    _, block = np.unique(-confidence, return_inverse=True)
    wrong = ~correct.astype(bool)
    if weights is None:
        return float(_risk(block, wrong, np.ones(len(block))).mean())
    return np.array([_risk(block, wrong, times).mean() for times in weights])


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
    return _interval(
        "mean", values.mean(), drawn_means(values, groups, rounds, seed), _units(groups, np.arange(len(values)))
    )


def spread(value: float, draws: Sequence[float] | Array) -> Interval:
    """Return a figure between the ends that 95 of 100 draws of it lie between, or itself where it is beyond them."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


def drawn_means(values: Array, groups: Integers | None, rounds: int, seed: int) -> Array:
    """Return the (rounds, ...) means of (N, ...) values in each of the resamples of `mean_interval`."""
    flat = values.reshape(len(values), -1)
    means = [_mean(flat, weights) for weights in resample(len(values), groups, rounds, seed)]
    return np.concatenate(means).reshape(rounds, *values.shape[1:])


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
    probabilities: Array, targets: Integers, groups: Integers | None = None, rounds: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return `overall` of probabilities."""
    return overall(look(probabilities, targets), groups, rounds, seed)


def class_intervals(
    probabilities: Array, targets: Integers, groups: Integers | None = None, rounds: int = 1000, seed: int = 0
) -> dict[int, dict[str, Interval]]:
    """Return `by_class` of probabilities."""
    return by_class(look(probabilities, targets), groups, rounds, seed)


def overall(answers: Answers, groups: Integers | None = None, rounds: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Return every overall figure with its interval: `share_interval` for shares, else a bootstrap's (Efron 1979).

    Args:
        answers: To N pictures.
        groups: (N,) rows of one group are drawn together, since they are not independent; None: rows one by one.
        rounds: Bootstrap resamples.
        seed: Of the resampling.
    """
    size = len(answers.targets)
    drawn: dict[str, list[Array]] = {name: [] for name in _DRAWN}
    for weights in resample(size, groups, rounds, seed):
        for name, figure in _DRAWN.items():
            drawn[name].append(figure(answers, weights))
    shares = {"accuracy": answers.right, "top5_accuracy": answers.among_five}
    return {
        name: share_interval(shares[name], groups)
        if name in shares
        else _interval(name, _DRAWN[name](answers, None), np.concatenate(drawn[name]), _units(groups, np.arange(size)))
        for name in OVERALL
    }


def by_class(
    answers: Answers,
    groups: Integers | None = None,
    rounds: int = 1000,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[int, dict[str, Interval]]:
    """Return, for each class that occurs in the targets, its figures with intervals.

    `recall` (the accuracy on that class's pictures), `precision` and `f1` look at all rows; `top5_accuracy`,
    `log_loss`, `brier` and `ece` at the rows that truly belong to the class. Arguments as in `overall`; `folder` as of
    `arrays.answers`.
    """
    size = len(answers.targets)
    present = np.unique(answers.targets)
    point = _of_class(answers, np.ones(size))[:, present]
    drawn = arrays.answers((rounds, len(_DRAWN_BY_CLASS), len(present)), float, folder)
    every = (times for weights in resample(size, groups, rounds, seed) for times in weights)
    for number, times in enumerate(every):
        drawn[number] = _of_class(answers, times)[:, present]
        arrays.release(drawn)
    shares = {"recall": answers.right, "top5_accuracy": answers.among_five}
    order = np.argsort(answers.targets, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(answers.targets[order])) + 1)
    result: dict[int, dict[str, Interval]] = {}
    for place, (k, own) in enumerate(zip(present.tolist(), members, strict=True)):
        if place % PASS == 0:
            some = np.array(drawn[:, :, place : place + PASS])
            arrays.release(drawn)
        units, family = _units(groups, own), None if groups is None else groups[own]
        told = {name: share_interval(hits[own], family) for name, hits in shares.items()} | {
            name: _interval(name, point[row, place], some[:, row, place % PASS], units)
            for row, name in enumerate(_DRAWN_BY_CLASS)
        }
        result[k] = {name: told[name] for name in BY_CLASS}
    return result


def resample(size: int, groups: Integers | None, rounds: int, seed: int) -> Iterator[Array]:
    """Yield, some rounds at a time, (R, N) counts: how often each row was drawn in a bootstrap resample of the groups.

    Fewer rounds with the same seed are the first of more.
    """
    generator = np.random.default_rng(seed)
    _, member = np.unique(np.arange(size) if groups is None else groups, return_inverse=True)
    units = int(member.max(initial=-1)) + 1
    step = max(1, BLOCK // max(size, 1))
    for begin in range(0, rounds, step):
        yield _drawn(generator, units, min(step, rounds - begin))[:, member].astype(float)


def _drawn(generator: np.random.Generator, units: int, rounds: int) -> Integers:
    """Return (rounds, units) counts of as many draws, with replacement, as there are units."""
    if units < MANY:
        return generator.multinomial(units, np.full(units, 1 / max(units, 1)), size=rounds)
    return np.stack([np.bincount(generator.integers(0, units, units), minlength=units) for _ in range(rounds)])


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


def _units(groups: Integers | None, rows: Integers) -> int:
    """Return how many independent observations these rows are."""
    return len(rows) if groups is None else len(np.unique(groups[rows]))


def _risk(block: Integers, wrong: NDArray[np.bool_], times: Array) -> Array:
    """Return the error among the i + 1 most confident rows.

    Args:
        block: (N,) place of each row's confidence among all, the largest first.
        wrong: (N,)
        times: (N,) how often each row counts.
    """
    size, errors = np.bincount(block, weights=times), np.bincount(block, weights=times * wrong)
    present = size > 0
    share = errors[present] / size[present]
    risk = np.cumsum(np.repeat(share, size[present].astype(np.int64)))
    return np.asarray(risk / np.arange(1, len(risk) + 1))


def _sums(index: Integers, size: int, weights: Array) -> Array:
    """Return (..., size) sums of the (..., N) weights of the rows of each index (N,)."""
    rows = weights.reshape(-1, weights.shape[-1])
    sums: Array = np.stack([np.bincount(index, weights=row, minlength=size) for row in rows])
    return sums.reshape(*weights.shape[:-1], size)


def _counts(answers: Answers, weights: Array) -> tuple[Array, Array, Array]:
    """Return (..., K) weighted counts: right, predicted, actual."""
    size, targets = answers.classes, answers.targets
    hits = _sums(targets, size, weights * answers.right)
    return hits, _sums(answers.predicted, size, weights), _sums(targets, size, weights)


def _of_class(answers: Answers, weights: Array) -> Array:
    """Return (5, K) the figures `_DRAWN_BY_CLASS` by weights (N,); NaN where there is nothing of a class."""
    size, targets = answers.classes, answers.targets
    hits, predicted, actual = _counts(answers, weights)
    gaps = _sums(targets * BINS + answers.bins, size * BINS, weights * (answers.confidence - answers.right))
    gaps = np.abs(gaps).reshape(size, BINS).sum(axis=1)
    losses, distances = (_sums(targets, size, weights * values) for values in (answers.losses, answers.brier))
    absent = np.full(size, np.nan)
    means = [
        np.divide(total, count, out=absent.copy(), where=actual > 0)
        for total, count in ((2 * hits, predicted + actual), (losses, actual), (distances, actual), (gaps, actual))
    ]
    # Never predicted: 0, as scikit-learn has it, if there was something to find; else nothing can be said.
    precision = np.divide(hits, predicted, out=np.where(actual > 0, 0.0, absent), where=predicted > 0)
    return np.stack([precision, *means])
