"""A folder per class, a table, a Kaggle competition folder, or plain pictures → `Dataset`.

Paths and labels are verified here and never again: every picture lies under its root once links are resolved, every
label is the text that stood in the table. Nothing is decoded here, and no file is written.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data import arrows, folders, frames, listings, shards, stores, uris
from headstart.data.columns import ID_COLUMNS, decide, first_line, usual
from headstart.data.columns import Columns as Columns
from headstart.data.folders import SPLITS
from headstart.data.images import SUFFIXES
from headstart.data.rows import ByName, Row, called, checked, match
from headstart.data.tables import Table, read_table
from headstart.errors import ConfigError, DataError
from headstart.records import Dataset, Finding, Locator, Place, Sample, found, instead, listing, numbered
from headstart.samples import Samples

TABLES = (".csv", ".tsv", ".txt")  # of what lies on a store: there nothing else tells a table from a folder


def dataset_of(
    data: Dataset | str | os.PathLike[str] | frames.Frame, columns: Columns | None = None, *, cache: Path | None = None
) -> Dataset:
    """Return labelled pictures, in whatever form they are given.

    Args:
        data: A dataset (as it is), the path of a folder or a table (see `read`), or a DataFrame of pandas, polars or
            the like with a column of paths and a column of labels.
        columns: Which columns of a table mean what, where neither their names nor a look at them tells.
        cache: As in `read`.

    Raises:
        DataError: The pictures or labels cannot be used; everything that is wrong is listed.
        ConfigError: It is none of these, or a named column or folder does not exist.
    """
    if isinstance(data, str | os.PathLike | Locator):
        place = uris.place(data)
        root, table = (parent(place), place) if is_table(place) else (place, None)
        return read(root, table, columns=columns, cache=cache)
    if isinstance(data, frames.Frame):
        return _read_frame(data, columns or Columns())
    if not isinstance(data, Dataset):
        raise ConfigError(
            f"Labelled pictures were expected, not {type(data).__name__}.",
            "Give the path of a folder or of a table, a DataFrame with paths and labels, or what `read` returned.",
        )
    if columns is not None:
        raise ConfigError("Columns were named, but the pictures were read already.", "Name them where they are read.")
    return data


def is_table(place: Place) -> bool:
    """Return whether something is a file that holds labels, and no folder and no tar."""
    if shards.is_shard(place):
        return place.name.lower().endswith(arrows.SUFFIXES)
    return place.is_file() if isinstance(place, Path) else place.suffix.lower() in TABLES


def is_pattern(path: Path) -> bool:
    """Return whether a path that is not there stands for tars or tables that are."""
    return shards.is_shard(path) and any(one.place != path for one in shards.shards(path))


def parent(place: Place) -> Place:
    """Return the folder that something lies in; of what a pattern stands for, the one above all of it."""
    if isinstance(place, Locator):
        return Locator(place.file.rpartition("/")[0], query=place.query)
    folders_above = [one for one in place.parents if one.is_dir()] if shards.is_shard(place) else []
    return folders_above[0] if folders_above else place.parent


def read(
    data: str | Path | Locator,
    labels: str | Path | Locator | None = None,
    *,
    columns: Columns | None = None,
    missing: str = "error",
    follow_links: bool = False,
    cache: Path | None = None,
) -> Dataset:
    """Read labelled pictures.

    Args:
        data: A folder with one folder per class (possibly under `train/`, `val/`, `test/`), a Kaggle competition
            folder (`labels.csv` and `train/`), tars or tables that hold pictures (see `shards`), or, with `labels`, the
            folder that the table's ids are relative to. All of these may lie on a store: `s3://bucket/photos`.
        labels: A CSV or TSV file, or Parquet. Its ids may leave out the suffix of the picture, or be URIs.
        columns: Which columns mean what, where neither their names nor a look at them tells.
        missing: "error" refuses a table that names pictures which are not there; "drop" leaves those rows out.
        follow_links: Whether links may lead out of the folder.
        cache: As in `tars.index`.

    Raises:
        DataError: The table or the folder cannot be used; everything that is wrong is listed.
        ConfigError: A named column or folder does not exist.
    """
    root, named = uris.place(data), None if labels is None else uris.place(labels)
    check_root(root)
    if missing not in ("error", "drop"):
        raise ConfigError(f"missing is {missing!r}, but must be 'error' or 'drop'.")
    kaggle = named is None and not shards.is_shard(root) and _is_kaggle(root)
    how = _How(columns or Columns(), missing, follow_links, cache)
    if kaggle:
        return replace(_read_labelled(read_table(root / "labels.csv"), root / "train", how), layout="kaggle")
    if named is not None and not shards.is_shard(named):
        return _read_labelled(read_table(named), root, how)
    walked = None if named is not None or shards.is_shard(root) else folders.walk(root, follow_links)
    if (walked is None or not walked.names) and (some := shards.shards(named or root)):
        return _read_shards(some, root, how)
    if how.columns != Columns():
        raise ConfigError("Columns were named, but there is no table: name it with --labels FILE.")
    return _read_folders(root, walked or folders.Walked((), root.__truediv__, []))  # type: ignore[arg-type]


class _How(NamedTuple):
    """How a table is read; fields as the arguments of `read`."""

    columns: Columns
    missing: str
    follow_links: bool
    cache: Path | None


def _is_kaggle(root: Place) -> bool:
    if isinstance(root, Path):
        return (root / "labels.csv").is_file() and (root / "train").is_dir()
    if uris.is_web(root) or stores.there(root / "labels.csv") is None:
        return False
    return bool(folders.walk(root / "train", False).names)


def check_root(root: Place) -> None:
    """Refuse a place that is no folder; cheap, so that a slip of the pen is told before anything is loaded.

    Raises:
        ConfigError: It is not there, or is a file.
    """
    if isinstance(root, Path) and not root.is_dir() and not shards.is_shard(root):
        raise ConfigError(
            f"{root} is {'a file' if root.exists() else 'not there'}; a folder was expected.",
            "A table of labels goes with --labels FILE, and DATA is then the folder of its pictures.",
        )


def read_pictures(sources: Sequence[str | Path | Locator], *, follow_links: bool = False) -> Dataset:
    """Read pictures without labels, to predict them: what `listings.of` takes, in this order.

    A Kaggle competition folder (with `test/` beside `labels.csv`) stands for its `test/`.

    Raises:
        ConfigError: A source matches nothing, or is not there and has no suffix of a picture. A picture that is not
            there is one of those that cannot be used.
    """
    return listings.of(sources, follow_links=follow_links).dataset()


def _read_folders(root: Place, walked: folders.Walked) -> Dataset:
    given = folders.bring_split(walked.names)
    loose: list[str] = []
    unlabelled: list[str] = []

    def labelled() -> Iterator[Sample]:
        for row, name in enumerate(walked.names):
            parts = name.split("/")
            split = SPLITS[parts[0].lower()] if given and len(parts) > 1 else None
            folder = parts[1:-1] if split else parts[:-1]
            if folder:
                yield Sample(walked.place(row), name, "/".join(folder), split=split)
            else:
                (unlabelled if split else loose).append(name)

    samples = Samples.of(labelled())
    findings = [
        *walked.findings,
        *found("loose-pictures", "warning",
               "{n} [picture lies|pictures lie] beside the class folders and [has|have] no label", loose,
               "Move each into the folder of its class."),
        *found("unlabelled-pictures", "note",
               "{n} [picture|pictures] of a split [has|have] no class folder and [is|are] left out", unlabelled),
        *_similar_classes(samples),
    ]  # fmt: skip
    if not len(samples):
        told, advice = instead(findings)
        raise DataError(
            f"No labelled picture was found under {root}{told}.",
            f"{advice}Expected one folder per class with pictures in it, a labels.csv beside train/, or --labels FILE. "
            f"Looked for {', '.join(SUFFIXES)}.",
        )
    return Dataset(root, samples, tuple(findings), "folders")


def _read_shards(some: Sequence[shards.Shard], root: Place, how: _How) -> Dataset:
    """Read tars or tables that hold pictures, or tables that name them."""
    if not shards.is_tar(some[0]):
        asked = how.columns
        table, held = shards.from_tables(some, (asked.id, asked.label, asked.group, asked.split))
        return _read_held(table, held, root, how) if held else _read_labelled(table, root, how)
    if how.columns != Columns():
        raise ConfigError("Columns were named, but a tar has none.", "The class of NAME.jpg is in NAME.cls beside it.")
    samples, findings = shards.from_tars(some, how.cache)
    labelled = samples.select(np.flatnonzero(samples.labels.where(one is not None for one in samples.labels.distinct)))
    if not len(labelled):
        raise DataError(
            f"No labelled picture was found in {some[0].place}.",
            "Expected NAME.jpg with NAME.cls or NAME.json beside it, or a folder for each class in the tar.",
        )
    return Dataset(root, labelled, (*findings, *_similar_classes(labelled)), "table")


def _read_held(table: Table, held: Mapping[str, Locator], root: Place, how: _How) -> Dataset:
    """Read a table that holds its pictures; rows without a label are left out."""
    asked = replace(how.columns, id=how.columns.id or next(one for one in table.header if table.column(one)[0] in held))
    decided = decide(table, asked, held.get)
    labels = table.column(decided.label)
    told = [row for row, label in enumerate(labels) if label.strip()]
    findings = found(
        "unlabelled-pictures", "note", "{n} [row has|rows have] no label and [is|are] left out",
        [name for name, label in zip(table.column(decided.id), labels, strict=True) if not label.strip()],
    )  # fmt: skip
    kept = replace(table, rows=tuple(table.rows[i] for i in told), lines=tuple(table.lines[i] for i in told))
    matched = {held[row.name]: [row] for row in checked(kept, decided, inside=False)}
    return _assembled(table, root, matched.items(), [*findings, *decided.findings])


def _read_labelled(table: Table, root: Place, how: _How) -> Dataset:
    far = _uris(table)
    named = how.columns.id or usual(table.header, ID_COLUMNS)
    if named in far:
        return _read_far(table, str(named), root, how)
    walked = _NOTHING if uris.is_web(root) else folders.walk(root, how.follow_links)
    by_name = ByName(walked)
    if named is None and len(far) == 1 and not any(by_name.get(cell) for cells in table.rows for cell in cells):
        return _read_far(table, far[0], root, how)
    decided = decide(table, how.columns, lambda cell: next(iter(by_name.get(cell.removeprefix("./"))), None))
    rows = checked(table, decided, inside=True)
    matched, absent = match(table, rows, root, by_name, walked, how.follow_links)
    findings = [*walked.findings, *_absent(table, rows, absent, f"under {root}", how, any_left=bool(matched))]
    extra = [name for row, name in enumerate(walked.names) if row not in matched]
    findings += found(
        "unlisted-files", "warning", "{n} [picture is|pictures are] not in the table and [is|are] left out", extra
    )
    placed = ((walked.place(one) if isinstance(one, int) else one, told) for one, told in matched.items())
    return _assembled(table, root, placed, [*findings, *decided.findings])


def _read_far(table: Table, column: str, root: Place, how: _How) -> Dataset:
    """Read a table whose column of pictures holds URIs."""
    if uris.is_read(column):
        raise first_line(table, uris.shown(column))
    lying = _lying(table, column)
    decided = decide(table, replace(how.columns, id=column), lambda cell: lying.get(called(cell)))
    rows = checked(table, decided, inside=False)
    matched: dict[Place, list[Row]] = defaultdict(list)
    for row in rows:
        if row.name in lying:
            matched[lying[row.name]].append(row)
    absent = [row.name for row in rows if row.name not in lying]
    findings = _absent(table, rows, absent, "there", how, any_left=bool(matched))
    return _assembled(table, root, matched.items(), [*findings, *decided.findings])


def _absent(
    table: Table, rows: Sequence[Row], absent: Sequence[str], where: str, how: _How, *, any_left: bool
) -> list[Finding]:
    """Return the finding of rows whose picture is not there.

    Raises:
        DataError: They are not to be left out, or nothing would be left.
    """
    if absent and (how.missing == "error" or not any_left):
        raise DataError(
            f"{table.path} names {len(absent)} of {len(rows):,} pictures that are not {where}: "
            f"{listing([repr(name) for name in absent])}.",
            "Correct the folder or the ids, or leave those rows out with --missing drop.",
        )
    return found(
        "missing-files", "error", "{n} [row names|rows name] a file that is not there and [is|are] left out", absent
    )


_NOTHING = folders.Walked((), Path, [])  # type: ignore[arg-type]  # no number is asked for


def _uris(table: Table) -> list[str]:
    """Return the columns all of whose cells are URIs."""
    return [one for one in table.header if all(map(uris.is_read, table.column(one)))]


def _lying(table: Table, column: str) -> dict[str, Place]:
    """Return where the URIs of a column lead, by what the pictures are called; those that are not there are missing.

    Raises:
        DataError: One is of a kind that is not read, or holds credentials.
    """
    places: dict[str, Place] = {}
    problems: list[str] = []
    hint = ""  # of the first problem that has one
    for line, cell in zip(table.lines, table.column(column), strict=True):
        try:
            place, name = uris.place(cell), called(cell)
        except ConfigError as error:
            problems.append(f"{table.unit} {line}: {error.message.rstrip('.')}")
            hint = hint or error.hint
            continue
        known = places.setdefault(name, place)
        if isinstance(place, Locator) and isinstance(known, Locator) and place.query != known.query:
            problems.append(f"{table.unit} {line}: {name} was named before with another query, which is not shown")
            hint = hint or "Pictures are told apart by what stands before the query."
    if problems:
        raise DataError(f"{table.path}: {listing(problems)}.", hint)
    there = stores.looked_up([place for place in places.values() if isinstance(place, Locator)])
    lying: dict[str, Place] = {}
    for name, place in places.items():
        now = there.get(place.file) if isinstance(place, Locator) else place if place.is_file() else None
        lying |= {} if now is None else {name: now}
    return lying


def _read_frame(frame: frames.Frame, asked: Columns) -> Dataset:
    """Read a DataFrame, whose paths are taken as they are: absolute, or from the working directory; or URIs."""
    table = frames.to_table(frame, (asked.id, asked.label, asked.group, asked.split))
    far = [one for one in _uris(table) if asked.id in (None, one)]
    named = set(table.column(far[0])) if len(far) == 1 else set[str]()
    decided = decide(table, asked, lambda cell: cell if cell in named or os.path.isfile(cell) else None)
    lying = _lying(table, decided.id) if decided.id in far else {}
    rows = checked(table, decided, inside=False)
    if absent := [
        f"row {row.line}: {row.name!r}" for row in rows if not (row.name in lying or os.path.isfile(row.name))
    ]:
        raise DataError(
            f"{table.path} names {len(absent)} of {len(rows):,} pictures that are not there: {listing(absent)}.",
            f"Paths are absolute or begin at the working directory, {Path.cwd()}.",
        )
    matched: dict[Place, list[Row]] = defaultdict(list)
    for row in rows:
        matched[lying.get(row.name) or Path(row.name)].append(row)
    tops = {os.path.dirname(os.path.abspath(path)) for path in matched if isinstance(path, Path)}
    same_drive = len({os.path.splitdrive(top)[0] for top in tops}) == 1
    return _assembled(
        table, Path(os.path.commonpath(tops)) if same_drive else Path(), matched.items(), decided.findings
    )


def _assembled(
    table: Table, root: Place, matched: Iterable[tuple[Place, Sequence[Row]]], findings: Sequence[Finding]
) -> Dataset:
    """Return the dataset of pictures and what the rows say of each; rows that disagree leave their picture out."""
    same: list[str] = []
    conflicting: list[str] = []

    def kept() -> Iterator[Sample]:
        for place, rows in matched:
            told = [row.sample(place) for row in rows]
            if len({(one.label, one.split, one.group) for one in told}) > 1:
                conflicting.append(f"{told[0].name} ({' / '.join(sorted({str(one.label) for one in told}))})")
                continue
            same.extend([told[0].name] if len(told) > 1 else [])
            yield told[0]

    samples = Samples.of(kept())
    findings = [
        *findings,
        *found("duplicate-rows", "warning",
               "{n} [picture occurs|pictures occur] in several rows that agree; [it|each] is used once", same),
        *found("conflicting-rows", "error",
               "{n} [picture occurs|pictures occur] in rows that disagree and [is|are] left out", conflicting,
               "Keep the right row."),
    ]  # fmt: skip
    if not len(samples):
        messages = [finding.message for finding in findings]
        raise DataError(f"{table.path} leaves no usable picture: {listing(messages)}.")
    return Dataset(root, samples, (*findings, *_similar_classes(samples)), "table")


def _similar_classes(samples: Samples) -> list[Finding]:
    """Warn of class names that a person would take for the same; they stay apart.

    Raises:
        DataError: One is no text, so that no file could name it.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    labels = samples.labels.occurring()
    if strange := [ascii(label) for label in labels if label is not None and not _is_text(label)]:
        raise DataError(
            numbered("{n} [class has a name that is|classes have names that are] no UTF-8: ", len(strange))
            + f"{listing(strange)}.",
            "Rename the folders, e.g. with `convmv -f latin1 -t utf8 --notest FOLDER`.",
        )
    for label in labels:
        if label is not None:
            alike[unicodedata.normalize("NFC", label).strip().casefold()].add(label)
    twins = [" / ".join(ascii(name) for name in sorted(names)) for names in alike.values() if len(names) > 1]
    return found(
        "similar-classes", "warning",
        "{n} [group|groups] of class names, kept apart, [differs|differ] by letter case, spaces around or Unicode form",
        twins, "Give them one name if they are one class.",
    )  # fmt: skip


def _is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True
