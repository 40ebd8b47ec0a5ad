"""What `story.of_run` says of a run → its card as Markdown, with the metadata that the Hugging Face hub reads: what it
is, how good, on what, and what to mind.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from headstart.report import story


def of(told: Mapping[str, Any]) -> str:
    """Return the model card.

    Args:
        told: From `stored.read_run`.
    """
    run, evaluations = story.of_run(told), told["evaluations"]
    tables = "\n\n".join(_figures(name, evaluation) for name, evaluation in evaluations.items())
    findings = "\n".join(f"- {one['severity']}: {_plain(one['message'])}." for one in told["findings"]) or "- none"
    believed = "\n".join(f"- {_plain(line)}" for line in run["believed"])
    limits = "\n".join(f"- {_plain(line)}" for line in run["limits"])
    return f"""{_metadata(run, evaluations)}
# {run["title"]}

{_plain(run["answer"])}.

Made by Headstart {run["version"]} on {run["created"]}. Backbone, {run["network"]}:
{run["backbone"]}; head: {run["head"]};
{run["calibration"]}.

The head in this folder was fitted on {run["fitted_on"]}. The figures below are of
{run["figures_of"]}, on pictures that it never learned from.

{tables}

All of it with pictures: `report.html`. Per class: `evaluation.json`. Held-out predictions: `predictions.csv`.

## How far to believe them

{believed}

## What was found in the data

{findings}

## Use

{_plain(run["use"])}

```
headstart predict FOLDER_OF_THIS_FILE pictures/ --out answers.csv
```

{run["beyond"]}

## Limits

{limits}

## Where it comes from

{_origin(run)}

To make it again: `headstart train DATA --config plan.toml`.
"""


def _metadata(run: Mapping[str, Any], evaluations: Mapping[str, Any]) -> str:
    """Return the block that the hub reads; JSON is YAML too."""
    measured = evaluations[run["part"]]["overall"]
    metrics = [
        {"type": kind, "name": kind, "value": measured[name][0]}
        for kind, name in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        if name in measured and measured[name][0] is not None
    ]
    task = {"type": "image-classification"}
    data = {"name": "the pictures that it was made from", "type": "imagefolder"}
    result = {"task": task, "dataset": data, "metrics": metrics}
    index = [{"name": "headstart", "results": [result]}]
    lines = ["library_name: headstart", "pipeline_tag: image-classification", "tags: [image-classification]"]
    return "\n".join(["---", *lines, f"model-index: {json.dumps(index)}" if metrics else "", "---"])


def _origin(run: Mapping[str, Any]) -> str:
    weights = [
        f"- Weights: {one['name']}, SHA-256 {one['digest']}; licence: {one['licence']}" for one in run["weights"]
    ]
    data = run["data"]
    pictures = f"- Pictures: {data['pictures']} of {data['classes']} classes, SHA-256 {data['digest']}"
    return "\n".join([*weights, pictures + "; licence: not known here, whoever gives this model on must know it"])


def _plain(line: str) -> str:
    """Return a line in which the name of a class is no markup."""
    return html.escape(" ".join(line.split()), quote=False)


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
