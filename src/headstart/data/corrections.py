"""Suspects → a sheet for a person to fill in, and a filled-in sheet → the dataset with other labels and fewer pictures.

The files of the pictures and of their labels stay as they are: the sheet is read again with them, each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from headstart.data.tables import Table, defused, restored, to_csv
from headstart.errors import DataError
from headstart.records import ClassNames, Dataset, Finding, Sample, found, listing

COLUMNS = ("path", "label", "suggested", "confidence", "duplicate_of", "correction")
NEEDED = ("path", "label", "suggested", "correction")
HOW = (
    "Fill in the column `correction` with accept (the suggested label), remove or a class name; empty keeps the label."
)


class Doubt(Protocol):
    """What a row of the sheet is made of: a picture whose label is doubted."""

    @property
    def name(self) -> str:
        """The picture's name."""

    @property
    def label(self) -> str:
        """Its label."""

    @property
    def suggested(self) -> str:
        """Another label."""

    @property
    def confidence(self) -> float:
        """How sure that is, in [0, 1]."""

    @property
    def duplicate_of(self) -> str:
        """The name of a copy, or empty."""


def sheet(doubts: Iterable[Doubt]) -> str:
    """Return the CSV text of the sheet, with an empty column `correction`.

    Its reader is a spreadsheet: cells that one would run as a formula begin with an apostrophe, which `apply` undoes.
    """
    rows = ((d.name, d.label, d.suggested, f"{d.confidence:.3f}", d.duplicate_of, "") for d in doubts)
    return to_csv([COLUMNS, *(tuple(map(defused, row)) for row in rows)])


def apply(dataset: Dataset, table: Table) -> Dataset:
    """Return the dataset as the sheet corrects it, in the same order, with findings of all that was done or was not.

    A correction is a class name, `accept` (the suggested label) or `remove`, whatever their letter case; empty keeps
    the label. A class that is called exactly so goes first: where one is named `remove`, write `REMOVE` to leave a
    picture out. A class that does not exist yet is made, with a warning.

    Raises:
        DataError: A column is missing, no row has a correction, or rows contradict each other or accept nothing; every
            such line is shown.
    """
    if missing := [repr(name) for name in NEEDED if name not in table.header]:
        raise DataError(
            f"{table.path} is no sheet of corrections: it lacks {', '.join(missing)}; its columns are "
            f"{listing([repr(name) for name in table.header], 12)}.",
            f"Its first line must be {','.join(COLUMNS)}.",
        )
    decisions = _decide(table, dataset.classes)
    samples: list[Sample] = []
    changes: list[tuple[Sample, str]] = []
    removed: list[str] = []
    stale: list[str] = []
    for sample in dataset:
        decision = decisions.pop(sample.name, None)
        if decision is None:
            samples.append(sample)
        elif decision.given != (sample.label or ""):
            samples.append(sample)
            stale.append(f"{sample.name}: {decision.given} in the sheet, {sample.label} now")
        elif decision.label is None:
            removed.append(sample.name)
        else:
            samples.append(replace(sample, label=decision.label))
            changes += [(sample, decision.label)] if decision.label != sample.label else []
    findings = _findings(changes, removed, stale, list(decisions), dataset.classes)
    return replace(dataset, samples=tuple(samples), findings=(*dataset.findings, *findings))


def changed_labels(previous: Mapping[str, str], dataset: Dataset, digests: Sequence[str]) -> list[Finding]:
    """Return a finding of the pictures that had another label in a previous run; none if there are no such pictures.

    Args:
        previous: SHA-256 of a picture's bytes → its label then.
        dataset: N pictures with their labels now, whatever their files are called now.
        digests: N, of the bytes of each; empty where a file could not be read.
    """
    changed = [
        f"{name}: {previous[digest]} → {label}"
        for name, label, digest in zip(dataset.names, dataset.labels, digests, strict=True)
        if digest and previous.get(digest, label) != label
    ]
    return found("changed-labels", "note", "{n} [label|labels] changed since the previous run", changed)


class _Decision(NamedTuple):
    given: str  # the label that it was made on
    label: str | None  # None: leave the picture out


def _decide(table: Table, classes: ClassNames) -> dict[str, _Decision]:
    """Return path → what was decided, for rows with a correction."""
    decisions: dict[str, _Decision] = {}
    problems: list[str] = []
    first: dict[str, int] = {}
    columns = [[restored(cell) for cell in table.column(name)] for name in NEEDED]
    for line, path, given, suggested, correction in zip(table.lines, *columns, strict=True):
        wanted = correction if correction in classes else correction.strip()
        if not wanted:
            continue
        keyword = wanted.lower() if wanted not in classes else ""
        if keyword == "accept" and not suggested:
            problems.append(f"line {line}: {path!r} accepts a suggested label, but there is none")
            continue
        decision = _Decision(given, {"accept": suggested, "remove": None}.get(keyword, wanted))
        if decisions.setdefault(path, decision) != decision:
            problems.append(f"line {line}: {path!r} is corrected otherwise than on line {first[path]}")
        first.setdefault(path, line)
    if problems:
        raise DataError(f"{table.path}: {listing(problems)}.", HOW)
    if not decisions:
        raise DataError(
            f"None of the {len(table.rows):,} rows of {table.path} has a correction; nothing was changed.", HOW
        )
    return decisions


def _findings(
    changes: Sequence[tuple[Sample, str]],
    removed: Sequence[str],
    stale: Sequence[str],
    absent: Sequence[str],
    classes: ClassNames,
) -> list[Finding]:
    new = sorted({label for _, label in changes} - set(classes))
    return [
        *found("relabelled-pictures", "note",
               "{n} [picture has|pictures have] another label, by the sheet of corrections",
               [f"{sample.name}: {sample.label} -> {label}" for sample, label in changes]),
        *found("removed-pictures", "note", "{n} [picture is|pictures are] left out, by the sheet of corrections",
               removed),
        *found("new-classes", "warning", "{n} [class exists|classes exist] only in the sheet of corrections",
               [_with_closest(name, classes) for name in new], "Correct the sheet if they are slips of the pen."),
        *found("stale-corrections", "warning",
               "{n} [correction was|corrections were] made on another label than the picture has now, and passed over",
               stale, "Look at those pictures again, with a new sheet."),
        *found("absent-corrections", "warning",
               "{n} [correction is|corrections are] of pictures that are not in the data, and passed over",
               absent, "The column `path` holds the names of pictures as the data have them."),
    ]  # fmt: skip


def _with_closest(name: str, classes: ClassNames) -> str:
    """Return a new class with the old one that it may be a slip of, e.g. `Beagel (did you mean beagle?)`."""
    known = {old.lower(): old for old in classes}
    close = get_close_matches(name.lower(), known, 1)
    return f"{name} (did you mean {known[close[0]]}?)" if close else name
