"""Features and logits of known pictures → the rule for "none of these": how typical a picture is of what was learned.

Five scores are known, each larger for more familiar pictures: the energy of the logits (Liu et al. 2020), the largest
logit (Hendrycks et al. 2022), the mean similarity to the ten nearest pictures that were learned from (Sun et al. 2022),
the Mahalanobis distance to the nearest class (Lee et al. 2018), and by how much the largest logit exceeds what the
backbone's own classifier says of labels that are none of the classes, added to that logit. Which one serves is decided
without any foreign picture: some classes are left out, a head is fitted to the others, and the score wins that best
tells pictures of the classes left out from new pictures of the others.

A score has no unit that a person knows. `p_value` has: it is the share of the model's own kind of pictures, held out
while it learned, that look as strange as this one or stranger (the p-value of conformal anomaly detection; Laxhammar
2014). Refused are those below the rate of wrong refusals that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart.arrays import blocks, take
from headstart.arrays import mean as mean_of
from headstart.inspection import similarity
from headstart.learning import exact
from headstart.learning.prior import NO_LABELS, LabelRows
from headstart.records import Finding, Floats, Integers, found, numbered

Score = Literal["energy", "logit", "neighbours", "mahalanobis", "labels"]
SCORES: tuple[Score, ...] = ("energy", "logit", "neighbours", "mahalanobis", "labels")  # the simplest first
OF_LOGITS: tuple[Score, ...] = ("energy", "logit")  # need nothing else
NEED_LOGITS: tuple[Score, ...] = (*OF_LOGITS, "labels")
TIE = 0.01  # areas under the curve closer than that are no difference, and the simpler score is taken
NEIGHBOURS = 10
MOST_KEPT = 10_000  # pictures that neighbours are sought among; stored with the model
MOST_FOLDS = 50  # of pictures that nothing else holds out; see docs/decisions.md for what fewer and more would refuse
MOST_TRIED = 2000  # pictures on which the scores are compared
ENOUGH = 10  # classes to have been left out, a quarter of all at a time
FEWEST_CLASSES = 4  # to leave one out and still have several
GRID = 1000  # steps in which the held-out scores are kept
SHRINK = 0.1  # of a covariance towards a multiple of the identity
FLAT = 1e-8  # least variance within classes, of the mean square of the features: less is rounding
BLOCK = 256  # rows that are scored at once

Array = NDArray[np.float64]
Scorer = Callable[[Floats, Floats], Array]  # (N, K) logits and (N, D) features → (N,) scores


@dataclass(frozen=True)  # without slots, for what is made ready of the arrays
class OutOfDistributionRule:
    """The rule for "none of these".

    Attributes:
        score: Which of `SCORES`.
        refused: The share of the model's own kind of pictures that may be refused wrongly; below this p_value a
            picture is unknown.
        own: Ascending scores of held-out pictures of the classes, at evenly spaced ranks.
        count: How many these pictures were.
        arrays: What the score needs: "mean" and "kept" for neighbours, "means" and "whitening" for Mahalanobis, "rows"
            and "offsets" for labels.
        compared: Score → mean area under the ROC curve on classes left out; empty if nothing was compared.
    """

    score: Score
    refused: float
    own: tuple[float, ...]
    count: int
    arrays: Mapping[str, Floats] = field(default_factory=dict)
    compared: Mapping[Score, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The share of the model's own kind of pictures that it refuses: `refused`, or 0 where so few were held out
        that not even the strangest of them is as rare as that.
        """
        return self.refused if 1 / (self.count + 1) < self.refused else 0.0

    def p_value(self, logits: Floats, features: Floats) -> Array:
        """Return (N,) in (0, 1): the share of held-out pictures of the classes that look no more familiar.

        Args:
            logits: (N, K) before any scaling.
            features: (N, D).
        """
        scores = self._scorer(logits, features)
        below = np.interp(scores, self.own, self._ranks, left=1 / (self.count + 1))
        return np.clip(below, 1 / (self.count + 1), self.count / (self.count + 1))

    @property
    def limit(self) -> float:
        """The score below which a picture is refused; -inf of a rule that refuses nothing."""
        return float(np.interp(self.refused, self._ranks, self.own)) if self.rate else -math.inf

    @property
    def _ranks(self) -> Array:
        """The p-values of `own`."""
        return (1 + np.linspace(0, self.count - 1, len(self.own))) / (self.count + 1)

    @cached_property
    def _scorer(self) -> Scorer:
        return _made_ready(self.score, self.arrays)


def fit(
    score: Score,
    refused: float,
    own: Array,
    arrays: Mapping[str, Floats],
    compared: Mapping[Score, float] | None = None,
) -> OutOfDistributionRule | None:
    """Return the rule of a score; None where no held-out picture has one.

    Args:
        score: Which.
        refused: The rate of wrong refusals, in (0, 1).
        own: (N,) scores of held-out pictures of the classes; those that are not finite are left aside.
        arrays: From `learn`.
        compared: How the scores compared.
    """
    ordered = np.sort(own[np.isfinite(own)])
    count = len(ordered)
    if not count or (score not in OF_LOGITS and not arrays):
        return None
    grid = np.interp(np.linspace(0, count - 1, min(count, GRID)), np.arange(count), ordered)
    return OutOfDistributionRule(score, refused, tuple(grid.tolist()), count, arrays, dict(compared or {}))


def findings(rule: OutOfDistributionRule | None, asked: str = "none") -> list[Finding]:
    """Return what to know of a rule: whether it can refuse at all; and if there is none, whether one was asked for."""
    if rule is None and asked != "none":
        return found(
            "refuses-nothing",
            "warning",
            f"no training picture was held out that calibration.unknown={asked} could be fitted to, so no picture is "
            "refused as none of the classes",
            [asked],
            "Give each class a second training picture, measure by folds (--folds 5), or take "
            "calibration.unknown=neighbours, which needs none.",
        )
    if rule is None or rule.rate:
        return []
    return found(
        "refuses-nothing",
        "note",
        numbered("{n} held-out [picture is|pictures are] too few to tell what is stranger than ", rule.count)
        + f"{1 - rule.refused:.1%} of them, so no picture is refused as none of the classes",
        [f"{rule.count} pictures"],
        f"From {math.floor(1 / rule.refused)} held-out pictures on it can; so does a larger calibration.refused.",
    )


def learn(
    score: Score,
    features: Floats,
    targets: Integers,
    rows: Integers | None = None,
    seed: int = 0,
    foreign: LabelRows | None = None,
) -> dict[str, Floats]:
    """Return what a score has to know of the pictures that were learned from; nothing where there are none.

    Args:
        score: Which.
        features: (all pictures, D).
        targets: (all pictures,) classes.
        rows: (N,) which pictures were learned from; None: all.
        seed: Of the choice of pictures that are kept, where there are more than `MOST_KEPT`.
        foreign: What the backbone knows beside the classes.
    """
    if score == "labels" and foreign is not None and len(foreign.weights):
        # half precision is what is stored with the model, so it is what is measured
        return {"rows": foreign.weights.astype(np.float16).astype(np.float32), "offsets": foreign.offsets}
    rows = np.arange(len(features)) if rows is None else rows
    if not len(rows):
        return {}
    if score == "neighbours":
        mean = mean_of(features, rows)
        chosen = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:MOST_KEPT])]
        kept = similarity.directions(take(features, chosen), mean).astype(np.float16)  # as above
        return {"mean": mean, "kept": kept.astype(np.float32)}
    if score == "mahalanobis":
        means, covariance, square = _scatter(features, targets[rows], rows)
        least = FLAT * square + 1e-12  # where all pictures of a class are alike
        spread = max(np.trace(covariance) / len(covariance), least)
        covariance = (1 - SHRINK) * covariance + SHRINK * spread * np.eye(len(covariance))
        whitening = np.linalg.cholesky(np.linalg.inv(covariance))
        return {"means": (means @ whitening).astype(np.float32), "whitening": whitening.astype(np.float32)}
    return {}


def _scatter(features: Floats, targets: Integers, rows: Integers) -> tuple[Array, Array, float]:
    """Return the (C, D) means of the classes that occur, the (D, D) covariance within them, and the mean square."""
    _, member, counts = np.unique(targets, return_inverse=True, return_counts=True)
    sums, square = np.zeros((len(counts), features.shape[1])), 0.0
    for part, values in blocks(features, rows):
        order = np.argsort(member[part], kind="stable")
        present, begins = np.unique(member[part][order], return_index=True)
        sums[present] += np.add.reduceat(values[order], begins, axis=0, dtype=np.float64)
        square += float(np.square(values).sum(dtype=np.float64))
    means = sums / counts[:, None]
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for part, values in blocks(features, rows):
        apart = values - means[member[part]].astype(np.float32)
        covariance += apart.T @ apart
    return means, covariance / len(rows), square / (len(rows) * features.shape[1])


def familiarity(score: Score, logits: Floats, features: Floats, arrays: Mapping[str, Floats]) -> Array:
    """Return (N,) scores, larger for more familiar pictures, NaN where nothing was learned.

    Each row depends on its own picture alone.
    """
    return _made_ready(score, arrays)(logits, features)


def _made_ready(score: Score, arrays: Mapping[str, Floats]) -> Scorer:
    """Return what scores pictures, with all that needs to be computed once."""
    if score == "energy":
        return lambda logits, _: np.asarray(np.logaddexp.reduce(logits.astype(np.float64), axis=1))
    if score == "logit":
        return lambda logits, _: logits.max(axis=1).astype(np.float64)
    if not arrays:
        return lambda _, features: np.full(len(features), np.nan)
    scored = {"neighbours": _neighbours, "mahalanobis": _mahalanobis, "labels": _labels}[score](arrays)

    def in_blocks(logits: Floats, features: Floats) -> Array:
        result = np.empty(len(features))
        for begin in range(0, len(features), BLOCK):
            rows = slice(begin, begin + BLOCK)
            result[rows] = scored(logits[rows], features[rows])
        return result

    return in_blocks


def _labels(arrays: Mapping[str, Floats]) -> Scorer:
    """Return the largest logit, plus its lead over the best of the labels that are no classes.

    The lead alone tells best what the backbone has a label for, and worse than the logit what it has none for.
    """
    rows, offsets = exact.factor(arrays["rows"].T), arrays["offsets"]

    def scored(logits: Floats, features: Floats) -> Array:
        return np.asarray(2.0 * logits.max(axis=1) - (exact.product(features, rows) + offsets).max(axis=1))

    return scored


def _neighbours(arrays: Mapping[str, Floats]) -> Scorer:
    """Return the mean cosine to the nearest pictures."""
    mean, kept = arrays["mean"], exact.factor(arrays["kept"].T)
    count = min(NEIGHBOURS, len(arrays["kept"]))

    def scored(_: Floats, features: Floats) -> Array:
        shifted = features - mean
        length = np.sqrt(np.square(shifted, dtype=np.float64).sum(axis=1))
        alike = np.sort(np.partition(exact.product(shifted, kept), -count, axis=1)[:, -count:], axis=1)[:, ::-1]
        return np.asarray(alike.mean(axis=1) / np.maximum(length, 1e-12))

    return scored


def _mahalanobis(arrays: Mapping[str, Floats]) -> Scorer:
    """Return the negative distance to the nearest class, where the classes scatter alike in all directions."""
    whitening, centre = exact.factor(arrays["whitening"]), arrays["means"].mean(axis=0, dtype=np.float64)
    means = arrays["means"] - centre  # from the middle, so that the squares below take little from each other
    squares, right = np.square(means).sum(axis=1), exact.factor(means.T)

    def scored(_: Floats, features: Floats) -> Array:
        moved = exact.product(features, whitening) - centre
        apart = np.square(moved).sum(axis=1, keepdims=True) - 2 * exact.product(moved, right) + squares
        return np.asarray(-np.sqrt(np.maximum(apart.min(axis=1), 0)))

    return scored


def held_out(
    score: Score,
    features: Floats,
    targets: Integers,
    rows: Integers,
    fold: Integers,
    logits: Floats,
    learned: Integers,
    foreign: Callable[[Integers], LabelRows] = lambda _: NO_LABELS,
    groups: Integers | None = None,
) -> Array:
    """Return the score of each held-out row, by what is known without its fold; NaN where that is nothing.

    Args:
        score: Which.
        features: (N, D) of all pictures.
        targets: (N,) classes.
        rows: (M,) rows that were held out.
        fold: (M,) with whom.
        logits: (M, K) as they were held out.
        learned: (L,) rows that may be learned from; rows of the fold are not, nor those of their groups.
        foreign: Rows to learn from → what the backbone knows beside the classes.
        groups: (N,) what stays together; None: each is its own.
    """
    if score in OF_LOGITS:
        return familiarity(score, logits, features[:0], {})
    result = np.empty(len(rows))
    together = np.arange(len(targets)) if groups is None else groups
    for number in np.unique(fold):
        own = fold == number
        others = learned[~np.isin(together[learned], together[rows[own]])]
        known = learn(score, features, targets, others, foreign=foreign(others) if score == "labels" else None)
        result[own] = familiarity(score, logits[own], take(features, rows[own]), known)
    return result


def compare(
    features: Floats,
    targets: Integers,
    rows: Integers,
    fitted: Callable[[Integers, Integers], Callable[[Floats], Floats]],
    seed: int,
    foreign: Callable[[Integers, Integers], LabelRows] = lambda *_: NO_LABELS,
    groups: Integers | None = None,
    scores: Sequence[Score] = SCORES,
) -> dict[Score, float]:
    """Return score → mean area under the ROC curve between new pictures of known classes and of classes left out.

    Args:
        features: (N, D) of all pictures.
        targets: (N,) classes.
        rows: Training rows, of at least `FEWEST_CLASSES` classes; at most `MOST_TRIED` of them are used.
        fitted: (rows to learn from, classes that are known) → a function from features to logits of those classes.
        seed: Of the choice of classes and pictures.
        foreign: (rows to learn from, classes that are known) → what the backbone knows beside these.
        groups: (N,) a picture is new if no picture of its group was learned from; None: each is its own.
        scores: Which to compare.
    """
    generator = np.random.default_rng(seed)
    present, together = np.unique(targets[rows]), np.arange(len(targets)) if groups is None else groups
    order = generator.permutation(present)
    quarter = max(1, len(order) // 4)
    areas: dict[Score, list[float]] = {score: [] for score in scores}
    for begin in range(0, min(len(order), ENOUGH), quarter):
        left_out = order[begin : begin + quarter]
        tried = generator.permutation(rows)[:MOST_TRIED]
        outside = np.isin(targets[tried], left_out)
        own, strange = tried[~outside], tried[outside]
        held = generator.permutation(np.unique(together[own]))
        apart = np.isin(together[own], held[: len(held) // 4])
        new, learned = own[apart], own[~apart]
        if not (len(new) and len(strange)):
            continue  # of many classes of few pictures none may be among those tried
        known = np.setdiff1d(present, left_out)
        logits_of, others = fitted(learned, known), foreign(learned, known)
        of_new, of_strange = (logits_of(take(features, part)) for part in (new, strange))
        for score in scores:
            arrays = learn(score, features, targets, learned, seed, others)
            high = familiarity(score, of_new, take(features, new), arrays)
            low = familiarity(score, of_strange, take(features, strange), arrays)
            if np.isfinite(high).all() and np.isfinite(low).all():
                areas[score].append(_area(high, low))
    return {score: float(np.mean(values)) for score, values in areas.items() if values}


def _area(high: Array, low: Array) -> float:
    """Return the area under the ROC curve: how often a value of `high` exceeds one of `low` (Mann and Whitney 1947)."""
    from scipy.stats import mannwhitneyu  # slow to import, and predictions do not need it

    return float(mannwhitneyu(high, low, method="asymptotic").statistic / (len(high) * len(low)))
