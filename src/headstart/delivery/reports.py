"""Predictions → what there is to tell of them besides their rows, in numbers and first examples, block by block."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.inspection import files
from headstart.predictions import Predictions
from headstart.records import Finding

FAILURES = 20  # pictures that could not be used are told with their reasons
NAMED = 3  # pictures are named of each other remark
UNREAD = "cannot be read: "  # stands in the reason where a disk, a store or a connection failed, see `images.fetch`


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to say of a block besides its rows.

    Attributes:
        pictures: How many there are.
        failed: How many could not be used.
        failures: The first of them, with the reason.
        strange: Rows of pictures that look like none of the classes.
        remarks: Remark → how many pictures were remarked on, and the first of them.
        unread: How many of those that failed could not be read: the next time they perhaps can.
    """

    pictures: int
    failed: int
    failures: Sequence[tuple[str, str]]
    strange: Sequence[int]
    remarks: Mapping[str, tuple[int, Sequence[str]]]
    unread: int = 0


def told(said: Predictions) -> Told:
    """Return what there is to say of some predictions."""
    failures = [(said.names[row], reason) for row, reason in list(said.errors.items())[:FAILURES]]
    strange = [] if said.known is None else np.flatnonzero(~said.known).tolist()
    return Told(
        len(said),
        len(said.errors),
        failures,
        [row for row in strange if row not in said.errors],
        {one.code: (len(one.names), sorted(one.names)[:NAMED]) for one in said.findings},
        sum(UNREAD in reason for reason in said.errors.values()),
    )


class Report:
    """What there is to say of all pictures: numbers, first examples, and a flag of each."""

    def __init__(self, pictures: int) -> None:
        """Begin with nothing.

        Args:
            pictures: How many there will be.
        """
        self.pictures, self.failed = 0, 0
        self.failures: list[tuple[str, str]] = []
        self.strange = np.zeros(pictures, dtype=np.bool_)
        self._remarks: dict[str, tuple[int, list[str]]] = {}

    def add(self, block: Told) -> None:
        """Add the next block."""
        self.strange[self.pictures + np.array(block.strange, dtype=np.int64)] = True
        self.pictures += block.pictures
        self.failed += block.failed
        self.failures += [(name, reason) for name, reason in block.failures[: FAILURES - len(self.failures)]]
        for code, (number, names) in block.remarks.items():
            known, first = self._remarks.get(code, (0, []))
            self._remarks[code] = known + number, heapq.nsmallest(NAMED, {*first, *names})

    @property
    def findings(self) -> list[Finding]:
        """What was remarked, with the first names of each."""
        unnamed = {code: number - len(names) for code, (number, names) in self._remarks.items()}
        return files.remarks({code: names for code, (_, names) in self._remarks.items()}, unnamed)
