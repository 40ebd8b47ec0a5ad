"""One picture and where it lies; and very many of them, of which each is made when it is asked for.

What is known of a million pictures lies in columns: their names in one buffer, labels, groups and parts as numbers of
the few there are, and of each place only how it is made of the name.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.packed import Coder, Column, Rows, Texts, Values

C = TypeVar("C", bound=Column[Any])


@dataclass(frozen=True, slots=True)
class Locator:
    """Where something lies that is no file of its own on this machine; a million of them fit into memory.

    Attributes:
        base: What goes before, the same text for many: of an object of a store the URI of its folder, ending in `/`;
            else the file that it lies in, by its path or URI.
        inner: The rest: of an object its key below that folder, of a member of a tar its name, of a cell its column.
        kind: An "object" of a store, a "member" of a tar, or a "cell" of a table.
        number: Of a member its first byte in the tar; of a cell its row, from 0.
        size: In bytes, -1 where that is not known.
        mark: A number that is another one once the file has another content; 0 where nothing tells.
        query: What a URL asks its server for besides, perhaps signed; it is never shown and never kept.
    """

    base: str
    inner: str = ""
    kind: Literal["object", "member", "cell"] = "object"
    number: int = 0
    size: int = -1
    mark: int = 0
    query: str = field(default="", repr=False, compare=False)

    @property
    def file(self) -> str:
        """The path or URI of the file."""
        return self.base + self.inner if self.kind == "object" else self.base

    @property
    def name(self) -> str:
        """The last part, e.g. `1.jpg`."""
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """How the name of a file ends, e.g. `.jpg`; a cell has no such name."""
        return "" if self.kind == "cell" else PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        """Return it for a person."""
        if self.kind == "object":
            return self.file
        return f"{self.base}/{self.inner}" if self.kind == "member" else f"{self.base}, row {self.number}"

    def __truediv__(self, name: str) -> Locator:
        """Return what lies below this folder of a store under a relative name."""
        return Locator(f"{self.file.rstrip('/')}/", name, query=self.query)

    def to_text(self) -> str:
        """Return it as `from_text` reads it, without what nobody may see."""
        if self.kind == "object":
            return self.file
        return f"{self.base}#{self.kind}={self.number},{self.size},{self.inner}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return what `to_text` told."""
        told = re.fullmatch(r"(.*)#(member|cell)=(\d{1,18}),(-?\d{1,18}),(.*)", text, re.S)
        if told is None:
            return cls(text)
        base, kind, number, size, inner = told.groups()
        return cls(base, inner, "member" if kind == "member" else "cell", int(number), int(size))


Place = Path | Locator


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known of it.

    Attributes:
        path: Where it lies; a file was verified to be under the dataset's root.
        name: What the user calls it: its id in the table, or its path relative to the root.
        label: Its class, always a string; None where it is not known.
        group: Whatever must not straddle a split (a patient, a camera); None without a group column.
        split: "train", "validation" or "test" where the data brings its own split, else None.
    """

    path: Place
    name: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


class _Way(NamedTuple):
    """How a place is made of a picture's name, the same for many: `before`, the name from its letter `cut` on, `after`.

    That is the whole text of a path or an object, of which `base` letters are a locator's base, all where it is
    negative; else it is what lies inside of `file`.
    """

    kind: Literal["path", "object", "member", "cell"]
    before: str
    cut: int
    after: str
    base: int = -1
    file: str = ""
    query: str = ""

    @classmethod
    def to(cls, place: Place, name: str) -> _Way:
        """Return the way from a name to a place."""
        if isinstance(place, Path):
            return cls("path", *_around(place.as_posix(), name))
        if place.kind == "object":
            base = len(place.base) if place.inner else -1
            return cls("object", *_around(place.file, name), base, query=place.query)
        return cls(place.kind, *_around(place.inner, name), file=place.base, query=place.query)

    def place(self, name: str, number: int, size: int, mark: int) -> Place:
        """Return the place, which is one of its kind by these numbers of a locator."""
        text = f"{self.before}{name[self.cut :]}{self.after}"
        if self.kind == "path":
            return Path(text)
        base, inner = self.file, text
        if self.kind == "object":
            base, inner = (text, "") if self.base < 0 else (text[: self.base], text[self.base :])
        return Locator(base, inner, self.kind, number, size, mark, self.query)


def _around(text: str, name: str) -> tuple[str, int, str]:
    """Return what stands before a name or the end of it in a text, where that end begins, and what stands behind it."""
    at = text.rfind(name)
    if at >= 0:
        return text[:at], 0, text[at + len(name) :]
    same = len(os.path.commonprefix((name[::-1], text[::-1])))
    return text[: len(text) - same], len(name) - same, ""


class _Columns(NamedTuple):
    """What is known of N pictures; `numbers` is (M, 3), the number, size and mark of the first M, of paths zeros."""

    names: Texts
    ways: Values[_Way]
    labels: Values[str | None]
    groups: Values[str | None]
    splits: Values[str | None]
    numbers: NDArray[np.int64]


class Samples(Column[Sample]):
    """Pictures in columns that selections share: 20 bytes each and those of its name, 24 more of one with a locator."""

    __slots__ = ("_columns", "_rows")

    def __init__(self, columns: _Columns, rows: Rows | None = None) -> None:
        """Take what is known of pictures, and (N,) which of them these are; None: all."""
        self._columns, self._rows = columns, rows

    @classmethod
    def of(cls, values: Iterable[Sample], /) -> Self:
        """Return these pictures; of what is made on the way, no two need be in memory at once."""
        if isinstance(values, cls):
            return values
        ways, numbers = Coder[_Way](), array("q")
        labels, groups, splits = Coder[str | None](), Coder[str | None](), Coder[str | None]()

        def names() -> Iterator[str]:
            for row, one in enumerate(values):
                ways.append(_Way.to(one.path, one.name))
                labels.append(one.label)
                groups.append(one.group)
                splits.append(one.split)
                if isinstance(one.path, Locator):
                    numbers.frombytes(bytes(numbers.itemsize * (3 * row - len(numbers))))  # of the paths before it
                    numbers.extend((one.path.number, one.path.size, one.path.mark))
                yield one.name

        texts = Texts.of(names())
        others = ways.values(), labels.values(), groups.values(), splits.values()
        return cls(_Columns(texts, *others, np.frombuffer(numbers, dtype=np.int64).reshape(-1, 3)))

    @property
    def names(self) -> Texts:
        """What the user calls each."""
        return self._chosen(self._columns.names)

    @property
    def labels(self) -> Values[str | None]:
        """The class of each."""
        return self._chosen(self._columns.labels)

    @property
    def groups(self) -> Values[str | None]:
        """What must not straddle a split."""
        return self._chosen(self._columns.groups)

    @property
    def splits(self) -> Values[str | None]:
        """The part that the data puts each into."""
        return self._chosen(self._columns.splits)

    @property
    def far(self) -> NDArray[np.bool_]:
        """(N,) whether each lies at a locator, and is no file of its own on this machine."""
        ways = self._chosen(self._columns.ways)
        return ways.where(way.kind != "path" for way in ways.distinct)

    def __len__(self) -> int:
        """Return N."""
        return len(self._columns.names if self._rows is None else self._rows)

    def select(self, rows: Rows) -> Self:
        """Return the pictures of these rows, in this order; of all rows as they are, these."""
        count = len(self)
        if len(rows) == count and np.array_equal(rows, np.arange(count)):
            return self
        if len(rows) and not -count <= rows.min() <= rows.max() < count:
            raise IndexError(f"there are {count} pictures, and no rows {rows.min()} … {rows.max()}")
        chosen = rows % count if self._rows is None else self._rows[rows]
        return type(self)(self._columns, chosen.astype(np.min_scalar_type(len(self._columns.names))))

    def _chosen(self, column: C) -> C:
        return column if self._rows is None else column.select(self._rows)

    def at(self, row: int) -> Sample:
        """Make the record of a picture."""
        names, ways, *others, numbers = self._columns
        row = row if self._rows is None else int(self._rows[row])
        name, way = names.at(row), ways.at(row)
        place = way.place(name, *(numbers[row].tolist() if way.kind != "path" else (0, 0, 0)))
        return Sample(place, name, *(one.at(row) for one in others))
