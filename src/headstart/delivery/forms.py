"""Forms in which answers are written: each makes a part of a block of predictions, and a file of all parts.

A part is bytes, or a file of them. It is made where the block was predicted, perhaps in another process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.data.tables import Table
from headstart.delivery import parquet, submission
from headstart.predictions import Predictions

BLOCK = 2048  # pictures of a part of a file

Part = bytes | Path
Write = Callable[[bytes], object]  # takes what is to be written next


class Form(Protocol):
    """How answers are written."""

    @property
    def encode(self) -> Callable[[Predictions], bytes]:
        """Predictions of a block → its part; it can be sent to another process."""

    @property
    def order(self) -> Sequence[int] | None:
        """The picture that each row is about, where that is not the order in which they were asked for."""

    @property
    def told(self) -> str:
        """Everything that decides the bytes besides the predictions."""

    def finish(self, parts: Sequence[Part], write: Write) -> None:
        """Write the whole file."""


class Lines:
    """CSV or JSON Lines, see `submission.render`."""

    order = None

    def __init__(
        self, form: str, classes: Sequence[str], *, spreadsheet_safe: bool = False, known: bool = False
    ) -> None:
        """Keep the arguments of `submission.rows`."""
        options = {"spreadsheet_safe": spreadsheet_safe, "known": known}
        self.encode: Callable[[Predictions], bytes] = partial(_lines, form=form, options=options)
        self.head = submission.head(form, classes, **options).encode("utf-8", "surrogateescape")
        self.told = json.dumps([form, options])

    def finish(self, parts: Sequence[Part], write: Write) -> None:
        """Write the head and the parts."""
        write(self.head)
        for part in parts:
            write(_content(part))


class Filled:
    """A CSV file like a sample submission, in its order; a part holds (n, K) float64 probabilities."""

    def __init__(self, table: Table, classes: Sequence[str], names: Sequence[str], **options: bool) -> None:
        """Find out which picture each row of the sample asks for.

        Args:
            table: The sample.
            classes: K names.
            names: What the pictures are called.
            options: `spreadsheet_safe` and `fill_missing` as `submission.render` has them.

        Raises:
            DataError: The sample's classes or ids are not the model's classes or the pictures.
        """
        submission.check_like(table, classes, fill_missing=options["fill_missing"])
        self.encode = _raw
        self.order = submission.order(names, table)
        self.table, self.classes, self.safe = table, classes, options["spreadsheet_safe"]
        told = hashlib.sha256(repr((table.header, table.rows)).encode(errors="surrogateescape")).hexdigest()
        self.told = json.dumps(["like", told, options])

    def finish(self, parts: Sequence[Part], write: Write) -> None:
        """Write the rows that the sample asks for."""
        shares = (_row(parts[row // BLOCK], row % BLOCK, len(self.classes)) for row in self.order)
        lines = submission.filled(self.table, self.classes, shares, spreadsheet_safe=self.safe)
        while some := "".join(islice(lines, BLOCK)):
            write(some.encode("utf-8", "surrogateescape"))


class Typed:
    """Parquet, see `parquet.part`."""

    order, told = None, "parquet"

    def __init__(self, classes: Sequence[str]) -> None:
        """Keep the names of the K classes.

        Raises:
            MissingExtraError: What writes Parquet is not installed.
        """
        parquet.require()
        self.classes, self.encode = classes, parquet.part

    def finish(self, parts: Sequence[Part], write: Write) -> None:
        """Join the parts."""
        parquet.join(parts, self.classes, BLOCK, write)


def _lines(said: Predictions, form: str, options: Mapping[str, bool]) -> bytes:
    return submission.rows(said, form, **options).encode("utf-8", "surrogateescape")


def _raw(said: Predictions) -> bytes:
    return np.ascontiguousarray(said.probabilities, dtype="<f8").tobytes()


def _row(part: Part, row: int, classes: int) -> NDArray[np.float64]:
    """Return (K,) of a part; a file of it is closed again, for there may be more than a process may have open."""
    size = 8 * classes
    if isinstance(part, bytes):
        return np.frombuffer(part, "<f8", classes, row * size)
    with open(part, "rb", buffering=0) as file:
        file.seek(row * size)
        return np.frombuffer(file.read(size), "<f8", classes)


def _content(part: Part) -> bytes:
    return part if isinstance(part, bytes) else part.read_bytes()
