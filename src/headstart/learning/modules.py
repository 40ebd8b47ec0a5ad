"""A `Head` ⇄ a module of PyTorch, for whatever needs gradients of it or shows its layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from headstart import arrays
from headstart.arrays import Rows
from headstart.learning.heads import EPSILON, Head, Shape
from headstart.records import Floats, Integers


class HeadModule(nn.Sequential):
    """(B, D) features → (B, K) logits: batch normalisation, hidden layers with ReLU, dropout, a linear layer.

    Without hidden layers and normalisation it is the linear layer alone.
    """

    def __init__(self, shape: Shape) -> None:
        """Make a head with weights that mean nothing yet."""
        super().__init__()
        self.shape = shape
        if shape.batch_norm:
            self.add_module("norm", nn.BatchNorm1d(shape.features, eps=EPSILON, momentum=0.1))
        before = max(1, len(shape.hidden) - 1)
        for number, (name, (after, width)) in enumerate(shape.layers()[:-1], start=1):
            self.add_module(name, nn.Linear(width, after))
            self.add_module(f"relu{number}", nn.ReLU())
            if shape.dropout and number == before:
                self.add_module("dropout", nn.Dropout(shape.dropout))
        if shape.dropout and not shape.hidden:
            self.add_module("dropout", nn.Dropout(shape.dropout))
        self.linear = nn.Linear((shape.hidden or (shape.features,))[-1], shape.classes)

    def numbers(self) -> Head:
        """Return the head that it is now."""
        state = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return Head(self.shape, state)


def of(head: Head) -> HeadModule:
    """Return a head as a module, in evaluation mode."""
    module = HeadModule(head.shape)
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in head.tensors.items()})
    return module.eval().requires_grad_(False)


def loss_and_accuracy(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy in nats and the share that is right, of (N, K) logits; NaN without rows."""
    if not len(targets):
        return float("nan"), float("nan")
    logs = torch.log_softmax(scores, dim=1)
    right = (logs.argmax(dim=1) == targets).double().mean()
    return float(-logs[torch.arange(len(targets)), targets].double().mean()), float(right)


def measured(
    logits: Callable[[Floats], Tensor], values: Rows, rows: Integers, targets: Integers
) -> tuple[float, float]:
    """Return what `loss_and_accuracy` does of some rows, block by block.

    Args:
        logits: (B, D) features → (B, K).
        values: (N, D) features.
        rows: (M,) which of them.
        targets: (M,) their classes.
    """
    told = [
        (len(block), *loss_and_accuracy(logits(block), torch.from_numpy(targets[part])))
        for part, block in arrays.blocks(values, rows)
    ]
    if len(told) <= 1:
        return told[0][1:] if told else (float("nan"), float("nan"))
    sizes, losses, right = np.array(told).T
    return float(sizes @ losses / len(rows)), float(sizes @ right / len(rows))
