"""Out-of-fold probabilities and labels → suspects: pictures whose label is probably wrong, for a person to look at.

How many labels are wrong is estimated by confident learning (Northcutt, Jiang and Chuang 2021), for which this is the
one door to cleanlab. Which ones comes from the odds of the given label. Nothing is corrected here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.records import ClassNames, Integers

BLOCK = 1024  # rows of probabilities that are copied at once
SHOWN = 20  # one in so many pictures is listed even where fewer labels are estimated to be wrong


@dataclass(frozen=True, slots=True)
class Suspect:
    """A picture whose label is doubted.

    Attributes:
        name: Of the picture.
        label: The given one.
        suggested: The most probable other class, or the one that most near-duplicates of the picture carry.
        confidence: p(suggested) / (p(suggested) + p(label)), in [0, 1]: how probable the suggested class is if one of
            the two is right. Below 0.5 the given label is the more probable one.
        duplicate_of: Another picture that is the same photograph, one with the suggested label if there is; or empty.
        is_likely: Whether it is among the labels that are estimated to be wrong, or a near-duplicate contradicts it.
            The others come next in the ranking, for whoever goes on looking.
    """

    name: str
    label: str
    suggested: str
    confidence: float
    duplicate_of: str = ""
    is_likely: bool = True


def find_suspects(
    names: Sequence[str],
    targets: Integers,
    classes: ClassNames,
    probabilities: NDArray[np.float64],
    *,
    near_duplicates: Sequence[Sequence[int]] = (),
    most: int | None = None,
) -> tuple[Suspect, ...]:
    """Return the pictures whose label is doubted, the most doubtful first; the order of the rows decides nothing.

    Near-duplicates with different labels come first: one of them is wrong whatever a model says. Then the pictures are
    ranked by p(label) / p(suggested). cleanlab's normalized margin puts a plain error behind every picture that is
    confidently taken for something else, its self-confidence is worse at labels that are nearly right and moves with
    the temperature; the odds do neither.

    Args:
        names: N names.
        targets: (N,) positions of the given labels.
        classes: K names, two or more.
        probabilities: (N, K), each row by a model that has not seen the picture or its near-duplicates. NaN in rows
            that no model has seen: they are suspected for the sake of their near-duplicates only.
        near_duplicates: Groups of rows that are the same photograph; no row is in two of them.
        most: How many to return; None: as many as are estimated to be wrong, at least one in `SHOWN`.
    """
    judged: NDArray[np.bool_] = np.isfinite(probabilities.sum(axis=1))
    known = _Known(probabilities, judged)
    rows, suggested = np.arange(len(targets)), np.empty(len(targets), dtype=np.int64)
    for begin in range(0, len(rows), BLOCK):
        part = rows[begin : begin + BLOCK]
        others = known.of(part)
        others[np.arange(len(part)), targets[part]] = -1
        suggested[part] = others.argmax(axis=1)
    outvoted = _outvoted(targets, known, [sorted(group, key=names.__getitem__) for group in near_duplicates])
    for row, winner in outvoted.items():
        suggested[row] = winner
    odds = known.each(targets) / np.maximum(known.each(suggested), np.finfo(np.float64).tiny)
    order = sorted(
        {*np.flatnonzero(judged).tolist(), *outvoted}, key=lambda row: (row not in outvoted, odds[row], names[row])
    )
    likely = max(
        len(outvoted), _count_errors(targets[judged], probabilities if judged.all() else probabilities[judged])
    )
    listed = order[: max(likely, math.ceil(len(order) / SHOWN))][:most]
    twins = _twins(names, targets, suggested, near_duplicates)
    return tuple(
        Suspect(
            names[row],
            classes[targets[row]],
            classes[suggested[row]],
            float(1 / (1 + odds[row])),
            twins.get(row, ""),
            rank < likely,
        )
        for rank, row in enumerate(listed)
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """Probabilities (N, K) without a copy of them; those of rows that were not judged (N,) are equal."""

    probabilities: NDArray[np.float64]
    judged: NDArray[np.bool_]

    def of(self, rows: Integers | Sequence[int]) -> NDArray[np.float64]:
        """Return a copy of some rows."""
        equal = 1 / self.probabilities.shape[1]
        return np.where(self.judged[rows][:, None], self.probabilities[rows], equal)

    def each(self, classes: Integers) -> NDArray[np.float64]:
        """Return (N,) the probability of one class for each row."""
        own = self.probabilities[np.arange(len(classes)), classes]
        return np.where(self.judged, own, 1 / self.probabilities.shape[1])


def _outvoted(targets: Integers, known: _Known, near_duplicates: Sequence[Sequence[int]]) -> Mapping[int, int]:
    """Return row → the label of most of its near-duplicates, which is not its own; the probabilities decide a tie."""
    outvoted: dict[int, int] = {}
    for rows in near_duplicates:
        votes = np.bincount(targets[rows], minlength=known.probabilities.shape[1])
        mean = known.of(rows).mean(axis=0)
        winner = int(np.where(votes == votes.max(), mean, -1).argmax())
        outvoted |= {row: winner for row in rows if targets[row] != winner}
    return outvoted


def _twins(
    names: Sequence[str], targets: Integers, suggested: Integers, near_duplicates: Sequence[Sequence[int]]
) -> Mapping[int, str]:
    """Return row → the name of a near-duplicate: the first that carries the suggested label, or else the first."""
    found: dict[int, str] = {}
    for rows in near_duplicates:
        named = sorted((names[row], row) for row in rows)
        first: dict[int, list[tuple[str, int]]] = {}  # two of each label, since one may be the row itself
        for one in named:
            if len(own := first.setdefault(int(targets[one[1]]), [])) < 2:
                own.append(one)
        for row in rows:
            likely = [*first.get(int(suggested[row]), []), *named[:2]]
            others = [name for name, other in likely if other != row]
            found |= {row: others[0]} if others else {}
    return found


def _count_errors(targets: Integers, probabilities: NDArray[np.float64]) -> int:
    """Return how many labels are estimated to be wrong.

    A picture counts if its probability of some other class is at least what pictures with that label have on average.
    """
    if len(np.unique(targets)) < 2:  # cleanlab refuses
        return 0
    from cleanlab.count import num_label_issues  # here, because it brings pandas along

    return int(num_label_issues(targets, probabilities))
