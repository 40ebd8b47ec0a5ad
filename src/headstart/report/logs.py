"""The steps of a fit and its final figures → TensorBoard or MLflow, for those who ask for it; the only door to both.

Numbers and settings are logged, no pictures and none of their names. Where the logging itself fails in the middle, it
ends with a warning and the training goes on.
"""

from __future__ import annotations

import datetime
import importlib
import math
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from headstart.errors import ConfigError, MissingExtraError
from headstart.learning.heads import Listener, Step
from headstart.plans import Plan
from headstart.storage import storage_errors
from headstart.workflows.train import TrainingResult

FIGURES = tuple(field.name for field in fields(Step) if field.name != "number")


class Log(Protocol):
    """Somewhere that numbers go."""

    place: str

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Keep named numbers of one step."""

    def close(self, completed: bool) -> None:
        """Finish."""


class Logs:
    """Several logs; where one fails, neither the others nor the training suffer."""

    def __init__(self) -> None:
        """Begin with none."""
        self._logs: list[Log] = []
        self._failed: list[Log] = []

    @property
    def places(self) -> list[str]:
        """What to open to see them."""
        return [log.place for log in self._logs]

    def add(self, log: Log) -> None:
        """Write to this one too."""
        self._logs.append(log)

    def listen(self, step: Step) -> None:
        """Log a step of the fit."""
        self._write({f"fit/{name}": getattr(step, name) for name in FIGURES}, step.number)

    def conclude(self, result: TrainingResult) -> None:
        """Log the figures of the evaluations."""
        for part, evaluation in result.evaluations.items():
            figures = {f"{part}/{name}": figure.value for name, figure in evaluation.overall.items()}
            self._write(figures, result.history[-1].number if result.history else 0)

    def close(self, completed: bool) -> None:
        """Finish them all."""
        for log in self._logs:
            try:
                log.close(completed and log not in self._failed)
            except Exception as error:  # the training is done, and worth more
                warnings.warn(_discreet(f"{log.place} could not be closed: {error}."), stacklevel=2)

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        for log in self._logs:
            if log in self._failed:
                continue
            try:
                log.write(finite, step)
            except Exception as error:  # whatever a client raises, the training is worth more
                self._failed.append(log)
                text = f"Logging to {log.place} ended: {type(error).__name__}: {error}."
                warnings.warn(_discreet(text), stacklevel=2)


@contextmanager
def opened(kinds: Sequence[str], plan: Plan, out: Path) -> Iterator[Logs]:
    """Open the logs that were asked for, and close them at the end.

    Args:
        kinds: Of "tensorboard" and "mlflow".
        plan: Is logged as parameters.
        out: Where the model will go; TensorBoard's files go beside it, and the run is named after it.

    Raises:
        ConfigError: There is no such kind, or the tracking server refuses.
        MissingExtraError: The client is not installed.
        StorageError: TensorBoard's folder cannot be written.
    """
    check(kinds, out)
    logs, completed = Logs(), False
    try:
        for kind in dict.fromkeys(kinds):
            logs.add(_KINDS[kind](plan, out))
        yield logs
        completed = True
    finally:
        logs.close(completed)


def check(kinds: Sequence[str], out: Path) -> None:
    """Find out, before any work, whether these logs can be written.

    Args:
        kinds: As in `opened`.
        out: The same.

    Raises:
        ConfigError: There is no such kind, or its place is that of a model.
        MissingExtraError: The client is not installed.
    """
    for kind in kinds:
        if kind not in _KINDS:
            raise ConfigError(f"--log is {kind!r}; it is one of {', '.join(_KINDS)}.")
        _import(kind)
    folder = _folder(out)
    if "tensorboard" in kinds and (folder.absolute() == out.absolute() or (folder / "model.json").exists()):
        raise ConfigError(
            f"--log tensorboard writes its files to {folder}, which is the place of a model.",
            "Name a place with another name, or in another folder, with --out.",
        )


def _folder(out: Path) -> Path:
    """Return where TensorBoard's files go."""
    return out.parent / "tensorboard"


def _import(kind: str) -> Any:
    if kind == "mlflow":  # its client reports its use to its makers unless told not to
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        return importlib.import_module("mlflow") if kind == "mlflow" else importlib.import_module("tensorboardX")
    except ImportError as error:
        raise MissingExtraError(f"--log {kind}", kind) from error


class _TensorBoard:
    """Event files beside the model."""

    def __init__(self, plan: Plan, out: Path) -> None:
        folder = _folder(out)
        self.place = f"tensorboard --logdir {shlex.quote(str(folder))}"
        with storage_errors(folder, "Name another place with --out."):
            self._writer = _import("tensorboard").SummaryWriter(str(folder / _name(out)))
        self._writer.add_text("plan", "\n".join(f"    {line}" for line in plan.to_toml().splitlines()))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, completed: bool) -> None:
        self._writer.close()


class _MlFlow:
    """A run on the tracking server that `MLFLOW_TRACKING_URI` names."""

    def __init__(self, plan: Plan, out: Path) -> None:
        mlflow = _import("mlflow")
        address = mlflow.get_tracking_uri()
        self.place = _discreet(f"MLflow at {address}, experiment headstart")
        try:
            self._client = mlflow.MlflowClient(address)
            known = self._client.get_experiment_by_name("headstart")
            experiment = known.experiment_id if known else self._client.create_experiment("headstart")
            self._run = self._client.create_run(experiment, run_name=_name(out)).info.run_id
            for name, value in _flat(plan.to_dict()).items():
                self._client.log_param(self._run, name, value)
        except Exception as error:  # MLflow's own, its HTTP library's, a missing database driver
            raise ConfigError(
                _discreet(f"MLflow cannot log to {address}: {str(error).strip().partition(chr(10))[0]}"),
                "MLFLOW_TRACKING_URI names the server, e.g. http://127.0.0.1:5000, which `mlflow server` starts.",
            ) from error

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, completed: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if completed else "FAILED")


_KINDS: Mapping[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MlFlow}


def _name(out: Path) -> str:
    return f"{out.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _discreet(text: str) -> str:
    """Return the text without the user names and passwords that addresses may hold."""
    return re.sub(r"//[^/@\s]*@", "//…@", text)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted name → value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def join(*listeners: Listener) -> Listener:
    """Return a listener that passes each step on to all of these."""

    def listen(step: Step) -> None:
        for one in listeners:
            one(step)

    return listen
