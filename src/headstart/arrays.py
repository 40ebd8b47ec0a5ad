"""Arrays too large for memory ⇄ files that nobody else sees; and rows of either kind, as float32, a block at a time.

Up to `RESIDENT` bytes an array lies in memory, of answers up to `ANSWERS`. A larger one is mapped from a file that has
no name any more, so that it goes with the process, and the system keeps in memory what there is room for.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headstart.records import Floats, Integers
from headstart.storage import storage_errors

RESIDENT = 1 << 29  # bytes of an array that is kept in memory
ANSWERS = 1 << 25  # bytes of one that grows with pictures and with classes, and is read a few times
BLOCK = 4096  # rows that are worked on at once
NEAR = 1 << 16  # rows of a file that lie so near each other that reading them in any order costs nothing
HALF = 60_000.0  # a number that half precision still holds

_HINT = "Make room, or name another folder with {}."


class Rows(Protocol):
    """N rows that can be had in parts: an array, or what is computed of one when it is asked for."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, part: Any, /) -> Any:
        """Return some rows as an array."""


def zeros(shape: tuple[int, ...], folder: Path | None, *, half: bool = False) -> Floats:
    """Return an array of zeros, float32, in memory or mapped from a file.

    Args:
        shape: Of the array.
        folder: Where a file may lie; None: where temporary files do.
        half: Whether a mapped one may be float16; float32 otherwise.

    Raises:
        StorageError: There is no room for the file.
    """
    if 4 * int(np.prod(shape, dtype=np.int64)) <= RESIDENT:
        return np.zeros(shape, dtype=np.float32)
    return _mapped(shape, np.dtype(np.float16 if half else np.float32), folder)


def answers(shape: tuple[int, ...], kind: DTypeLike, folder: Path | None = None) -> NDArray[Any]:
    """Return an array of zeros of any kind, for what is said of pictures; `folder` and errors as of `zeros`."""
    asked = np.dtype(kind)
    if asked.itemsize * int(np.prod(shape, dtype=np.int64)) <= ANSWERS:
        return np.zeros(shape, dtype=asked)
    return _mapped(shape, asked, folder)


def together(values: Sequence[NDArray[Any]], folder: Path | None = None) -> NDArray[Any]:
    """Return the rows of several arrays one after the other, as `answers` keeps them."""
    whole, begin = answers((sum(map(len, values)), *values[0].shape[1:]), values[0].dtype, folder), 0
    for one in values:
        whole[begin : begin + len(one)] = one
        begin += len(one)
        release(whole)
    return whole


def single(values: NDArray[np.floating], folder: Path | None) -> Floats:
    """Return the same numbers as float32; see `zeros`."""
    wide = zeros(values.shape, folder)
    for part in parts(len(values)):
        wide[part] = values[part]
        release(wide)
    return wide


def holds(values: NDArray[np.floating], numbers: Floats) -> bool:
    """Return whether an array can hold these numbers."""
    return values.dtype != np.float16 or bool(np.abs(numbers).max(initial=0) <= HALF)


def parts(count: int, size: int | None = None) -> Iterator[slice]:
    """Yield slices of so many rows at most; None: `BLOCK`."""
    size = BLOCK if size is None else size
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def spaced(count: int, most: int) -> Integers:
    """Return which of so many rows to take, evenly spaced where they are more than `most`, which is at least one."""
    if count <= most:
        return np.arange(count)
    chosen: Integers = np.linspace(0, count - 1, max(1, most)).astype(np.int64)
    return chosen


def places(members: Integers) -> Integers:
    """Return (N,) where each row stands among those of its own number, such as its class, counted from 0."""
    order = np.argsort(members, kind="stable")
    place = np.empty(len(members), dtype=np.int64)
    place[order] = np.arange(len(members)) - np.searchsorted(members[order], members[order])
    return place


def take(values: Rows, rows: Integers | slice | tuple[Integers, Integers]) -> Floats:
    """Return a copy of some rows, or of one view of each, as float32; what was read of a file to get them does not stay
    with the process.
    """
    found = values[rows]
    taken: Floats = _widened(found) if found.dtype == np.float16 else np.array(found, dtype=np.float32, subok=False)
    release(values)
    return taken


def _widened(values: NDArray[np.float16]) -> Floats:
    """Return half precision as single precision, six times as fast as NumPy, which asks each number what kind it is.

    Exponent and fraction are moved to where single precision has them; the exponent is then too small by 112.
    """
    told = np.ascontiguousarray(values).view(np.int16)
    if told.size and (told & 0x7FFF).max() >= 0x7C00:  # not finite
        return np.array(values, dtype=np.float32, subok=False)
    wide = told.astype(np.int32)
    wide <<= 13
    wide &= ~0x70000000  # which the sign was carried into
    numbers: Floats = wide.view(np.float32)
    numbers *= np.float32(2.0**112)
    return numbers


def blocks(values: Rows, rows: Integers | None = None) -> Iterator[tuple[slice, Floats]]:
    """Yield copies of rows (all, where none are named), `BLOCK` at a time, with their places among those asked for."""
    for part in parts(len(values) if rows is None else len(rows)):
        yield part, take(values, part if rows is None else rows[part])


def select(values: Floats, rows: Integers, folder: Path | None) -> Floats:
    """Return some rows, ascending, as an array of the same kind; of all rows, the array itself."""
    if len(rows) == len(values):
        return values
    if not is_mapped(values):
        return values[rows]
    chosen = zeros((len(rows), *values.shape[1:]), folder, half=values.dtype == np.float16)
    for part, block in blocks(values, rows):
        chosen[part] = block
        release(chosen)
    return chosen


def mean(values: Rows, rows: Integers | None = None) -> Floats:
    """Return the (…) mean over some rows of (N, …), at least one, as float32."""
    sums = [block.sum(axis=0, dtype=np.float64) for _, block in blocks(values, rows)]
    result: Floats = (np.sum(sums, axis=0) / (len(values) if rows is None else len(rows))).astype(np.float32)
    return result


def is_mapped(values: NDArray[np.generic]) -> bool:
    """Return whether an array, or what it is a view of, lies in a file."""
    return _file_of(values) is not None


def release(values: object) -> None:
    """Let go of the memory that parts of a mapped array take; what was written stays written."""
    file = _file_of(values)
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


def _file_of(values: object) -> mmap.mmap | None:
    while isinstance(values, np.ndarray | memoryview):
        values = values.obj if isinstance(values, memoryview) else values.base
    return values if isinstance(values, mmap.mmap) else None


def _mapped(shape: tuple[int, ...], kind: np.dtype[Any], folder: Path | None) -> NDArray[Any]:
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    place, hint = folder or _temporary(), _HINT.format("TMPDIR" if folder is None else "HEADSTART_CACHE")
    with storage_errors(place, hint), tempfile.TemporaryFile(dir=place) as file:
        reserve(file.fileno(), size)
        return np.memmap(file, kind, "r+", shape=shape)


def _temporary() -> Path:
    """Return where temporary files lie."""
    with storage_errors(Path("A temporary file"), _HINT.format("TMPDIR")):
        return Path(tempfile.gettempdir())


def reserve(file: int, size: int) -> None:
    """Give a file its size now: a full disk would end the process when it is written to through a mapping."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
