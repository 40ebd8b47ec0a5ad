"""A network as it travels to another machine, and the encoder that it becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.encoding import runtime
from headstart.encoding.encoder import Encoder
from headstart.encoding.graph import Graph
from headstart.encoding.network import Network
from headstart.errors import ConfigError, asked_for
from headstart.plans import EncoderPlan
from headstart.records import Preprocess
from headstart.scale.hand import compared


@dataclass(frozen=True)
class Shipped:
    """A network as it travels: its graph, with which each machine compares its own engine; for PyTorch, its weights.

    Attributes:
        name, dim, preprocess, arguments, digest: As of `Network`.
        graph: The file of its graph; None where it runs on PyTorch.
        weights: The file of its weights; None where it runs on OpenVINO.
        quantized: The file of its graph in 8-bit integers, where it runs so.
    """

    name: str
    dim: int
    preprocess: Preprocess
    arguments: Mapping[str, Any]
    digest: str
    graph: bytes | None
    weights: bytes | None
    quantized: bytes | None

    @classmethod
    def of(cls, encoder: Encoder, folder: Path) -> Shipped:
        """Return the network of an encoder; in `folder` lies for a while what OpenVINO writes."""
        network, on_torch = encoder.network, encoder.plan.engine == "torch"
        return cls(
            network.name,
            network.dim,
            network.preprocess,
            dict(network.arguments),
            network.digest,
            None if on_torch else runtime.testified(network, folder).content(),
            _weights(network) if on_torch else None,
            None if encoder.quantized is None else encoder.quantized.content(),
        )

    @classmethod
    def trainable(cls, network: Network) -> Shipped:
        """Return a network as it travels to where it is trained."""
        known = network.name, network.dim, network.preprocess, dict(network.arguments), network.digest
        return cls(*known, graph=None, weights=_weights(network), quantized=None)

    def encoder(self, plan: EncoderPlan) -> Encoder:
        """Return the encoder of the network on this machine, compared with PyTorch where its graph allows it."""
        quantized = None if self.quantized is None else Graph.of_content(self.quantized)
        return compared(runtime.build(self.network(), plan, quantized))

    def network(self) -> Network:
        """Return the network on this machine."""
        if self.weights is not None:
            with asked_for("Running a network by PyTorch"):
                from headstart.encoding import pretrained, weights

            tensors = weights.of_content(self.weights, self.name)
            return pretrained.rebuild(self.name, tensors, self.preprocess, self.arguments)
        assert self.graph is not None  # noqa: S101  # one of the two was sent
        none = np.empty(0, np.float32)
        told = self.name, self._build, self.dim, self.preprocess, self.arguments, self.digest
        return Network(*told, labels=(), rows=none, offsets=none, graph=Graph.of_content(self.graph))

    def _build(self) -> Any:
        raise ConfigError(
            f"What runs {self.name} on a machine of the cluster differs from PyTorch by more than it may.",
            "Try --precision f32, or --engine torch.",
        )


def _weights(network: Network) -> bytes:
    with asked_for("Running a network by PyTorch"):
        from headstart.encoding import weights

    return weights.content(network.module)
