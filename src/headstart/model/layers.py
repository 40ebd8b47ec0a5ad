"""A classifier → its layers in the order in which a picture passes them, as rows of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headstart.learning import modules
from headstart.model.classifier import Classifier


def layers(classifier: Classifier) -> list[dict[str, Any]]:
    """Return one row a layer, in the order in which a picture passes: name, type, output shape, parameters."""
    rows: list[dict[str, Any]] = []
    networks, features = classifier.backbone.networks, []
    for number, network in enumerate(networks, start=1):
        behind = f".{number}" if len(networks) > 1 else ""
        wanted = network.preprocess
        side = wanted.size
        rows.append(_row(f"preprocess{behind}", f"{wanted.resize}, 8-bit RGB", (1, side, side, 3), 0))
        features.append(_pass(rows, f"backbone{behind}", network.module, torch.zeros(1, 3, side, side)))
    joined = torch.cat(features, dim=1)
    if len(networks) > 1:
        rows.append(_row("features", "side by side", tuple(joined.shape), 0))
    if len(classifier.views) > 1:
        rows.append(_row("views", f"mean of {' and '.join(classifier.views)}", tuple(joined.shape), 0))
    _pass(rows, "head", modules.of(classifier.head), joined)
    scaled = f"softmax(logits / {classifier.temperature:.4g})"
    numbers = 1 if classifier.rules.calibration.factors is None else 1 + 2 * len(classifier.classes)
    rows.append(_row("calibration", scaled, (1, len(classifier.classes)), numbers))
    return rows


def _pass(rows: list[dict[str, Any]], name: str, module: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """Return what a network makes of its input, and note a row for each of its layers."""
    hooks = []
    for inner, layer in module.named_modules(prefix=name):
        if next(layer.children(), None) is None or next(layer.parameters(recurse=False), None) is not None:
            hooks.append(layer.register_forward_hook(_recorder(rows, inner)))
    try:
        with torch.inference_mode():
            result: torch.Tensor = module(given)
    finally:
        for hook in hooks:
            hook.remove()
    return result


def _recorder(rows: list[dict[str, Any]], name: str) -> Any:
    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        rows.append(_row(name, type(module).__name__, shape, sum(p.numel() for p in module.parameters(recurse=False))))

    return record


def _row(name: str, kind: str, shape: Sequence[int], parameters: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "output": list(shape), "parameters": parameters}
