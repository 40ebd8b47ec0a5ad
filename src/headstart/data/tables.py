"""A CSV or TSV file → rows of strings, or an error with the line's number; nothing is converted, guessed or shifted."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headstart.data import stores
from headstart.errors import DataError
from headstart.records import Place, listing

MOST_BYTES = 1 << 31  # of a table on a store
_SPECIAL = re.compile(r'[,"\r\n]')


@dataclass(frozen=True, slots=True)
class Table:
    """A delimited text file: every cell is a string, every row as long as the header.

    Attributes:
        path: The file.
        header: Column names.
        rows: Cells.
        lines: The line of the file on which each row ends, from 1.
        unit: What these numbers count, for messages.
    """

    path: Place
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    unit: str = "line"

    def column(self, name: str) -> tuple[str, ...]:
        """Return the cells of one column."""
        index = self.header.index(name)
        return tuple(row[index] for row in self.rows)


def read_table(path: Place) -> Table:
    """Read a CSV or TSV file; the delimiter (comma, semicolon, tab) is the one that the header line holds most of.

    Raises:
        DataError: Not UTF-8, an empty file, a repeated column, a row of another length, or a quote that is never
            closed; with the line's number.
        StorageError: It lies on a store, and cannot be had.
    """
    try:
        raw = stores.read_all(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror}.") from error
    text = _decode_text(path, raw)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    problems: list[str] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = tuple(cell.strip() for cell in cells)
            elif len(cells) != len(header):
                problems.append(f"line {reader.line_num} has {len(cells)} cells instead of {len(header)}")
            else:
                rows.append(tuple(cells))
                lines.append(reader.line_num)
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        problems.append(f"the column {repeated[0]!r} occurs more than once")
    if problems:
        raise DataError(
            f"The table {path} is damaged: {listing(problems)}.",
            "Nothing was guessed. Mend those lines (a cell with the delimiter in it needs quotes).",
        )
    if not rows:
        raise DataError(f"The table {path} has no rows.", "Its first line names the columns, e.g. id,label.")
    return Table(path, header, tuple(rows), tuple(lines))


# OWASP's list, and the full-width forms that some spreadsheets take for the same
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def defused(cell: str) -> str:
    """Return a cell that no spreadsheet runs as a formula: with an apostrophe before it, if it might be one.

    A cell that is defused already gets another, so that `restored` gives back every text exactly.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def restored(cell: str) -> str:
    """Undo `defused`; a cell whose apostrophe a spreadsheet has swallowed is right as it is."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def to_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as CSV text with line feeds; `csv.writer` would leave a lone carriage return unquoted."""
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows)


def _quoted(cell: str) -> str:
    plain = cell and not _SPECIAL.search(cell)
    return cell if plain else '"' + cell.replace('"', '""') + '"' if cell else ""


def _decode_text(path: Place, raw: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if raw.startswith(mark):
            raise DataError(f"The table {path} is in {encoding}; UTF-8 was expected.", "Save it as CSV UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"The table {path} is not UTF-8: line {line} holds the byte 0x{raw[error.start]:02x} "
            f"({raw[error.start : error.start + 1].decode('latin-1')!r} in Latin-1).",
            "Save it as CSV UTF-8.",
        ) from error
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise DataError(f"The table {path} is no CSV file: line {line} holds a NUL byte.", "Save it as CSV UTF-8.")
    return text
