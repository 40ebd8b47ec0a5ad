"""Rows that are computed where they are asked for: of a million no more than a block is held.

Features and thumbnails may lie in files larger than the memory. Whatever looks at all of them takes them as `Rows`: an
array is one, and so is what is made of an array, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.arrays import Rows
from headstart.data import limits
from headstart.records import Floats, Integers

FEW = 25_000  # rows of a block; so many are held at once and compared with each other, more by means of an index


@dataclass(frozen=True, slots=True)
class Computed:
    """Rows that are computed anew each time.

    Attributes:
        size: N.
        of: Returns the rows of a part.
    """

    size: int
    of: Callable[[slice | Integers], Floats]

    def __len__(self) -> int:
        """Return N."""
        return self.size

    def __getitem__(self, part: slice | Integers, /) -> Floats:
        """Return some rows."""
        return self.of(part)


def held(rows: Rows) -> Rows:
    """Return rows as an array, so that they are computed once, if they are few."""
    return rows[:] if len(rows) <= FEW else rows


def some(rows: Rows, chosen: Integers) -> Computed:
    """Return the rows that were chosen (M,)."""
    return Computed(len(chosen), lambda part: rows[chosen[part]])


def each(function: Callable[[Any], NDArray[Any]], rows: Rows, step: int = 0) -> NDArray[Any]:
    """Return what a function says of every row, asked in blocks of `step` rows; 0: of `FEW`."""
    step = step or FEW
    return np.concatenate([function(rows[begin : begin + step]) for begin in range(0, max(1, len(rows)), step)])


def by_all_cores(function: Callable[[Any], NDArray[Any]], rows: Rows, step: int, kind: type) -> NDArray[Any]:
    """Return what a function says of every row, as numbers of a kind, asked in blocks of `step` rows by all cores."""
    parts = (rows[begin : begin + step] for begin in range(0, len(rows), step))
    with ThreadPoolExecutor(limits.available_cores()) as pool:
        return np.concatenate([np.zeros(0, dtype=kind), *pool.map(function, parts)])
