"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from headstart.data.tables import read_table, to_csv
from headstart.errors import ArtifactError, DataError
from headstart.learning.heads import Step
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import SPLIT_NAMES, ClassNames, Predictions
from headstart.report import card, plots, redraw, summary
from headstart.workflows.resume import PreviousRun
from headstart.workflows.train import TrainingResult

EVALUATION, TRUST, PICTURES, PREDICTIONS = "evaluation.json", "trust.json", "pictures.csv", "predictions.csv"


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
        _write(folder / PREDICTIONS, _predictions_table(result.predictions))
        _write(folder / "history.csv", _history_table(result.history))
        _write(folder / PICTURES, _pictures_table(result))
        evaluations, trust = summary.of_evaluations(result.evaluations), summary.of_trust(result)
        _write_json(folder / EVALUATION, evaluations)
        _write_json(folder / TRUST, trust)
        _write_json(folder / "findings.json", summary.of_findings(result.findings))
        told = {"plan": result.plan.to_dict(), "training": result.classifier.provenance.training}
        plots.save(redraw.of_run(evaluations, trust, summary.of_history(result.history), told), folder / "plots")
        _write(folder / "README.md", card.of(result, evaluations, trust))


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


def read_trust(directory: Path) -> dict[str, Any] | None:
    """Return what `summary.of_trust` gave when the model was trained; None where it was not kept."""
    try:
        content: dict[str, Any] = json.loads((directory / TRUST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def read_previous(directory: Path) -> PreviousRun:
    """Return what a run left for a later one on the same pictures and more.

    Raises:
        ArtifactError: The folder is no run, or one of its tables is damaged.
    """
    try:
        pictures, said = read_table(directory / PICTURES), read_table(directory / PREDICTIONS)
        digests = dict(zip(pictures.column("path"), pictures.column("sha256"), strict=True))
        parts = dict(zip(pictures.column("sha256"), pictures.column("split"), strict=True))
        labels = dict(zip(pictures.column("sha256"), pictures.column("label"), strict=True))
        names, predicted = said.column("path"), said.column("predicted")
        answers = {digests[name]: label for name, label in zip(names, predicted, strict=True)}
    except (DataError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{directory} cannot be gone on from: {error}",
            f"--from takes a folder that `headstart train` wrote, with its {PICTURES} and {PREDICTIONS}.",
        ) from error
    return PreviousRun(parts, answers, ClassNames(said.header[4:]), labels)


def _predictions_table(predictions: Mapping[str, Predictions]) -> str:
    first = next(iter(predictions.values()))
    rows = [["path", "split", "label", "predicted", *first.classes]]
    for split, said in predictions.items():
        for row, one in enumerate(said):
            targets = said.targets[row] if said.targets is not None else None
            cells = [f"{p:.9g}" for p in said.probabilities[row]]
            rows.append([one.path, split, targets or "", one.label or "", *cells])
    return to_csv(rows)


def _pictures_table(result: TrainingResult) -> str:
    part = dict.fromkeys(range(len(result.dataset)), "")
    for name in SPLIT_NAMES:
        part |= dict.fromkeys(result.splits.part(name).tolist(), name)
    rows = zip(result.dataset, result.digests, strict=True)
    header = ["path", "label", "split", "sha256"]
    return to_csv([header, *([s.name, str(s.label), part[n], digest] for n, (s, digest) in enumerate(rows))])


def _history_table(history: Sequence[Step]) -> str:
    cells = [["" if math.isnan(figure) else f"{figure:.9g}" for figure in astuple(step)] for step in history]
    return to_csv([["step", *(field.name for field in fields(Step)[1:])], *cells])


def _write_json(path: Path, content: object) -> None:
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names of files may hold bytes that are no UTF-8
