"""A table's rows → what each says of a picture, checked; ids → the pictures under a folder that they mean.

An id leads nowhere else: none begins at the top or with a drive, goes up, or follows a link out unless that is allowed.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from headstart.data import folders, uris
from headstart.data.columns import Decided
from headstart.data.folders import SPLITS
from headstart.data.tables import Table
from headstart.errors import ConfigError, DataError
from headstart.records import Locator, Place, Sample, listing

_FORBIDDEN = re.compile(r"\x00|^[A-Za-z]:[\\/]|^[A-Za-z][A-Za-z0-9+.-]+://|^~|^[\\/]")


_HOW = "Another column holds them with --id-column, --label-column, --split-column (--split-column '' uses none)."


class Row(NamedTuple):
    """What a row says; it ends on this line of its file."""

    line: int
    name: str
    label: str
    group: str | None
    split: str | None

    def sample(self, path: Place) -> Sample:
        """Return what it says of the picture at a place."""
        split = SPLITS[self.split.strip().lower()] if self.split is not None else None
        return Sample(path, self.name, self.label, self.group or None, split)


def checked(table: Table, decided: Decided, *, inside: bool) -> list[Row]:
    """Return the rows; empty cells, unknown splits and, if `inside`, ids that lead elsewhere are refused."""
    ids, labels = table.column(decided.id), table.column(decided.label)
    groups = table.column(decided.group) if decided.group else [None] * len(ids)
    splits = table.column(decided.split) if decided.split else [None] * len(ids)
    ids = tuple(map(called, ids))
    rows = [Row(*cells) for cells in zip(table.lines, ids, labels, groups, splits, strict=True)]
    problems: list[str] = []
    for row in rows:
        if not row.name.strip() or not row.label.strip():
            problems.append(f"{table.unit} {row.line} has an empty {'id' if not row.name.strip() else 'label'}")
        elif inside and (_FORBIDDEN.search(row.name) or ".." in re.split(r"[\\/]", row.name)):
            problems.append(f"line {row.line}: the id {uris.shown(row.name)!r} is no plain path inside the folder")
        elif row.split is not None and row.split.strip().lower() not in SPLITS:
            problems.append(f"{table.unit} {row.line}: the split {row.split!r} is none of {', '.join(SPLITS)}")
    if problems:
        raise DataError(
            f"{table.path}: {listing(problems)}.",
            f"Ids are paths relative to the folder of pictures. {_HOW}" if inside else _HOW,
        )
    return rows


def called(name: str) -> str:
    """Return what a picture is called whose id this is: a URI without what nobody may see."""
    if not uris.is_read(name):
        return name
    try:
        place = uris.place(name)
    except ConfigError:  # it is told where it is wanted
        return uris.shown(name)
    return name if isinstance(place, Path) else str(place)


class ByName:
    """What an id may be → the numbers of the pictures that it means: with its suffix one, without perhaps several."""

    def __init__(self, walked: folders.Walked) -> None:
        """Know the names of what was found."""
        self._names = walked.names
        self._whole = {name: row for row, name in enumerate(walked.names)}

    @cached_property
    def _bare(self) -> dict[str, list[int]]:
        bare: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(self._names):
            bare[os.path.splitext(name)[0]].append(row)
        return dict(bare)

    @cached_property
    def _spelled(self) -> dict[str, int]:
        return {os.path.normcase(name): row for name, row in self._whole.items()}

    def get(self, name: str) -> Sequence[int]:
        """Return the pictures that an id means; a whole name goes before one without its suffix."""
        row = self._whole.get(name)
        return self._bare.get(name, ()) if row is None else (row,)

    def known(self, place: Place, root: Place) -> int | Place:
        """Return the number of the picture at a place, e.g. of `ash//1.jpg`; where it is none of these, the place."""
        if not (isinstance(place, Path) and isinstance(root, Path)):
            return place
        return self._spelled.get(os.path.normcase(place.relative_to(root).as_posix()), place)


def match(
    table: Table,
    rows: Sequence[Row],
    root: Place,
    by_name: ByName,
    walked: folders.Walked,
    follow_links: bool,
) -> tuple[dict[int | Place, list[Row]], list[str]]:
    """Return picture → what the rows say of it, and the ids that have no picture.

    Raises:
        DataError: An id fits several pictures, or its file leads out of the root.
    """
    top = root.resolve() if isinstance(root, Path) else None
    matched: dict[int | Place, list[Row]] = defaultdict(list)
    absent: list[str] = []
    problems: list[str] = []
    for row in rows:
        name = row.name.removeprefix("./")
        matches = by_name.get(name)
        others = [] if matches else _unwalked(root, name)
        if len(matches) > 1:
            fitting = listing([walked.place(match).name for match in matches])
            problems.append(f"line {row.line}: {row.name!r} may be any of {fitting}")
        elif matches:
            matched[matches[0]].append(row)
        elif not others:
            absent.append(row.name)
        elif not follow_links and _escapes(others[0], top):
            problems.append(f"line {row.line}: {row.name!r} leads out of {root} through a link")
        else:
            matched[by_name.known(others[0], root)].append(row)
    if problems:
        raise DataError(
            f"{table.path}: {listing(problems)}.",
            "Write the file's suffix into the id; links out of the folder need --follow-links.",
        )
    return matched, absent


def _unwalked(root: Place, name: str) -> list[Place]:
    """Return what an id means that the walk passed over, for its suffix or as a link; of a web server, any."""
    if isinstance(root, Locator):
        return [root / name] if uris.is_web(root) else []
    path = root / name
    return [path] if os.path.lexists(path) and not path.is_dir() else []


def _escapes(place: Place, top: Path | None) -> bool:
    return isinstance(place, Path) and top is not None and folders.escapes(place, top)
