"""Held-out predictions, labels and features → the pictures that are worth looking at: the worst errors with the learned
pictures most like them, both sides of the pairs that are confused most, and doubtful labels. Rows only, and few of
them however many pictures there are; whoever shows them reads the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart import arrays
from headstart.data import splits
from headstart.encoding.backbone import Backbone
from headstart.evaluation.label_errors import Suspect, find_suspects
from headstart.inspection import similarity
from headstart.learning.heads import Head
from headstart.predictions import Predictions
from headstart.records import Integers, LabelledFeatures

MOST_ERRORS, NEAREST = 200, 3
MOST_SUSPECTS = 60
MOST_PAIRS, OF_EACH_SIDE = 12, 4


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture that was taken for something else.

    Attributes:
        row: Of the features.
        top: The three most probable classes with their probabilities, best first.
        given: Probability of the given label.
        nearest: Rows learned from that are most like it, with their similarities, in [-1, 1], most alike first.
        turn: Which of the heads answered.
    """

    row: int
    top: tuple[tuple[str, float], ...]
    given: float
    nearest: tuple[tuple[int, float], ...]
    turn: int = 0


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Two classes that are taken for each other.

    Attributes:
        classes: Their names.
        taken: How many pictures of each were taken for the other.
        rows: Pictures of each, those taken for the other first, then those that were surely right.
    """

    classes: tuple[str, str]
    taken: tuple[int, int]
    rows: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Showcase:
    """What is worth looking at, of the pictures that the reported figures measured.

    Attributes:
        errors: How many pictures were taken for something else.
        mistakes: The worst of them, the least probable given label first.
        pairs: The classes that are confused most.
        doubtful: How many labels are estimated to be wrong.
        suspects: These and those that come next, with their rows; the most doubtful first.
        heads: That answered, each with the networks whose features it takes.
    """

    errors: int = 0
    mistakes: tuple[Mistake, ...] = ()
    pairs: tuple[ConfusedPair, ...] = ()
    doubtful: int = 0
    suspects: tuple[tuple[int, Suspect], ...] = ()
    heads: tuple[tuple[Backbone, Head], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was said of each picture once, where it was measured several times of the first time.

    Attributes:
        rows: (M,) of the features.
        turn: (M,) which head answered.
        targets: (M,) the given label.
        predicted: (M,) the most probable class.
        said: Whose rows are `places`.
        places: (M,)
    """

    rows: Integers
    turn: Integers
    targets: Integers
    predicted: Integers
    said: Predictions
    places: Integers

    def probability(self, classes: Integers) -> np.ndarray:
        """Return (M,) the probability of one class for each picture."""
        return self.said.probabilities[self.places, classes]


def find(
    features: LabelledFeatures,
    said: Predictions,
    turns: Sequence[tuple[Integers, Integers]],
    near_duplicates: Integers,
) -> Showcase:
    """Return what is worth looking at.

    Args:
        features: Of all pictures.
        said: Of the measured ones.
        turns: Of each head that answered, the rows that it measured and those that it had learned from; the former
            one after the other are the rows of `said`.
        near_duplicates: (N,) integers, equal for pictures that are one photograph.
    """
    measured = _once(features, said, turns)
    given = measured.probability(measured.targets)
    order = np.argsort(given, kind="stable")
    wrong = order[(measured.predicted != measured.targets)[order]]
    if not len(wrong):
        return Showcase()
    worst = wrong[:MOST_ERRORS]
    nearest = _nearest(features, measured.rows[worst], measured.turn[worst], [learned for _, learned in turns])
    mistakes = [_mistake(measured, place, one) for place, one in zip(worst.tolist(), nearest, strict=True)]
    suspects = _suspects(features, measured, near_duplicates)
    return Showcase(
        len(wrong),
        tuple(mistakes),
        _pairs(features, measured, wrong, given),
        sum(suspect.is_likely for _, suspect in suspects),
        tuple(suspects[:MOST_SUSPECTS]),
    )


def _once(features: LabelledFeatures, said: Predictions, turns: Sequence[tuple[Integers, Integers]]) -> _Measured:
    everything = np.concatenate([measured for measured, _ in turns])
    turn = np.repeat(np.arange(len(turns)), [len(measured) for measured, _ in turns])
    places = np.sort(np.unique(everything, return_index=True)[1])
    rows, blocks = everything[places], (said.probabilities[places[part]] for part in arrays.parts(len(places)))
    predicted = np.concatenate([np.zeros(0, dtype=np.int64), *(block.argmax(axis=1) for block in blocks)])
    return _Measured(rows, turn[places], features.targets[rows], predicted, said, places)


def _mistake(measured: _Measured, place: int, nearest: tuple[tuple[int, float], ...]) -> Mistake:
    shares = measured.said.probabilities[measured.places[place]]
    best = np.argsort(-shares, kind="stable")[:3]
    top = tuple((measured.said.classes[k], float(shares[k])) for k in best)
    given, turn = float(shares[measured.targets[place]]), int(measured.turn[place])
    return Mistake(int(measured.rows[place]), top, given, nearest, turn)


def _nearest(
    features: LabelledFeatures, rows: Integers, turn: Integers, learned: Sequence[Integers]
) -> list[tuple[tuple[int, float], ...]]:
    """Return for each row those most like it that its head had learned from."""
    values = features.values[:, 0]
    mean = arrays.mean(values)
    known = np.zeros((len(learned), len(values)), dtype=bool)
    for number, one in enumerate(learned):
        known[number, one] = True
    queries, every = similarity.directions(values[rows], mean), similarity.away(values, mean)
    best, alike = similarity.most_like(queries, every, NEAREST, lambda part: known[turn, part].T)
    return [
        tuple((int(row), round(float(value), 4)) for row, value in zip(*both, strict=True) if row >= 0)
        for both in zip(best, alike, strict=True)
    ]


def _pairs(
    features: LabelledFeatures, measured: _Measured, wrong: Integers, given: np.ndarray
) -> tuple[ConfusedPair, ...]:
    ends = np.sort(np.stack([measured.targets[wrong], measured.predicted[wrong]], axis=1), axis=1)
    pairs, count = np.unique(ends, axis=0, return_counts=True)
    most = np.argsort(-count, kind="stable")[:MOST_PAIRS]
    return tuple(_pair(features, measured, given, *pairs[number].tolist()) for number in most)


def _pair(features: LabelledFeatures, measured: _Measured, given: np.ndarray, one: int, other: int) -> ConfusedPair:
    """Return a pair with pictures of both sides."""
    taken: list[int] = []
    shown: list[tuple[int, ...]] = []
    for mine, yours in ((one, other), (other, one)):
        own = np.flatnonzero(measured.targets == mine)
        mistaken, right = (own[measured.predicted[own] == label] for label in (yours, mine))
        mistaken, right = mistaken[np.argsort(given[mistaken])], right[np.argsort(-given[right])]
        taken.append(len(mistaken))
        shown.append(tuple(measured.rows[np.concatenate([mistaken, right])[:OF_EACH_SIDE]].tolist()))
    names = (features.classes[one], features.classes[other])
    return ConfusedPair(names, (taken[0], taken[1]), (shown[0], shown[1]))


def _suspects(features: LabelledFeatures, measured: _Measured, near_duplicates: Integers) -> list[tuple[int, Suspect]]:
    """Return the doubtful labels among the measured pictures, with their rows."""
    names, shares = features.names(measured.rows), measured.said.probabilities
    found = find_suspects(
        names,
        measured.targets,
        features.classes,
        shares if len(names) == len(shares) else shares[measured.places],  # all of them need no copy
        near_duplicates=splits.members(near_duplicates[measured.rows]),
    )
    row = dict(zip(names, measured.rows.tolist(), strict=True))
    return [(row[suspect.name], suspect) for suspect in found]
