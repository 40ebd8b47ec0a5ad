"""How far a figure rests on pictures that resemble those learned from: a report in three parts.

Several photographs of one thing, some learned from and some measured, make a figure that new things will not meet. Told
are: whether keeping same-object pictures together changes the accuracy of the very same pictures, what a random split
would have reported, and the accuracy of pictures by how alike their nearest learned picture is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart import arrays, metrics
from headstart.data import splits
from headstart.data.splits import Grouping
from headstart.experiments import random_split
from headstart.experiments.grouping import MATTERS
from headstart.experiments.random_split import Measured, RandomSplit
from headstart.inspection import blocks, similarity
from headstart.inspection.duplicates import Resemblance
from headstart.learning.learner import Fitted, Learner
from headstart.plans import Plan
from headstart.predictions import Interval
from headstart.records import Finding, Integers, Splits, found

WORTH_SAYING = 0.01
MOST_PAIRS = 5_000_000_000  # of measured and learned pictures, whose similarities take some minutes


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
class LeakageReport:
    """What a figure owes to resemblance.

    Attributes:
        gap: Accuracy that pictures lose when their same-object pictures are not learned from; None where there are
            none.
        together: Whether same-object pictures were kept on one side, as those of a previous run may not have been; of
            a split that the data brings within the training part.
        given: Whether the data brings its split, which is kept.
        random_split: What a random split would have reported; None where it would part nothing.
        bands: The measured pictures by similarity.
        parted: Share of the measured pictures whose same-object pictures were learned from, where a previous run had
            divided them; else None.
    """

    gap: Interval | None = None
    together: bool = False
    given: bool = False
    random_split: RandomSplit | None = None
    bands: tuple[Band, ...] = ()
    parted: float | None = None


def report(
    learner: Learner,
    fitted: Fitted,
    split: Splits,
    grouping: Grouping,
    resemblance: Resemblance,
    plan: Plan,
) -> LeakageReport:
    """Return what the figures of a split owe to resemblance.

    Where same-object pictures are kept together, the bands are of the random split: the honest one has hardly any.

    Args:
        learner: Of heads of the same kind.
        fitted: On the split's training part.
        split: The first round.
        grouping: That was heeded.
        resemblance: Whose similarities divide the bands.
        plan: Share and seed.
    """
    given = split.origin == "data"
    groups = grouping.kept if given else grouping.groups
    rows = split.test if len(split.test) else split.validation
    right = fitted.answers(rows) == learner.features.targets[rows]
    measured = Measured(rows, right, fitted.learned(split.train))
    drawn = random_split.measure(learner, fitted, groups, plan)
    parted = None
    if split.origin == "previous run":
        alike = splits.united(grouping.kept, resemblance.same_object)
        parted = float(np.isin(alike[rows], alike[measured.learned]).mean())
    together = grouping.same_object and (parted is None or parted <= WORTH_SAYING)
    if drawn is not None and together and not given:
        measured = drawn.measured
    return LeakageReport(grouping.gap, together, given, drawn, bands(fitted, measured, groups, resemblance), parted)


def bands(fitted: Fitted, measured: Measured, groups: Integers, resemblance: Resemblance) -> tuple[Band, ...]:
    """Return measured pictures, of very many a sample, by the similarity of the nearest one that was learned from.

    Args:
        fitted: With the features.
        measured: What was measured and learned from.
        groups: (N,) rows of one group are not independent.
        resemblance: Whose similarities divide the bands.
    """
    seen = fitted.features.values[:, 0]  # of the frozen network, whose similarities these are
    known = blocks.some(seen, measured.learned)
    mean = arrays.mean(known)
    some = arrays.spaced(len(measured.rows), max(1, MOST_PAIRS // max(1, len(known))))
    measured = Measured(measured.rows[some], measured.right[some], measured.learned)
    queries = similarity.directions(seen[measured.rows], mean)
    nearest = similarity.nearest(queries, similarity.away(known, mean))[:, 0]
    edges = [-np.inf, resemblance.unlike, max(resemblance.alike, resemblance.unlike), np.inf]
    result: list[Band] = []
    for name, low, high in zip(("unlike", "between", "same-object"), edges, edges[1:], strict=False):
        own = (nearest >= low) & (nearest < high)
        if own.any():
            accuracy = metrics.share_interval(measured.right[own], groups[measured.rows[own]])
            limits = float(nearest[own].min()), float(nearest[own].max())
            result.append(Band(name, *limits, int(own.sum()), float(own.mean()), accuracy))
    return tuple(result)


def findings(report: LeakageReport) -> list[Finding]:
    """Return what a person must know before they believe the figure."""
    gap, drawn = report.gap, report.random_split
    if gap is None or gap.low <= WORTH_SAYING:
        return []
    fall = (
        f"accuracy falls by {100 * gap.value:.0f} [{100 * gap.low:.0f}, {100 * gap.high:.0f}] points on pictures "
        "whose same-object pictures were not learned from"
    )
    if report.given:
        return found(
            "same-object",
            "note",
            f"the training part shows many things once more: {fall}. The split that the data brings is kept as it is",
            ["all figures"],
            "Accuracy by similarity tells how much the measured pictures resemble those learned from.",
        )
    share = report.parted or 0
    parted = f"{100 * share:{'.0f' if share >= 0.1 else '.2g'}}% of the measured pictures"
    alone = "" if report.parted is None else " without --from"  # which leaves pictures where they were
    if report.together:
        but = f", but for {parted}" if report.parted else ""
        would = "" if drawn is None else f"; a random split would have reported an accuracy of {drawn.accuracy}"
        return found(
            "same-object",
            "warning",
            f"many pictures show the same thing once more: {fall}. They are kept on one side{but}, so that the figures "
            f"hold for new things{would}",
            ["all figures"],
            f"If new pictures will show these very things, --set split.same_object=apart measures that{alone}.",
        )
    owed = gap.low if report.parted is None else min(gap.low, report.parted)  # no more than the share that is parted
    which = "" if report.parted is None else f". The previous run has parted {parted} from theirs"
    return found(
        "optimistic",
        "warning" if owed > MATTERS else "note",
        f"the figures are optimistic for things that were never photographed before: {fall}{which}",
        ["all figures"] if owed > WORTH_SAYING else [],
        f"--set split.same_object=together measures on new things{alone}.",
    )
