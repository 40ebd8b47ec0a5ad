"""Dataset → which pictures are learned from and which measure: stratified, seeded, and never the same thing on both
sides. The result depends on names, labels, groups and the seed, not on the order of the rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.config import SplitConfig
from headstart.data.units import Unit, Units
from headstart.errors import ConfigError, DataError
from headstart.packed import Values, values_of
from headstart.plans import SplitPlan
from headstart.predictions import Interval
from headstart.records import SPLIT_NAMES, Dataset, Finding, Integers, Splits, found, numbered

Rows = NDArray[np.bool_]
Parts = NDArray[np.str_]  # (N,) "train", "validation", "test", or "" for pictures that nobody put anywhere yet
_ALONE = "[has|have] a single picture (or group): learned, but cannot be measured"


def group_ids(dataset: Dataset, digests: Sequence[str]) -> Integers:
    """Return (N,) integers, equal for rows that share their bytes or their group, directly or through others."""
    pairs = [_same(values_of(column)) for column in (digests, dataset.packed.groups)]
    return joined(np.arange(len(dataset)), np.concatenate(pairs))


def _same(column: Values[Any]) -> Integers:
    """Return (P, 2) pairs of rows, each with the first one of its value, where that is not empty."""
    rows = np.flatnonzero(column.where(map(bool, column.distinct)))
    _, first, member = np.unique(column.codes[rows], return_index=True, return_inverse=True)
    return np.stack([rows, rows[first[member]]], axis=1)


def joined(groups: Integers, pairs: Integers) -> Integers:
    """Return (N,) integers, equal for rows of one group and for rows that (P, 2) pairs join, also through others.

    A group is called by its first row.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    called: Integers = first[member].astype(np.int64)
    while True:  # each group is hung on the lowest one that it meets, and then on what that hangs on
        ends = np.sort(called[pairs], axis=1)
        if (ends[:, 0] == ends[:, 1]).all():
            return called
        np.minimum.at(called, ends[:, 1], ends[:, 0])
        called = settled(called)


def members(groups: Integers) -> list[list[int]]:
    """Return the rows of each group of two or more, in the order of their first rows."""
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(size[member] > 1)
    order = rows[np.argsort(member[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(member[order])) + 1
    return sorted(part.tolist() for part in np.split(order, cuts) if len(part))


def settled(called: Integers) -> Integers:
    """Return (N,) what each row is called in the end, where rows are called by rows that may be called by others."""
    while (called[called] != called).any():
        called = called[called]
    return called


def united(one: Integers, other: Integers) -> Integers:
    """Return (N,) integers, equal for rows that either grouping joins; `other` calls its groups by their first rows."""
    return joined(one, np.stack([np.arange(len(one)), other], axis=1))


@dataclass(frozen=True, slots=True)
class Grouping:
    """What stays on one side of a split, and why.

    Attributes:
        groups: (N,) integers, equal for pictures that no split drawn here parts.
        kept: (N,) the same for a split that is brought along: by what data and near-duplicates join, and no more.
        aside: (N,) True for near-duplicates with different labels: they may be learned from but measure nothing.
        same_object: Whether same-object pictures stay together; of a split that the data brings within its training
            part.
        gap: Accuracy that pictures lose when their same-object pictures are not learned from; None where that was not
            measured.
        origins: What joins: "data", "near-duplicates", "same-object pictures".
        findings: What to know of it.
    """

    groups: Integers
    kept: Integers
    aside: Rows
    same_object: bool = False
    gap: Interval | None = None
    origins: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """Who measures when, and who the saved head learns from.

    Attributes:
        rounds: Each is learned and measured on its own; together they give the figures.
        final: What is learned last; the only round again, unless there are several.
        fold: (len(final.train),) in which round each of those rows measures, -1 in none, where the rounds are one
            dealing out of them; else None.
    """

    rounds: tuple[Splits, ...]
    final: Splits
    fold: Integers | None = None


def partition(
    dataset: Dataset,
    grouping: Grouping,
    config: SplitPlan,
    seed: int,
    *,
    previous: Parts | None = None,
    in_turn: bool = True,
) -> Partition:
    """Return one split, or the rounds of a cross-validation or of a repeated split.

    Where same-object pictures stay together, every picture is measured once, in as many folds as the share asks for:
    the groups that fit a class's share are the odd ones out, and a few alone would make a figure of chance.

    Args:
        dataset: N labelled samples.
        grouping: Of them.
        config: Share, folds and repeats.
        seed: Of the choice; each repeat has the next one.
        previous: Where a previous run had its pictures; they stay there, and new ones follow their group.
        in_turn: Whether every picture may be measured in its turn; else one share is held out unless folds are asked
            for.

    Raises:
        DataError: Nothing can be held out, or the given split leaves nothing to learn from.
    """
    first, aside = _first(dataset, grouping, config, seed, previous), grouping.aside
    rows = np.union1d(first.train, first.validation)
    even = grouping.same_object and first.origin == "drawn" and in_turn
    number = config.folds or (max(2, round(1 / config.validation)) if even else 0)
    rounds: list[Splits] = []
    for repeat in range(config.repeats):
        if number:
            rounds += _dealt(dataset, grouping.groups, rows, number, seed + repeat, aside)
        elif repeat:
            rounds.append(split(dataset, grouping.groups, config.validation, seed + repeat, aside=aside))
        else:
            rounds.append(first)
    if len(rounds) == 1:
        return Partition((rounds[0],), rounds[0])
    nothing = np.array([], dtype=np.int64)
    findings = (*(first.findings if first.origin != "drawn" else ()), *rounds[0].findings)
    fold = _fold_of(rows, rounds) if config.repeats == 1 else None
    return Partition(tuple(rounds), replace(first, train=rows, validation=nothing, findings=findings), fold)


def _fold_of(rows: Integers, rounds: list[Splits]) -> Integers:
    """Return (len(rows),) the number of the round that each row measures in, -1 for rows that measure in none."""
    fold = np.full(len(rows), -1, dtype=np.int64)
    for number, one in enumerate(rounds):
        fold[np.isin(rows, one.validation)] = number
    return fold


def _first(dataset: Dataset, grouping: Grouping, config: SplitPlan, seed: int, previous: Parts | None) -> Splits:
    """Return the split that is brought along, or else draw one."""
    if is_given(dataset):
        return _brought(dataset, np.array([part or "train" for part in dataset.packed.splits]), grouping, "data")
    if previous is None:
        return split(dataset, grouping.groups, config.validation, seed, aside=grouping.aside)
    parts = _followed(previous, grouping.groups)
    new = np.flatnonzero(parts == "")
    parts[new] = "train"
    try:
        fresh = split(dataset.select(new), grouping.groups[new], config.validation, seed, aside=grouping.aside[new])
        parts[new[fresh.validation]] = "validation"
    except DataError:  # too few of each class to hold one out: all are learned from
        pass
    return _brought(dataset, parts, grouping, "previous run")


def _followed(parts: Parts, groups: Integers) -> Parts:
    """Return the parts, new pictures of a group in the part where others of it are; what measures comes first."""
    followed = parts.copy()
    for name in SPLIT_NAMES:
        followed[(parts == "") & np.isin(groups, groups[parts == name])] = name
    return followed


def _dealt(
    dataset: Dataset, groups: Integers, rows: Integers, number: int, seed: int, aside: Rows | None
) -> list[Splits]:
    """Return one split for each fold that is held out."""
    part = dataset.select(rows)
    fold = folds(part, groups[rows], number, seed)
    if aside is not None:
        fold[np.isin(groups[rows], groups[rows][aside[rows]])] = -1
    measured = set(part.labels.select(np.flatnonzero(fold >= 0)).occurring())
    alone = sorted(str(label) for label in part.labels.occurring() if label not in measured)
    findings = _not_measured(alone, _ALONE)
    nothing = np.array([], dtype=np.int64)
    held = np.unique(fold[fold >= 0])
    if not len(held):
        raise _nothing_to_hold_out(dataset)
    return [Splits(rows[fold != one], rows[fold == one], nothing, findings) for one in held]


def is_given(dataset: Dataset) -> bool:
    """Return whether the data brings its own split."""
    return bool(set(dataset.packed.splits.occurring()) - {None, "train"})


def split(dataset: Dataset, groups: Integers, validation: float, seed: int, *, aside: Rows | None = None) -> Splits:
    """Hold out a share of each class.

    Args:
        dataset: N labelled samples.
        groups: (N,) from `group_ids`.
        validation: The share of each class to hold out, in (0, 1); every class of two or more groups gets at least
            one picture into validation and keeps at least one group to learn from.
        seed: Of the choice.
        aside: (N,) True for rows that may be learned from but measure nothing.

    Raises:
        DataError: Nothing can be held out.
    """
    sizes = Counter(str(label) for label in dataset.labels)
    wanted = {label: max(1, round(size * validation)) for label, size in sizes.items()}
    left = Counter(sizes)  # what would still be learned from
    held: list[int] = []

    def hold(unit: Unit) -> bool:
        """Hold a unit out, if something of each of its classes is left to learn from."""
        if any(left[label] <= count for label, count in unit.labels.items()):
            return False
        if aside is not None and aside[list(unit.rows)].any():
            return False
        held.extend(unit.rows)
        left.subtract(unit.labels)
        for label, count in unit.labels.items():
            wanted[label] = max(0, wanted[label] - count)
        return True

    units = Units(dataset, groups, seed)
    passed = np.ones(len(units), dtype=bool)
    for number, unit in enumerate(units):
        fits = sum(min(count, wanted[label]) for label, count in unit.labels.items())
        passed[number] = 2 * fits <= len(unit.rows) or not hold(unit)
    for label in sorted(sizes):  # a class of large groups only: the smallest of them is measured all the same
        if left[label] == sizes[label] > 1:
            own = sorted((units[n] for n in units.of(label) if passed[n]), key=lambda unit: len(unit.rows))
            next((unit for unit in own if hold(unit)), None)
    if not held:
        raise _nothing_to_hold_out(dataset)
    rows = np.zeros(len(dataset), dtype=bool)
    rows[held] = True
    measured = set(dataset.labels.select(np.array(held)).occurring())
    alone = sorted(label for label in sizes if label not in measured)
    findings = _not_measured(alone, _ALONE)
    return Splits(np.flatnonzero(~rows), np.flatnonzero(rows), np.array([], dtype=np.int64), findings)


def folds(dataset: Dataset, groups: Integers, number: int, seed: int) -> Integers:
    """Return (N,) the fold of each row, 0 … number-1, groups kept together; -1 for classes of a single group.

    Each class is dealt out evenly; a class with fewer groups than folds occurs in as many folds as it has groups.
    """
    fold = np.full(len(dataset), -1, dtype=np.int64)
    units = Units(dataset, groups, seed)
    occurrences = units.occurrences()
    held: dict[str, list[int]] = defaultdict(lambda: [0] * number)
    total = [0] * number
    for unit in units.largest_first():  # they are hardest to place
        if any(occurrences[label] == 1 for label in unit.labels):
            continue
        if len(unit.labels) == 1:
            load = held[next(iter(unit.labels))]
        else:
            load = [sum(count * held[label][f] for label, count in unit.labels.items()) for f in range(number)]
        best = min(zip(load, total, range(number), strict=True))[2]
        fold[list(unit.rows)] = best
        total[best] += len(unit.rows)
        for label, count in unit.labels.items():
            held[label][best] += count
    return fold


def _nothing_to_hold_out(dataset: Dataset) -> DataError:
    return DataError(
        f"No picture can be held out to measure: every class of {dataset.root} has a single picture or group.",
        "Give more pictures, or a split of your own with a split column or train/ and val/ folders.",
    )


def _brought(dataset: Dataset, part: Parts, grouping: Grouping, origin: Literal["data", "previous run"]) -> Splits:
    """Return a split that was brought along without what leaks; a part, or a class of the training part, that would be
    emptied by that stays, and is told.

    Raises:
        DataError: There are no training pictures, or a class is measured but never learned.
    """
    train, validation, test = (np.flatnonzero(part == name) for name in SPLIT_NAMES)
    labels, groups, aside = np.array([str(label) for label in dataset.labels]), grouping.kept, grouping.aside
    _refuse_unlearned(labels, train, np.concatenate([validation, test]))
    before = np.concatenate([train, validation])
    validation, test = (_without(rows, aside[rows], np.zeros(len(rows))) for rows in (validation, test))
    before = before[~aside[before] | np.isin(before, train)]
    validation = _without(validation, np.isin(groups[validation], groups[test]), np.zeros(len(validation)))
    measured = np.concatenate([validation, test])
    train = _without(train, np.isin(groups[train], groups[measured]), labels[train])
    leaks = np.isin(groups[train], groups[measured]), np.isin(groups[validation], groups[test])
    kept = np.concatenate([train[leaks[0]], validation[leaks[1]]])
    gone = np.setdiff1d(before, np.concatenate([train, validation]))
    whose = "given split" if origin == "data" else "split of the previous run"
    findings = (
        *_not_measured(
            sorted(set(labels[train].tolist()) - set(labels[measured].tolist())), "[is|are] in no measured part"
        ),
        *found(
            "split-leak",
            "warning",
            f"{{n}} [picture|pictures] of the {whose} [has|have] a near-duplicate, or one of the group, in a part "
            "that measures, and [is|are] left out of training (or of validation, if the other is in test)",
            [dataset[row].name for row in gone],
            "Keep near-duplicates and groups on one side.",
        ),
        *found(
            "split-leak-kept",
            "warning",
            f"{{n}} [picture|pictures] of the {whose} [has|have] a near-duplicate, or one of the group, in a part "
            "that measures, and [stays|stay] all the same, since a part or a class would be empty without: the "
            "figures flatter",
            [dataset[row].name for row in kept],
            "Give pictures that share nothing with those that measure.",
        ),
    )
    return Splits(train, validation, test, findings, origin)


def _without(rows: Integers, out: Rows, kinds: NDArray[np.generic]) -> Integers:
    """Return the rows that are not `out`; of a kind that would vanish, all."""
    _, kind = np.unique(kinds, return_inverse=True)
    left: Integers = rows[~out | (np.bincount(kind, weights=~out) == 0)[kind]]
    return left


def _refuse_unlearned(labels: NDArray[np.str_], train: Integers, measured: Integers) -> None:
    learned = sorted(set(labels[train].tolist()))
    if not learned:
        raise DataError("The given split has no training pictures.", "Its parts are train, validation and test.")
    if unseen := sorted(set(labels[measured].tolist()) - set(learned)):
        raise DataError(
            numbered("{n} [class is|classes are]", len(unseen))
            + f" measured but never learned: {', '.join(map(repr, unseen[:8]))}; "
            f"learned are {', '.join(map(repr, learned[:12]))}.",
            "Give training pictures of those classes, or leave them out of the other parts.",
        )


def check(dataset: Dataset, config: SplitConfig, watching: str) -> None:
    """Find out, before any work, whether a configuration asks for what the data's own split does not allow.

    Args:
        dataset: With the parts that the data names.
        config: What was asked for.
        watching: The setting by which the validation part stops epochs; empty: it does not.

    Raises:
        ConfigError: It repeats that split, or watches a validation part that there is not.
    """
    if not is_given(dataset):
        return
    if config.repeats > 1 and config.folds in ("auto", 0):
        raise ConfigError(
            f"split.repeats is {config.repeats}, but the data brings a split of its own, which stays the same.",
            "Leave it away, or measure by folds of the training part: --folds 5.",
        )
    if watching and "validation" not in dataset.packed.splits.occurring():
        raise ConfigError(
            f"{watching} is 'validation', but the split that the data brings has no validation part.",
            f"With {watching}=training some of the training part is watched.",
        )


def _not_measured(labels: Sequence[str], why: str) -> tuple[Finding, ...]:
    return tuple(found("unmeasured-classes", "warning", "{n} [class|classes] " + why, labels))
