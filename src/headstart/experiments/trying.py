"""Several backbones' features of the same pictures → which backbone tells these classes apart, and at what price.

Each is judged by linear heads that had not learned from the pictures they answer, calibrated on the other folds. All of
them answer the same pictures, so two are compared picture by picture: that difference has a far smaller interval than
either figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headstart import arrays, metrics
from headstart.data.splits import Grouping
from headstart.errors import DataError
from headstart.learning import calibration
from headstart.learning.learner import NOBODY, Learner
from headstart.predictions import Interval
from headstart.records import Dataset, Floats, Integers

FEWEST = 4  # pictures of a class that are drawn at least; where that is too many, fewer classes are tried
Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a backbone costs.

    Attributes:
        sizes: Side in pixels of the pictures of each of its networks.
        pictures_per_second: Read, decoded and encoded on this machine, once everything is compiled.
        timed: How many pictures that was measured on.
        again: Whether they were encoded for the measurement only, as the cache held their features.
        parameters: How many numbers the weights are.
        megabytes: How large they are, in 10⁶ bytes.
    """

    sizes: tuple[int, ...]
    pictures_per_second: float
    timed: int
    again: bool
    parameters: int
    megabytes: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What quick heads say of pictures that they had not learned from; row i is of `rows[i]`.

    Attributes:
        rows: (M,) of the features.
        right: (M,) whether the most probable class is the true one.
        losses: (M,) -ln(probability of the true class), in nats.
        l2: The penalty that was chosen.
    """

    rows: Integers
    right: NDArray[np.bool_] = field(repr=False)
    losses: Losses = field(repr=False)
    l2: float


@dataclass(frozen=True, slots=True)
class Trial:
    """How a backbone did on a sample of the data; every figure out of fold, with a 95 % interval.

    Attributes:
        candidate: What it is loaded by, e.g. `lite2@320`.
        accuracy: Share of pictures whose most probable class is the true one.
        log_loss: After temperature scaling, in nats.
        difference: Of the log-loss to that of the best backbone, paired by pictures: above 0 is worse.
        on_front: Whether no other backbone is both faster and more accurate, or one of the two and equal in the other.
        cost: What it costs.
        pictures: How many pictures were answered.
        classes: How many classes they are of.
        l2: The penalty that was chosen for the quick heads.
        same_object: Whether further photographs of one thing were left out together, as they would flatter the figures.
    """

    candidate: str
    accuracy: Interval
    log_loss: Interval
    difference: Interval
    on_front: bool
    cost: Cost
    pictures: int
    classes: int
    l2: float
    same_object: bool = False

    @property
    def surely_worse(self) -> bool:
        """Whether the whole interval of the difference to the best one lies above 0."""
        return self.difference.low > 0

    def __repr__(self) -> str:
        """Return e.g. `Trial(lite2@320, accuracy 0.882 [0.853, 0.906], log-loss 0.369 [0.301, 0.440], 95 a second)`."""
        rate = f"{self.cost.pictures_per_second:.3g} a second"
        return f"Trial({self.candidate}, accuracy {self.accuracy}, log-loss {self.log_loss}, {rate})"


def draw(dataset: Dataset, most: int, seed: int) -> Integers:
    """Return the rows of a sample, each class with its share; ascending, and the same for names and seed.

    No class gets fewer than four pictures unless it has fewer. Where that would be more than `most`, so many classes
    are drawn as have room.

    Args:
        dataset: N labelled samples.
        most: How many pictures at most.
        seed: Of the choice.
    """
    generator = np.random.default_rng(seed)
    order = np.array(sorted(range(len(dataset)), key=list(dataset.names).__getitem__), dtype=np.int64)
    shuffled = generator.permutation(order)
    targets = dataset.classes.encode(dataset.labels)[shuffled]
    classes = generator.permutation(len(dataset.classes))[: max(2, most // FEWEST)]
    shuffled, targets = shuffled[np.isin(targets, classes)], targets[np.isin(targets, classes)]
    place, size = arrays.places(targets), np.bincount(targets)[targets]
    # the first few of each class come first; of the others those that are least far into their class
    urgency = np.where(place < FEWEST, place - FEWEST, (place + 0.5) / size)
    return np.sort(shuffled[np.argsort(urgency, kind="stable")[:most]])


def probe(learner: Learner, groups: Integers, begin: float | None = None) -> Answers:
    """Return what quick heads say of every picture that can be left out, calibrated on the other folds.

    Args:
        learner: Of linear heads.
        groups: (N,) rows of one group are left out together.
        begin: The penalty at which its search begins, e.g. that of another backbone.

    Raises:
        DataError: No picture can be left out.
    """
    fitted = learner.fit(np.arange(len(groups)), NOBODY, groups, begin=begin)
    held, targets = fitted.held, learner.features.targets
    if held is None or not len(held.rows):
        raise DataError(
            f"No picture of {learner.features.dataset.root} can be left out to measure: every class of the sample has "
            "a single picture or group.",
            "Draw more with --pictures, or give more pictures.",
        )
    own = targets[held.rows]
    probabilities = calibrated(held.logits, own, held.fold, groups[held.rows])
    return Answers(held.rows, probabilities.argmax(axis=1) == own, losses(probabilities, own), fitted.best)


def calibrated(logits: Floats, targets: Integers, fold: Integers, groups: Integers) -> Losses:
    """Return (M, K) probabilities, those of each fold at the temperature of the other folds.

    Args:
        logits: (M, K) out of fold.
        targets: (M,) the class of each row.
        fold: (M,) rows of one number were left out together.
        groups: (M,) rows of one group are one observation.
    """
    probabilities = np.zeros(logits.shape)
    for one in np.unique(fold):
        out = fold == one
        rest = ~out if not out.all() else out
        scaled = calibration.fit(logits[rest], targets[rest], fold[rest], "temperature", groups[rest])
        probabilities[out] = scaled.probabilities(logits[out])
    return probabilities


def losses(probabilities: Losses, targets: Integers) -> Losses:
    """Return (M,) -ln(probability of the true class), in nats."""
    return -np.log(np.clip(probabilities[np.arange(len(targets)), targets], metrics.SMALLEST, 1))


def rank(tried: Sequence[tuple[str, Cost, Answers]], classes: int, grouping: Grouping, seed: int) -> tuple[Trial, ...]:
    """Return the trials, that of the smallest log-loss first.

    Args:
        tried: Candidate, cost and answers of each; all answered the same rows.
        classes: How many there are.
        grouping: Rows of one group are not independent.
        seed: Of the resampling behind the intervals.
    """
    tried = sorted(tried, key=lambda one: (one[2].losses.mean(), -one[1].pictures_per_second))
    best = tried[0][2].losses
    members = grouping.groups[tried[0][2].rows]
    front = _front([(cost.pictures_per_second, float(said.right.mean())) for _, cost, said in tried])
    return tuple(
        Trial(
            candidate,
            metrics.share_interval(said.right, members),
            metrics.mean_interval(said.losses, members, seed=seed),
            metrics.mean_interval(said.losses - best, members, seed=seed),
            place in front,
            cost,
            len(said.rows),
            classes,
            said.l2,
            grouping.same_object,
        )
        for place, (candidate, cost, said) in enumerate(tried)
    )


def fastest(trials: Sequence[Trial]) -> Trial:
    """Return the fastest of those that are not surely worse than the best."""
    return max((one for one in trials if not one.surely_worse), key=lambda one: one.cost.pictures_per_second)


def _front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return which points no other one beats or equals in both numbers while beating it in one."""
    return {
        index
        for index, own in enumerate(points)
        if not any(all(a >= b for a, b in zip(other, own, strict=True)) and other != own for other in points)
    }
