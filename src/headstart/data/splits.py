"""Dataset → which pictures are learned from and which measure: stratified, seeded, and never the same thing on both
sides. The result depends on names, labels, groups and the seed, not on the order of the rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from headstart.config import SplitConfig
from headstart.errors import DataError
from headstart.records import Dataset, Finding, Integers, Splits, found

Rows = NDArray[np.bool_]
_ALONE = "have a single picture (or group): they are learned and cannot be measured"


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that must stay together, and how many of each label they hold."""

    rows: tuple[int, ...]
    labels: dict[str, int]


def group_ids(dataset: Dataset, digests: Sequence[str]) -> Integers:
    """Return (N,) integers, equal for rows that share their bytes or their group, directly or through others."""
    first: dict[tuple[str, str], int] = {}
    pairs: list[tuple[int, int]] = []
    for row, (sample, digest) in enumerate(zip(dataset, digests, strict=True)):
        for key in (("bytes", digest), ("group", sample.group)):
            if key[1]:
                pairs.append((row, first.setdefault((key[0], str(key[1])), row)))
    return joined(np.arange(len(dataset)), np.array(pairs, dtype=np.int64).reshape(-1, 2))


def joined(groups: Integers, pairs: Integers) -> Integers:
    """Return (N,) integers, equal for rows of one group and for rows that (P, 2) pairs join, also through others.

    A group is called by its first row.
    """
    size = len(groups)
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    edges = np.concatenate([np.stack([np.arange(size), first[member]], axis=1), pairs])
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, member = connected_components(graph, directed=False)
    called = np.unique(member, return_index=True)[1].astype(np.int64)
    result: Integers = called[member]
    return result


def united(one: Integers, other: Integers) -> Integers:
    """Return (N,) integers, equal for rows that either grouping joins; `other` calls its groups by their first rows."""
    return joined(one, np.stack([np.arange(len(one)), other], axis=1))


@dataclass(frozen=True, slots=True)
class Partition:
    """Who measures when, and who the saved head learns from.

    Attributes:
        rounds: Each is learned and measured on its own; together they give the figures.
        final: What is learned last; the only round again, unless there are several.
    """

    rounds: tuple[Splits, ...]
    final: Splits


def partition(
    dataset: Dataset,
    groups: Integers,
    config: SplitConfig,
    seed: int,
    *,
    kept: Integers | None = None,
    aside: Rows | None = None,
    even: bool = False,
) -> Partition:
    """Return one split, or the rounds of a cross-validation or of a repeated split.

    Args:
        dataset: N labelled samples.
        groups: (N,) rows of one group stay on one side.
        config: Share, folds and repeats.
        seed: Of the choice; each repeat has the next one.
        kept: (N,) groups that a split which the data brings must keep; None: `groups`.
        aside: (N,) True for rows that may be learned from but measure nothing.
        even: Measure every picture once, in as many folds as the share asks for: where groups are large, those that fit
            a class's share are the odd ones out, and a few groups alone would make a figure of chance.

    Raises:
        DataError: Nothing can be held out, or the given split leaves nothing to learn from.
    """
    given = is_given(dataset)
    heeded = groups if kept is None or not given else kept
    first = split(dataset, heeded, config.validation, seed, aside=aside)
    rows = np.union1d(first.train, first.validation)
    number = config.folds or (max(2, round(1 / config.validation)) if even and not given else 0)
    rounds: list[Splits] = []
    for repeat in range(config.repeats):
        if number:
            rounds += _dealt(dataset, groups, rows, number, seed + repeat, aside)
        elif repeat:
            rounds.append(split(dataset, groups, config.validation, seed + repeat, aside=aside))
        else:
            rounds.append(first)
    if len(rounds) == 1:
        return Partition((rounds[0],), rounds[0])
    nothing = np.array([], dtype=np.int64)
    findings = (*(first.findings if given else ()), *rounds[0].findings)
    return Partition(tuple(rounds), replace(first, train=rows, validation=nothing, findings=findings))


def _dealt(
    dataset: Dataset, groups: Integers, rows: Integers, number: int, seed: int, aside: Rows | None
) -> list[Splits]:
    """Return one split for each fold that is held out."""
    part = dataset.select(rows)
    fold = folds(part, groups[rows], number, seed)
    if aside is not None:
        fold[np.isin(groups[rows], groups[rows][aside[rows]])] = -1
    measured = {part[row].label for row in np.flatnonzero(fold >= 0)}
    alone = sorted({str(label) for label in part.labels if label not in measured})
    findings = _not_measured(alone, _ALONE)
    nothing = np.array([], dtype=np.int64)
    held = np.unique(fold[fold >= 0])
    if not len(held):
        raise _nothing_to_hold_out(dataset)
    return [Splits(rows[fold != one], rows[fold == one], nothing, findings) for one in held]


def is_given(dataset: Dataset) -> bool:
    """Return whether the data brings its own split."""
    return bool({sample.split for sample in dataset} - {None, "train"})


def split(dataset: Dataset, groups: Integers, validation: float, seed: int, *, aside: Rows | None = None) -> Splits:
    """Hold out a share of each class, or honour the split that the data brings.

    Args:
        dataset: N labelled samples.
        groups: (N,) from `group_ids`.
        validation: The share of each class to hold out, in (0, 1); every class of two or more groups gets at least
            one picture into validation and keeps at least one group to learn from.
        seed: Of the choice.
        aside: (N,) True for rows that may be learned from but measure nothing.

    Raises:
        DataError: Nothing can be held out, or the given split leaves nothing to learn from.
    """
    if is_given(dataset):
        return _given(dataset, groups, aside)
    sizes = Counter(str(label) for label in dataset.labels)
    wanted = {label: max(1, round(size * validation)) for label, size in sizes.items()}
    left = Counter(sizes)  # what would still be learned from
    held: list[int] = []

    def hold(unit: _Unit) -> bool:
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

    units = _units(dataset, groups, seed)
    passed: list[_Unit] = []
    for unit in units:
        fits = sum(min(count, wanted[label]) for label, count in unit.labels.items())
        if 2 * fits <= len(unit.rows) or not hold(unit):
            passed.append(unit)
    for label in sorted(sizes):  # a class of large groups only: the smallest of them is measured all the same
        if left[label] == sizes[label]:
            own = sorted((unit for unit in passed if label in unit.labels), key=lambda unit: len(unit.rows))
            next((unit for unit in own if hold(unit)), None)
    if not held:
        raise _nothing_to_hold_out(dataset)
    rows = np.zeros(len(dataset), dtype=bool)
    rows[held] = True
    measured = {dataset[row].label for row in held}
    alone = sorted(label for label in sizes if label not in measured)
    findings = _not_measured(alone, _ALONE)
    return Splits(np.flatnonzero(~rows), np.flatnonzero(rows), np.array([], dtype=np.int64), findings)


def folds(dataset: Dataset, groups: Integers, number: int, seed: int) -> Integers:
    """Return (N,) the fold of each row, 0 … number-1, groups kept together; -1 for classes of a single group.

    Each class is dealt out evenly; a class with fewer groups than folds occurs in as many folds as it has groups.
    """
    fold = np.full(len(dataset), -1, dtype=np.int64)
    units = _units(dataset, groups, seed)
    occurrences = Counter(label for unit in units for label in unit.labels)
    held: dict[str, list[int]] = defaultdict(lambda: [0] * number)
    total = [0] * number
    for unit in sorted(
        units, key=lambda unit: -len(unit.rows)
    ):  # stable: large groups first, they are hardest to place
        if any(occurrences[label] == 1 for label in unit.labels):
            continue
        cost = [(sum(count * held[label][f] for label, count in unit.labels.items()), total[f]) for f in range(number)]
        best = min(range(number), key=cost.__getitem__)
        fold[list(unit.rows)] = best
        total[best] += len(unit.rows)
        for label, count in unit.labels.items():
            held[label][best] += count
    return fold


def _units(dataset: Dataset, groups: Integers, seed: int) -> list[_Unit]:
    """Return the groups in an order that depends on names and seed alone."""
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    named = sorted((min(dataset[row].name for row in rows), rows) for rows in members.values())
    order = np.random.default_rng(seed).permutation(len(named))
    labels = [str(label) for label in dataset.labels]
    return [_Unit(tuple(rows), _counted([labels[row] for row in rows])) for _, rows in (named[i] for i in order)]


def _counted(labels: list[str]) -> dict[str, int]:
    """Return how often each label occurs; a `Counter` for each single picture would take long."""
    return {labels[0]: 1} if len(labels) == 1 else dict(Counter(labels))


def _nothing_to_hold_out(dataset: Dataset) -> DataError:
    return DataError(
        f"No picture can be held out to measure: every class of {dataset.root} has a single picture or group.",
        "Give more pictures, or a split of your own with a split column or train/ and val/ folders.",
    )


def _given(dataset: Dataset, groups: Integers, aside: Rows | None) -> Splits:
    part = np.array([sample.split or "train" for sample in dataset])
    if aside is not None:
        part[aside & (part != "train")] = "nothing"
    train, validation, test = (np.flatnonzero(part == name) for name in ("train", "validation", "test"))
    measured_groups = groups[np.concatenate([validation, test])]
    leaking = train[np.isin(groups[train], measured_groups)]
    train = np.setdiff1d(train, leaking)
    spilled = validation[np.isin(groups[validation], groups[test])]
    validation = np.setdiff1d(validation, spilled)
    if not len(train):
        raise DataError("The given split has no training pictures.", "Its parts are train, validation and test.")
    learned = {dataset[row].label for row in train}
    unseen = sorted({str(dataset[row].label) for row in (*validation, *test)} - {str(label) for label in learned})
    if unseen:
        left_out = (
            f" {len(leaking)} picture(s) are not learned from, since a copy of each is measured."
            if len(leaking)
            else ""
        )
        raise DataError(
            f"{len(unseen)} class(es) are measured but never learned: {', '.join(map(repr, unseen[:8]))}; "
            f"learned are {', '.join(map(repr, sorted(map(str, learned))[:12]))}.{left_out}",
            "Give training pictures of those classes, or leave them out of the other parts.",
        )
    measured = {dataset[row].label for row in (*validation, *test)}
    return Splits(
        train,
        validation,
        test,
        (
            *_not_measured(sorted(str(label) for label in learned - measured), "are in no measured part"),
            *found(
                "split-leak",
                "warning",
                "{n} picture(s) of the given split have a copy, or one of their group, in a part that measures, and "
                "are left out of training (or of validation, if the other is in test)",
                [dataset[row].name for row in (*leaking, *spilled)],
                "Keep copies and groups on one side.",
            ),
        ),
        given=True,
    )


def _not_measured(labels: Sequence[str], why: str) -> tuple[Finding, ...]:
    return tuple(found("unmeasured-classes", "warning", "{n} class(es) " + why, labels))
