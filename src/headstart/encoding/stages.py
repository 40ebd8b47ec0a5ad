"""A network → how far each of its weights is from the head, in stages, and a copy of it with other weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from headstart.encoding import backbone as backbones
from headstart.encoding.backbone import Backbone


def distances(module: nn.Module) -> Mapping[str, int]:
    """Return name of a parameter → how many stages lie between it and the head, 0 for what stands right before it.

    timm knows the stages of its networks: blocks of one resolution, or of a transformer each block.
    """
    timm: Any = importlib.import_module("timm.models")
    groups = timm.group_parameters(module, module.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    last = max(groups.values(), default=0)
    return {name: last - groups.get(name, last) for name, _ in module.named_parameters()}


def retrained(backbone: Backbone, module: nn.Module) -> Backbone:
    """Return the backbone with a module of other weights, which nobody else may change any more.

    The classifier it was pre-trained with does not belong to these weights.
    """
    module = module.to("cpu").to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    digest = backbones.state_digest(backbone.name, backbone.arguments, module)
    return replace(
        backbone, module=module, digest=digest, labels=(), rows=backbone.rows[:0], offsets=backbone.offsets[:0]
    )
