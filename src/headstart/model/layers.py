"""A classifier → its layers in the order in which a picture passes them, as rows of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headstart.model.classifier import Classifier


def layers(classifier: Classifier) -> list[dict[str, Any]]:
    """Return one row a layer, in the order in which a picture passes: name, type, output shape, parameters."""
    size = classifier.preprocess.size
    kind = f"{classifier.preprocess.resize}, 8-bit RGB"
    rows: list[dict[str, Any]] = [_row("preprocess", kind, (1, size, size, 3), 0)]
    hooks = []
    network = nn.Sequential()
    network.add_module("backbone", classifier.backbone.networks[0].module)
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
