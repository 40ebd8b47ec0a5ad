"""Predictions → Parquet: typed columns, written group by group. The only room that knows pyarrow."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headstart.errors import MissingExtraError
from headstart.predictions import Prediction, Predictions

PROBABILITY = "probability:"  # before a class's name, as in `predictions.csv` of a run
GROUP_BYTES = 32_000_000  # of the probabilities of a group of rows, which are in memory together


def require() -> None:
    """Find out before any work whether Parquet can be written.

    Raises:
        MissingExtraError: What writes it is not installed.
    """
    _arrow()


def part(said: Predictions) -> bytes:
    r"""Return some pictures as a Parquet file of their own.

    Columns are `image_id`, `label`, `probability`, `known`, `p_value`, `set` (a list), `error`, and `probability:NAME`
    for each class; a cell of which nothing is known is null. What is no UTF-8 in a name is written as `\xe9`.
    """
    arrow, parquet = _arrow()
    schema = _schema(said.classes)
    told = list(zip(*map(_row, said), strict=True))
    columns = [arrow.array(column, kind) for column, kind in zip(told, schema.types, strict=False)]
    columns += [arrow.array(column, from_pandas=True) for column in said.probabilities.T]  # NaN becomes null
    table = arrow.table(columns, schema=schema)
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def join(parts: Sequence[bytes | Path], classes: Sequence[str], rows: int, write: Callable[[bytes], object]) -> None:
    """Write parts as one file, in groups of rows as large as memory should hold.

    Args:
        parts: What `part` returned, or files of it.
        classes: K names.
        rows: Of a part at most.
        write: Takes what is to be written next.
    """
    arrow, parquet = _arrow()
    together = max(1, GROUP_BYTES // (8 * rows * len(classes)))
    with parquet.ParquetWriter(arrow.PythonFile(_Sink(write), "w"), _schema(classes)) as writer:
        for begin in range(0, len(parts), together):
            some = [io.BytesIO(p) if isinstance(p, bytes) else str(p) for p in parts[begin : begin + together]]
            table = arrow.concat_tables([parquet.ParquetFile(one).read() for one in some])
            writer.write_table(table, row_group_size=len(table))


class _Sink(io.RawIOBase):
    """A file that can be written to only."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._write(data)
        return len(data)


def _row(said: Prediction) -> tuple[Any, ...]:
    name = _text(said.path)
    if said.error is not None:
        return name, None, None, None, None, None, _text(said.error)
    return name, said.label, said.probability, said.known, said.p_value, list(said.set), None


def _schema(classes: Sequence[str]) -> Any:
    arrow, _ = _arrow()
    text, number = arrow.string(), arrow.float64()
    kinds = {
        "image_id": text,
        "label": text,
        "probability": number,
        "known": arrow.bool_(),
        "p_value": number,
        "set": arrow.list_(text),
        "error": text,
    }
    return arrow.schema(kinds | {f"{PROBABILITY}{name}": number for name in classes})


def _text(name: str) -> str:
    """Return text as UTF-8 can hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingExtraError("--format parquet", "parquet", str(error.name)) from error
