"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from headstart.data.tables import to_csv
from headstart.learning.heads import Step
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import Evaluation
from headstart.report import plots, summary
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

__all__ = ["card", "read_evaluation", "read_previous", "read_trust", "save", "save_plots"]


def save(result: TrainingResult | Classifier, directory: str | Path) -> None:
    """Write a classifier; of a `TrainingResult` also its predictions, figures, history, plots and card.

    The model with its tables and figures is whole or not there. Plots and card come after it, and one that fails costs
    nothing else.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.

    Warns:
        UserWarning: A plot or the card could not be made.
    """
    if isinstance(result, Classifier):
        artifact.save(result, directory)
        return
    with artifact.writing(Path(directory)) as folder:
        artifact.write_into(folder, result.classifier, {"plan": result.plan.to_dict()})
        _write(folder / "plan.toml", result.plan.to_toml())
        write_predictions(folder / PREDICTIONS, result.predictions)
        write_pictures(folder / PICTURES, result)
        _write(folder / "history.csv", _history_table(result.history))
        _write_json(folder / EVALUATION, summary.of_evaluations(result.evaluations))
        _write_json(folder / TRUST, summary.of_trust(result))
        _write_json(folder / "findings.json", summary.of_findings(result.findings))
    _save_extras(result, Path(directory))


def _save_extras(result: TrainingResult, folder: Path) -> None:
    """Write what is only to be looked at, as much of it as can be."""
    figures = _drawings(result.evaluation, result)
    extras: dict[Path, Callable[[Path], None]] = {
        folder / "plots" / f"{name}.png": lambda path, draw=draw: plots.save({path.stem: draw()}, path.parent)  # type: ignore[misc]
        for name, draw in figures.items()
    }
    extras[folder / "README.md"] = lambda path: _write(path, card(result))
    failed = []
    for path, write in extras.items():
        try:
            write(path)
        except Exception as error:  # whatever it is, the model is worth more
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            failed.append(f"{path.relative_to(folder)} ({type(error).__name__}: {error})")
    if failed:
        warnings.warn(f"The model is saved in {folder}, but without {', '.join(failed)}.", stacklevel=3)


def save_plots(evaluation: Evaluation, folder: Path, result: TrainingResult | None = None) -> None:
    """Write the plots of an evaluation, and of the training where there was one."""
    plots.save({name: draw() for name, draw in _drawings(evaluation, result).items()}, folder)


def _drawings(evaluation: Evaluation, result: TrainingResult | None = None) -> dict[str, Callable[[], Any]]:
    """Return the plots by their names, to be drawn one by one."""
    figures: dict[str, Callable[[], Any]] = {
        "confusion": lambda: plots.confusion(evaluation),
        "reliability": lambda: plots.reliability(evaluation),
        "risk_coverage": lambda: plots.risk_coverage(evaluation),
        "per_class": lambda: plots.per_class(evaluation),
    }
    if result is not None:
        figures["similarity"] = lambda: plots.similarity(result.leakage)
        if (curve := result.curve) is not None:
            figures["learning_curve"] = lambda: plots.learning_curve(curve)
        figures["training"] = lambda: plots.training_curves(
            result.history,
            "validation" if "validation" in result.evaluations else "test",
            "epoch" if result.plan.head.in_epochs else "L-BFGS iteration (0: the prior alone)",
            result.classifier.provenance.training.get("best_epoch"),
        )
    return figures


def card(result: TrainingResult) -> str:
    """Return the model card as Markdown: what it is, how good, on what, and what to mind."""
    told, plan, classes = result.classifier.provenance, result.plan, result.classifier.classes
    tables = "\n\n".join(_figures(name, evaluation) for name, evaluation in result.evaluations.items())
    findings = "\n".join(f"- {f.severity}: {f.message}." for f in result.findings) or "- none"
    trust = "\n".join(f"- {line}" for line in summary.trust_lines(summary.of_trust(result)))
    return f"""# An image classifier of {len(classes)} classes

Made by Headstart {told.versions["headstart"]} on {told.created}. Backbone {plan.encoder.backbone}, frozen, at
{plan.pictures.size} px ({plan.pictures.resize}); head: {told.training["head"]};
{result.classifier.rules.calibration}.

The head in this folder was fitted on {told.training["fitted_on"]}. The figures below are of
{told.training["figures_of"]}, on pictures that it never learned from.

{tables}

Per class: `evaluation.json`, `plots/per_class.png`. Held-out predictions: `predictions.csv`.

## How far to believe them

{trust}

## What was found in the data

{findings}

## Use

```
headstart predict FOLDER_OF_THIS_FILE pictures/ --out predictions.csv
```

{_beyond(result)}
"""


def _beyond(result: TrainingResult) -> str:
    """Return what the model says of pictures that are of none of its classes."""
    out_of_distribution = result.classifier.rules.out_of_distribution
    if out_of_distribution is None:
        return "It answers with one of its classes whatever it is shown, also a picture of something else."
    return (
        "With `--format table` or `--json` each answer says whether the picture is `known`: like those learned from. "
        f"{out_of_distribution.refused:.0%} of pictures of its own classes are refused wrongly; what else is refused "
        "depends on how unlike them it is. The label is then the best of wrong answers."
    )


def _figures(part: str, evaluation: Evaluation) -> str:
    rows = [
        f"| {name.replace('_', ' ')} | {figure.value:.4f} | {figure.low:.4f} … {figure.high:.4f} |"
        for name, figure in evaluation.overall.items()
    ]
    heading = [f"| {part}, {evaluation.pictures} pictures | value | 95 % interval |", "|---|---|---|"]
    return "\n".join(heading + rows)


def _history_table(history: Sequence[Step]) -> str:
    cells = [["" if math.isnan(figure) else f"{figure:.9g}" for figure in astuple(step)] for step in history]
    return to_csv([["step", *(field.name for field in fields(Step)[1:])], *cells])


def _write_json(path: Path, content: object) -> None:
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names of files may hold bytes that are no UTF-8
