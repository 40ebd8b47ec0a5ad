"""Features and logits of known pictures → the rule for "none of these": how typical a picture is of what was learned.

Three scores are known, each larger for more familiar pictures: the energy of the logits (Liu et al. 2020), the mean
similarity to the ten nearest pictures that were learned from (Sun et al. 2022), and the Mahalanobis distance to the
nearest class (Lee et al. 2018). Which one serves is decided without any foreign picture: some classes are left out, a
head is fitted to the others, and the score wins that best tells pictures of the classes left out from new pictures of
the others.

A score has no unit that a person knows. `p_value` has: it is the share of the model's own kind of pictures, held out
while it learned, that look as strange as this one or stranger (the p-value of conformal anomaly detection; Laxhammar
2014). Refused are those below the rate of wrong refusals that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from headstart.inspection import similarity
from headstart.records import Floats, Integers

Score = Literal["energy", "neighbours", "mahalanobis"]
SCORES: tuple[Score, ...] = ("energy", "neighbours", "mahalanobis")  # the simplest first
TIE = 0.01  # areas under the curve closer than that are no difference, and the simpler score is taken
NEIGHBOURS = 10
MOST_KEPT = 10_000  # pictures that neighbours are sought among; stored with the model
MOST_TRIED = 2000  # pictures on which the scores are compared
ENOUGH = 10  # classes to have been left out, a quarter of all at a time
FEWEST_CLASSES = 4  # to leave one out and still have several
GRID = 1000  # steps in which the held-out scores are kept
SHRINK = 0.1  # of a covariance towards a multiple of the identity
_BLOCK = 256  # rows of a padded block, so that a row's score does not depend on how many others are asked for


@dataclass(frozen=True, slots=True)
class OutOfDistributionRule:
    """The rule for "none of these".

    Attributes:
        score: Which of `SCORES`.
        refused: The share of the model's own kind of pictures that may be refused wrongly; below this p_value a
            picture is unknown.
        own: Ascending scores of held-out pictures of the classes, at evenly spaced ranks.
        count: How many these pictures were.
        arrays: What the score needs: "mean" and "kept" for neighbours, "means" and "whitening" for Mahalanobis.
        compared: Score → mean area under the ROC curve on classes left out; empty if nothing was compared.
    """

    score: Score
    refused: float
    own: tuple[float, ...]
    count: int
    arrays: Mapping[str, Floats] = field(default_factory=dict)
    compared: Mapping[Score, float] = field(default_factory=dict)

    def p_value(self, logits: Floats, features: Floats) -> NDArray[np.float64]:
        """Return (N,) in (0, 1): the share of held-out pictures of the classes that look no more familiar.

        Args:
            logits: (N, K) before any scaling.
            features: (N, D).
        """
        scores = familiarity(self.score, logits, features, self.arrays)
        ranks = (1 + np.linspace(0, self.count - 1, len(self.own))) / (self.count + 1)
        below = np.interp(scores, self.own, ranks, left=1 / (self.count + 1))
        return np.clip(below, 1 / (self.count + 1), self.count / (self.count + 1))


def fit(
    score: Score,
    refused: float,
    own: NDArray[np.float64],
    arrays: Mapping[str, Floats],
    compared: Mapping[Score, float] | None = None,
) -> OutOfDistributionRule:
    """Return the rule of a score.

    Args:
        score: Which.
        refused: The rate of wrong refusals, in (0, 1).
        own: (N,) scores of held-out pictures of the classes.
        arrays: From `learn`.
        compared: How the scores compared.
    """
    ordered = np.sort(own)
    grid = np.interp(np.linspace(0, len(own) - 1, min(len(own), GRID)), np.arange(len(own)), ordered)
    return OutOfDistributionRule(score, refused, tuple(grid.tolist()), len(own), arrays, dict(compared or {}))


def learn(score: Score, features: Floats, targets: Integers, seed: int = 0) -> dict[str, Floats]:
    """Return what a score has to know of the pictures that were learned from.

    Args:
        score: Which.
        features: (N, D).
        targets: (N,) classes.
        seed: Of the choice of pictures that are kept, where there are more than `MOST_KEPT`.
    """
    if score == "neighbours":
        mean = features.mean(axis=0)
        rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_KEPT])
        # half precision is what is stored with the model, so it is what is measured
        kept = similarity.directions(features[rows], mean).astype(np.float16)
        return {"mean": mean, "kept": kept.astype(np.float32)}
    if score == "mahalanobis":
        present, member = np.unique(targets, return_inverse=True)
        means = np.stack([features[targets == k].mean(axis=0, dtype=np.float64) for k in present])
        apart = torch.from_numpy(features - means[member].astype(np.float32))
        covariance = (apart.T @ apart).double().numpy() / len(features)
        spread = np.trace(covariance) / len(covariance)
        covariance = (1 - SHRINK) * covariance + SHRINK * max(spread, 1e-12) * np.eye(len(covariance))
        whitening = np.linalg.cholesky(np.linalg.inv(covariance))
        return {"means": (means @ whitening).astype(np.float32), "whitening": whitening.astype(np.float32)}
    return {}


def familiarity(score: Score, logits: Floats, features: Floats, arrays: Mapping[str, Floats]) -> NDArray[np.float64]:
    """Return (N,) scores, larger for more familiar pictures; each row depends on its own picture alone."""
    if score == "energy":
        energy: NDArray[np.float64] = logsumexp(logits.astype(np.float64), axis=1)
        return energy
    result = np.empty(len(features))
    for begin in range(0, len(features), _BLOCK):
        rows = features[begin : begin + _BLOCK]
        padded = np.zeros((_BLOCK, features.shape[1]), dtype=np.float32)
        padded[: len(rows)] = rows
        result[begin : begin + _BLOCK] = _scored(score, padded, arrays)[: len(rows)]
    return result


def _scored(score: Score, features: Floats, arrays: Mapping[str, Floats]) -> NDArray[np.float64]:
    if score == "neighbours":
        kept = arrays["kept"]
        queries = similarity.directions(features, arrays["mean"])
        nearest: NDArray[np.float64] = similarity.nearest(queries, kept, min(NEIGHBOURS, len(kept))).astype(float)
        return np.asarray(nearest.mean(axis=1))
    moved = torch.from_numpy(features) @ torch.from_numpy(arrays["whitening"])
    distance = torch.cdist(moved.double(), torch.from_numpy(arrays["means"]).double())
    familiar: NDArray[np.float64] = -distance.amin(dim=1).numpy()
    return familiar


def held_out(
    score: Score, features: Floats, targets: Integers, rows: Integers, fold: Integers, logits: Floats, learned: Integers
) -> NDArray[np.float64]:
    """Return the score of each held-out row, by what is known without its fold.

    Args:
        score: Which.
        features: (N, D) of all pictures.
        targets: (N,) classes.
        rows: (M,) rows that were held out.
        fold: (M,) with whom.
        logits: (M, K) as they were held out.
        learned: (L,) rows that may be learned from; rows of the fold are not.
    """
    if score == "energy":
        return familiarity(score, logits, features[rows], {})
    result = np.empty(len(rows))
    for number in np.unique(fold):
        own = fold == number
        others = np.setdiff1d(learned, rows[own])
        arrays = learn(score, features[others], targets[others])
        result[own] = familiarity(score, logits[own], features[rows[own]], arrays)
    return result


def compare(
    features: Floats,
    targets: Integers,
    rows: Integers,
    fitted: Callable[[Integers, Integers], Callable[[Floats], Floats]],
    seed: int,
    scores: Sequence[Score] = SCORES,
) -> dict[Score, float]:
    """Return score → mean area under the ROC curve between new pictures of known classes and of classes left out.

    Args:
        features: (N, D) of all pictures.
        targets: (N,) classes.
        rows: Training rows, of at least `FEWEST_CLASSES` classes; at most `MOST_TRIED` of them are used.
        fitted: (rows to learn from, classes that are known) → a function from features to logits of those classes.
        seed: Of the choice of classes and pictures.
        scores: Which to compare.
    """
    generator = np.random.default_rng(seed)
    present = np.unique(targets[rows])
    order = generator.permutation(present)
    quarter = max(1, len(order) // 4)
    areas: dict[Score, list[float]] = {score: [] for score in scores}
    for begin in range(0, min(len(order), ENOUGH), quarter):
        left_out = order[begin : begin + quarter]
        tried = generator.permutation(rows)[:MOST_TRIED]
        foreign = np.isin(targets[tried], left_out)
        own, strange = tried[~foreign], tried[foreign]
        new, learned = own[: len(own) // 4], own[len(own) // 4 :]
        logits_of = fitted(learned, np.setdiff1d(present, left_out))
        if not (len(new) and len(strange)):
            continue  # of many classes of few pictures none may be among those tried
        for score in scores:
            arrays = learn(score, features[learned], targets[learned], seed)
            known = familiarity(score, logits_of(features[new]), features[new], arrays)
            unknown = familiarity(score, logits_of(features[strange]), features[strange], arrays)
            areas[score].append(_area(known, unknown))
    return {score: float(np.mean(values)) for score, values in areas.items() if values}


def _area(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: how often a value of `high` exceeds one of `low` (Mann and Whitney 1947)."""
    ordered = np.sort(high)
    above = len(high) - (np.searchsorted(ordered, low, "left") + np.searchsorted(ordered, low, "right")) / 2
    return float(above.mean() / len(high))
