"""A step of a training, and how far a weight is from the head → how fast the weight learns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from headstart.encoding import stages
from headstart.plans import FineTunePlan

WEIGHT_DECAY = 0.01  # of weights of two dimensions and more


def pace(step: int, per_epoch: int, epochs: int) -> float:
    """Return the share of the highest learning rate: up to it in the first epoch, then down to 0 along a cosine."""
    if step < per_epoch:
        return (step + 1) / per_epoch
    return 0.5 * (1 + math.cos(math.pi * (step - per_epoch) / (per_epoch * (epochs - 1))))


def leave(networks: Iterable[nn.Module], stages_trained: int) -> None:
    """Have only so many stages next to the head learn, which spares the way back through the others; 0: all learn."""
    for network in networks:
        for name, far in stages.distances(network).items():
            network.get_parameter(name).requires_grad_(not stages_trained or far < stages_trained)


def groups(head: nn.Linear, networks: Iterable[nn.Module], plan: FineTunePlan) -> list[dict[str, Any]]:
    """Return the weights that learn, by how fast they do: the slower, the further they are from the head."""
    groups: dict[tuple[int, bool], list[Tensor]] = {(0, True): [head.weight], (0, False): [head.bias]}
    for network in networks:
        distances = stages.distances(network)
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                groups.setdefault((distances[name], weight.ndim > 1), []).append(weight)
    return [
        {
            "params": weights,
            "highest": plan.learning_rate * plan.layer_decay**far,
            "weight_decay": WEIGHT_DECAY if wide else 0.0,
        }
        for (far, wide), weights in groups.items()
    ]
