"""Which plots belong to an evaluation and to a run, from the plain values of `summary` or from the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
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


def of_run(told: Mapping[str, Any]) -> dict[str, Drawing]:
    """Return the plots of a training, by name, to be drawn one by one.

    Args:
        told: From `stored.read_run`; drawn is the test part where there is one, else validation.
    """
    evaluations, trust, model = told["evaluations"], told["trust"], told["model"]
    part = summary.reported(evaluations)
    watched = "validation" if "validation" in evaluations else "test"
    drawings = of_evaluation(evaluations[part], part)
    drawings["similarity"] = partial(plots.similarity, trust["similarity"], part, summary.split_of_bands(trust))
    if trust["learning_curve"] is not None:
        drawings["learning_curve"] = partial(plots.learning_curve, trust["learning_curve"], watched)
    best, unit = model["training"].get("best_epoch"), unit_of_steps(model)
    drawings["training"] = partial(plots.training_curves, told["history"], watched, unit, best)
    return drawings


def unit_of_steps(model: Mapping[str, Any]) -> str:
    """Return what a step of the history is, by what `model.json` holds."""
    tuned = (model["training"].get("finetune") or {}).get("kept", False)
    in_epochs = tuned or model["plan"]["head"]["optimizer"] != "lbfgs"
    return "epoch" if in_epochs else "L-BFGS iteration (0: the prior alone)"


def redraw(folder: Path, out: Path | None = None) -> None:
    """Draw the plots of a run again from its files.

    Args:
        folder: That `headstart train` wrote.
        out: Where the plots go; None: where they were.

    Raises:
        ArtifactError: A file of the run is missing or damaged.
    """
    told = stored.read_run(folder)
    try:
        plots.save(of_run(told), out or folder / "plots")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The plots of {folder} cannot be drawn again: {type(error).__name__}: {error}.",
            "A folder that `headstart train` wrote was expected, with its figures and history.csv.",
        ) from error
