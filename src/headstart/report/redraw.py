"""Which plots belong to an evaluation and to a run, from the plain values of `summary` or from the files of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headstart.errors import ArtifactError
from headstart.report import plots, stored, summary
from headstart.report.plots import Drawing


def of_evaluation(figures: Mapping[str, Any], part: str = "test") -> dict[str, Drawing]:
    """Return the plots of what `summary.of_evaluation` gave, by name, to be drawn one by one.

    Args:
        figures: What it gave.
        part: "train", "validation" or "test": what the pictures were to the head that they measured.
    """
    part = "training" if part == "train" else part
    return {
        "confusion": partial(plots.confusion, figures),
        "reliability": partial(plots.reliability, figures, part),
        "risk_coverage": partial(plots.risk_coverage, figures),
        "per_class": partial(plots.per_class, figures, part),
    }


def of_run(
    evaluations: Mapping[str, Any],
    trust: Mapping[str, Any],
    history: Sequence[Mapping[str, float | None]],
    model: Mapping[str, Any],
) -> dict[str, Drawing]:
    """Return the plots of a training, by name, to be drawn one by one.

    Args:
        evaluations: From `summary.of_evaluations`; drawn is the test part where there is one, else validation.
        trust: From `summary.of_trust`.
        history: From `summary.of_history`.
        model: With "plan" and "training", as `model.json` has them.
    """
    part = "test" if "test" in evaluations else "validation"
    watched = "validation" if "validation" in evaluations else "test"
    tuned = (model["training"].get("finetune") or {}).get("kept", False)
    in_epochs = tuned or model["plan"]["head"]["optimizer"] != "lbfgs"
    unit = "epoch" if in_epochs else "L-BFGS iteration (0: the prior alone)"
    drawings = of_evaluation(evaluations[part], part)
    drawings["similarity"] = partial(plots.similarity, trust["similarity"], part, summary.split_of_bands(trust))
    if trust["learning_curve"] is not None:
        drawings["learning_curve"] = partial(plots.learning_curve, trust["learning_curve"], watched)
    best = model["training"].get("best_epoch")
    drawings["training"] = partial(plots.training_curves, history, watched, unit, best)
    return drawings


def redraw(folder: Path, out: Path | None = None) -> None:
    """Draw the plots of a run again from its files.

    Args:
        folder: That `headstart train` wrote.
        out: Where the plots go; None: where they were.

    Raises:
        ArtifactError: A file of the run is missing or damaged.
    """
    try:
        evaluations, trust = stored.read_evaluation(folder), stored.read_trust(folder)
        if trust is None:
            raise FileNotFoundError(f"there is no {stored.TRUST}")
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
        plots.save(of_run(evaluations, trust, history, model), out or folder / "plots")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The plots of {folder} cannot be drawn again: {type(error).__name__}: {error}.",
            "A folder that `headstart train` wrote was expected, with its figures and history.csv.",
        ) from error
