"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import Evaluation, Predictions
from headstart.report import plots, summary
from headstart.training import TrainingResult


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
        (folder / "plan.toml").write_text(result.plan.to_toml(), encoding="utf-8")
        _write_predictions(folder / "predictions.csv", result.predictions)
        _write_history(folder / "history.csv", result)
        _write_json(
            folder / "evaluation.json", {name: summary.of_evaluation(e) for name, e in result.evaluations.items()}
        )
        _write_json(folder / "findings.json", summary.of_findings(result.findings))
        save_plots(result.evaluation, folder / "plots", result)
        (folder / "README.md").write_text(card(result), encoding="utf-8")


def save_plots(evaluation: Evaluation, folder: Path, result: TrainingResult | None = None) -> None:
    """Write the plots of an evaluation, and of the training where there was one."""
    figures = {
        "confusion": plots.confusion(evaluation),
        "reliability": plots.reliability(evaluation),
        "per_class": plots.per_class(evaluation),
    }
    if result is not None:
        figures["training"] = plots.training_curves(
            result.history, "validation" if "validation" in result.evaluations else "test"
        )
    plots.save(figures, folder)


def card(result: TrainingResult) -> str:
    """Return the model card as Markdown: what it is, how good, on what, and what to mind."""
    told, plan, classes = result.classifier.provenance, result.plan, result.classifier.classes
    tables = "\n\n".join(_figures(name, evaluation) for name, evaluation in result.evaluations.items())
    findings = "\n".join(f"- {f.severity}: {f.message}." for f in result.findings) or "- none"
    return f"""# An image classifier of {len(classes)} classes

Made by Headstart {told.versions["headstart"]} on {told.created}. Backbone {plan.encoder.backbone}, frozen, at
{plan.pictures.size} px ({plan.pictures.resize}); head: multinomial logistic regression, strength
{told.training["strength"]:g}; temperature {result.classifier.temperature:.3f}.

The head in this folder was fitted on {told.training["fitted_on"]}. The figures below are of
{told.training["figures_of"]}, on pictures that decided nothing.

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


def _write_predictions(path: Path, predictions: Mapping[str, Predictions]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        first = next(iter(predictions.values()))
        writer.writerow(["path", "split", "label", "predicted", *first.classes])
        for split, said in predictions.items():
            for row, one in enumerate(said):
                truth = said.truth[row] if said.truth is not None else ""
                cells = [f"{p:.9g}" for p in said.probabilities[row]]
                writer.writerow([one.path, split, truth, one.label, *cells])


def _write_history(path: Path, result: TrainingResult) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"])
        for number, step in enumerate(result.history):
            figures = (step.train_loss, step.train_accuracy, step.validation_loss, step.validation_accuracy)
            writer.writerow([number, *(f"{figure:.9g}" for figure in figures)])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
