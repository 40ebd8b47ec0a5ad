"""A way to fit on fewer pictures → accuracy against training pictures per class, what twice as many would give, and
for which classes they would help most. It gets the fit as a function; heads, features and pictures do not matter here.

The law is odds of an error = a + b · n^-c with a, b ≥ 0 and 0 < c ≤ 1, where n is pictures per class. For small errors
that is the power law of Hestness et al. (2017; Viering & Loog 2021 compare it with others). Of the errors themselves
the law expects too little where heads begin near chance: from nine pictures of each of 81 groceries to eighteen it
fell short by 0.02 and six of eight intervals missed; of the odds it fell short by 0.01 and none did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.errors import ConfigError
from headstart.predictions import Interval
from headstart.records import Integers, Progress, silence

Array = NDArray[np.float64]
Fit = Callable[[Integers, float], Array]  # rows, their share of all training rows → (validation rows, K) probabilities

EXPONENTS = np.linspace(0.05, 1, 39)  # c; for a given c the law is linear, so no search can fail to converge
LEAST_ACCURACY = 1e-3  # below it the odds of an error would have no bounds
ROUNDS = 1000
MOST_CLASSES = 10
LEAST_GAIN = 0.001  # of a class that is worth naming


@dataclass(frozen=True, slots=True)
class Point:
    """How good heads are that learned from a share of the training pictures.

    Attributes:
        pictures_per_class: Mean over classes and repeats.
        share: Of the training pictures, mean over repeats, in (0, 1].
        accuracy: Mean over repeats.
        log_loss: Mean over repeats, in nats.
        accuracies: Of each repeat.
    """

    pictures_per_class: float
    share: float
    accuracy: Interval
    log_loss: float
    accuracies: tuple[float, ...]


class ClassGain(NamedTuple):
    """What one class may expect.

    Attributes:
        name: Of the class.
        gain: Expected rise of the mean probability that its pictures' true class gets, with twice as many pictures.
        pictures: It has now to learn from.
        recall: Share of its validation pictures that are recognised now.
    """

    name: str
    gain: float
    pictures: int
    recall: float


class Design(NamedTuple):
    """Which parts of the training pictures are learned from.

    Attributes:
        shares: Of the training pictures, in (0, 1]; all of them are always measured.
        repeats: Choices of each share below 1; within a repeat each part holds the smaller ones.
        seed: Of the choices and of the resampling.
    """

    shares: tuple[float, ...] = (0.1, 0.2, 0.4, 0.7, 1.0)
    repeats: int = 3
    seed: int = 0


DESIGN = Design()


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Accuracy against training pictures, and where it leads.

    Attributes:
        points: Fewest pictures first; the last one has learned from all.
        doubled: Accuracy to expect from twice as many pictures.
        gain: `doubled` minus the accuracy of the last point; the two are compared on the same pictures, so its
            interval is narrower than theirs.
        formula: (a, b, c) of error / (1 - error) = a + b · n^-c, n in pictures per class.
        by_class: Where more pictures would help most, best first; at most ten.
    """

    points: tuple[Point, ...]
    doubled: Interval
    gain: Interval
    formula: tuple[float, float, float]
    by_class: tuple[ClassGain, ...]

    def at(self, pictures_per_class: float) -> float:
        """Return the accuracy that the formula gives."""
        return float(_accuracy(np.array(self.formula), pictures_per_class))


def measure(
    targets: Integers,
    classes: Sequence[str],
    train: Integers,
    validation: Integers,
    fit: Fit,
    *,
    groups: Integers | None = None,
    design: Design = DESIGN,
    progress: Progress = silence,
) -> LearningCurve:
    """Fit on growing parts of the training rows, measure each on the same validation rows, and extrapolate.

    Args:
        targets: (N,) positions of the true classes.
        classes: K names.
        train: Rows to learn from.
        validation: Rows to measure on.
        fit: Gets rows and their share of the training rows, so that it can scale a penalty that stands for a prior
            by 1 / share; returns the calibrated probabilities of the validation rows.
        groups: (N,) rows of one group are learned together, and drawn together for the intervals; None: rows one by
            one.
        design: How many pictures, and how often.
        progress: Hears of every fit.

    Raises:
        ConfigError: The shares do not give three different numbers of pictures, or nothing can be measured.
    """
    shares, repeats, seed = design
    if repeats < 1 or not all(0 < share <= 1 for share in shares):
        raise ConfigError(
            f"a learning curve needs shares in (0, 1] and at least one repeat, not {tuple(shares)} and {repeats}."
        )
    if not len(validation):
        raise ConfigError("a learning curve needs validation pictures, and there are none.")
    parts = _parts(targets[train], None if groups is None else groups[train], shares, repeats, seed)
    each, wanted = np.arange(len(validation)), targets[validation]
    own = np.empty((len(parts), repeats, len(validation)))  # probability of the true class
    right = np.empty_like(own)  # 1 where it is the most probable one, else 0
    jobs = [(p, r, rows) for p, part in enumerate(parts) for r, rows in enumerate(part)]
    for done, (p, r, rows) in enumerate(jobs):
        progress("Measuring the learning curve", done, len(jobs))
        said = fit(train[rows], len(rows) / len(train))
        own[p, r:], right[p, r:] = said[each, wanted], said.argmax(axis=1) == wanted  # all rows stand for every repeat
    progress("Measuring the learning curve", len(jobs), len(jobs))
    sizes = np.array([np.mean([len(rows) for rows in part]) for part in parts])
    measured = None if groups is None else groups[validation]
    units = len(validation) if measured is None else len(np.unique(measured))
    drawn = metrics.drawn_means(right.transpose(2, 0, 1), measured, ROUNDS, seed)  # (rounds, P, repeats) accuracies
    points = tuple(
        Point(
            pictures_per_class=float(sizes[p] / len(classes)),
            share=float(sizes[p] / len(train)),
            accuracy=_interval(float(right[p].mean()), drawn[:, p].mean(axis=1), units),
            log_loss=float(-np.log(np.clip(own[p], metrics.SMALLEST, 1)).mean()),
            accuracies=tuple(right[p, : len(part)].mean(axis=1).tolist()),
        )
        for p, part in enumerate(parts)
    )
    n = sizes / len(classes)
    law = _law(n, right.mean(axis=(1, 2))[None], n[None])[0]
    doubled, now = float(_accuracy(law, 2 * n[-1])), points[-1].accuracy.value
    expected = float(_accuracy(law, n[-1]))
    removed = (doubled - expected) / max(1 - expected, metrics.SMALLEST)
    draws = _extrapolate(n, right.mean(axis=2), drawn.mean(axis=2), np.random.default_rng(seed))
    return LearningCurve(
        points,
        _interval(doubled, draws, units),
        metrics.spread(doubled - now, draws - drawn[:, -1, 0]),
        (float(law[0]), float(law[1]), float(law[2])),
        _by_class(own[-1, 0], right[-1, 0], wanted, removed, classes, targets[train]),
    )


def _parts(
    targets: Integers, groups: Integers | None, shares: Sequence[float], repeats: int, seed: int
) -> list[list[Integers]]:
    """Return, for each share that differs from the others, the rows of each repeat; all rows come last, once."""
    generator = np.random.default_rng(seed)
    entries = [_entry(targets, groups, generator) for _ in range(repeats)]
    parts: list[list[Integers]] = [[np.arange(len(targets))]]
    for share in sorted(set(shares) - {1.0}, reverse=True):
        part = [np.flatnonzero(entry <= share) for entry in entries]
        if sum(map(len, part)) < repeats * np.mean([len(rows) for rows in parts[0]]):
            parts.insert(0, part)
    if len(parts) < 3:
        raise ConfigError(
            f"a learning curve needs three different numbers of training pictures; shares of {len(targets)} pictures "
            f"in {len(np.unique(targets))} classes give {len(parts)}.",
            "Give more pictures, or shares that are further apart.",
        )
    return parts


def _entry(targets: Integers, groups: Integers | None, generator: np.random.Generator) -> Array:
    """Return (N,) the share from which on each row takes part; 0 for the first of each class."""
    _, member = np.unique(np.arange(len(targets)) if groups is None else groups, return_inverse=True)
    place = generator.permutation(int(member.max(initial=-1)) + 1)[member]
    order = np.lexsort((place, targets))
    sizes = np.bincount(targets)
    rank = np.empty(len(targets), dtype=np.int64)
    rank[order] = np.arange(len(targets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # A row enters when the share of its class rounds to its number, a group with the middle of its rows.
    entry: Array = np.bincount(member, (rank + 0.5) / sizes[targets]) / np.bincount(member)
    entry[member[rank == 0]] = 0
    return entry[member]


def _law(n: Array, accuracy: Array, weights: Array) -> Array:
    """Return (rounds, 3) the a, b, c with the least squares of the error in each round.

    Args:
        n: (P,) pictures per class.
        accuracy: (rounds, P).
        weights: (rounds, P) of the squares.
    """
    accuracy = np.clip(accuracy, LEAST_ACCURACY, 1)
    odds = (1 - accuracy) / accuracy
    w = weights * accuracy**4  # d error = accuracy² · d odds
    w = w / w.sum(axis=1, keepdims=True)
    x = n ** -EXPONENTS[:, None]  # (C, P)
    # Nonnegative least squares in two unknowns: where the free solution has one below 0, that one is 0.
    mx, my, xx, xy = w @ x.T, (w * odds).sum(axis=1, keepdims=True), w @ (x**2).T, (w * odds) @ x.T  # (rounds, C)
    b = np.maximum(0, (xy - mx * my) / np.maximum(xx - mx**2, 1e-12))
    a = my - b * mx
    b, a = np.where(a < 0, xy / xx, b), np.maximum(a, 0)
    loss = a * a + b * b * xx + 2 * (a * b * mx - a * my - b * xy)
    best = (np.arange(len(loss)), loss.argmin(axis=1))
    return np.stack([a[best], b[best], EXPONENTS[best[1]]], axis=1)


def _accuracy(law: Array, n: float) -> Any:
    """Return the accuracy that the laws (..., 3) give for n pictures per class."""
    return 1 / (1 + law[..., 0] + law[..., 1] * n ** -law[..., 2])


def _extrapolate(n: Array, accuracies: Array, drawn: Array, generator: np.random.Generator) -> Array:
    """Return (rounds,) accuracies to expect from twice as many pictures.

    Besides the validation pictures, each round draws what else is not known: how lucky the choice of training
    pictures was, and, by random weights of the points (Rubin's Bayesian bootstrap, 1981), how well the law holds.

    Args:
        n: (P,) pictures per class.
        accuracies: (P, repeats) on all validation pictures.
        drawn: (rounds, P) means over repeats on the validation pictures of each round.
        generator: Of the draws.
    """
    repeats = accuracies.shape[1]
    if repeats > 1:
        # The variance between choices falls like 1 / n, so that all points tell what it would be for the last.
        variance = (accuracies[:-1].var(axis=1, ddof=1) * n[:-1]).mean() / n
        variance[:-1] /= repeats
        drawn = drawn + generator.normal(size=drawn.shape) * np.sqrt(variance)
    laws = _law(n, drawn, n * generator.exponential(size=drawn.shape))
    result: Array = _accuracy(laws, 2 * n[-1])
    return result


def _by_class(
    own: Array, right: Array, wanted: Integers, removed: float, classes: Sequence[str], learned: Integers
) -> tuple[ClassGain, ...]:
    """Return the classes whose pictures would gain most if the law's share of what is wrong were put right.

    What a class gained so far says nothing of what it gains next: with other pictures of the class to judge by, the
    correlation was 0.06 on 81 groceries and -0.14 on 120 dog breeds; with what is left to gain, 0.26 and 0.14.

    Args:
        own: (M,) probability of the true class after all training pictures.
        right: (M,) 1 where it is the most probable one, else 0.
        wanted: (M,) true classes.
        removed: Share of the errors that twice as many pictures remove.
        classes: K names.
        learned: True classes of the training pictures.
    """
    left = 1 - own
    present, place, counts = np.unique(wanted, return_inverse=True, return_counts=True)
    means = np.bincount(place, left) / counts
    # Empirical Bayes: of a class's distance to the overall mean, keep the part that is not the noise of its few
    # pictures; `spread` is the variance between classes beyond that noise.
    noise = ((left - means[place]) ** 2).sum() / max(1, len(wanted) - len(present)) / counts
    distance = means - left.mean()
    spread = max(0.0, float((distance**2 - noise).mean()))
    kept = np.divide(spread, spread + noise, out=np.zeros_like(noise), where=noise > 0)
    gains = removed * (left.mean() + kept * distance)
    recall = np.bincount(place, right) / counts
    pictures = np.bincount(learned, minlength=len(classes))
    return tuple(
        ClassGain(classes[present[k]], float(gains[k]), int(pictures[present[k]]), float(recall[k]))
        for k in np.argsort(-gains, kind="stable")[:MOST_CLASSES]
        if gains[k] >= LEAST_GAIN
    )


def _interval(value: float, draws: Array, units: int) -> Interval:
    """Return the interval of an accuracy; Wilson's where every resample says the same, which nobody may believe."""
    interval = metrics.spread(value, draws)
    if interval.low < interval.high:
        return interval
    low, high = metrics.wilson(value, units)
    return Interval(value, min(low, value), max(high, value))
