"""Tables of Parquet and Arrow → columns of values, and the pictures in their cells, each read when it is asked for.

Of a Parquet file one group of rows of one column is in memory for all threads, and few of these; an Arrow file is
mapped. Columns that hold pictures are binary, or have the fields `bytes` and `path` as Hugging Face writes them, whose
names of classes are taken too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from headstart.data import ranges, stores, uris
from headstart.errors import DataError, MissingExtraError, PictureError, StorageError
from headstart.records import Locator, Place

PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather")
SUFFIXES = (*PARQUET, *ARROW)
OPEN = 16  # files that are open at once
MOST_GROUP = 4 << 30  # bytes of one
GROUPS_BYTES = 256_000_000  # of groups of rows that are in memory; the one that is read last always is


class Columns(NamedTuple):
    """What a table holds.

    Attributes:
        rows: How many.
        values: Column → its values, for those that are read.
        pictures: Columns that hold pictures.
        unread: Columns of lists and the like.
    """

    rows: int
    values: dict[str, list[Any]]
    pictures: tuple[str, ...]
    unread: tuple[str, ...]


def read(source: Place) -> Columns:
    """Read a table, but for the pictures in it.

    Raises:
        DataError: It is no such table, or damaged.
        MissingExtraError: What reads it is not installed.
        StorageError: It cannot be had.
    """
    with _readable(source):
        opened = _opened(source, _state(source))
        schema = opened.schema
        pictures = tuple(field.name for field in schema if _leaf(field) is not None)
        nested = importlib.import_module("pyarrow").types.is_nested
        others = [field.name for field in schema if field.name not in pictures and not nested(field.type)]
        table, names = opened.table(others), _names(schema)
        values = {name: _named(table.column(name).to_pylist(), names.get(name)) for name in others}
        unread = tuple(field.name for field in schema if field.name not in (*pictures, *others))
    return Columns(opened.rows, values, pictures, unread)


def cell(source: Locator, most: int) -> bytes:
    """Return the bytes in a cell.

    Raises:
        PictureError: There are none, or too many, or the table is damaged.
    """
    file = uris.holder(source)
    try:
        if isinstance(file, Path) and source.mark not in (0, _state(file)):
            raise PictureError("the table changed since it was read")
        opened = _opened(file, source.mark)
        if not 0 <= source.number < opened.rows:
            raise PictureError("the table has no such row any more")
        value = opened.cell(source.inner, source.number)
    except _damage() as error:
        raise PictureError(f"{file} cannot be read: {_line(error)}") from error
    if value is None:
        raise PictureError("the cell is empty")
    data = value.as_buffer()
    if data is None or not data.size:
        raise PictureError("the cell is empty")
    if data.size > most:
        raise PictureError(f"is larger than {most:,} bytes, the most that is read here")
    return bytes(data)


def cells(source: Place, column: str, rows: int) -> list[Locator]:
    """Return where the pictures of a column lie."""
    mark = _state(source)
    return [uris.within(source, column, "cell", row, size=-1, mark=mark) for row in range(rows)]


class _Parquet:
    """A Parquet file; of its columns of pictures, groups of rows are read as they are needed."""

    def __init__(self, source: Place) -> None:
        _, parquet = _arrow()
        self._version = f"{source} {_state(source)}"
        self._file = parquet.ParquetFile(source if isinstance(source, Path) else ranges.Ranges(source))
        self._lock = threading.Lock()
        self.schema, self.rows = self._file.schema_arrow, self._file.metadata.num_rows
        groups = (self._file.metadata.row_group(one).num_rows for one in range(self._file.num_row_groups))
        self._ends = list(accumulate(groups))

    def table(self, names: Sequence[str]) -> Any:
        with self._lock:
            return self._file.read(columns=list(names))

    def cell(self, column: str, row: int) -> Any:
        group = bisect_right(self._ends, row)
        with self._lock:  # one thread reads; those that want the same group find it then
            held = _GROUPS.get((self._version, column, group))
            if held is None:
                leaf = _leaf(self.schema.field(column))
                told = self._file.metadata.row_group(group)
                if sum(told.column(one).total_uncompressed_size for one in range(told.num_columns)) > MOST_GROUP:
                    raise PictureError(f"lies in a group of rows of more than {MOST_GROUP:,} bytes")
                held = self._file.read_row_group(group, columns=[f"{column}{leaf}"]).column(column)
                _GROUPS.keep((self._version, column, group), held)
        value = held[row - self._ends[group] + len(held)]
        return value if not _leaf(self.schema.field(column)) else _within(value)


class _Arrow:
    """A file of Arrow's, as it is mapped into memory: in its format of files, or of streams."""

    def __init__(self, source: Place) -> None:
        arrow, _ = _arrow()
        if isinstance(source, Locator):
            raise StorageError(f"{source} is an Arrow file on a store.", "Copy it here, or write it as Parquet.")
        mapped = arrow.memory_map(str(source))
        begins = mapped.read(6)
        mapped.seek(0)
        opener = arrow.ipc.open_file if begins == b"ARROW1" else arrow.ipc.open_stream
        self._table = opener(mapped).read_all()
        self._table.validate(full=True)  # of what lies elsewhere than it says, a cell would crash the process
        self.schema, self.rows = self._table.schema, self._table.num_rows

    def table(self, names: Sequence[str]) -> Any:
        return self._table.select(list(names))

    def cell(self, column: str, row: int) -> Any:
        value = self._table.column(column)[row]
        return value if not _leaf(self.schema.field(column)) else _within(value)


class _Groups:
    """Groups of rows in memory, those that were asked for last."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> Any:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: tuple[str, str, int], group: Any) -> None:
        with self._lock:
            self._held[key] = group
            while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > GROUPS_BYTES:
                self._held.popitem(last=False)


_GROUPS = _Groups()


@functools.lru_cache(maxsize=OPEN)
def _opened(source: Place, mark: int) -> _Parquet | _Arrow:
    """Open a file, once for all threads as long as it is the same."""
    opened = _Arrow(source) if source.name.lower().endswith(ARROW) else _Parquet(source)
    if mark and _state(source) != mark:
        raise PictureError("the table changed since it was read")
    return opened


def _state(source: Place) -> int:
    if isinstance(source, Path):
        return ranges.state(source)[1]
    found = stores.there(source)
    if found is None:
        raise StorageError(f"{source} is not there.")
    return found.mark


def _leaf(field: Any) -> str | None:
    """Return what is behind a column's name where its pictures lie: nothing, or a field; None: it has none."""
    arrow, _ = _arrow()
    kinds = arrow.types
    if kinds.is_binary(field.type) or kinds.is_large_binary(field.type):
        return ""
    if kinds.is_struct(field.type) and any(one.name == "bytes" and _leaf(one) == "" for one in field.type):
        return ".bytes"
    return None


def _within(value: Any) -> Any:
    return value["bytes"] if value.is_valid else None


def _names(schema: Any) -> dict[str, list[str]]:
    """Return column → the names of its classes, as Hugging Face keeps them in a schema."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(map(str, one["names"])) for name, one in told.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _named(values: list[Any], names: Sequence[str] | None) -> list[Any]:
    """Return values with the names of their classes; -1 is none."""
    if names is None:
        return values
    wrong = [value for value in values if value is not None and not (type(value) is int and -1 <= value < len(names))]
    if wrong:
        raise DataError(f"There is a label {wrong[0]!r}, but only the names of {len(names)} classes.")
    return [None if value is None or value < 0 else names[value] for value in values]


@contextlib.contextmanager
def _readable(source: Place) -> Iterator[None]:
    """Say which table it is that cannot be read."""
    try:
        yield
    except DataError as error:
        raise DataError(f"The table {source} cannot be used: {error.message}", error.hint) from error
    except _damage() as error:
        raise DataError(f"The table {source} cannot be read: {_line(error)}.") from error


def _line(error: Exception) -> str:
    """Return what is wrong in a line; a store's own error has no more than that."""
    return str(error).strip().partition("\n")[0].rstrip(".")[:300]


def _damage() -> tuple[type[Exception], ...]:
    return (_arrow()[0].ArrowException, OSError, KeyError, ValueError, StorageError)


def _arrow() -> tuple[Any, Any]:
    try:
        arrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.ipc")
        return arrow, importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingExtraError("To read Parquet or Arrow", "cloud", str(error.name)) from error
