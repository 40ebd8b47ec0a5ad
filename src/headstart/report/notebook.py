"""What a session in a notebook holds → HTML that answers in place: tables, a plot, small pictures, all of it bounded.

What is shown brings its own style and no script; names are escaped, as on the page of a run.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from headstart.data import images
from headstart.predictions import Evaluation, Prediction, Predictions
from headstart.records import Dataset, counted
from headstart.report import album, page, redraw, summary, vector

if TYPE_CHECKING:  # a dataset is shown without what trains on it
    from headstart.model.classifier import Classifier
    from headstart.workflows.train import TrainingResult

PICTURES, ROWS, NAMES, FINDINGS = 12, 10, 12, 5


def html(thing: Any) -> str:
    """Return a dataset, prediction, evaluation, classifier or result as HTML.

    Raises:
        KeyError: It is nothing of these.
    """
    title, blocks = _VIEWS[type(thing).__name__](thing)
    return page.filled("notebook.html", palette=_palette(), title=title, blocks=blocks)


def _of_dataset(dataset: Dataset) -> tuple[str, dict[str, Any]]:
    drawn = np.random.default_rng(0).permutation(len(dataset))[:PICTURES].tolist()
    names, counts = np.unique([label for label in dataset.labels if label is not None], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:ROWS]
    return f"{counted(len(dataset), len(names))}, {dataset.root}", {
        "strip": _strip([(dataset[row].path, "", dataset[row].label or dataset[row].name) for row in drawn]),
        "header": ("class", "pictures") if len(names) else (),
        "rows": [(names[place], f"{counts[place]:,}") for place in order],
        "more": _more(len(names), ROWS, "classes"),
        "findings": dataset.findings[:FINDINGS],
    }


def _of_prediction(said: Prediction) -> tuple[str, dict[str, Any]]:
    if said.error is not None:
        return f"{said.path}: could not be used", {"lines": [said.error]}
    known = "It looks like none of the classes; the label is the best of wrong answers."
    return f"{said.path}: {said.label}, {summary.percent(said.probability, 1)}", {
        "bars": said.top,
        "lines": ([known] if said.known is False else []) + ([f"Set: {', '.join(said.set)}"] if said.set else []),
    }


def _of_predictions(said: Predictions) -> tuple[str, dict[str, Any]]:
    first = [said[row] for row in range(min(ROWS, len(said)))]
    named = said.targets is not None
    rows = [
        (
            one.path,
            *([target or ""] if named else []),
            one.label or one.error or "",
            summary.percent(one.probability, 1),
        )
        for one, target in zip(first, said.targets or [None] * len(first), strict=False)
    ]
    return counted(len(said), len(said.classes)), {
        "header": ("picture", *(["given"] if named else []), "predicted", "probability"),
        "rows": rows,
        "more": _more(len(said), ROWS, "pictures"),
        "lines": [f"{len(said.errors):,} could not be used."] if said.errors else [],
    }


def _of_evaluation(evaluation: Evaluation) -> tuple[str, dict[str, Any]]:
    figures = summary.of_evaluation(evaluation)
    rows = [(summary.FIGURES[name], summary.interval(values)) for name, values in figures["overall"].items()]
    return summary.answer(figures), {
        "header": ("figure", "value [95 % interval]"),
        "rows": rows,
        "chart": _chart(redraw.of_evaluation(figures, "validation")["reliability"]) if evaluation.reliability else None,
        "lines": [f"Measured on {counted(evaluation.pictures, len(evaluation.classes))}."],
    }


def _of_classifier(model: Classifier) -> tuple[str, dict[str, Any]]:
    facts = {
        "classes": ", ".join(model.classes[:NAMES]) + _more(len(model.classes), NAMES, ""),
        "backbone": model.backbone.description,
        "views": ", ".join(model.views),
        "head": model.head.shape.describe()["kind"],
        "probabilities": str(model.rules.calibration),
        "engine": f"{model.encoders[0].plan.engine}, {model.encoders[0].plan.precision}",
        "made": model.provenance.created,
    }
    return f"Classifier of {len(model.classes):,} classes", {"rows": [row for row in facts.items() if row[1]]}


def _of_result(result: TrainingResult) -> tuple[str, dict[str, Any]]:
    title, blocks = _of_evaluation(result.evaluation)
    wrong = [
        (result.dataset[one.row].path, result.digests[one.row], f"{result.dataset[one.row].label}, not {one.top[0][0]}")
        for one in result.showcase.mistakes[:PICTURES]
    ]
    learned = counted(len(result.dataset), len(result.classifier.classes))
    return title, blocks | {
        "strip": _strip(wrong),
        "findings": result.findings[:FINDINGS],
        "lines": [
            *blocks["lines"],
            f"Trained on {learned}, in {summary.minutes(result.seconds)}.",
            "hs.save(result, FOLDER) writes all of it, with its page.",
        ],
    }


_VIEWS: dict[str, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    "Classifier": _of_classifier,
    "Dataset": _of_dataset,
    "Evaluation": _of_evaluation,
    "Prediction": _of_prediction,
    "Predictions": _of_predictions,
    "TrainingResult": _of_result,
}


def _strip(pictures: Sequence[tuple[Any, str, str]]) -> list[tuple[str, str]]:
    """Return (WebP in base64, caption) of each file that can be read and is what it was."""
    with images.quiet_pillow():
        made = [(album.thumbnail(path, digest), caption) for path, digest, caption in pictures]
    return [one for one in made if one[0]]


def _chart(draw: Callable[[], Any]) -> Markup:
    return Markup(vector.inline(draw(), f"n{uuid.uuid4().hex[:8]}"))  # noqa: S704  # by matplotlib


def _more(number: int, shown: int, what: str) -> str:
    return f" … and {number - shown:,} more {what}".rstrip() if number > shown else ""


@functools.cache
def _palette() -> Markup:
    """Return the colours of the page, light and dark, for what stands in a notebook among other things."""
    style = (page.TEMPLATES / "page.css").read_text(encoding="utf-8")
    colours = re.match(r".*?\n}\n@media.*?\n}\n", style, re.S)
    return Markup(colours[0].replace(":root", ".headstart") if colours else "")  # noqa: S704  # our own file
