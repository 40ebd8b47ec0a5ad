"""A folder per class, a table, a Kaggle competition folder, or plain pictures → `Dataset`.

Paths and labels are verified here and never again: every picture lies under its root once links are resolved, every
label is the text that stood in the table. Nothing is decoded here, and no file is written.
"""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from headstart.data.images import SUFFIXES
from headstart.data.tables import Table, find_column, read_table
from headstart.errors import ConfigError, DataError
from headstart.records import Dataset, Finding, Sample, found, listing

ID_COLUMNS = ("id", "image_id", "image", "filename", "file_name", "file", "path", "image_path", "img", "name")
LABEL_COLUMNS = ("label", "breed", "class", "class_name", "category", "species", "target", "y")
SPLIT_COLUMNS = ("split", "subset", "partition")
GROUP_COLUMNS = ("group", "group_id", "patient", "patient_id", "camera", "camera_id", "individual", "subject")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
JUNK = ("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db")
_FORBIDDEN = re.compile(r"\x00|^[A-Za-z]:[\\/]|^[A-Za-z][A-Za-z0-9+.-]+://|^~|^[\\/]")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table mean what; None: found by their usual names. An empty string for `split`: use none."""

    id: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None


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
        columns: Which columns mean what, where the usual names do not fit.
        missing: "error" refuses a table that names pictures which are not there; "drop" leaves those rows out.
        follow_links: Whether links may lead out of the folder.

    Raises:
        DataError: The table or the folder cannot be used; everything that is wrong is listed.
        ConfigError: A named column or folder does not exist.
    """
    root = Path(data)
    if not root.is_dir():
        hint = "A table of labels goes with --labels FILE, and DATA is then the folder of its pictures."
        raise ConfigError(f"{root} is {'a file' if root.exists() else 'not there'}; a folder was expected.", hint)
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


def read_pictures(sources: Sequence[str | Path], *, follow_links: bool = False) -> Dataset:
    """Read pictures without labels, to predict them: files, folders (searched through) and globs, in this order.

    A Kaggle competition folder (with `test/` beside `labels.csv`) stands for its `test/`.

    Raises:
        ConfigError: A source matches nothing.
    """
    samples: list[Sample] = []
    findings: list[Finding] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            if (path / "labels.csv").is_file() and (path / "test").is_dir():
                path = path / "test"
            files, found = _walk(path, follow_links)
            findings += found
            prefix = f"{path.as_posix()}/" if len(sources) > 1 else ""  # two folders may each have a 1.jpg
            samples += [Sample(file, prefix + file.relative_to(path).as_posix()) for file in files]
        elif os.path.lexists(path):
            samples.append(Sample(path, str(source)))
        elif matches := sorted(glob.glob(str(source), recursive=True)):
            samples += [Sample(Path(m), m) for m in matches if not os.path.isdir(m)]
        elif glob.has_magic(str(source)):
            raise ConfigError(f"{str(source)!r} matches no file.")
        else:
            samples.append(Sample(path, str(source)))  # its row will say that it is missing
    if not samples:
        raise ConfigError(
            f"No picture was found in {listing([str(s) for s in sources])}.", f"Looked for {', '.join(SUFFIXES)}."
        )
    return Dataset(Path(), tuple(samples), tuple(findings))


def _read_folders(root: Path, follow_links: bool) -> Dataset:
    files, findings = _walk(root, follow_links)
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
        "loose-pictures", "warning", "{n} picture(s) lie beside the class folders and have no label", loose,
        "Move each into the folder of its class.",
    )  # fmt: skip
    findings += found(
        "unlabelled-pictures", "note", "{n} picture(s) of a split have no class folder and are left out", unlabelled
    )
    if not samples:
        raise DataError(
            f"No labelled picture was found under {root}.",
            "Expected one folder per class with pictures in it, a labels.csv beside train/, or --labels FILE. "
            f"Looked for {', '.join(SUFFIXES)}.",
        )
    return Dataset(root, tuple(samples), (*findings, *_similar_classes(samples)), "folders")


def _read_labelled(table: Table, root: Path, columns: Columns, missing: str, follow_links: bool) -> Dataset:
    rows = _rows(table, columns)
    files, findings = _walk(root, follow_links)
    matched, absent = _match(table, rows, root, files, follow_links)
    if absent and (missing == "error" or not matched):
        raise DataError(
            f"{table.path} names {len(absent)} of {len(rows)} picture(s) that are not under {root}: "
            f"{listing([repr(name) for name in absent])}.",
            "Correct the folder or the ids, or leave those rows out with --missing drop.",
        )
    kept, row_findings = _collapse(matched)
    findings += row_findings
    findings += found("missing-files", "error", "{n} row(s) name a file that is not there and are left out", absent)
    extra = [file.relative_to(root).as_posix() for file in files if file not in matched]
    findings += found("unlisted-files", "warning", "{n} picture(s) are not in the table and are left out", extra)
    if not kept:
        raise DataError(f"{table.path} leaves no usable picture: {listing([f.message for f in findings])}.")
    return Dataset(root, tuple(kept), (*findings, *_similar_classes(kept)), "table")


class _Row(NamedTuple):
    line: int
    name: str
    label: str
    group: str | None
    split: str | None


def _rows(table: Table, columns: Columns) -> list[_Row]:
    """Return the rows; empty cells, ids that are no plain relative path, and unknown splits are refused."""
    id_column = find_column(table, columns.id, ID_COLUMNS, "id")
    label_column = find_column(table, columns.label, LABEL_COLUMNS, "label")
    group_column = find_column(table, columns.group, GROUP_COLUMNS, "group", need=False)
    split_column = find_column(table, columns.split, SPLIT_COLUMNS, "split", need=False)
    ids, labels = table.column(str(id_column)), table.column(str(label_column))
    groups = table.column(group_column) if group_column else [None] * len(ids)
    splits = table.column(split_column) if split_column else [None] * len(ids)
    rows = [_Row(*cells) for cells in zip(table.lines, ids, labels, groups, splits, strict=True)]
    problems: list[str] = []
    for row in rows:
        if not row.name.strip() or not row.label.strip():
            problems.append(f"line {row.line} has an empty {'id' if not row.name.strip() else 'label'}")
        elif _FORBIDDEN.search(row.name) or ".." in re.split(r"[\\/]", row.name):
            problems.append(f"line {row.line}: the id {row.name!r} is no plain path inside the folder")
        elif row.split is not None and row.split.strip().lower() not in SPLIT_FOLDERS:
            problems.append(f"line {row.line}: the split {row.split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    if problems:
        raise DataError(
            f"{table.path}: {listing(problems)}.",
            "Ids are paths relative to the folder of pictures. Another column holds them with --id-column, "
            "--label-column, --split-column (--split-column '' uses none).",
        )
    return rows


def _match(
    table: Table, rows: Sequence[_Row], root: Path, files: Sequence[Path], follow_links: bool
) -> tuple[dict[Path, list[Sample]], list[str]]:
    """Return picture → what the rows say of it, and the ids that have no picture.

    Raises:
        DataError: An id fits several pictures, or its file leads out of the root.
    """
    by_name = {file.relative_to(root).as_posix(): [file] for file in files}
    bare: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        bare[file.relative_to(root).with_suffix("").as_posix()].append(file)
    for name, candidates in bare.items():
        by_name.setdefault(name, candidates)  # a whole name goes before one without its suffix
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
        elif name not in by_name and not follow_links and _escapes(matches[0], top):
            problems.append(f"line {row.line}: {row.name!r} leads out of {root} through a link")
        else:
            split = SPLIT_FOLDERS[row.split.strip().lower()] if row.split is not None else None
            matched[matches[0]].append(Sample(matches[0], row.name, row.label, row.group or None, split))
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
        *found("duplicate-rows", "warning", "{n} picture(s) occur in several rows that agree; each is used once", same),
        *found("conflicting-rows", "error", "{n} picture(s) occur in rows that disagree and are left out", conflicting,
               "Keep the right row."),
    ]  # fmt: skip


def _walk(root: Path, follow_links: bool) -> tuple[list[Path], list[Finding]]:
    """Return the picture files under a folder in code-point order of their relative paths, and what was passed over."""
    top = root.resolve()
    files: list[Path] = []
    hidden: list[str] = []
    skipped: Counter[str] = Counter()
    loops: list[str] = []
    outside: list[str] = []
    denied: list[str] = []
    for folder, folders, names in _folders(root, follow_links, loops, outside, denied):
        for name in list(folders):
            if _is_junk(name):
                hidden.append((folder / name).relative_to(root).as_posix() + "/")
                folders.remove(name)
        for name in names:
            path = folder / name
            if _is_junk(name):
                hidden.append(path.relative_to(root).as_posix())
            elif path.suffix.lower() not in SUFFIXES:
                skipped[path.suffix.lower() or "(no suffix)"] += 1
            elif path.is_symlink() and not follow_links and _escapes(path, top):
                outside.append(path.relative_to(root).as_posix())
            else:
                files.append(path)
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    kinds = [f"{count} {suffix}" for suffix, count in sorted(skipped.items())]
    return files, [
        *found("hidden-files", "note", "{n} hidden or system file(s) are ignored", hidden),
        *found("other-suffixes", "note", f"{sum(skipped.values())} file(s) are no pictures by their suffix and are "
               "ignored", kinds, f"Read are {', '.join(SUFFIXES)}."),
        *found("folder-links", "warning", "{n} link(s) lead to a folder that is read already; not followed", loops),
        *found("links-outside", "error", "{n} link(s) lead out of the folder and are not followed", outside,
               "Follow them with --follow-links."),
        *found("unreadable-folders", "error", "{n} folder(s) cannot be read", denied),
    ]  # fmt: skip


def _folders(
    root: Path, follow_links: bool, loops: list[str], outside: list[str], denied: list[str]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk like `os.walk`, into each real folder once; links that stay inside (or all, if asked) come last.

    A folder that is linked to as well is thereby known by its own name.
    """
    top = root.resolve()
    seen: set[Path] = set()
    waiting = deque([root])
    while waiting:
        folder = waiting.popleft()
        real = folder.resolve()
        if real in seen:
            loops.append(folder.relative_to(root).as_posix())
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            denied.append(f"{folder.relative_to(root).as_posix()}/ ({error.strerror})")
            continue
        folders = [entry.name for entry in entries if _is_folder(entry)]
        yield folder, folders, [entry.name for entry in entries if not _is_folder(entry)]
        for path in (folder / name for name in folders):
            if not path.is_symlink():
                waiting.appendleft(path)
            elif follow_links or not _escapes(path, top):
                waiting.append(path)
            else:
                outside.append(path.relative_to(root).as_posix() + "/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _similar_classes(samples: Iterable[Sample]) -> list[Finding]:
    """Warn of class names that a person would take for the same; they stay apart."""
    alike: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.label is not None:
            alike[unicodedata.normalize("NFC", sample.label).strip().casefold()].add(sample.label)
    twins = [" / ".join(ascii(name) for name in sorted(names)) for names in alike.values() if len(names) > 1]
    return found(
        "similar-classes", "warning",
        "{n} group(s) of class names differ only by letter case, spaces around them or Unicode form and are kept apart",
        twins, "Give them one name if they are one class.",
    )  # fmt: skip


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _escapes(path: Path, top: Path) -> bool:
    try:
        return not path.resolve().is_relative_to(top)
    except (OSError, RuntimeError):  # a link that leads to itself
        return True
