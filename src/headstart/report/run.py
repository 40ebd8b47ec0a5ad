"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from headstart.data.tables import to_csv
from headstart.errors import ArtifactError
from headstart.learning.heads import Step
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import Evaluation, Predictions
from headstart.report import plots, summary
from headstart.training import TrainingResult

EVALUATION = "evaluation.json"


def save(result: TrainingResult | Classifier, directory: str | Path) -> None:
    """Write a classifier; of a `TrainingResult` also its predictions, figures, plots, history and card. All or nothing.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.
    """
    if isinstance(result, Classifier):
        artifact.save(result, directory)
        return
    with artifact.writing(Path(directory)) as folder:
        artifact.write_into(folder, result.classifier, {"plan": result.plan.to_dict()})
        _write(folder / "plan.toml", result.plan.to_toml())
        _write(folder / "predictions.csv", _predictions_table(result.predictions))
        _write(folder / "history.csv", _history_table(result.history))
        _write_json(folder / EVALUATION, summary.of_evaluations(result.evaluations))
        _write_json(folder / "findings.json", summary.of_findings(result.findings))
        save_plots(result.evaluation, folder / "plots", result)
        _write(folder / "README.md", card(result))


def read_evaluation(directory: Path) -> dict[str, Any]:
    """Return what a training measured, as `summary.of_evaluations` gave it.

    Raises:
        ArtifactError: There are no figures in that folder.
    """
    path = directory / EVALUATION
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{directory} holds no {EVALUATION}, the figures of its training.",
            "Measure it on labelled pictures: headstart evaluate MODEL DATA",
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    return content


def save_plots(evaluation: Evaluation, folder: Path, result: TrainingResult | None = None) -> None:
    """Write the plots of an evaluation, and of the training where there was one."""
    figures = {
        "confusion": plots.confusion(evaluation),
        "reliability": plots.reliability(evaluation),
        "per_class": plots.per_class(evaluation),
    }
    if result is not None:
        figures["training"] = plots.training_curves(
            result.history,
            "validation" if "validation" in result.evaluations else "test",
            "epoch" if result.plan.head.in_epochs else "L-BFGS iteration (0: the prior alone)",
            result.classifier.provenance.training.get("best_epoch"),
        )
    plots.save(figures, folder)


def card(result: TrainingResult) -> str:
    """Return the model card as Markdown: what it is, how good, on what, and what to mind."""
    told, plan, classes = result.classifier.provenance, result.plan, result.classifier.classes
    tables = "\n\n".join(_figures(name, evaluation) for name, evaluation in result.evaluations.items())
    findings = "\n".join(f"- {f.severity}: {f.message}." for f in result.findings) or "- none"
    return f"""# An image classifier of {len(classes)} classes

Made by Headstart {told.versions["headstart"]} on {told.created}. Backbone {plan.encoder.backbone}, frozen, at
{plan.pictures.size} px ({plan.pictures.resize}); head: {told.training["head"]};
temperature {result.classifier.temperature:.3f}.

The head in this folder was fitted on {told.training["fitted_on"]}. The figures below are of
{told.training["figures_of"]}, on pictures that it never learned from.

{tables}

Per class: `evaluation.json`, `plots/per_class.png`. Held-out predictions: `predictions.csv`.

## What was found in the data

{findings}

## Use

```
headstart predict FOLDER_OF_THIS_FILE pictures/ --out predictions.csv
```

It answers with one of its classes whatever it is shown: a picture of something else gets one of them too.
"""


def _figures(part: str, evaluation: Evaluation) -> str:
    rows = [
        f"| {name.replace('_', ' ')} | {figure.value:.4f} | {figure.low:.4f} … {figure.high:.4f} |"
        for name, figure in evaluation.overall.items()
    ]
    heading = [f"| {part}, {evaluation.pictures} pictures | value | 95 % interval |", "|---|---|---|"]
    return "\n".join(heading + rows)


def _predictions_table(predictions: Mapping[str, Predictions]) -> str:
    first = next(iter(predictions.values()))
    rows = [["path", "split", "label", "predicted", *first.classes]]
    for split, said in predictions.items():
        for row, one in enumerate(said):
            truth = said.truth[row] if said.truth is not None else None
            cells = [f"{p:.9g}" for p in said.probabilities[row]]
            rows.append([one.path, split, truth or "", one.label or "", *cells])
    return to_csv(rows)


def _history_table(history: Sequence[Step]) -> str:
    cells = [["" if math.isnan(figure) else f"{figure:.9g}" for figure in astuple(step)] for step in history]
    return to_csv([["step", *(field.name for field in fields(Step)[1:])], *cells])


def _write_json(path: Path, content: object) -> None:
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names of files may hold bytes that are no UTF-8
