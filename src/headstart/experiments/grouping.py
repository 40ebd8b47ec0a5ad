"""How far a figure rests on pictures that resemble those learned from, and what it would be without, or with more.

Several photographs of one thing, some learned from and some measured, make a figure that new things will not meet. No
similarity divides "the same thing once more" from "another of its kind"; so three things are told: whether keeping
same-object pictures together changes the accuracy of the very same pictures, what a split that ignores both would have reported, and the accuracy of pictures by how alike their nearest learned picture is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from headstart import metrics
from headstart.config import Plan
from headstart.data import splits
from headstart.encoding.backbone import Backbone
from headstart.errors import DataError
from headstart.inspection import similarity
from headstart.inspection.duplicates import Resemblance
from headstart.learning import learner, logistic
from headstart.learning.learner import Learned, Material
from headstart.records import Finding, Integers, Interval, Splits, found

MATTERS = 0.05  # accuracy lost, surely, from which on same-object pictures are kept together
WORTH_SAYING = 0.01
MOST = 2000  # pictures on which that is found out
FOLDS = 3
FEWEST = 100  # measured pictures below which nothing is said


@dataclass(frozen=True, slots=True)
class Band:
    """Measured pictures by how alike the nearest picture is that was learned from.

    Attributes:
        name: "same-object", "between" or "unlike".
        low: The smallest similarity, in [-1, 1].
        high: The largest.
        pictures: How many.
        share: Of all that were measured.
        accuracy: Of these.
    """

    name: str
    low: float
    high: float
    pictures: int
    share: float
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class Optimism:
    """What a figure owes to resemblance.

    Attributes:
        gap: Accuracy that pictures lose when their same-object pictures are not learned from; None where there are none.
        together: Whether same-object pictures were kept on one side; of a split that the data brings within the training part.
        given: Whether the data brings its split, which is kept.
        naive: Accuracy of the same kind of head on a split that ignores copies and same-object pictures; None where no split
            was ignored.
        leaked: How many of the pictures measured in that split have a copy or same-object among those learned from.
        measured: How many were measured in that split.
        bands: The measured pictures by similarity.
    """

    gap: Interval | None
    together: bool
    given: bool = False
    naive: Interval | None = None
    leaked: int = 0
    measured: int = 0
    bands: tuple[Band, ...] = ()


def look_alike_gap(material: Material, alike: Integers, backbone: Backbone, plan: Plan) -> Interval | None:
    """Return the accuracy that is lost when same-object pictures are left out of what is learned, on the same pictures.

    Two cross-validations of linear heads measure each picture twice: once with copies apart only, once with same-object pictures
    apart too. None where there are no same-object pictures, or too few pictures to tell.

    Args:
        material: Whose training part is looked at; its groups keep copies together.
        alike: (N,) groups that keep same-object pictures together too.
        backbone: For the prior.
        plan: Of the head.
    """
    rows = _some(material.parts.train, alike, plan.seed)
    if len(np.unique(alike[rows])) == len(np.unique(material.groups[rows])):
        return None
    dataset = material.dataset.select(rows)
    right = np.full((2, len(material.dataset)), np.nan)
    for number, groups in enumerate((material.groups, alike)):
        fold = splits.folds(dataset, groups[rows], FOLDS, plan.seed)
        held = learner.out_of_fold(material, backbone, plan, rows, fold, tolerance=logistic.ROUGH)
        right[number, held.rows] = held.logits.argmax(axis=1) == material.targets[held.rows]
    both = np.flatnonzero(np.isfinite(right).all(axis=0))
    if len(both) < FEWEST:
        return None
    lost = right[0, both] - right[1, both]
    weights = metrics.resample(len(both), alike[both], 1000, plan.seed)
    low, high = np.percentile(weights @ lost / weights.sum(axis=1), [2.5, 97.5])
    return Interval(float(lost.mean()), float(low), float(high))


def decide(
    gap: Interval | None, asked: Literal["if-it-matters", "together", "apart"], *, given: bool = False
) -> Optimism:
    """Return whether same-object pictures stay together: as asked, or if the gap is surely larger than `MATTERS`."""
    matters = gap is not None and gap.low > MATTERS
    return Optimism(gap, asked == "together" or (asked == "if-it-matters" and matters), given)


def naive_split(material: Material, plan: Plan) -> Splits | None:
    """Return the split that heeds neither copies nor same-object pictures nor groups; None if it is the one that was made."""
    alone = np.arange(len(material.dataset))
    try:
        naive = splits.split(material.dataset, alone, plan.split.validation, plan.seed)
    except DataError:
        return None
    apart = len(np.unique(material.groups)) == len(alone)
    return None if apart or not len(_leaked(naive, material.groups)) else naive


def measure_naive(
    optimism: Optimism,
    material: Material,
    resemblance: Resemblance,
    backbone: Backbone,
    plan: Plan,
    learned: Learned,
    naive: Splits,
) -> Optimism:
    """Return what is known, with the accuracy of the same kind of head on the naive split.

    Where same-object pictures are kept together, the bands are of that split too: the honest one has hardly a same-object.

    Args:
        optimism: What is known.
        material: With the groups that were heeded.
        resemblance: Whose similarities divide the bands.
        backbone: For the prior.
        plan: Of the head.
        learned: From the honest split; its l2, or number of epochs, serves here too.
        naive: The split.
    """
    head = learner.refit(material, backbone, plan, learned.best, naive.train, views=1)
    rows = naive.test if len(naive.test) else naive.validation
    right = head.logits(material.values[rows, 0]).argmax(axis=1) == material.targets[rows]
    leaked = np.isin(rows, _leaked(naive, material.groups))
    if optimism.together and not optimism.given:
        optimism = replace(optimism, bands=bands(material, resemblance, rows, right, naive.train))
    return replace(
        optimism,
        naive=metrics.share_interval(right, material.groups[rows]),
        leaked=int(leaked.sum()),
        measured=len(rows),
    )


def bands(
    material: Material, resemblance: Resemblance, rows: Integers, right: Integers, learned: Integers
) -> tuple[Band, ...]:
    """Return measured pictures by the similarity of the nearest picture that was learned from.

    Args:
        material: With features and groups.
        resemblance: Whose similarities divide the bands.
        rows: (M,) that were measured.
        right: (M,) whether the answer was right.
        learned: Rows that were learned from.
    """
    known = material.values[learned, 0]
    mean = known.mean(axis=0)
    queries = similarity.directions(material.values[rows, 0], mean)
    nearest = similarity.nearest(queries, similarity.directions(known, mean))[:, 0]
    edges = [-np.inf, resemblance.unlike, max(resemblance.alike, resemblance.unlike), np.inf]
    result: list[Band] = []
    for name, low, high in zip(("unlike", "between", "same-object"), edges, edges[1:], strict=False):
        own = (nearest >= low) & (nearest < high)
        if own.any():
            accuracy = metrics.share_interval(right[own], material.groups[rows[own]])
            limits = float(nearest[own].min()), float(nearest[own].max())
            result.append(Band(name, *limits, int(own.sum()), float(own.mean()), accuracy))
    return tuple(result)


def findings(optimism: Optimism) -> list[Finding]:
    """Return what a person must know before they believe the figure."""
    gap, naive = optimism.gap, optimism.naive
    if gap is None or gap.low <= WORTH_SAYING:
        return []
    points = f"{100 * gap.value:.0f} [{100 * gap.low:.0f}, {100 * gap.high:.0f}] points"
    if optimism.given:
        return found(
            "same-object pictures",
            "note",
            f"the training part shows many things once more: accuracy falls by {points} on pictures whose same-object pictures "
            "were not learned from. The split that the data brings is kept as it is",
            ["all figures"],
            "Accuracy by similarity tells how much the measured pictures resemble those learned from.",
        )
    if optimism.together:
        would = "" if naive is None else f"; a split that ignores that would have reported an accuracy of {naive}"
        return found(
            "same-object pictures",
            "warning",
            f"many pictures show the same thing once more: accuracy falls by {points} on pictures whose same-object pictures "
            f"were not learned from. They are kept on one side, so that the figures hold for new things{would}",
            ["all figures"],
            "If new pictures will show these very things, --set split.same_object=apart measures that.",
        )
    return found(
        "optimistic",
        "warning" if gap.low > MATTERS else "note",
        f"the figures are optimistic for things that were never photographed before: accuracy falls by {points} on "
        "pictures whose same-object pictures were not learned from",
        ["all figures"],
        "--set split.same_object=together measures on new things.",
    )


def _some(rows: Integers, groups: Integers, seed: int) -> Integers:
    """Return these rows, or of very many some whole groups."""
    if len(rows) <= MOST:
        return rows
    names, member, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = order[np.cumsum(sizes[order]) <= MOST]
    return rows[np.isin(member, chosen)]


def _leaked(split: Splits, groups: Integers) -> Integers:
    """Return the measured rows that share a group with a row that is learned from."""
    measured = split.test if len(split.test) else split.validation
    return measured[np.isin(groups[measured], groups[split.train])]
