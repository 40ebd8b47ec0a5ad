"""Headstart: from labelled photographs to an image classifier that can be trusted and used.

>>> import headstart as hs
>>> hs.TrainConfig(recipe="tutorial").recipe
'tutorial'

The names below are the whole public face; each is loaded when it is first used, so that importing costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.config import TrainConfig as TrainConfig
    from headstart.data.sources import Columns as Columns
    from headstart.data.sources import read as read
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.evaluation.explanation import Explanation as Explanation
    from headstart.evaluation.measure import evaluate as evaluate
    from headstart.model.artifact import load_classifier as load  # noqa: F401
    from headstart.model.classifier import Classifier as Classifier
    from headstart.predictions import Evaluation as Evaluation
    from headstart.predictions import Prediction as Prediction
    from headstart.predictions import Predictions as Predictions
    from headstart.records import Dataset as Dataset
    from headstart.report.bar import ProgressBar as ProgressBar
    from headstart.report.explained import explain as explain
    from headstart.report.exported import export as export
    from headstart.report.run import save as save
    from headstart.workflows.audit import audit as audit
    from headstart.workflows.check import check as check
    from headstart.workflows.train import TrainingResult as TrainingResult
    from headstart.workflows.train import train as train
    from headstart.workflows.trying import try_backbones as try_backbones

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "headstart.model.classifier",
    "Columns": "headstart.data.sources",
    "Dataset": "headstart.records",
    "Evaluation": "headstart.predictions",
    "Explanation": "headstart.evaluation.explanation",
    "HeadstartError": "headstart.errors",
    "Prediction": "headstart.predictions",
    "Predictions": "headstart.predictions",
    "ProgressBar": "headstart.report.bar",
    "TrainConfig": "headstart.config",
    "TrainingResult": "headstart.workflows.train",
    "audit": "headstart.workflows.audit",
    "check": "headstart.workflows.check",
    "evaluate": "headstart.evaluation.measure",
    "explain": "headstart.report.explained",
    "export": "headstart.report.exported",
    "load": "headstart.model.artifact:load_classifier",
    "read": "headstart.data.sources",
    "save": "headstart.report.run",
    "train": "headstart.workflows.train",
    "try_backbones": "headstart.workflows.trying",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    module, _, inner = _HOMES[name].partition(":")
    importlib.import_module("headstart.records").Displayable.drawing = staticmethod(_html)
    with importlib.import_module("headstart.errors").asked_for(f"headstart.{name}"):
        return getattr(importlib.import_module(module), inner or name)


def _html(thing: Any) -> str:
    """Return what a notebook shows of something that is `Displayable`; what draws it is loaded then."""
    html: str = importlib.import_module("headstart.report.notebook").html(thing)
    return html


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
