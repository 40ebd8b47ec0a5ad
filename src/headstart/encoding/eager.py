"""PyTorch runs a network: on the CPU, CUDA or MPS, and as the ground truth of whatever else runs it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from headstart.encoding.encoder import Agreement, Encoder, line
from headstart.encoding.graph import Graph
from headstart.encoding.network import ONE_AT_A_TIME, Network, cannot_take
from headstart.plans import EncoderPlan
from headstart.records import Floats, Pixels

BATCHES = {"cpu": 8, "mps": 32, "cuda": 128}  # on a CPU larger ones are no faster


class TorchEncoder:
    """PyTorch eager; batches always have the same shape, so that a row never depends on its company."""

    def __init__(self, network: Network, plan: EncoderPlan) -> None:
        """Keep the network; it moves to the device on first use."""
        self.plan, self.preprocess = plan, network.preprocess
        self.weights, self.dim, self.ahead = network.digest, network.dim, BATCHES[plan.device]
        self.quantized: Graph | None = None
        self.trusted: tuple[Encoder, Agreement] | None = None
        self.others: Mapping[EncoderPlan, Encoder] = {}
        self.network = network
        self._placed: nn.Module | None = None

    def __repr__(self) -> str:
        """Return one line."""
        return line(self)

    @property
    def version(self) -> str:
        """E.g. `torch 2.15.0 cpu`."""
        return f"torch {torch.__version__.split('+')[0]} {self.plan.device}"

    def encode(self, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        """See `Encoder.encode`."""
        with ONE_AT_A_TIME:
            placed = self._placed = self._placed or self._place()
        source, size = iter(pictures), BATCHES[self.plan.device]
        while batch := list(islice(source, size)):
            padded = np.zeros((size, *batch[0].shape), dtype=np.uint8)
            padded[: len(batch)] = batch
            yield from self._run(placed, torch.from_numpy(padded))[: len(batch)]

    def _place(self) -> nn.Module:
        # a copy: others use the network, and another memory layout gives other roundings on the same weights
        placed: nn.Module = copy.deepcopy(Normalised(self.network)).to(memory_format=torch.channels_last)
        placed = placed.to(self.plan.device).eval()
        size = self.preprocess.size
        try:
            self._run(placed, torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except Exception as error:  # a saved model's size that its network cannot take; each trips over its own
            raise cannot_take(self.network.name, size, error) from error
        return placed

    def _run(self, placed: nn.Module, batch: Tensor) -> Floats:
        device = self.plan.device
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self.plan.precision == "bf16"),
        ):
            features: Tensor = placed(batch.to(device, non_blocking=True))
        return features.float().cpu().numpy()


class Normalised(nn.Module):
    """(B, S, S, 3) uint8 → features: the preprocessing that OpenVINO has in its graph."""

    def __init__(self, network: Network) -> None:
        """Take the network's module and how it wants its pictures."""
        super().__init__()
        self.module = network.module
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(network.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.preprocess.std).view(1, 3, 1, 1))

    def batch(self, pictures: Tensor) -> Tensor:
        """Return (B, 3, S, S) float32, what the network itself takes."""
        return (pictures.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, D) features."""
        features: Tensor = self.module(self.batch(pictures))
        return features
