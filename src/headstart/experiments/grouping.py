"""Which pictures stay on one side of a split: what the data joins, near-duplicates, and same-object pictures where they
matter.

No similarity divides "the same thing once more" from "another of its kind". So an experiment decides: two
cross-validations of linear heads measure the same pictures, with same-object pictures learned from and without. Where
accuracy surely falls, they stay together. What is found never leaves nothing to measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart import arrays, metrics
from headstart.data import splits
from headstart.data.splits import Grouping
from headstart.inspection import duplicates
from headstart.inspection.duplicates import Resemblance
from headstart.learning import logistic
from headstart.learning.learner import Learner
from headstart.plans import SplitPlan
from headstart.predictions import Interval
from headstart.records import Finding, Integers, LabelledFeatures, Progress, found, silence

MATTERS = 0.05  # accuracy lost, surely, from which on same-object pictures are kept together
MOST = 2000  # pictures on which that is found out
MOST_OF_GROUP = 50  # pictures of one group among them, unless there are few groups
FOLDS = 3
FEWEST = 100  # measured pictures below which nothing is said
STAGE = "Comparing with same-object pictures"


def decide(learner: Learner, resemblance: Resemblance, config: SplitPlan, *, progress: Progress = silence) -> Grouping:
    """Return what stays together.

    Args:
        learner: Whose features are grouped, and whose heads find out what matters.
        resemblance: Which pictures are near-duplicates, and which show one object.
        config: What was asked for.
        progress: Hears when it is done.
    """
    progress(STAGE, 0, 1)
    features = learner.features
    known = splits.group_ids(features.dataset, features.digests)
    near = config.near_duplicates == "together"
    kept = splits.united(known, resemblance.near_duplicates) if near else known
    alike = splits.united(kept, resemblance.same_object)
    gap = same_object_gap(learner, kept, alike)
    matters = gap is not None and gap.low > MATTERS
    together = config.same_object == "together" or (config.same_object == "if-it-matters" and matters)
    aside = duplicates.conflicting(resemblance.near_duplicates, features.targets)
    origins = {"data": known, "near-duplicates": kept, "same-object pictures": alike if together else kept}
    progress(STAGE, 1, 1)
    grouping = Grouping(alike if together else kept, kept, aside, together, gap, _origins(origins))
    return grouping if splits.is_given(features.dataset) else _measurable(grouping, features, known)


def same_object_gap(learner: Learner, kept: Integers, alike: Integers) -> Interval | None:
    """Return the accuracy that is lost when same-object pictures are left out of what is learned, on the same pictures.

    Pictures that the data keeps for measuring take no part. None where there are no same-object pictures, or too few
    pictures to tell.

    Args:
        learner: Whose linear heads are fitted.
        kept: (N,) groups that keep near-duplicates together.
        alike: (N,) groups that keep same-object pictures together too.
    """
    features, seed = learner.features, learner.seed
    learned = np.flatnonzero([part in (None, "train") for part in features.dataset.packed.splits])
    rows = _sample(learned, alike, seed)
    if len(np.unique(alike[rows])) == len(np.unique(kept[rows])):
        return None
    dataset = features.dataset.select(rows)
    right = np.full((2, len(features)), np.nan)
    for number, groups in enumerate((kept, alike)):
        fold = splits.folds(dataset, groups[rows], FOLDS, seed)
        held = learner.out_of_fold(rows, fold, tolerance=logistic.ROUGH)
        right[number, held.rows] = held.logits.argmax(axis=1) == features.targets[held.rows]
    both = np.flatnonzero(np.isfinite(right).all(axis=0))
    if len(both) < FEWEST:
        return None
    lost = right[0, both] - right[1, both]
    low, high = np.percentile(metrics.drawn_means(lost, alike[both], 1000, seed), [2.5, 97.5])
    return Interval(float(lost.mean()), float(low), float(high))


def _sample(rows: Integers, groups: Integers, seed: int) -> Integers:
    """Return these rows, or of very many some groups; of a large group some rows, so that none is left out for its
    size.
    """
    if len(rows) <= MOST:
        return rows
    generator = np.random.default_rng(seed)
    rows = generator.permutation(rows)
    _, member, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    place = arrays.places(member)
    rank = generator.permutation(len(sizes))[member]  # groups in a random order
    fits = place < max(MOST_OF_GROUP, MOST // len(sizes))
    chosen = np.lexsort((place, rank, ~fits))[: min(MOST, int(fits.sum()))]
    return np.sort(rows[chosen])


def _origins(steps: dict[str, Integers]) -> tuple[str, ...]:
    """Return which steps joined more than the one before."""
    sizes = [len(groups) for groups in (next(iter(steps.values())), *map(np.unique, steps.values()))]
    return tuple(name for name, before, after in zip(steps, sizes, sizes[1:], strict=False) if after < before)


def _measurable(grouping: Grouping, features: LabelledFeatures, known: Integers) -> Grouping:
    """Return the grouping, or a looser one where what was found would leave most classes without a measured picture.

    What the data itself joins is never parted.
    """
    possible = _measured_classes(known, np.zeros(len(known), dtype=bool), features)
    lost = possible & ~_measured_classes(grouping.groups, grouping.aside, features)
    if 2 * lost.sum() <= possible.sum():
        return grouping
    looser = (known, np.zeros(len(known), dtype=bool))
    if grouping.same_object:
        left = possible & ~_measured_classes(grouping.kept, grouping.aside, features)
        if 2 * left.sum() <= possible.sum():
            looser = (grouping.kept, grouping.aside)
    return Grouping(
        looser[0], looser[0], looser[1], False, grouping.gap, _origins({"data": known, "near-duplicates": looser[0]}),
        tuple(_told([features.classes[k] for k in np.flatnonzero(lost)], len(features.classes))),
    )  # fmt: skip


def _measured_classes(groups: Integers, aside: NDArray[np.bool_], features: LabelledFeatures) -> NDArray[np.bool_]:
    """Return (K,) whether a class has a group that can be measured, and another one to learn from."""
    size = len(features.classes)
    pairs, first = np.unique(groups * size + features.targets, return_index=True)
    barred = np.isin(groups[first], groups[aside])
    result: NDArray[np.bool_] = (np.bincount(pairs % size, minlength=size) > 1) & (
        np.bincount(pairs[~barred] % size, minlength=size) > 0
    )
    return result


def _told(classes: list[str], number: int) -> list[Finding]:
    return found(
        "measured-apart",
        "warning",
        f"of {{n}} of {number} classes nothing could be measured if pictures that resemble each other stayed on one "
        "side of the split; they are measured apart, and the figures flatter where these are near-duplicates",
        classes,
        "Look at the groups of near-duplicates; a column that names what belongs together (--group-column) is better "
        "than any guess.",
    )
