"""A trained model → its card as Markdown: what it is, how good, on what, and what to mind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headstart.report import summary

if TYPE_CHECKING:
    from headstart.workflows.train import TrainingResult


def of(result: TrainingResult, evaluations: Mapping[str, Any], trust: Mapping[str, Any]) -> str:
    """Return the model card.

    Args:
        result: Of the training.
        evaluations: Of `summary.of_evaluations`.
        trust: Of `summary.of_trust`.
    """
    told, plan, classes = result.classifier.provenance, result.plan, result.classifier.classes
    tables = "\n\n".join(_figures(name, evaluation) for name, evaluation in evaluations.items())
    findings = "\n".join(f"- {f.severity}: {f.message}." for f in result.findings) or "- none"
    trained = "frozen" if not (told.training.get("finetune") or {}).get("kept") else "trained with the head"
    believed = "\n".join(f"- {line}" for line in summary.trust_lines(trust))
    return f"""# An image classifier of {len(classes)} classes

Made by Headstart {told.versions["headstart"]} on {told.created}. Backbone, {trained}:
{result.classifier.backbone.description} ({plan.pictures.resize}){_views(result)}; head: {told.training["head"]};
{result.classifier.rules.calibration}.

The head in this folder was fitted on {told.training["fitted_on"]}. The figures below are of
{told.training["figures_of"]}, on pictures that it never learned from.

{tables}

Per class: `evaluation.json`, `plots/per_class.png`. Held-out predictions: `predictions.csv`.

## How far to believe them

{believed}

## What was found in the data

{findings}

## Use

```
headstart predict FOLDER_OF_THIS_FILE pictures/ --out predictions.csv
```

{_beyond(evaluations, trust)}
"""


def _views(result: TrainingResult) -> str:
    views = result.classifier.views
    return f", features: the mean of {' and '.join(views)}" if len(views) > 1 else ""


def _beyond(evaluations: Mapping[str, Any], trust: Mapping[str, Any]) -> str:
    """Return what the model says of pictures that are of none of its classes."""
    rule = trust["unknown"]
    if rule is None:
        return "It answers with one of its classes whatever it is shown, also a picture of something else."
    if not summary.refuses(rule):
        return f"{summary.unknown_line(rule)}. It answers with one of its classes whatever it is shown."
    measured = [
        f"{part} {figures['overall']['refused'][0]:.1%}"
        for part, figures in evaluations.items()
        if (figures["overall"].get("refused") or [None])[0] is not None
    ]
    found = f" (measured: {', '.join(measured)})" if measured else ""
    return (
        "With `--format table` or `--json` each answer says whether the picture is `known`: like those learned from. "
        f"It is made to refuse {rule['refused']:.0%} of pictures of its own classes wrongly{found}; what else is "
        "refused depends on how unlike them it is. The label is then the best of wrong answers."
    )


def _figures(part: str, evaluation: Mapping[str, Any]) -> str:
    rows = [
        f"| {name.replace('_', ' ')} | {' | '.join(_cells(figures))} |"
        for name, figures in evaluation["overall"].items()
    ]
    heading = [f"| {part}, {evaluation['pictures']} pictures | value | 95 % interval |", "|---|---|---|"]
    return "\n".join(heading + rows)


def _cells(figures: list[float | None]) -> tuple[str, str]:
    value, low, high = ("–" if figure is None else f"{figure:.4f}" for figure in figures)
    return value, f"{low} … {high}"
