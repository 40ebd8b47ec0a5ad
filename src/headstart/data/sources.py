"""A folder per class, a table, a Kaggle competition folder, or plain pictures → `Dataset`.

Paths and labels are verified here and never again: every picture lies under its root once links are resolved, every
label is the text that stood in the table. Nothing is decoded here, and no file is written.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from headstart.data import folders, frames, listings
from headstart.data.columns import Columns as Columns
from headstart.data.columns import Decided, decide
from headstart.data.images import SUFFIXES
from headstart.data.tables import Table, read_table
from headstart.errors import ConfigError, DataError
from headstart.records import Dataset, Finding, Sample, found, listing

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_FORBIDDEN = re.compile(r"\x00|^[A-Za-z]:[\\/]|^[A-Za-z][A-Za-z0-9+.-]+://|^~|^[\\/]")


_HOW = "Another column holds them with --id-column, --label-column, --split-column (--split-column '' uses none)."


def dataset_of(data: Dataset | str | os.PathLike[str] | frames.Frame, columns: Columns | None = None) -> Dataset:
    """Return labelled pictures, in whatever form they are given.

    Args:
        data: A dataset (as it is), the path of a folder or a table (see `read`), or a DataFrame of pandas, polars or
            the like with a column of paths and a column of labels.
        columns: Which columns of a table mean what, where neither their names nor a look at them tells.

    Raises:
        DataError: The pictures or labels cannot be used; everything that is wrong is listed.
        ConfigError: It is none of these, or a named column or folder does not exist.
    """
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        return read(path.parent, path, columns=columns) if path.is_file() else read(path, columns=columns)
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


def read(
    data: str | Path,
    labels: str | Path | None = None,
    *,
    columns: Columns | None = None,
    missing: str = "error",
    follow_links: bool = False,
) -> Dataset:
    """Read labelled pictures.

    Args:
        data: A folder with one folder per class (possibly under `train/`, `val/`, `test/`), a Kaggle competition
            folder (`labels.csv` and `train/`), or, with `labels`, the folder that the table's ids are relative to.
        labels: A CSV or TSV file. Its ids may leave out the suffix of the picture.
        columns: Which columns mean what, where neither their names nor a look at them tells.
        missing: "error" refuses a table that names pictures which are not there; "drop" leaves those rows out.
        follow_links: Whether links may lead out of the folder.

    Raises:
        DataError: The table or the folder cannot be used; everything that is wrong is listed.
        ConfigError: A named column or folder does not exist.
    """
    root = Path(data)
    check_root(root)
    if missing not in ("error", "drop"):
        raise ConfigError(f"missing is {missing!r}, but must be 'error' or 'drop'.")
    kaggle = labels is None and (root / "labels.csv").is_file() and (root / "train").is_dir()
    if labels is None and not kaggle:
        if columns is not None and columns != Columns():
            raise ConfigError("Columns were named, but there is no table: name it with --labels FILE.")
        return _read_folders(root, follow_links)
    table = read_table(Path(labels) if labels is not None else root / "labels.csv")
    dataset = _read_labelled(table, root / "train" if kaggle else root, columns or Columns(), missing, follow_links)
    return replace(dataset, layout="kaggle" if kaggle else "table")


def check_root(root: Path) -> None:
    """Refuse a place that is no folder; cheap, so that a slip of the pen is told before anything is loaded.

    Raises:
        ConfigError: It is not there, or is a file.
    """
    if not root.is_dir():
        raise ConfigError(
            f"{root} is {'a file' if root.exists() else 'not there'}; a folder was expected.",
            "A table of labels goes with --labels FILE, and DATA is then the folder of its pictures.",
        )


def read_pictures(sources: Sequence[str | Path], *, follow_links: bool = False) -> Dataset:
    """Read pictures without labels, to predict them: files, folders (searched through) and globs, in this order.

    A Kaggle competition folder (with `test/` beside `labels.csv`) stands for its `test/`.

    Raises:
        ConfigError: A source matches nothing, or is not there and has no suffix of a picture. A picture that is not
            there is one of those that cannot be used.
    """
    return listings.of(sources, follow_links=follow_links).dataset()


def _read_folders(root: Path, follow_links: bool) -> Dataset:
    files, findings = folders.walk(root, follow_links)
    relative = [file.relative_to(root).parts for file in files]
    tops = {parts[0] for parts in relative if len(parts) > 1}
    # `train/` and `test/` are splits if nothing else is beside them and the classes lie inside
    given = bool(tops) and all(top.lower() in SPLIT_FOLDERS for top in tops) and any(len(p) > 2 for p in relative)
    samples: list[Sample] = []
    loose: list[str] = []
    unlabelled: list[str] = []
    for file, parts in zip(files, relative, strict=True):
        split = SPLIT_FOLDERS[parts[0].lower()] if given and len(parts) > 1 else None
        folder = parts[1:-1] if split else parts[:-1]
        name = "/".join(parts)
        if folder:
            samples.append(Sample(file, name, "/".join(folder), split=split))
        else:
            (unlabelled if split else loose).append(name)
    findings += found(
        "loose-pictures", "warning",
        "{n} [picture lies|pictures lie] beside the class folders and [has|have] no label", loose,
        "Move each into the folder of its class.",
    )  # fmt: skip
    findings += found(
        "unlabelled-pictures",
        "note",
        "{n} [picture|pictures] of a split [has|have] no class folder and [is|are] left out",
        unlabelled,
    )
    if not samples:
        raise DataError(
            f"No labelled picture was found under {root}.",
            "Expected one folder per class with pictures in it, a labels.csv beside train/, or --labels FILE. "
            f"Looked for {', '.join(SUFFIXES)}.",
        )
    return Dataset(root, tuple(samples), (*findings, *_similar_classes(samples)), "folders")


def _read_labelled(table: Table, root: Path, asked: Columns, missing: str, follow_links: bool) -> Dataset:
    files, findings = folders.walk(root, follow_links)
    by_name = _by_name(root, files)
    decided = decide(table, asked, lambda cell: next(iter(by_name.get(cell.removeprefix("./"), ())), None))
    rows = _rows(table, decided, inside=True)
    matched, absent = _match(table, rows, root, by_name, follow_links)
    if absent and (missing == "error" or not matched):
        raise DataError(
            f"{table.path} names {len(absent)} of {len(rows):,} pictures that are not under {root}: "
            f"{listing([repr(name) for name in absent])}.",
            "Correct the folder or the ids, or leave those rows out with --missing drop.",
        )
    findings += found(
        "missing-files", "error", "{n} [row names|rows name] a file that is not there and [is|are] left out", absent
    )
    extra = [file.relative_to(root).as_posix() for file in files if file not in matched]
    findings += found(
        "unlisted-files", "warning", "{n} [picture is|pictures are] not in the table and [is|are] left out", extra
    )
    return _assembled(table, root, matched, [*findings, *decided.findings])


def _read_frame(frame: frames.Frame, asked: Columns) -> Dataset:
    """Read a DataFrame, whose paths are taken as they are: absolute, or from the working directory."""
    table = frames.to_table(frame, (asked.id, asked.label, asked.group, asked.split))
    decided = decide(table, asked, lambda cell: cell if os.path.isfile(cell) else None)
    rows = _rows(table, decided, inside=False)
    if absent := [f"row {row.line}: {row.name!r}" for row in rows if not os.path.isfile(row.name)]:
        raise DataError(
            f"{table.path} names {len(absent)} of {len(rows):,} pictures that are not there: {listing(absent)}.",
            f"Paths are absolute or begin at the working directory, {Path.cwd()}.",
        )
    matched: dict[Path, list[Sample]] = defaultdict(list)
    for row in rows:
        matched[Path(row.name)].append(row.sample(Path(row.name)))
    tops = {os.path.dirname(os.path.abspath(path)) for path in matched}
    same_drive = len({os.path.splitdrive(top)[0] for top in tops}) == 1
    return _assembled(table, Path(os.path.commonpath(tops)) if same_drive else Path(), matched, decided.findings)


def _assembled(
    table: Table, root: Path, matched: Mapping[Path, Sequence[Sample]], findings: Sequence[Finding]
) -> Dataset:
    """Return the dataset of pictures and what the rows say of each."""
    kept, more = _collapse(matched)
    if not kept:
        messages = [finding.message for finding in (*findings, *more)]
        raise DataError(f"{table.path} leaves no usable picture: {listing(messages)}.")
    return Dataset(root, tuple(kept), (*findings, *more, *_similar_classes(kept)), "table")


class _Row(NamedTuple):
    line: int
    name: str
    label: str
    group: str | None
    split: str | None

    def sample(self, path: Path) -> Sample:
        split = SPLIT_FOLDERS[self.split.strip().lower()] if self.split is not None else None
        return Sample(path, self.name, self.label, self.group or None, split)


def _rows(table: Table, decided: Decided, *, inside: bool) -> list[_Row]:
    """Return the rows; empty cells, unknown splits and, if `inside`, ids that lead elsewhere are refused."""
    ids, labels = table.column(decided.id), table.column(decided.label)
    groups = table.column(decided.group) if decided.group else [None] * len(ids)
    splits = table.column(decided.split) if decided.split else [None] * len(ids)
    rows = [_Row(*cells) for cells in zip(table.lines, ids, labels, groups, splits, strict=True)]
    problems: list[str] = []
    for row in rows:
        if not row.name.strip() or not row.label.strip():
            problems.append(f"{table.unit} {row.line} has an empty {'id' if not row.name.strip() else 'label'}")
        elif inside and (_FORBIDDEN.search(row.name) or ".." in re.split(r"[\\/]", row.name)):
            problems.append(f"line {row.line}: the id {row.name!r} is no plain path inside the folder")
        elif row.split is not None and row.split.strip().lower() not in SPLIT_FOLDERS:
            problems.append(f"{table.unit} {row.line}: the split {row.split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    if problems:
        raise DataError(
            f"{table.path}: {listing(problems)}.",
            f"Ids are paths relative to the folder of pictures. {_HOW}" if inside else _HOW,
        )
    return rows


def _by_name(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return what an id may be → the pictures that it then means: with its suffix one, without perhaps several."""
    by_name = {file.relative_to(root).as_posix(): [file] for file in files}
    bare: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        bare[file.relative_to(root).with_suffix("").as_posix()].append(file)
    for name, candidates in bare.items():
        by_name.setdefault(name, candidates)  # a whole name goes before one without its suffix
    return by_name


def _match(
    table: Table, rows: Sequence[_Row], root: Path, by_name: Mapping[str, Sequence[Path]], follow_links: bool
) -> tuple[dict[Path, list[Sample]], list[str]]:
    """Return picture → what the rows say of it, and the ids that have no picture.

    Raises:
        DataError: An id fits several pictures, or its file leads out of the root.
    """
    top = root.resolve()
    matched: dict[Path, list[Sample]] = defaultdict(list)
    absent: list[str] = []
    problems: list[str] = []
    for row in rows:
        name = row.name.removeprefix("./")
        # a file that the walk passed over, for its suffix or as a link, may be meant all the same
        matches = by_name.get(name) or [path for path in [root / name] if os.path.lexists(path) and not path.is_dir()]
        if not matches:
            absent.append(row.name)
        elif len(matches) > 1:
            problems.append(f"line {row.line}: {row.name!r} may be any of {listing([m.name for m in matches])}")
        elif name not in by_name and not follow_links and folders.escapes(matches[0], top):
            problems.append(f"line {row.line}: {row.name!r} leads out of {root} through a link")
        else:
            matched[matches[0]].append(row.sample(matches[0]))
    if problems:
        raise DataError(
            f"{table.path}: {listing(problems)}.",
            "Write the file's suffix into the id; links out of the folder need --follow-links.",
        )
    return matched, absent


def _collapse(matched: Mapping[Path, Sequence[Sample]]) -> tuple[list[Sample], list[Finding]]:
    """Return one sample per picture; rows that disagree leave their picture out."""
    kept: list[Sample] = []
    same: list[str] = []
    conflicting: list[str] = []
    for rows in matched.values():
        if len({(row.label, row.split, row.group) for row in rows}) > 1:
            conflicting.append(f"{rows[0].name} ({' / '.join(sorted({str(row.label) for row in rows}))})")
            continue
        kept.append(rows[0])
        if len(rows) > 1:
            same.append(rows[0].name)
    return kept, [
        *found("duplicate-rows", "warning",
               "{n} [picture occurs|pictures occur] in several rows that agree; [it|each] is used once", same),
        *found("conflicting-rows", "error",
               "{n} [picture occurs|pictures occur] in rows that disagree and [is|are] left out", conflicting,
               "Keep the right row."),
    ]  # fmt: skip


def _similar_classes(samples: Iterable[Sample]) -> list[Finding]:
    """Warn of class names that a person would take for the same; they stay apart."""
    alike: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.label is not None:
            alike[unicodedata.normalize("NFC", sample.label).strip().casefold()].add(sample.label)
    twins = [" / ".join(ascii(name) for name in sorted(names)) for names in alike.values() if len(names) > 1]
    return found(
        "similar-classes", "warning",
        "{n} [group|groups] of class names, kept apart, [differs|differ] by letter case, spaces around or Unicode form",
        twins, "Give them one name if they are one class.",
    )  # fmt: skip
