"""What a training leaves beside its model for later commands: its tables, written row by row and read back exactly, and
its figures, checked when they are read.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.tables import to_csv
from headstart.errors import ArtifactError
from headstart.packed import Values
from headstart.predictions import Predictions
from headstart.records import SPLIT_NAMES, ClassNames, Locator
from headstart.schema import (
    FLAG,
    SECTION,
    TEXT,
    Check,
    both,
    listing,
    nullable,
    number,
    read_json,
    record,
    require,
    table,
    text,
    wrong,
)

if TYPE_CHECKING:  # figures are read without what trained the model
    from headstart.workflows.resume import PreviousRun
    from headstart.workflows.train import TrainingResult

EVALUATION, TRUST, PICTURES, PREDICTIONS = "evaluation.json", "trust.json", "pictures.csv", "predictions.csv"
FINDINGS, HISTORY, ALBUM, JOURNAL = "findings.json", "history.csv", "album.json", "journal.json"
MODEL, PLAN = "model.json", "plan.toml"

PICTURE_COLUMNS = ["path", "label", "split", "sha256"]
PLACE = "place"  # a column after these, where pictures are no files below the folder of the data
HELD_OUT_COLUMNS = ["path", "split", "label", "predicted"]
CLASS_COLUMN = (
    "probability:"  # before the name of a class, which may itself be `path` or differ from another by a space
)

_FIGURES = (
    *("accuracy", "top5_accuracy", "log_loss", "macro_f1", "brier", "ece"),
    *("coverage", "set_size", "refused", "aurc"),
)
_COUNT = number(0, 1e12, whole=True)
_INTERVAL = listing(nullable(number(-1e9, 1e9)), fewest=3, most=3)
_KNOWN_INTERVAL = listing(number(-1e9, 1e9), fewest=3, most=3)
_SHARE = number(0, 1)


def _both(first: Check, second: Check) -> Check:
    """Make the check of a list of two."""

    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, list) or len(value) != 2:
            return [wrong(where, value, "a list of 2 values")]
        return [*first(value[0], f"{where}[0]"), *second(value[1], f"{where}[1]")]

    return check


def _together(value: Mapping[str, Any], where: str) -> list[str]:
    return [] if ("accuracy" in value) == ("log_loss" in value) else [wrong(where, value, "accuracy and log_loss")]


EVALUATIONS: Check = table(
    record(
        {
            "pictures": _COUNT,
            "overall": both(table(_INTERVAL, _FIGURES), _together),
            "per_class": table(SECTION),
            "most_confused": listing(record({"given": TEXT, "predicted": TEXT, "pictures": _COUNT})),
        },
        extra=True,
    ),
    SPLIT_NAMES,
)
TRUSTED: Check = record(
    {
        "similarity": listing(record({"band": TEXT, "share": _SHARE, "accuracy": _INTERVAL}, extra=True)),
        "same_object": record(
            {"accuracy_lost_without": nullable(_INTERVAL), "kept_together": FLAG, "split_of_the_data": FLAG}, extra=True
        ),
        "sets": nullable(
            record({"method": TEXT, "level": _SHARE}, {"classes": _COUNT, "always_all": FLAG}, extra=True)
        ),
        "unknown": nullable(
            record({"score": TEXT, "refused": _SHARE}, {"pictures": _COUNT, "needed": _COUNT}, extra=True)
        ),
        "learning_curve": nullable(
            record(
                {
                    "gain": _KNOWN_INTERVAL,
                    "most_to_gain": listing(record({"name": TEXT, "pictures": _COUNT}, extra=True)),
                },
                extra=True,
            )
        ),
        "changes": listing(
            record(
                {
                    "name": TEXT,
                    "pictures": _COUNT,
                    "before": _SHARE,
                    "after": _SHARE,
                    "lost": _COUNT,
                    "won": _COUNT,
                    "adjusted": _SHARE,
                },
                extra=True,
            )
        ),
    },
    {
        "random_split": nullable(record({"accuracy": _INTERVAL, "pictures": _COUNT, "leaked": _COUNT}, extra=True)),
        "expected": nullable(
            record(
                {
                    **dict.fromkeys(("accuracy", "gain"), _KNOWN_INTERVAL),
                    **dict.fromkeys(("learned_from", "measured_heads_learned_from"), _COUNT),
                },
                extra=True,
            )
        ),
    },
    extra=True,
)
_PLACE = number(0, 1_000_000, whole=True)
_SIMILARITY = number(-1.01, 1.01)
_ALBUM: Check = record(
    {
        "pictures": listing(
            record({"name": TEXT, "label": TEXT, "webp": text("[A-Za-z0-9+/=]*", "a picture in base64")}), most=5_000
        ),
        "errors": _COUNT,
        "mistakes": listing(
            record(
                {
                    "picture": _PLACE,
                    "top": listing(_both(TEXT, _SHARE), fewest=1),
                    "given": _SHARE,
                    "nearest": listing(_both(_PLACE, _SIMILARITY)),
                    "suggested": nullable(TEXT),
                },
                {"heat_map": _PLACE},
            ),
            most=1_000,
        ),
        "pairs": listing(
            record(
                {
                    "classes": listing(TEXT, 2, 2),
                    "taken": listing(_COUNT, 2, 2),
                    "pictures": listing(listing(_PLACE), 2, 2),
                }
            ),
            most=100,
        ),
        "doubtful": _COUNT,
        "suspects": listing(
            record({"picture": _PLACE, "suggested": TEXT, "confidence": _SHARE, "likely": FLAG, "duplicate_of": TEXT}),
            most=1_000,
        ),
        "findings": listing(listing(_PLACE)),
    }
)
_FOUND = listing(
    record({"code": TEXT, "severity": TEXT, "message": TEXT, "names": listing(TEXT), "advice": TEXT}, extra=True)
)
_JOURNAL: Check = record(
    {
        "seconds": number(0, 1e9),
        "command": TEXT,
        "source": TEXT,
        "licences": table(TEXT),
        "speed": nullable(
            record(
                {
                    **dict.fromkeys(("alone", "pictures_per_second", "megabytes"), number(0, 1e12)),
                    **dict.fromkeys(("timed", "parameters"), _COUNT),
                    "machine": TEXT,
                }
            )
        ),
    },
    extra=True,
)
# sections and fields of trust.json as they were called beside models up to format 2
_RENAMED = {
    "look_alikes": "same_object",
    "naive_split": "random_split",
    "with_a_copy_or_look_alike_among_the_learned": "leaked",
}


def read_evaluation(directory: Path) -> dict[str, Any]:
    """Return what a training measured, as `summary.of_evaluations` gave it.

    Raises:
        ArtifactError: There are no figures in that folder, or they are damaged.
    """
    path = directory / EVALUATION
    try:
        content: dict[str, Any] = read_json(path, names=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{directory} holds no {EVALUATION}, the figures of its training.",
            "Measure it on labelled pictures: headstart evaluate MODEL DATA",
        ) from error
    require(path, EVALUATIONS(content, ""), "Measure it anew on labelled pictures: headstart evaluate MODEL DATA")
    return content


def read_trust(directory: Path) -> dict[str, Any] | None:
    """Return what `summary.of_trust` gave when the model was trained; None where it was not kept.

    Raises:
        ArtifactError: It is damaged.
    """
    path = directory / TRUST
    try:
        content: dict[str, Any] = read_json(path, names=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = _renamed(_renamed(content), "random_split")
    require(path, TRUSTED(content, ""))
    return content


def read_run(directory: Path) -> dict[str, Any]:
    """Return what the files of a run hold: evaluations, trust, findings, history, model, album and journal.

    The last two are None where there are none, as in a run of an older Headstart.

    Raises:
        ArtifactError: A file of the run is missing or damaged.
    """
    evaluations, trust = read_evaluation(directory), read_trust(directory)
    try:
        if trust is None:
            raise FileNotFoundError(f"there is no {TRUST}")
        model = json.loads((directory / MODEL).read_text(encoding="utf-8"))
        with open(directory / HISTORY, newline="", encoding="utf-8") as file:
            history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{directory} cannot be drawn again: {type(error).__name__}: {error}.",
            f"A folder that `headstart train` wrote was expected, with its figures and {HISTORY}.",
        ) from error
    return {
        "evaluations": evaluations,
        "trust": trust,
        "history": history,
        "model": model,
        "findings": _read_checked(directory / FINDINGS, _FOUND) or [],
        "album": read_album(directory),
        "journal": read_journal(directory),
    }


def read_album(directory: Path) -> dict[str, Any] | None:
    """Return the small pictures of a run and what is shown of them; None where that was not kept."""
    content: dict[str, Any] | None = _read_checked(directory / ALBUM, _ALBUM)
    return content


def read_journal(directory: Path) -> dict[str, Any] | None:
    """Return what was done where and when; None where that was not kept."""
    content: dict[str, Any] | None = _read_checked(directory / JOURNAL, _JOURNAL)
    return content


def _read_checked(path: Path, check: Check) -> Any:
    """Return what a JSON file holds; None where it is not there."""
    try:
        content = read_json(path, names=True)
    except FileNotFoundError:
        return None
    require(path, check(content, ""))
    return content


def _renamed(content: Any, section: str | None = None) -> Any:
    """Return a content, or its section, under today's names; what is no section stays what it is."""
    if not isinstance(content, dict):
        return content
    if section is None:
        return {_RENAMED.get(name, name): value for name, value in content.items()}
    return content | ({section: _renamed(content[section])} if section in content else {})


def files(run: Path) -> list[Path]:
    """Return the files that a run consists of, besides what is drawn from them."""
    named = (MODEL, PLAN, EVALUATION, TRUST, PICTURES, PREDICTIONS, FINDINGS, HISTORY, ALBUM, JOURNAL)
    return [*(run / name for name in named), *run.glob("*.safetensors")]


def write_predictions(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write the held-out predictions, row by row: of many classes they are larger than memory."""
    classes = next(iter(predictions.values())).classes
    header = [*HELD_OUT_COLUMNS, *(f"{CLASS_COLUMN}{name}" for name in classes)]
    rows = (row for split, said in predictions.items() for row in _held_out(split, said))
    _write_rows(path, [header], rows)


def _held_out(split: str, said: Predictions) -> Iterator[list[str]]:
    for row, name in enumerate(said.names):
        target = said.targets[row] if said.targets is not None else None
        label = "" if row in said.errors else said.classes[int(np.argmax(said.probabilities[row]))]
        yield [name, split, target or "", label, *(f"{p:.9g}" for p in said.probabilities[row].tolist())]


def write_pictures(path: Path, result: TrainingResult) -> None:
    """Write which part each usable picture belongs to, and the digest that it is known by."""
    part = np.zeros(len(result.dataset), dtype=np.int8)
    for code, name in enumerate(SPLIT_NAMES, start=1):
        part[result.splits.part(name)] = code
    parts = Values(("", *SPLIT_NAMES), part)
    rows = zip(result.dataset.names, map(str, result.dataset.labels), parts, result.digests, strict=True)
    if not result.dataset.packed.far.any():
        _write_rows(path, [PICTURE_COLUMNS], rows)
        return
    places = (s.path.to_text() if isinstance(s.path, Locator) else str(s.path) for s in result.dataset)
    _write_rows(path, [[*PICTURE_COLUMNS, PLACE]], ([*row, place] for row, place in zip(rows, places, strict=True)))


def read_pictures(path: Path) -> list[tuple[str, ...]]:
    """Return the rows of `write_pictures`; those of the fifth column are empty where it is not there.

    Raises:
        ValueError: It is no such table; `OSError` where it cannot be read.
    """
    header, rows = read_columns(path, PICTURE_COLUMNS)
    if header[len(PICTURE_COLUMNS) :] != [PLACE]:
        return [(*row, "") for row in rows]
    return read_columns(path, header)[1]


def _write_rows(path: Path, *parts: Iterable[Sequence[str]]) -> None:
    # names of files may hold bytes that are no UTF-8
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        for rows in parts:
            stream.writelines(to_csv([row]) for row in rows)


def read_previous(directory: Path, wanted: str = "gone on from") -> PreviousRun:
    """Return what a run left for a later one on the same pictures and more.

    Args:
        directory: The run's.
        wanted: What is to be done with it, for the error.

    Raises:
        ArtifactError: The folder is no run, or one of its tables is damaged.
    """
    from headstart.workflows.resume import PreviousRun

    try:
        _, pictures = read_columns(directory / PICTURES, PICTURE_COLUMNS)
        header, said = read_columns(directory / PREDICTIONS, HELD_OUT_COLUMNS)
        digests = {path: digest for path, _, _, digest in pictures}
        parts = {digest: part for _, _, part, digest in pictures}
        labels = {digest: label for _, label, _, digest in pictures}
        names = {digest: path for path, _, _, digest in pictures}
        answers = {digests[path]: predicted for path, _, _, predicted in said}
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{directory} cannot be {wanted}: {error}",
            f"A folder that `headstart train` wrote was expected, with its {PICTURES} and {PREDICTIONS}.",
        ) from error
    return PreviousRun(parts, answers, _classes(header[len(HELD_OUT_COLUMNS) :]), labels, names)


def read_columns(path: Path, names: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the header and the first columns of a table, cells as they were written; their names are known.

    Raises:
        ValueError: It is no such table; `OSError` where it cannot be read.
    """
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            if header[: len(names)] != list(names):
                raise ValueError(f"{path} begins with the columns {header[: len(names)]} instead of {list(names)}")
            return header, [_start(path, reader.line_num, row, header, len(names)) for row in reader if row]
        except csv.Error as error:
            raise ValueError(f"{path} is damaged: line {reader.line_num}: {error}") from error


def _start(path: Path, line: int, row: Sequence[str], header: Sequence[str], count: int) -> tuple[str, ...]:
    if len(row) != len(header):
        raise ValueError(f"{path} is damaged: line {line} has {len(row)} cells instead of {len(header)}")
    return tuple(row[:count])


def _classes(columns: Sequence[str]) -> ClassNames:
    """Return the classes that columns are named after; the first runs had no word before them."""
    prefixed = all(column.startswith(CLASS_COLUMN) for column in columns)
    return ClassNames(column.removeprefix(CLASS_COLUMN) if prefixed else column for column in columns)
