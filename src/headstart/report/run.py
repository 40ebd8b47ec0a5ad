"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from headstart.data.tables import to_csv
from headstart.learning.heads import Step
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.report import card, plots, redraw, summary
from headstart.report.stored import (
    EVALUATION,
    PICTURES,
    PREDICTIONS,
    TRUST,
    read_evaluation,
    read_previous,
    read_trust,
    write_pictures,
    write_predictions,
)
from headstart.workflows.train import TrainingResult

__all__ = ["read_evaluation", "read_previous", "read_trust", "save"]


def save(result: TrainingResult | Classifier, directory: str | Path) -> None:
    """Write a classifier; of a `TrainingResult` also its predictions, figures, history, plots and card.

    The model with its tables and figures is whole or not there. Plots and card come after it, and one that fails costs
    nothing else.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.

    Warns:
        UserWarning: The plots or the card could not be made.
    """
    if isinstance(result, Classifier):
        artifact.save(result, directory)
        return
    evaluations, trust = summary.of_evaluations(result.evaluations), summary.of_trust(result)
    told = {"plan": result.plan.to_dict(), "training": result.classifier.provenance.training}
    with artifact.writing(Path(directory)) as folder:
        artifact.write_into(folder, result.classifier, {"plan": result.plan.to_dict()})
        _write(folder / "plan.toml", result.plan.to_toml())
        write_predictions(folder / PREDICTIONS, result.predictions)
        write_pictures(folder / PICTURES, result)
        _write(folder / "history.csv", _history_table(result.history))
        _write_json(folder / EVALUATION, evaluations)
        _write_json(folder / TRUST, trust)
        _write_json(folder / "findings.json", summary.of_findings(result.findings))
    _save_extras(
        Path(directory),
        {
            "plots": lambda place: plots.save(
                redraw.of_run(evaluations, trust, summary.of_history(result.history), told), place
            ),
            "README.md": lambda place: _write(place, card.of(result, evaluations, trust)),
        },
    )


def _save_extras(folder: Path, extras: dict[str, Callable[[Path], None]]) -> None:
    """Write what is only to be looked at, as much of it as can be."""
    failed = []
    for name, write in extras.items():
        try:
            write(folder / name)
        except Exception as error:  # whatever it is, the model is worth more
            failed.append(f"{name} ({type(error).__name__}: {error})")
    if failed:
        warnings.warn(f"The model is saved in {folder}, but not all of {', '.join(failed)}.", stacklevel=3)


def _history_table(history: Sequence[Step]) -> str:
    cells = [["" if math.isnan(figure) else f"{figure:.9g}" for figure in astuple(step)] for step in history]
    return to_csv([["step", *(field.name for field in fields(Step)[1:])], *cells])


def _write_json(path: Path, content: object) -> None:
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names of files may hold bytes that are no UTF-8
