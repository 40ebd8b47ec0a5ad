"""A table's header and cells → which column holds the pictures, the labels, the groups and the split.

What was asked for goes first, then usual names, then a look at the cells: a column of pictures names files that are
there. Whatever was not asked for and decides something is told; where two columns would do, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headstart.data.tables import Table
from headstart.errors import ConfigError, DataError
from headstart.records import Finding, listing

ID_COLUMNS = ("id", "image_id", "image", "filename", "file_name", "file", "path", "image_path", "img", "name")
LABEL_COLUMNS = ("label", "breed", "class", "class_name", "category", "species", "target", "y")
SPLIT_COLUMNS = ("split", "subset", "partition")
GROUP_COLUMNS = ("group", "group_id", "patient", "patient_id", "camera", "camera_id", "individual", "subject")

FileOf = Callable[[str], Hashable | None]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table mean what; None: found by their usual names, or by a look at the cells.

    An empty string for `group` or `split`: use none.
    """

    id: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None


class Decided(NamedTuple):
    """Which columns were taken, and findings of those that nobody asked for."""

    id: str
    label: str
    group: str | None
    split: str | None
    findings: list[Finding]


def decide(table: Table, asked: Columns, file_of: FileOf) -> Decided:
    """Return the column of each kind.

    Args:
        table: Whose columns.
        asked: Those that were named.
        file_of: Cell → the existing file that it names, or None.

    Raises:
        ConfigError: A column asked for is not there, or several columns (or none) may hold the pictures or the labels.
        DataError: The first line of the table is a row.
    """
    for wanted, kind in ((asked.id, "id"), (asked.label, "label"), (asked.group, "group"), (asked.split, "split")):
        _check_there(table, wanted, kind)
    pictures, seen = _picture_column(table, asked, file_of)
    free = [column for column in table.header if column not in (pictures, asked.label, asked.group, asked.split)]
    label = asked.label or usual(free, LABEL_COLUMNS)
    free = [column for column in free if column != label]
    group = usual(free, GROUP_COLUMNS) if asked.group is None else asked.group or None
    split = usual(free, SPLIT_COLUMNS) if asked.split is None else asked.split or None
    looked = [f"the pictures are in the column {pictures!r}"] if seen else []
    if label is None:
        label = _only_other(table, [column for column in free if column != split], group)
        group = None if group == label else group
        looked.append(f"the labels are in the column {label!r}")
    return Decided(pictures, label, group, split, _told(looked, group if asked.group is None else None))


def _check_there(table: Table, wanted: str | None, kind: str) -> None:
    if wanted is None or wanted in table.header or (wanted == "" and kind in ("group", "split")):
        return
    raise ConfigError(f"{table.path} has no column {wanted!r}; its columns are {_quoted(table.header)}.")


def _picture_column(table: Table, asked: Columns, file_of: FileOf) -> tuple[str, bool]:
    """Return the column of pictures, and whether it was found by looking."""
    if asked.id is not None:
        return asked.id, False
    free = [column for column in table.header if column not in (asked.label, asked.group, asked.split)]
    named = usual(free, ID_COLUMNS)
    if named is not None and any(file_of(cell) is not None for cell in table.column(named)):
        return named, False
    naming = [column for column in free if _names_files(table.column(column), file_of)]
    best = usual(naming, ID_COLUMNS) or (naming[0] if len(naming) == 1 else None)
    if best is not None:
        if file_of(best) is not None:
            raise first_line(table, best)
        return best, True
    if naming:
        raise _undecided(table, "id", f"The cells of {_quoted(naming)} all name pictures")
    if named is None:
        why = (
            f"None of {_quoted(table.header)} has a usual name ({', '.join(ID_COLUMNS)}) or names files that are there"
        )
        raise _undecided(table, "id", why)
    return named, False  # its pictures are missing, and are told by name


def first_line(table: Table, named: str) -> DataError:
    """Return the error of a table that begins with a row, which names a picture."""
    return DataError(
        f"The first line of {table.path} names the picture {named!r}; names of columns were expected.",
        "Write a line such as id,label above it.",
    )


def _names_files(cells: Sequence[str], file_of: FileOf) -> bool:
    """Whether the cells name at least half as many files as there are rows; labels may be called like a few files."""
    return 2 * len({file_of(cell) for cell in cells} - {None}) >= len(cells)


def _only_other(table: Table, free: Sequence[str], group: str | None) -> str:
    """Return the column of labels: the only one that is left, if need be the one that is called like a group."""
    left = [column for column in free if column != group] or list(free)
    if len(left) == 1:
        return left[0]
    if left:
        raise _undecided(table, "label", f"None of {_quoted(left)} has a usual name ({', '.join(LABEL_COLUMNS)})")
    raise _undecided(table, "label", f"There is no other column; there are {_quoted(table.header)}")


def usual(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column that is called like the first of some names that one is called like, in any letter case."""
    by_name = {column.lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _undecided(table: Table, kind: str, why: str) -> ConfigError:
    return ConfigError(
        f"{table.path}: which column holds the {kind}? {why}.",
        f"Name it with --{kind}-column; in Python, with columns=Columns({kind}=...).",
    )


def _told(looked: Sequence[str], group: str | None) -> list[Finding]:
    findings: list[Finding] = []
    if looked:
        text = " and ".join(looked)
        advice = "Others are named with --id-column and --label-column."
        findings.append(Finding("columns-found", "note", f"By a look at the table, {text}", advice=advice))
    if group is not None:
        text = f"The column {group!r} keeps pictures together, for its name"
        advice = "--group-column '' ignores it, --group-column NAME takes another."
        findings.append(Finding("group-column", "note", text, advice=advice))
    return findings


def _quoted(columns: Sequence[str]) -> str:
    return listing([repr(column) for column in columns], 12)
