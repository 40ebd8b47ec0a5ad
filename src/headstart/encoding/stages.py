"""A network → how far each of its weights is from the head, in stages, and a copy of it with other weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from headstart.encoding import pretrained
from headstart.encoding.network import Network


def distances(module: nn.Module) -> Mapping[str, int]:
    """Return name of a parameter → how many stages lie between it and the head, 0 for what stands right before it.

    timm knows the stages of its networks: blocks of one resolution, or of a transformer each block.
    """
    timm: Any = importlib.import_module("timm.models")
    groups = timm.group_parameters(module, module.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    last = max(groups.values(), default=0)
    return {name: last - groups.get(name, last) for name, _ in module.named_parameters()}


def retrained(network: Network, module: nn.Module) -> Network:
    """Return the network with a module of other weights, which nobody else may change any more.

    The classifier it was pre-trained with does not belong to these weights.
    """
    module = module.to("cpu").to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    digest = pretrained.state_digest(network.name, network.arguments, module)
    rows, offsets = network.rows[:0], network.offsets[:0]
    return replace(
        network, build=lambda: module, graph=None, digest=digest, labels=(), meanings=(), rows=rows, offsets=offsets
    )
