"""A DataFrame of pandas, polars or the like → a table of strings; the libraries themselves are not imported.

Text, paths, whole numbers and categories become text; what is missing becomes an empty cell. Fractions are refused: a
label 1.0 may have been a 1 or an `01`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Protocol, runtime_checkable

from headstart.data.columns import GROUP_COLUMNS, ID_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS
from headstart.data.tables import Table
from headstart.errors import DataError
from headstart.records import Place, listing

FRAME = Path("The DataFrame")  # what it is called in messages


@runtime_checkable
class Frame(Protocol):
    """Named columns of equal length; pandas and polars have it."""

    @property
    def columns(self) -> Iterable[object]:
        """The names of the columns."""

    def __getitem__(self, column: str, /) -> Iterable[object]:
        """Return the values of one column."""


def to_table(frame: Frame, used: Iterable[str | None] = (), called: Place = FRAME) -> Table:
    """Return the columns of text as a table whose rows are counted from 0.

    A column that holds anything else is left out, unless it is asked for or called like one that means something.

    Args:
        frame: A DataFrame.
        used: Columns that are asked for.
        called: What it is, for messages.

    Raises:
        DataError: Columns that share a name, a column of numbers that should be text, or no rows.
    """
    names = [str(name) for name in frame.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{called} has several columns called {repeated[0]!r}.", "Give each a name of its own.")
    whose = "the DataFrame" if called == FRAME else called
    kept: dict[str, list[str]] = {}
    for original, name in zip(frame.columns, names, strict=True):
        cells = [_text(value) for value in frame[original]]  # type: ignore[index]  # names may be numbers
        wrong = [f"row {row}" for row, cell in enumerate(cells) if cell is None]
        if not wrong:
            kept[name] = [cell for cell in cells if cell is not None]
        elif name in used or name.lower() in (*ID_COLUMNS, *LABEL_COLUMNS, *GROUP_COLUMNS, *SPLIT_COLUMNS):
            raise DataError(
                f"The column {name!r} of {whose} holds values that are no text in {listing(wrong)}.",
                f"Make them text first: frame[{name!r}].astype(str) (pandas), .cast(str) (polars).",
            )
    rows = tuple(zip(*kept.values(), strict=True))
    if not rows:
        raise DataError(f"{called} has no rows of text.", "Give it a column of paths and one of labels.")
    return Table(called, tuple(kept), rows, tuple(range(len(rows))), "row")


def _text(value: object) -> str | None:
    """Return a value as a cell, an empty one where it is missing; None: it is no text."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        return text if isinstance(text, str) else os.fsdecode(text)
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and value != value):
        return ""
    return str(value) if isinstance(value, Integral) else None
