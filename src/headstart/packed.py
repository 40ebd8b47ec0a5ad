"""A text, a value or a digest of each of very many pictures → columns that take a few bytes of each.

A column is the sequence that a tuple of the same values would be: what it holds is made when it is asked for, so that
of a million pictures none has an object of its own. Nothing here knows what a picture is.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Rows = NDArray[np.integer[Any]]

DIGEST = 32  # bytes of a SHA-256
_CODING = "utf-8", "surrogatepass"  # which holds any text, and orders bytes as code points


class Column(Sequence[T]):
    """N values; equal to every sequence of the same ones."""

    __slots__ = ()

    @classmethod
    @abstractmethod
    def of(cls, values: Iterable[T], /) -> Self:
        """Return the column of these values, looking at one after the other."""

    @abstractmethod
    def select(self, rows: Rows) -> Self:
        """Return the column of these rows, in this order."""

    @abstractmethod
    def at(self, row: int) -> T:
        """Return the value of a row, 0 … N-1."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        """Return one value, or the column of some."""
        if isinstance(place, slice):
            return self.select(np.arange(len(self))[place])
        return self.at(range(len(self))[place])

    def __iter__(self) -> Iterator[T]:
        """Go over the values."""
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare as a tuple would, with any sequence."""
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        """Return the hash of the tuple."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """Return what the tuple would show."""
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Send these values elsewhere, and nothing that is shared with others."""
        return type(self).of, (tuple(self),)


class Texts(Column[str]):
    """Texts, one behind the other in a buffer that selections share; 8 bytes each besides."""

    __slots__ = ("_begins", "_buffer", "_ends")

    def __init__(self, buffer: bytearray, begins: Rows, ends: Rows) -> None:
        """Take the bytes of all texts, and (N,) where each begins and ends."""
        self._buffer, self._begins, self._ends = buffer, begins, ends

    @classmethod
    def of(cls, values: Iterable[str], /) -> Self:
        """Return the column of these texts, which may hold surrogates, as names of files do."""
        buffer, bounds = bytearray(), array("q", [0])
        for text in values:
            buffer += text.encode(*_CODING)
            bounds.append(len(buffer))
        places = np.frombuffer(bounds, dtype=np.int64)
        return cls(buffer, places[:-1], places[1:])

    def __len__(self) -> int:
        """Return N."""
        return len(self._ends)

    def select(self, rows: Rows) -> Self:
        """Return the texts of these rows."""
        return type(self)(self._buffer, self._begins[rows], self._ends[rows])

    def at(self, row: int) -> str:
        """Return the text of a row."""
        return self._buffer[self._begins[row] : self._ends[row]].decode(*_CODING)


class Values(Column[T]):
    """Values of which there are few, or which many rows share.

    Attributes:
        distinct: Each value once; a selection may hold fewer.
        codes: (N,) which of them each row has, in as few bytes as that takes.
    """

    __slots__ = ("codes", "distinct")

    def __init__(self, distinct: Sequence[T], codes: Rows) -> None:
        """Take the distinct values, and (N,) the place of each row's among them."""
        self.distinct = distinct
        self.codes = codes.astype(np.min_scalar_type(max(len(distinct) - 1, 0)), copy=False)

    @classmethod
    def of(cls, values: Iterable[T], /) -> Self:
        """Return the column of these values, numbered as they come."""
        coder = Coder[T]()
        for value in values:
            coder.append(value)
        made = coder.values()
        return cls(made.distinct, made.codes)

    def __len__(self) -> int:
        """Return N."""
        return len(self.codes)

    def select(self, rows: Rows) -> Self:
        """Return the values of these rows."""
        return type(self)(self.distinct, self.codes[rows])

    def occurring(self) -> list[T]:
        """Return each value that a row has, once."""
        return [self.distinct[code] for code in np.unique(self.codes).tolist()]

    def where(self, wanted: Iterable[bool]) -> NDArray[np.bool_]:
        """Return (N,) what was said of each row's value, of `distinct` in their order."""
        told: NDArray[np.bool_] = np.fromiter(wanted, dtype=bool, count=len(self.distinct))[self.codes]
        return told

    def at(self, row: int) -> T:
        """Return the value of a row."""
        return self.distinct[int(self.codes[row])]


class Coder(Generic[T]):
    """Numbers values as they come."""

    def __init__(self) -> None:
        """Begin without any."""
        self._known: dict[T, int] = {}
        self._codes = array("i")

    def append(self, value: T) -> None:
        """Take the value of the next row."""
        self._codes.append(self._known.setdefault(value, len(self._known)))

    def values(self) -> Values[T]:
        """Return the column; the distinct values are in the order of their first rows."""
        return Values(tuple(self._known), np.frombuffer(self._codes, dtype=np.intc))


class Digests(Column[str]):
    """SHA-256 of files as 64 hexadecimal digits, "" where one is not known; 33 bytes each."""

    __slots__ = ("_rows",)

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        """Take (N, 33): the bytes of each and a 1; zeros where it is not known."""
        self._rows = rows

    @classmethod
    def of(cls, values: Iterable[str], /) -> Self:
        """Return a column of these digests; of a column, a copy."""
        if isinstance(values, Digests):
            return cls(values._rows.copy())
        told = bytearray()
        for digest in values:
            told += bytes.fromhex(digest) + b"\1" if digest else bytes(DIGEST + 1)
        return cls(np.frombuffer(told, dtype=np.uint8).reshape(-1, DIGEST + 1))

    @classmethod
    def of_bytes(cls, keys: NDArray[np.uint8]) -> Self:
        """Return the column of (N, 32) bytes."""
        return cls(np.insert(keys, DIGEST, 1, axis=1))

    @classmethod
    def unknown(cls, count: int) -> Self:
        """Return so many that are not known yet."""
        return cls(np.zeros((count, DIGEST + 1), dtype=np.uint8))

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether each is known."""
        return self._rows[:, DIGEST] > 0

    def __len__(self) -> int:
        """Return N."""
        return len(self._rows)

    def __setitem__(self, row: int, digest: str) -> None:
        """Know another digest of a row, or none."""
        self.put(slice(row, row + 1), Digests.of([digest]))

    def put(self, rows: Rows | slice, digests: Digests) -> None:
        """Know other digests of some rows."""
        self._rows[rows] = digests._rows

    def select(self, rows: Rows) -> Self:
        """Return the digests of these rows."""
        return type(self)(self._rows[rows])

    @property
    def keys(self) -> NDArray[np.bytes_]:
        """(N,) the same as bytes that can be sorted; each ends in a 1 or is empty, so that no zero is cut off."""
        return np.ascontiguousarray(self._rows).view(f"S{DIGEST + 1}")[:, 0]

    def values(self) -> Values[str]:
        """Return each digest once, and which of them each row has."""
        distinct, codes = np.unique(self.keys, return_inverse=True)
        return Values(Digests(distinct.view(np.uint8).reshape(-1, DIGEST + 1)), codes)

    def at(self, row: int) -> str:
        """Return the digest of a row."""
        told = self._rows[row]
        return told[:DIGEST].tobytes().hex() if told[DIGEST] else ""


def values_of(column: Iterable[T]) -> Values[T]:
    """Return each value of a column once, and which of them each row has."""
    if isinstance(column, Digests):
        return column.values()  # type: ignore[return-value]  # whose values are texts
    return column if isinstance(column, Values) else Values.of(column)


class Finder:
    """Finds the rows of digests."""

    def __init__(self, digests: Digests, rows: NDArray[np.int64]) -> None:
        """Look among these rows of a column, ascending."""
        self.wanted = digests.select(rows)
        keys = self.wanted.keys
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order]

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of all of these digests, one after the other, and of each row the number of its digest."""
        asked = Digests.of_bytes(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, DIGEST)).keys
        begins, ends = (np.searchsorted(self._keys, asked, side) for side in ("left", "right"))
        counts = ends - begins
        numbers = np.repeat(np.arange(len(keys)), counts)
        places = np.arange(len(numbers)) + np.repeat(ends - np.cumsum(counts), counts)
        return self._rows[places], numbers
