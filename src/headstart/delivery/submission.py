"""Predictions → a CSV or JSON Lines file, as a competition or a program asks for it.

A picture that could not be used keeps its row: empty cells in a CSV, `"status": "error"` in JSON Lines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from headstart.data.tables import Table, defused, to_csv
from headstart.errors import ConfigError, DataError
from headstart.predictions import Prediction, Predictions
from headstart.records import listing, numbered, portion

FORMATS = ("labels", "probabilities", "table", "jsonl")
KNOWN = "known"
NAMED = 5  # pictures that a line names at most
_YES_NO = {None: "", True: "yes", False: "no"}


def render(
    predictions: Predictions,
    form: str = "labels",
    like: Table | None = None,
    *,
    spreadsheet_safe: bool = False,
    fill_missing: bool = False,
    known: bool = False,
) -> str:
    """Return the text of the file. Pictures are called what they were asked for as, suffix and all.

    Args:
        predictions: What to write.
        form: "labels" (`image_id,label`), "probabilities" (`image_id` and a column for each class), "table"
            (`image_id,label,probability,known,p_value,set,error`, the set with `|` between its classes) or "jsonl".
        like: A sample submission: its id column and its class columns, in its order; overrides `form`. Its ids may
            leave out folder and suffix.
        spreadsheet_safe: Put an apostrophe before cells that a spreadsheet would run as a formula (OWASP's rule); the
            file is then no longer faithful to the byte.
        fill_missing: Whether to write 0 in the sample's columns of classes that the model does not know.
        known: Whether "labels" and "probabilities" get a column `known` (yes or no), as "table" and "jsonl" have.

    Raises:
        DataError: The sample's classes or ids are not the model's classes or the pictures; both lists are shown.
        ConfigError: There is no such format, or no place for a column `known`.
    """
    if known:
        check_known(form, like, predictions.classes)
    if like is not None:
        check_like(like, predictions.classes, fill_missing=fill_missing)
        shares = (predictions.probabilities[row] for row in order(predictions.names, like))
        return "".join(filled(like, predictions.classes, shares, spreadsheet_safe=spreadsheet_safe))
    header = head(form, predictions.classes, spreadsheet_safe=spreadsheet_safe, known=known)
    return header + rows(predictions, form, spreadsheet_safe=spreadsheet_safe, known=known)


def head(form: str, classes: Sequence[str], *, spreadsheet_safe: bool = False, known: bool = False) -> str:
    """Return the first line of a file, with the names of its columns; empty where they have none.

    Raises:
        ConfigError: There is no such format.
    """
    columns: dict[str, list[str]] = {
        "labels": ["image_id", "label"],
        "probabilities": ["image_id", *classes],
        "table": ["image_id", "label", "probability", KNOWN, "p_value", "set", "error"],
        "jsonl": [],
    }
    if form not in columns:
        raise ConfigError(f"The format {form!r} is none of {', '.join(FORMATS)}.")
    more = [KNOWN] if known and form in ("labels", "probabilities") else []
    return _csv([columns[form] + more], spreadsheet_safe) if columns[form] else ""


def rows(predictions: Predictions, form: str, *, spreadsheet_safe: bool = False, known: bool = False) -> str:
    """Return the lines of some pictures: those of all pictures, block by block, are what follows the head."""
    if form == "jsonl":
        return "".join(json.dumps(said.to_dict(), ensure_ascii=False) + "\n" for said in predictions)
    if form == "table":
        return _csv(map(_row, predictions), spreadsheet_safe)
    lines = _labels(predictions) if form == "labels" else _probabilities(predictions)
    if known:
        told = (_YES_NO[one.known] for one in predictions)
        lines = ([*line, cell] for line, cell in zip(lines, told, strict=True))
    return _csv(lines, spreadsheet_safe)


def check_known(form: str, like: Table | None, classes: Sequence[str]) -> None:
    """Refuse to add a column `known` where there is no place for it.

    Raises:
        ConfigError: The columns are those of a sample, or a class is called so.
    """
    if like is not None:
        raise ConfigError(
            f"The columns are those of {like.path}, so there is no place for a column {KNOWN!r}.",
            "Leave out --like or --known; --format table tells it too.",
        )
    if form == "probabilities" and KNOWN in classes:
        raise ConfigError(f"A class is called {KNOWN!r}, so no other column can be.", "--format table has both.")


def unknown_line(predictions: Predictions, like: Table | None = None, *, header: bool = True) -> str:
    """Return which rows of the file are of none of the classes, for its last line on the terminal; empty if none are.

    E.g. `2 of 30 pictures look like none of the model's classes: row 4 (b.jpg); row 9 (c.jpg)`.

    Args:
        predictions: What was written.
        like: The sample submission that gave the order of the rows.
        header: Whether the first row of the file is that of the names of the columns; else it is the first picture.
    """
    if predictions.known is None:
        return ""
    strange = ~predictions.known
    strange[list(predictions.errors)] = False
    places = None if like is None else order(predictions.names, like)
    return line_of_unknown(strange, predictions.names.__getitem__, places, header=header)


def line_of_unknown(
    strange: NDArray[np.bool_],
    name: Callable[[int], str],
    places: Sequence[int] | None = None,
    *,
    header: bool = True,
) -> str:
    """Return the same of rows that are told apart already.

    Args:
        strange: (N,) whether a picture looks like none of the classes.
        name: Row → what its picture is called.
        places: The picture that each row of the file is about, where that is another order.
        header: As in `unknown_line`.
    """
    order = np.arange(len(strange)) if places is None else np.asarray(places, dtype=np.int64)
    found = np.flatnonzero(strange[order])
    if not len(found):
        return ""
    first = 2 if header else 1
    named = [f"row {place + first} ({name(int(order[place]))})" for place in found[:NAMED].tolist()]
    look = numbered("[looks|look] like none of the model's classes", len(found))
    return f"{portion(len(found), len(order))} {look}: {listing(named, NAMED, len(found))}"


def _row(said: Prediction) -> list[str]:
    if said.error is not None:
        return [said.path, "", "", "", "", "", said.error]
    p_value = "" if said.p_value is None else f"{said.p_value:.4g}"
    label, probability = str(said.label), repr(said.probability)
    return [said.path, label, probability, _YES_NO[said.known], p_value, "|".join(said.set), ""]


def _labels(predictions: Predictions) -> Iterable[Sequence[str]]:
    for said in predictions:
        yield [said.path, said.label or ""]


def _probabilities(predictions: Predictions) -> Iterable[Sequence[str]]:
    for row, name in enumerate(predictions.names):
        yield [name, *_cells(predictions.probabilities[row], range(len(predictions.classes)))]


def check_like(table: Table, classes: Sequence[str], *, fill_missing: bool = False) -> None:
    """Refuse a sample submission whose class columns are not the model's classes.

    Args:
        table: The sample.
        classes: Of the model.
        fill_missing: Whether the sample may have classes that the model does not know.

    Raises:
        DataError: With the classes that are on one side only.
    """
    columns = table.header[1:]
    only_sample = [repr(name) for name in columns if name not in set(classes)]
    only_model = [repr(name) for name in classes if name not in set(columns)]
    if only_model or (only_sample and not fill_missing):
        raise DataError(
            f"The classes of {table.path} and of the model differ.\n"
            f"Only in the sample ({len(only_sample)}): {listing(only_sample, 8) or 'none'}\n"
            f"Only in the model ({len(only_model)}): {listing(only_model, 8) or 'none'}",
            "The first column of a sample submission is the id, every other column a class of the model."
            if only_model
            else "Write 0 for the classes that the model does not know with --fill-missing.",
        )


def filled(
    table: Table, classes: Sequence[str], shares: Iterable[NDArray[np.float64]], *, spreadsheet_safe: bool = False
) -> Iterator[str]:
    """Yield the lines of a file like a sample submission.

    Args:
        table: The sample.
        classes: K names of the model's classes.
        shares: (K,) probabilities for each row of the sample, NaN where its picture could not be used.
        spreadsheet_safe: As in `render`.
    """
    position = {name: k for k, name in enumerate(classes)}
    columns = [position.get(name) for name in table.header[1:]]
    yield _csv([table.header], spreadsheet_safe)
    for cells, share in zip(table.rows, shares, strict=True):
        yield _csv([[cells[0], *_cells(share, columns)]], spreadsheet_safe)


def order(names: Sequence[str], table: Table) -> list[int]:
    """Return the row of the picture that each row of a sample asks for.

    Args:
        names: What the pictures are called.
        table: The sample.

    Raises:
        DataError: A picture is asked for twice, or was not given; or an id fits several.
    """
    wanted = [row[0] for row in table.rows]
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise DataError(f"{table.path} asks more than once for {listing([repr(name) for name in repeated])}.")
    rows = _rows_by_id(names, set(wanted))
    absent = [repr(name) for name in wanted if name not in rows]
    if absent:
        raise DataError(
            f"{table.path} asks for {len(absent):,} of its {len(wanted):,} pictures that were not given: "
            f"{listing(absent)}. Given are {len(names)}, e.g. "
            f"{listing([repr(name) for name in names[:3]], 3, len(names))}.",
            "Predict the folder that the sample submission belongs to.",
        )
    return [rows[name] for name in wanted]


def _rows_by_id(names: Sequence[str], wanted: set[str]) -> dict[str, int]:
    """Return id → row, an id being a picture's name, or else its name without its folder, its suffix or both.

    Raises:
        DataError: An id that is asked for fits several pictures.
    """
    whole = {name: row for row, name in enumerate(names) if name in wanted}
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        path = PurePosixPath(name.replace("\\", "/"))
        for key in {path.name, path.stem, str(path.with_suffix("")) if path.name else name} & wanted - whole.keys():
            if key in rows:
                raise DataError(
                    f"The id {key!r} fits {names[rows[key]]!r} and {name!r}.",
                    "Give only the pictures that the sample submission asks for, or write whole names into it.",
                )
            rows[key] = row
    return rows | whole


def _cells(share: NDArray[np.float64], columns: Iterable[int | None]) -> list[str]:
    """Return the probabilities of these classes, 0 for one that the model does not know; nothing of a bad picture."""
    if np.isnan(share).any():
        return ["" for _ in columns]
    return ["0.0" if k is None else repr(float(share[k])) for k in columns]


def _csv(rows: Iterable[Sequence[str]], safe: bool) -> str:
    return to_csv([cell if _number(cell) else defused(cell) for cell in row] if safe else row for row in rows)


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
