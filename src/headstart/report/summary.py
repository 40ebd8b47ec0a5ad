"""Records → plain dicts and lists that JSON can hold; whatever shows a record starts from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.experiments.learning_curve import LearningCurve
from headstart.model.classifier import Classifier
from headstart.records import Evaluation, Finding, Interval
from headstart.workflows.train import TrainingResult


def of_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure as `[value, low, high]`."""
    return {
        "pictures": evaluation.pictures,
        "failures": evaluation.failures,
        "interval": "95 %",
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
        "risk_coverage": [
            {"answered": round(share, 4), "wrong": round(risk, 6)} for share, risk in evaluation.risk_coverage
        ],
        "reliability": [
            {"confidence": confidence, "accuracy": accuracy, "pictures": count}
            for confidence, accuracy, count in evaluation.reliability
        ],
    }


def of_evaluations(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return the figures of each part."""
    return {name: of_evaluation(evaluation) for name, evaluation in evaluations.items()}


def of_trust(result: TrainingResult) -> dict[str, Any]:
    """Return what tells how far the figures can be believed, and what the model does beyond naming a class."""
    leakage, rules = result.leakage, result.classifier.rules
    drawn = leakage.random_split
    out_of_distribution = rules.out_of_distribution
    return {
        "similarity": [
            {
                "band": band.name,
                "similarity": [round(band.low, 4), round(band.high, 4)],
                "pictures": band.pictures,
                "share": round(band.share, 4),
                "accuracy": _numbers(band.accuracy),
            }
            for band in leakage.bands
        ],
        "same_object": {
            "accuracy_lost_without": None if leakage.gap is None else _numbers(leakage.gap),
            "kept_together": leakage.together,
            "split_of_the_data": leakage.given,
        },
        "random_split": None
        if drawn is None
        else {
            "accuracy": _numbers(drawn.accuracy),
            "pictures": len(drawn.measured.rows),
            "leaked": drawn.leaked,
        },
        "calibration": str(rules.calibration),
        "sets": None if rules.sets is None else {"method": rules.sets.method, "level": rules.sets.level},
        "unknown": None
        if out_of_distribution is None
        else {
            "score": out_of_distribution.score,
            "refused": out_of_distribution.refused,
            "compared": dict(out_of_distribution.compared),
        },
        "learning_curve": None if result.curve is None else _of_curve(result.curve),
        "changes": [asdict(change) for change in result.changes],
    }


def _of_curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "points": [
            {
                "pictures_per_class": round(point.pictures_per_class, 2),
                "accuracy": _numbers(point.accuracy),
                "log_loss": round(point.log_loss, 6),
            }
            for point in curve.points
        ],
        "doubled": _numbers(curve.doubled),
        "gain": _numbers(curve.gain),
        "formula": {"error odds": "a + b * pictures_per_class ** -c", **dict(zip("abc", curve.formula, strict=True))},
        "most_to_gain": [gain._asdict() for gain in curve.by_class],
    }


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
    scaled = f"softmax(logits / {classifier.temperature:.4g})"
    numbers = 1 if classifier.rules.calibration.factors is None else 1 + 2 * len(classifier.classes)
    rows.append(_row("calibration", scaled, (1, len(classifier.classes)), numbers))
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


def trust_lines(trust: Mapping[str, Any]) -> list[str]:
    """Return what `of_trust` gave as sentences."""
    lines: list[str] = []
    if trust["similarity"]:
        told = [f"{band['band']} {band['share']:.0%}: {_told(band['accuracy'])}" for band in trust["similarity"]]
        lines.append(
            "Accuracy by how alike the nearest learned picture is (share of the measured pictures): " + "; ".join(told)
        )
    gap = trust["same_object"]["accuracy_lost_without"]
    if gap is not None:
        kept = "kept on one side" if trust["same_object"]["kept_together"] else "not kept on one side"
        kept += " within the training part" if trust["same_object"]["split_of_the_data"] else ""
        lines.append(
            f"Accuracy that same-object pictures among the learned pictures add: {_told(gap)}; they were {kept}"
        )
    drawn = trust["random_split"]
    if drawn is not None:
        lines.append(
            f"A split that ignores copies, same-object pictures and groups would have reported an accuracy of "
            f"{_told(drawn['accuracy'])}, with {drawn['leaked']} of its "
            f"{drawn['pictures']} measured pictures having one among the learned"
        )
    if trust["sets"] is not None:
        lines.append(
            f"Sets ({trust['sets']['method']}) are made to hold the true class {trust['sets']['level']:.0%} of the time"
        )
    if trust["unknown"] is not None:
        rule = trust["unknown"]
        lines.append(
            f"None of these: by {rule['score']}, made to refuse {rule['refused']:.0%} of pictures of its own classes"
        )
    if trust["learning_curve"] is not None:
        curve = trust["learning_curve"]
        value, low, high = (100 * number for number in curve["gain"])
        lines.append(
            f"Twice as many pictures would bring about {value:+.1f} points of accuracy [{low:+.1f}, {high:+.1f}]"
        )
        if curve["most_to_gain"]:
            names = [f"{gain['name']} ({gain['pictures']})" for gain in curve["most_to_gain"][:5]]
            lines.append("Most left to gain (pictures now): " + ", ".join(names))
    return lines


def _told(figures: Sequence[float | None]) -> str:
    value, low, high = (math.nan if figure is None else figure for figure in figures)
    return str(Interval(value, low, high))
