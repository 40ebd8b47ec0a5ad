"""Dataset + groups → what must stay together, in an order that neither the rows nor their numbers decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from headstart.packed import Values
from headstart.records import Dataset, Integers


class Unit(NamedTuple):
    """Rows that must stay together, and how many of each label they hold."""

    rows: tuple[int, ...]
    labels: dict[str, int]


class Units:
    """The groups in an order that depends on names and seed alone, each made when it is asked for."""

    def __init__(self, dataset: Dataset, groups: Integers, seed: int) -> None:
        """Sort the groups by the first of their names, and shuffle them."""
        rows = np.argsort(groups, kind="stable")  # group by group
        begins = np.flatnonzero(np.concatenate([np.ones(len(rows[:1]), bool), np.diff(groups[rows]) != 0]))
        sizes = np.diff(begins, append=len(rows))
        least = np.minimum.reduceat(_ranks(list(dataset.names))[rows], begins) if len(rows) else rows
        order = np.lexsort((rows[begins], least))
        order = order[np.random.default_rng(seed).permutation(len(order))]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self._rows, self._begins, self._sizes = rows, begins[order], sizes[order]
        self._unit = np.empty_like(rows)  # (N,) of each row
        self._unit[rows] = np.repeat(place, sizes)
        self._labels = Values.of(map(str, dataset.labels.distinct)).select(dataset.labels.codes)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sizes)

    def __getitem__(self, number: int) -> Unit:
        """Make one."""
        rows = self._rows[self._begins[number] : self._begins[number] + self._sizes[number]]
        return Unit(tuple(rows.tolist()), _counted([self._labels.at(row) for row in rows]))

    def __iter__(self) -> Iterator[Unit]:
        """Go over them in their order."""
        return map(self.__getitem__, range(len(self)))

    def largest_first(self) -> Iterator[Unit]:
        """Go over them by their sizes, equal ones in their order."""
        return map(self.__getitem__, np.argsort(-self._sizes, kind="stable").tolist())

    def of(self, label: str) -> list[int]:
        """Return the numbers of the groups that hold a label."""
        own = self._labels.where(one == label for one in self._labels.distinct)
        return [int(number) for number in np.unique(self._unit[own])]

    def occurrences(self) -> dict[str, int]:
        """Return in how many groups each label occurs."""
        labels = self._labels
        pairs = np.unique(self._unit * len(labels.distinct) + labels.codes)
        counts = np.bincount(pairs % max(1, len(labels.distinct)), minlength=len(labels.distinct))
        return dict(zip(labels.distinct, counts.tolist(), strict=True))


def _ranks(names: Sequence[str]) -> Integers:
    """Return (N,) the place of each name in code-point order, the same for equal ones."""
    order = sorted(range(len(names)), key=names.__getitem__)
    another = (names[row] != names[after] for row, after in pairwise(order))
    ranks = np.zeros(len(names), dtype=np.int64)
    ranks[order[1:]] = np.cumsum(np.fromiter(another, dtype=bool))
    return ranks


def _counted(labels: list[str]) -> dict[str, int]:
    """Return how often each label occurs; a `Counter` for each single picture would take long."""
    return {labels[0]: 1} if len(labels) == 1 else dict(Counter(labels))
