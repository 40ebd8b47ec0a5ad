"""A folder per class, a table, a Kaggle competition folder, or plain pictures → `Dataset`.

Paths and labels are verified here and never again: every picture lies under its root once links are resolved, every
label is the text that stood in the table. Nothing is decoded here, and no file is written.
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.data.images import SUFFIXES
from headstart.errors import ConfigError, DataError
from headstart.records import Dataset, Finding, Sample, listing

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


@dataclass(frozen=True, slots=True)
class Table:
    """A delimited text file: every cell is a string, every row as long as the header.

    Attributes:
        path: The file.
        header: Column names.
        rows: Cells.
        lines: The line of the file on which each row ends, from 1.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str) -> tuple[str, ...]:
        """Return the cells of one column."""
        index = self.header.index(name)
        return tuple(row[index] for row in self.rows)


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
            samples += [Sample(file, file.relative_to(path).as_posix()) for file in files]
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


def read_table(path: Path) -> Table:
    """Read a CSV or TSV file; the delimiter (comma, semicolon, tab) is the one that the header line holds most of.

    Raises:
        DataError: Not UTF-8, an empty file, a repeated column, a row of another length, or a quote that is never
            closed; with the line's number.
    """
    try:
        raw = path.read_bytes()
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
            f"The table {path} is damaged: {'; '.join(problems[:5])}"
            + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            + ".",
            "Nothing was guessed. Mend those lines (a cell with the delimiter in it needs quotes).",
        )
    if not rows:
        raise DataError(f"The table {path} has no rows.", "Its first line names the columns, e.g. id,label.")
    return Table(path, header, tuple(rows), tuple(lines))


def find_column(table: Table, wanted: str | None, usual: Sequence[str], what: str, *, need: bool = True) -> str | None:
    """Return the name of the column that holds `what`: the one asked for, or the first with a usual name.

    Raises:
        ConfigError: The column asked for is not there, or one is needed and none has a usual name.
    """
    columns = listing([repr(c) for c in table.header], 12)
    if wanted is not None:
        if wanted and wanted not in table.header:
            raise ConfigError(f"{table.path} has no column {wanted!r}; its columns are {columns}.")
        return wanted or None
    by_name = {column.lower(): column for column in table.header}
    found = next((by_name[name] for name in usual if name in by_name), None)
    if found is None and need:
        raise ConfigError(
            f"{table.path}: which column holds the {what}? None of {columns} has a usual name ({', '.join(usual)}).",
            f"Name it with --{what}-column.",
        )
    return found


def _decode_text(path: Path, raw: bytes) -> str:
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
        raise DataError(f"The table {path} holds NUL bytes; it is no CSV file.", "Save it as CSV UTF-8.")
    return text


def _read_folders(root: Path, follow_links: bool) -> Dataset:
    files, findings = _walk(root, follow_links)
    relative = [file.relative_to(root).parts for file in files]
    tops = {parts[0] for parts in relative if len(parts) > 1}
    # `train/` beside `test/` are splits; a lone `train/` is one too, if the pictures in it lie in folders of their own
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
    if loose:
        findings.append(
            Finding(
                "loose-pictures",
                "warning",
                f"{len(loose)} picture(s) lie beside the class folders and have no label",
                tuple(loose),
                "Move each into the folder of its class.",
            )
        )
    if unlabelled:
        findings.append(
            Finding(
                "unlabelled-pictures",
                "note",
                f"{len(unlabelled)} picture(s) of a split have no class folder and are left out",
                tuple(unlabelled),
            )
        )
    if not samples:
        raise DataError(
            f"No labelled picture was found under {root}.",
            "Expected one folder per class with pictures in it, a labels.csv beside train/, or --labels FILE. "
            f"Looked for {', '.join(SUFFIXES)}.",
        )
    return Dataset(root, tuple(samples), (*findings, *_class_name_findings(samples)), "folders")


def _read_labelled(table: Table, root: Path, columns: Columns, missing: str, follow_links: bool) -> Dataset:
    id_column = find_column(table, columns.id, ID_COLUMNS, "id")
    label_column = find_column(table, columns.label, LABEL_COLUMNS, "label")
    group_column = find_column(table, columns.group, GROUP_COLUMNS, "group", need=False)
    split_column = find_column(table, columns.split, SPLIT_COLUMNS, "split", need=False)
    ids, labels = table.column(str(id_column)), table.column(str(label_column))
    _refuse_bad_rows(table, ids, labels, root, follow_links)
    files, findings = _walk(root, follow_links)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        name = file.relative_to(root).as_posix()
        by_name[name].append(file)
        by_name[name[: -len(file.suffix)]].append(file)

    groups = table.column(group_column) if group_column else [None] * len(ids)
    splits = table.column(split_column) if split_column else [None] * len(ids)
    problems: list[str] = []
    absent: list[str] = []
    samples: dict[str, list[Sample]] = defaultdict(list)
    for line, name, label, group, split in zip(table.lines, ids, labels, groups, splits, strict=True):
        matches = by_name.get(_tidy(name), [])
        if len(matches) > 1:
            problems.append(f"line {line}: {name!r} may be any of {listing([m.name for m in matches])}")
        elif split is not None and split.strip().lower() not in SPLIT_FOLDERS:
            problems.append(f"line {line}: the split {split!r} is none of {', '.join(SPLIT_FOLDERS)}")
        elif not matches and not (root / name).is_file():
            absent.append(name)
        else:
            part = SPLIT_FOLDERS[split.strip().lower()] if split is not None else None
            path = matches[0] if matches else root / name
            samples[_tidy(name)].append(Sample(path, name, label, group or None, part))
    if problems:
        raise DataError(
            f"{table.path}: {'; '.join(problems[:5])}" + _and_more(problems, 5),
            "Write the file's suffix into the id, or name another column with --split-column "
            "(--split-column '' uses none).",
        )
    if absent and (missing == "error" or not samples):
        raise DataError(
            f"{table.path} names {len(absent)} of {len(ids)} picture(s) that are not under {root}: "
            f"{listing([repr(a) for a in absent])}.",
            "Correct the folder or the ids, or leave those rows out with --missing drop.",
        )
    kept, row_findings = _collapse(samples)
    findings += row_findings
    if absent:
        findings.append(
            Finding(
                "missing-files",
                "error",
                f"{len(absent)} row(s) name a file that is not there and are left out",
                tuple(absent),
            )
        )
    used = {sample.path for sample in kept} | {s.path for rows in samples.values() for s in rows}
    if extra := tuple(f.relative_to(root).as_posix() for f in files if f not in used):
        findings.append(
            Finding(
                "unlisted-files",
                "warning",
                f"{len(extra)} picture(s) under {root} are not in the table and are left out",
                extra,
            )
        )
    if not kept:
        raise DataError(f"{table.path} leaves no usable picture.", "See the duplicate and conflicting rows above.")
    return Dataset(root, tuple(kept), (*findings, *_class_name_findings(kept)), "table")


def _refuse_bad_rows(table: Table, ids: Sequence[str], labels: Sequence[str], root: Path, follow_links: bool) -> None:
    """Refuse ids that are no plain relative path under the root, and empty cells."""
    top = root.resolve()
    problems: list[str] = []
    for line, name, label in zip(table.lines, ids, labels, strict=True):
        if not name.strip() or not label.strip():
            problems.append(f"line {line} has an empty {'id' if not name.strip() else 'label'}")
        elif _FORBIDDEN.search(name) or ".." in re.split(r"[\\/]", name):
            problems.append(f"line {line}: the id {name!r} is no plain path inside the folder")
        elif not follow_links and _escapes(root / name, top):
            problems.append(f"line {line}: {name!r} leads out of {root} through a link")
    if problems:
        raise DataError(
            f"{table.path}: {'; '.join(problems[:5])}" + _and_more(problems, 5),
            "An id is the path of a picture relative to the folder; links out of it need --follow-links.",
        )


def _collapse(samples: dict[str, list[Sample]]) -> tuple[list[Sample], list[Finding]]:
    """Return one sample per picture; rows that disagree on the label leave their picture out."""
    kept, same, conflicting = [], [], []
    for rows in samples.values():
        if len({(row.label, row.split, row.group) for row in rows}) > 1:
            conflicting.append(f"{rows[0].name} ({' / '.join(sorted({str(row.label) for row in rows}))})")
            continue
        kept.append(rows[0])
        if len(rows) > 1:
            same.append(rows[0].name)
    findings = []
    if same:
        findings.append(
            Finding(
                "duplicate-rows",
                "warning",
                f"{len(same)} picture(s) occur in several rows that agree; each is used once",
                tuple(same),
            )
        )
    if conflicting:
        findings.append(
            Finding(
                "conflicting-rows",
                "error",
                f"{len(conflicting)} picture(s) occur in rows that disagree and are left out",
                tuple(conflicting),
                "Keep the right row.",
            )
        )
    return kept, findings


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
    return files, _walk_findings(hidden, skipped, loops, outside, denied)


def _folders(
    root: Path, follow_links: bool, loops: list[str], outside: list[str], denied: list[str]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk like `os.walk`, through links that stay inside (or all, if asked), into each real folder once."""
    top = root.resolve()
    seen = {top}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            denied.append(f"{folder.relative_to(root).as_posix()}/ ({error.strerror})")
            continue
        folders = [entry.name for entry in entries if entry.is_dir()]
        yield folder, folders, [entry.name for entry in entries if not entry.is_dir()]
        for name in folders:
            path = folder / name
            real = path.resolve()
            if real in seen:
                loops.append(path.relative_to(root).as_posix())
            elif path.is_symlink() and not follow_links and not real.is_relative_to(top):
                outside.append(path.relative_to(root).as_posix() + "/")
            else:
                seen.add(real)
                waiting.append(path)


def _walk_findings(
    hidden: Sequence[str], skipped: Counter[str], loops: Sequence[str], outside: Sequence[str], denied: Sequence[str]
) -> list[Finding]:
    findings = []
    if hidden:
        findings.append(
            Finding("hidden-files", "note", f"{len(hidden)} hidden or system file(s) ignored", tuple(hidden))
        )
    if skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        findings.append(
            Finding(
                "other-suffixes",
                "note",
                f"{sum(skipped.values())} file(s) are no pictures by their suffix and are ignored: {kinds}",
                tuple(sorted(skipped)),
                f"Read are {', '.join(SUFFIXES)}.",
            )
        )
    if loops:
        findings.append(
            Finding(
                "folder-links",
                "warning",
                f"{len(loops)} link(s) lead to a folder that is read already and are not followed",
                tuple(loops),
            )
        )
    if outside:
        findings.append(
            Finding(
                "links-outside",
                "error",
                f"{len(outside)} link(s) lead out of the folder and are not followed",
                tuple(outside),
                "Follow them with --follow-links.",
            )
        )
    if denied:
        findings.append(
            Finding("unreadable-folders", "error", f"{len(denied)} folder(s) cannot be read", tuple(denied))
        )
    return findings


def _class_name_findings(samples: Iterable[Sample]) -> list[Finding]:
    """Warn of class names that a person would take for the same; they stay apart."""
    alike: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.label is not None:
            alike[unicodedata.normalize("NFC", sample.label).strip().casefold()].add(sample.label)
    twins = [" / ".join(repr(name) for name in sorted(names)) for names in alike.values() if len(names) > 1]
    if not twins:
        return []
    return [
        Finding(
            "similar-classes",
            "warning",
            f"{len(twins)} group(s) of class names differ only by letter case, "
            "spaces around them or Unicode form; they are kept apart",
            tuple(twins),
            "Give them one name if they are one class.",
        )
    ]


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _tidy(name: str) -> str:
    return name.removeprefix("./")


def _escapes(path: Path, top: Path) -> bool:
    try:
        return not path.resolve().is_relative_to(top)
    except (OSError, RuntimeError):  # a link that leads to itself
        return True


def _and_more(problems: Sequence[str], shown: int) -> str:
    return f"; and {len(problems) - shown} more." if len(problems) > shown else "."
