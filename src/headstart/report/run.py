"""A `TrainingResult` → the directory of a run: the model's own files, and beside them what a person wants to know.

The model and its tables come first, whole or not at all. Small pictures, plots, card and page are worth less than a
trained model: what of them fails is told, and the rest stays.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from functools import partial
from pathlib import Path

from headstart.data.tables import to_csv
from headstart.encoding.pretrained import BUNDLED
from headstart.errors import ArtifactError
from headstart.learning.heads import Step
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.report import album, card, page, plots, redraw, stored, summary
from headstart.workflows.train import TrainingResult


def save(result: TrainingResult | Classifier, directory: str | Path, *, command: str = "") -> None:
    """Write a classifier; of a `TrainingResult` also its predictions, figures, plots, history, card and page.

    Args:
        result: What to write.
        directory: Where.
        command: That made it, as it was typed, for whoever wants to make it again.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.
    """
    if isinstance(result, Classifier):
        artifact.save(result, directory)
        return
    with artifact.writing(Path(directory)) as folder:
        artifact.write_into(folder, result.classifier, {"plan": result.plan.to_dict()})
        _write(result.plan.to_toml(), folder / stored.PLAN)
        stored.write_predictions(folder / stored.PREDICTIONS, result.predictions)
        stored.write_pictures(folder / stored.PICTURES, result)
        _write(_history_table(result.history), folder / stored.HISTORY)
        _write_json(summary.of_evaluations(result.evaluations), folder / stored.EVALUATION)
        _write_json(summary.of_trust(result), folder / stored.TRUST)
        _write_json(summary.of_findings(result.findings), folder / stored.FINDINGS)
        _write_json(_journal(result, command), folder / stored.JOURNAL)
    try:
        _save_looks(result, Path(directory))
    except BaseException:
        warnings.warn(f"The model is saved in {directory}; `headstart report` writes its page.", stacklevel=2)
        raise


def _save_looks(result: TrainingResult, directory: Path) -> None:
    """Write album, plots, card and page of a model that is saved."""
    _save_extras(directory, {stored.ALBUM: lambda path: _write_json(album.of(result), path)})
    try:
        told = stored.read_run(directory)  # what is drawn now is what can be drawn again
    except ArtifactError as error:
        warnings.warn(f"The model is saved in {directory}, but without plots, card and page: {error}", stacklevel=2)
        return
    _save_extras(
        directory,
        {f"plots/{name}.png": partial(plots.save_one, draw) for name, draw in redraw.of_run(told).items()}
        | {
            "README.md": lambda path: _write(card.of(told), path),
            page.NAME: lambda path: _write(page.render(told), path),
        },
    )


def _journal(result: TrainingResult, command: str) -> dict[str, object]:
    """Return what was done where and when, besides what decides an answer."""
    names = [network.name for network in result.classifier.backbone.networks]
    return {
        "seconds": round(result.seconds, 1),
        "command": command,
        "source": str(result.dataset.root),
        "licences": {name: "Apache-2.0" for name in names if name in BUNDLED and not result.plan.encoder.weights},
        "speed": None if result.speed is None else asdict(result.speed),
    }


def _save_extras(folder: Path, extras: dict[str, Callable[[Path], None]]) -> None:
    """Write what is only to be looked at, as much of it as can be."""
    failed = []
    for name, write in extras.items():
        try:
            write(folder / name)
        except BaseException as error:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
            if not isinstance(error, Exception):  # an interrupt
                raise
            # whatever it is, the model is worth more
            failed.append(f"{name} ({type(error).__name__}: {error})")
    if failed:
        warnings.warn(f"The model is saved in {folder}, but without {', '.join(failed)}.", stacklevel=3)


def _history_table(history: Sequence[Step]) -> str:
    cells = [["" if math.isnan(figure) else f"{figure:.9g}" for figure in astuple(step)] for step in history]
    return to_csv([["step", *(field.name for field in fields(Step)[1:])], *cells])


def _write_json(content: object, path: Path) -> None:
    _write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def _write(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names of files may hold bytes that are no UTF-8
