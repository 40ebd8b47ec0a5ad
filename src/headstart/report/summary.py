"""Records → plain dicts and lists that JSON can hold; whatever shows a record starts from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.model.classifier import Classifier
from headstart.records import Evaluation, Finding, Interval


def of_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure as `[value, low, high]`."""
    return {
        "pictures": evaluation.pictures,
        "failures": evaluation.failures,
        "interval": "95 % bootstrap",
        "overall": {name: _numbers(figure) for name, figure in evaluation.overall.items()},
        "per_class": {
            name: {"pictures": int(evaluation.support[evaluation.classes.index(name)])}
            | {key: _numbers(figure) for key, figure in figures.items()}
            for name, figures in evaluation.per_class.items()
        },
        "most_confused": [
            {"given": given, "predicted": predicted, "pictures": count}
            for given, predicted, count in evaluation.confused
        ],
        "confusion": [
            {
                "given": evaluation.classes[i],
                "predicted": evaluation.classes[j],
                "pictures": int(evaluation.confusion[i, j]),
            }
            for i, j in np.argwhere(evaluation.confusion)
        ],
        "reliability": [
            {"confidence": confidence, "accuracy": accuracy, "pictures": count}
            for confidence, accuracy, count in evaluation.reliability
        ],
    }


def of_evaluations(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return the figures of each part."""
    return {name: of_evaluation(evaluation) for name, evaluation in evaluations.items()}


def of_findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return each finding with all its names."""
    return [
        {"code": f.code, "severity": f.severity, "message": f.message, "names": list(f.names), "advice": f.advice}
        for f in findings
    ]


def of_layers(classifier: Classifier) -> list[dict[str, Any]]:
    """Return one row a layer, in the order in which a picture passes: name, type, output shape, parameters."""
    size = classifier.preprocess.size
    kind = f"{classifier.preprocess.resize}, 8-bit RGB"
    rows: list[dict[str, Any]] = [_row("preprocess", kind, (1, size, size, 3), 0)]
    hooks = []
    network = nn.Sequential()
    network.add_module("backbone", classifier.backbone.module)
    network.add_module("head", classifier.head)
    for name, module in network.named_modules():
        if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_hook(_recorder(rows, name)))
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    rows.append(_row("calibration", f"softmax(logits / {classifier.temperature:.4g})", (1, len(classifier.classes)), 1))
    return rows


def _recorder(rows: list[dict[str, Any]], name: str) -> Any:
    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        rows.append(_row(name, type(module).__name__, shape, sum(p.numel() for p in module.parameters(recurse=False))))

    return record


def _row(name: str, kind: str, shape: Sequence[int], parameters: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "output": list(shape), "parameters": parameters}


def _numbers(interval: Interval) -> list[float | None]:
    return [round(number, 6) if math.isfinite(number) else None for number in interval]
