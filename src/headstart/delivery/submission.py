"""Predictions → a CSV or JSON Lines file, as a competition or a program asks for it.

A picture that could not be used keeps its row: empty cells in a CSV, `"status": "error"` in JSON Lines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from headstart.data.tables import Table, to_csv
from headstart.errors import ConfigError, DataError
from headstart.records import ClassNames, Prediction, Predictions, listing

FORMATS = ("labels", "probabilities", "table", "jsonl")
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


def render(
    predictions: Predictions, form: str = "labels", like: Table | None = None, *, spreadsheet_safe: bool = False
) -> str:
    """Return the text of the file.

    Args:
        predictions: What to write.
        form: "labels" (`image_id,label`), "probabilities" (`image_id` and a column for each class), "table"
            (`image_id,label,probability,known,p_value,set`, the set with `|` between its classes) or "jsonl".
        like: A sample submission: its id column and its class columns, in its order; overrides `form`.
        spreadsheet_safe: Put an apostrophe before cells that a spreadsheet would run as a formula (OWASP's rule); the
            file is then no longer faithful to the byte.

    Raises:
        DataError: The sample's classes or ids are not the model's classes or the pictures; both lists are shown.
        ConfigError: There is no such format.
    """
    if like is not None:
        return _csv(_like(predictions, like), spreadsheet_safe)
    if form == "labels":
        rows = [
            ["image_id", "label"],
            *([name, p.label or ""] for name, p in zip(_ids(predictions), predictions, strict=True)),
        ]
        return _csv(rows, spreadsheet_safe)
    if form == "probabilities":
        names = _ids(predictions)
        return _csv(
            [
                ["image_id", *predictions.classes],
                *(
                    [names[row], *_cells(predictions, row, range(len(predictions.classes)))]
                    for row in range(len(names))
                ),
            ],
            spreadsheet_safe,
        )
    if form == "table":
        header = ["image_id", "label", "probability", "known", "p_value", "set"]
        return _csv([header, *map(_row, _ids(predictions), predictions)], spreadsheet_safe)
    if form == "jsonl":
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in as_dicts(predictions))
    raise ConfigError(f"The format {form!r} is none of {', '.join(FORMATS)}.")


def as_dicts(predictions: Predictions) -> Iterable[dict[str, object]]:
    """Yield one plain dict a picture: what a `Prediction` holds, and the error if there is one."""
    for said in predictions:
        line: dict[str, object] = {
            "path": said.path,
            "label": said.label,
            "probability": said.probability,
            "top": [{"label": label, "probability": probability} for label, probability in said.top],
            "set": list(said.set),
            "known": said.known,
            "p_value": said.p_value,
            "status": said.status,
        }
        yield line if said.error is None else line | {"error": said.error}


def _row(name: str, said: Prediction) -> list[str]:
    if said.error is not None:
        return [name, "", "", "", "", ""]
    known = {None: "", True: "yes", False: "no"}[said.known]
    p_value = "" if said.p_value is None else f"{said.p_value:.4g}"
    return [name, str(said.label), repr(said.probability), known, p_value, "|".join(said.set)]


def check_like(table: Table, classes: ClassNames) -> None:
    """Refuse a sample submission whose class columns are not the model's classes.

    Raises:
        DataError: With the classes that are on one side only.
    """
    columns = table.header[1:]
    only_sample = [repr(name) for name in columns if name not in set(classes)]
    only_model = [repr(name) for name in classes if name not in set(columns)]
    if only_sample or only_model:
        raise DataError(
            f"The classes of {table.path} and of the model differ.\n"
            f"Only in the sample ({len(only_sample)}): {listing(only_sample, 8) or 'none'}\n"
            f"Only in the model ({len(only_model)}): {listing(only_model, 8) or 'none'}",
            "The first column of a sample submission is the id, every other column a class of the model.",
        )


def _like(predictions: Predictions, table: Table) -> Iterable[Sequence[str]]:
    check_like(table, predictions.classes)
    position = {name: k for k, name in enumerate(predictions.classes)}
    columns = [position[name] for name in table.header[1:]]
    wanted = [row[0] for row in table.rows]
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise DataError(f"{table.path} asks more than once for {listing([repr(name) for name in repeated])}.")
    rows = _rows_by_id(predictions, set(wanted))
    absent = [repr(name) for name in wanted if name not in rows]
    if absent:
        raise DataError(
            f"{table.path} asks for {len(absent)} picture(s) that were not given: {listing(absent)}. Given are "
            f"{len(predictions)}, e.g. {listing([repr(name) for name in predictions.names], 3)}.",
            "Predict the folder that the sample submission belongs to.",
        )
    yield table.header
    for name in wanted:
        yield [name, *_cells(predictions, rows[name], columns)]


def _rows_by_id(predictions: Predictions, wanted: set[str]) -> dict[str, int]:
    """Return id → row, an id being a picture's name with or without its folder and its suffix.

    Raises:
        DataError: An id that is asked for fits several pictures.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(predictions.names):
        path = PurePosixPath(name.replace("\\", "/"))
        for key in {name, path.name, path.stem, str(path.with_suffix(""))} & wanted:
            if key in rows:
                raise DataError(
                    f"The id {key!r} fits {predictions.names[rows[key]]!r} and {name!r}.",
                    "Give only the pictures that the sample submission asks for.",
                )
            rows[key] = row
    return rows


def _ids(predictions: Predictions) -> list[str]:
    """Return the names without suffixes, as competitions write ids, unless two would then be the same."""
    bare = [
        str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name for name in predictions.names
    ]
    return bare if len(set(bare)) == len(bare) else list(predictions.names)


def _cells(predictions: Predictions, row: int, columns: Iterable[int]) -> list[str]:
    if row in predictions.errors:
        return ["" for _ in columns]
    return [repr(float(predictions.probabilities[row, k])) for k in columns]


def _csv(rows: Iterable[Sequence[str]], safe: bool) -> str:
    return to_csv([_defused(cell) for cell in row] if safe else row for row in rows)


def _defused(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_DANGEROUS) and not _number(cell) else cell


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
