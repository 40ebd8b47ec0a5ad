"""A `Head`: (N, D) features → (N, K) logits in plain numbers, however it was fitted, with or without hidden layers; and
the records that a fit leaves. Nothing here fits one, and nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.learning import exact
from headstart.records import Floats

BLOCK = 1024  # rows whose logits are computed at once
EPSILON = 1e-3  # added to the variances of batch normalisation
STATISTICS = ("weight", "bias", "running_mean", "running_var")  # of batch normalisation
Array = NDArray[np.float64]
Layer = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a head is like: batch normalisation, hidden layers with ReLU, dropout, a linear layer.

    Attributes:
        features: D.
        classes: K.
        hidden: Widths of the hidden layers.
        dropout: Share of units that training drops before the last hidden layer; of a single hidden layer after it,
            of none of the features. It decides no answer.
        batch_norm: Whether the features are normalised first, by statistics learned in training.
    """

    features: int
    classes: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    batch_norm: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is one linear layer alone."""
        return not self.hidden and not self.batch_norm

    def describe(self) -> dict[str, Any]:
        """Return what `from_description` needs besides the number of classes."""
        known = {"kind": "linear" if self.linear else "multilayer", "features": self.features}
        shape = {"hidden": list(self.hidden), "dropout": self.dropout, "batch_norm": self.batch_norm}
        return known if self.linear else known | shape

    @classmethod
    def from_description(cls, described: Mapping[str, Any], classes: int) -> Shape:
        """Return the shape that was described.

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
        return cls(widths[0], classes, tuple(hidden), dropout, batch_norm)

    def layers(self) -> list[tuple[str, tuple[int, int]]]:
        """Return (name, (output width, input width)) of its linear layers, in their order."""
        names = [*(f"dense{number}" for number in range(1, len(self.hidden) + 1)), "linear"]
        widths = pairwise([self.features, *self.hidden, self.classes])
        return [(name, (after, before)) for name, (before, after) in zip(names, widths, strict=True)]

    def tensors(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Return name → shape and type of the arrays that a head of this shape is made of."""
        found: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {}
        if self.batch_norm:
            found |= {f"norm.{name}": ((self.features,), np.float32) for name in STATISTICS}
            found["norm.num_batches_tracked"] = ((), np.int64)
        for name, shape in self.layers():
            found |= {f"{name}.weight": (shape, np.float32), f"{name}.bias": (shape[:1], np.float32)}
        return found


@dataclass(frozen=True, eq=False, repr=False)  # without slots, for what is made ready of the arrays
class Head:
    """(N, D) features → (N, K) logits, safe in threads.

    Attributes:
        shape: What it is like.
        tensors: Name → array, as `Shape.tensors` says.
    """

    shape: Shape
    tensors: Mapping[str, NDArray[Any]]

    @classmethod
    def of_linear(cls, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> Head:
        """Return the head of one linear layer.

        Args:
            weight: (K, D), rounded to float32.
            bias: (K,) likewise.
        """
        tensors = {"linear.weight": np.ascontiguousarray(weight, np.float32), "linear.bias": bias.astype(np.float32)}
        return cls(Shape(weight.shape[1], weight.shape[0]), tensors)

    @property
    def weight(self) -> Floats:
        """(K, width) weights of the last layer."""
        weight: Floats = self.tensors["linear.weight"]
        return weight

    @property
    def bias(self) -> Floats:
        """(K,) biases of the last layer."""
        bias: Floats = self.tensors["linear.bias"]
        return bias

    @property
    def learned(self) -> list[NDArray[Any]]:
        """The arrays that a fit decides, without the statistics of batch normalisation."""
        return [value for name, value in self.tensors.items() if name.rpartition(".")[2] in ("weight", "bias")]

    def __repr__(self) -> str:
        """Return one line."""
        return f"Head({self.shape.describe()}, {self.shape.classes} classes)"

    def logits(self, features: Floats) -> Floats:
        """Return (N, K) float32 logits of (N, D) features; for any thread.

        A row's logits do not depend, not by a bit, on how many others are asked for: see `exact`.
        """
        result = np.empty((len(features), self.shape.classes), dtype=np.float32)
        for begin in range(0, len(features), BLOCK):
            rows = features[begin : begin + BLOCK].astype(np.float64)
            for layer in self._layers:
                rows = layer(rows)
            with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and whoever uses it refuses that
                result[begin : begin + BLOCK] = rows
        return result

    @cached_property
    def _layers(self) -> list[Layer]:
        """What each layer does to float64 rows. Each operation rounds row by row."""
        made = [self._normalisation()] if self.shape.batch_norm else []
        for name, _ in self.shape.layers():
            made += [self._linear(name)] if name == "linear" else [self._linear(name), lambda rows: np.maximum(rows, 0)]
        return made

    def _linear(self, name: str) -> Layer:
        right = exact.factor(self.tensors[f"{name}.weight"].T)
        bias = self.tensors[f"{name}.bias"].astype(np.float64)
        return lambda rows: exact.product(rows, right) + bias

    def _normalisation(self) -> Layer:
        weight, bias, mean, variance = (self.tensors[f"norm.{name}"].astype(np.float64) for name in STATISTICS)
        factor = weight / np.sqrt(variance + EPSILON)
        offset = bias - mean * factor
        return lambda rows: rows * factor + offset


def averaged(first: Head, second: Head, share: float) -> Head:
    """Return the linear head of features side by side whose logits are the mean of those of two linear heads.

    Args:
        first: Of the features that stand first.
        second: Of those behind them.
        share: Weight of the first in the mean; the second has the rest.
    """
    shares = np.float32(share), np.float32(1 - share)
    weight = np.concatenate([part * head.weight for part, head in zip(shares, (first, second), strict=True)], axis=1)
    return Head.of_linear(weight, shares[0] * first.bias + shares[1] * second.bias)


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
