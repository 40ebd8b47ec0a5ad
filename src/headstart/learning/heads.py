"""A `Head`: one small torch module from (B, D) features to (B, K) logits, however it was fitted, with or without hidden
layers; and the records that a fit leaves. Nothing here fits one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.learning import exact
from headstart.records import Floats

BLOCK = 1024  # rows whose logits are computed at once
Array = NDArray[np.float64]
Layer = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class _Ready:
    """Layers in numbers that need no more preparation, and the weights they were made of.

    Attributes:
        weights: Held so that no other tensor can come to lie at their addresses.
        state: Address and version of each; other ones mean that the weights have changed.
        layers: In their order.
    """

    weights: tuple[Tensor, ...]
    state: tuple[tuple[int, int], ...]
    layers: tuple[Layer, ...]


class Head(nn.Sequential):
    """(B, D) features → (B, K) logits: batch normalisation, hidden layers with ReLU, dropout, a linear layer.

    Without hidden layers and normalisation it is the linear layer alone.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        hidden: Sequence[int] = (),
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        """Make a head with weights that mean nothing yet.

        Args:
            features: D.
            classes: K.
            hidden: Widths of the hidden layers.
            dropout: Share of units that training drops before the last hidden layer; of a single hidden layer after
                it, of none of the features.
            batch_norm: Normalise the features first, by statistics learned in training.
        """
        super().__init__()
        self._ready: _Ready | None = None
        self.shape = {"hidden": list(hidden), "dropout": dropout, "batch_norm": batch_norm}
        self.features = features
        if batch_norm:
            self.add_module("norm", nn.BatchNorm1d(features, eps=1e-3, momentum=0.1))
        width, before = features, max(1, len(hidden) - 1)
        for number, units in enumerate(hidden, start=1):
            self.add_module(f"dense{number}", nn.Linear(width, units))
            self.add_module(f"relu{number}", nn.ReLU())
            if dropout and number == before:
                self.add_module("dropout", nn.Dropout(dropout))
            width = units
        if dropout and not hidden:
            self.add_module("dropout", nn.Dropout(dropout))
        self.linear = nn.Linear(width, classes)

    def describe(self) -> dict[str, Any]:
        """Return what `from_description` needs besides the number of classes."""
        linear = not self.shape["hidden"] and not self.shape["batch_norm"]
        known = {"kind": "linear" if linear else "multilayer", "features": self.features}
        return known if linear else known | self.shape

    @classmethod
    def from_description(cls, described: Mapping[str, Any], classes: int) -> Head:
        """Return an empty head of this shape.

        Raises:
            ValueError: It describes no head; `KeyError` and `TypeError` where something is missing or of a wrong type.
        """
        if described["kind"] not in ("linear", "multilayer"):
            raise ValueError(f"there is no head of the kind {described['kind']!r}")
        shape: dict[str, Any] = {"hidden": [], "dropout": 0.0, "batch_norm": False}
        if described["kind"] == "multilayer":
            shape = {name: described[name] for name in shape}
        hidden, dropout, batch_norm = shape["hidden"], float(shape["dropout"]), shape["batch_norm"]
        widths = [described["features"], classes, *(hidden if isinstance(hidden, list) else [None])]
        sizes = len(widths) < 64 and all(type(width) is int and 0 < width < 2**20 for width in widths)
        if not (sizes and 0 <= dropout < 1 and isinstance(batch_norm, bool)):
            raise ValueError(f"{dict(described)!r} describes no head of {classes} classes")
        return cls(widths[0], classes, hidden, dropout=dropout, batch_norm=batch_norm)

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) float32 logits of (N, D) features, as in evaluation whatever the mode; for any thread.

        A row's logits do not depend, not by a bit, on how many others are asked for: see `exact`.
        """
        layers = self._layers()
        result = np.empty((len(features), self.linear.out_features), dtype=np.float32)
        for begin in range(0, len(features), BLOCK):
            rows = features[begin : begin + BLOCK].astype(np.float64)
            for layer in layers:
                rows = layer(rows)
            with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and whoever uses it refuses that
                result[begin : begin + BLOCK] = rows
        return result

    def _layers(self) -> tuple[Layer, ...]:
        """Return the layers made ready; once for all calls until a weight changes."""
        weights = (*self.parameters(), *self.buffers())
        state = tuple((weight.data_ptr(), weight._version) for weight in weights)
        ready = self._ready  # read once: another thread may put a new one there, but never a half one
        if ready is None or ready.state != state:
            layers = tuple(made for layer in self if (made := _made_ready(layer)) is not None)
            self._ready = ready = _Ready(tuple(weight.detach() for weight in weights), state, layers)
        return ready.layers

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy begins with: not what was made ready of the weights."""
        return self.__dict__ | {"_ready": None}


def averaged(first: Head, second: Head, share: float) -> Head:
    """Return the linear head of features side by side whose logits are the mean of those of two linear heads.

    Args:
        first: Of the features that stand first.
        second: Of those behind them.
        share: Weight of the first in the mean; the second has the rest.
    """
    both = Head(first.features + second.features, first.linear.out_features)
    with torch.no_grad():
        both.linear.weight.copy_(torch.cat([share * first.linear.weight, (1 - share) * second.linear.weight], dim=1))
        both.linear.bias.copy_(share * first.linear.bias + (1 - share) * second.linear.bias)
    return both.eval().requires_grad_(False)


def _made_ready(layer: nn.Module) -> Layer | None:
    """Return what a layer does to float64 rows in evaluation; None: nothing. Each operation rounds row by row."""
    if isinstance(layer, nn.Linear):
        right, bias = exact.factor(layer.weight.detach().cpu().numpy().T), _numbers(layer.bias)
        return lambda rows: exact.product(rows, right) + bias
    if isinstance(layer, nn.ReLU):
        return lambda rows: np.maximum(rows, 0)
    if isinstance(layer, nn.BatchNorm1d):
        state = {name: _numbers(values) for name, values in layer.state_dict().items()}
        factor = state["weight"] / np.sqrt(state["running_var"] + layer.eps)
        offset = state["bias"] - state["running_mean"] * factor
        return lambda rows: rows * factor + offset
    return None


def _numbers(weights: Tensor) -> Array:
    return weights.detach().cpu().double().numpy()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a fit (an iteration of L-BFGS, an epoch): loss is mean cross-entropy in nats.

    Attributes:
        number: Epochs count from 1; iteration 0 is where L-BFGS starts.
        train_loss: Of the rows learned from.
        train_accuracy: Of the same.
        validation_loss: Of the rows that measure, to be looked at; NaN where there are none.
        validation_accuracy: Of the same.
        watched_loss: Of the rows that stop the epochs, after temperature scaling where they are enough for it; NaN
            where nothing stops them.
        learning_rate: Of the epoch; NaN where there is none.
        seconds: That it took.
    """

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    watched_loss: float = float("nan")
    learning_rate: float = float("nan")
    seconds: float = field(default=0.0, compare=False)


Listener = Callable[[Step], None]  # hears of each step while a head is fitted


def ignore(step: Step) -> None:
    """Hear nothing: the listener of whoever did not ask for one."""


def loss_and_accuracy(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy in nats and the share that is right, of (N, K) logits; NaN without rows."""
    if not len(targets):
        return float("nan"), float("nan")
    logs = torch.log_softmax(scores, dim=1)
    right = (logs.argmax(dim=1) == targets).double().mean()
    return float(-logs[torch.arange(len(targets)), targets].double().mean()), float(right)
