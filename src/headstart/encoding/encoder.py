"""What every encoder is: prepared pictures → features, whatever runs the network; and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headstart.encoding.graph import Graph
from headstart.encoding.network import Network
from headstart.plans import EncoderPlan
from headstart.records import Floats, Pixels, Preprocess


class Encoder(Protocol):
    """Something that turns prepared pictures into features; each row depends on its own picture alone."""

    network: Network
    plan: EncoderPlan
    preprocess: Preprocess
    weights: str
    quantized: Graph | None  # what is run where the plan says int8
    dim: int
    ahead: int  # how many pictures it pulls before it gives a result
    trusted: tuple[Encoder, Agreement] | None
    others: Mapping[EncoderPlan, Encoder]  # of the same network, see `by_plan`

    @property
    def version(self) -> str:
        """The engine and its version: part of the cache key, since another version may round otherwise."""

    def encode(self, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        """Yield (D,) float32 for each (S, S, 3) uint8 picture, in order, pulling pictures ahead of results."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an engine's features are from PyTorch's in float32, over a few pictures.

    Attributes:
        relative_error: The largest ‖difference‖ / ‖reference‖ of a picture.
        cosine: The smallest cosine between the two.
        pictures: How many were compared.
    """

    relative_error: float
    cosine: float
    pictures: int


def compare(features: Floats, reference: Floats) -> Agreement:
    """Return how far (N, D) features are from their reference."""
    norms = np.linalg.norm(reference, axis=1)
    error = np.linalg.norm(features - reference, axis=1) / np.maximum(norms, 1e-12)
    cosine = (features * reference).sum(axis=1) / np.maximum(norms * np.linalg.norm(features, axis=1), 1e-12)
    # a NaN must never pass for agreement, and max() and min() propagate it
    return Agreement(float(error.max()), float(cosine.min()), len(features))


def line(encoder: Encoder) -> str:
    """Return an encoder in one line."""
    plan, network = encoder.plan, f"{encoder.network.name} at {encoder.preprocess.size} px"
    return f"{type(encoder).__name__}({network}, {plan.precision} on {plan.device})"
