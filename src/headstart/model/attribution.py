"""A picture, networks and a head → where in the picture the evidence for a class lies.

This is Grad-CAM (Selvaraju et al. 2017) with the gradient taken at each place instead of its mean over all places.
Where features are pooled globally that is the same; where they are not, it shows only places that were used (HiResCAM;
Draelos and Carin 2020). The gradient runs through whatever head there is, and through the mean over views. Each place
of each network says how much it adds to the score, in one unit, so maps of several networks add up.

Of a transformer that answers by its class token no place of the last layer adds anything: there, attention weighed by
its gradient is followed through all blocks (Chefer, Gur and Wolf 2021), which tells where, and not what is against.

It runs in PyTorch and float32, whatever engine the answers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headstart.data.pictures import InMemory
from headstart.encoding import reading
from headstart.encoding.backbone import Backbone
from headstart.encoding.eager import Normalised
from headstart.encoding.network import ONE_AT_A_TIME, Network
from headstart.errors import ConfigError, PictureError
from headstart.learning import modules
from headstart.learning.heads import Head
from headstart.records import Floats, Locator, Pixels, Place

Score = Callable[[Tensor], Tensor]  # (B, K) logits → (B,) what is explained


def widest(backbone: Backbone) -> int:
    """Return which network sees most of a picture: maps lie over the picture as that one sees it."""
    return max(range(len(backbone.networks)), key=lambda number: _share(backbone.networks[number]))


def prepared(backbone: Backbone, sources: Sequence[Place | InMemory]) -> list[list[Pixels]]:
    """Return of each network the pictures as it wants them, (S, S, 3).

    Raises:
        PictureError: One cannot be used.
    """
    preprocesses = [network.preprocess for network in backbone.networks]
    parts = tuple((number, 0) for number in range(len(preprocesses)))
    loaded = [reading.load(source, preprocesses, lambda _: parts) for source in sources]
    for source, one in zip(sources, loaded, strict=True):
        if one.problem:
            raise PictureError(f"{source if isinstance(source, Path | Locator) else 'a picture'}: {one.problem}")
    return [[one.pixels[number] for one in loaded] for number in range(len(preprocesses))]


def heat_maps(
    backbone: Backbone, head: Head, views: Sequence[str], seen: Sequence[Sequence[Pixels]], scores: Sequence[Score]
) -> list[Floats]:
    """Return for each score (B, S, S) float32 in [0, 1]: how strong the evidence for it is at each place.

    It is 0 where there is none, or what is there speaks against it, and 1 where there is as much as anywhere in the
    picture, for or against. S is the side of the picture as the network of `widest` sees it.

    Args:
        backbone: The networks.
        head: (B, D) → (B, K).
        views: Of each picture, whose features are averaged.
        seen: Of each network, the (S, S, 3) pictures as it wants them, B of each.
        scores: What is explained, e.g. from `for_class` or `rather_than`.

    Raises:
        ConfigError: A network's answer does not come from places of the picture.
    """
    with ONE_AT_A_TIME, torch.enable_grad():  # to look inside a network changes it for a while
        traces = [
            [_traced(network, view, torch.from_numpy(np.stack(pictures))) for view in views]
            for network, pictures in zip(backbone.networks, seen, strict=True)
        ]
        features = [torch.stack([trace.features for trace in one]).mean(dim=0) for one in traces]
        logits = modules.of(head)(torch.cat(features, dim=1))
        flat = [trace for one in traces for trace in one]
        return [_normed(_summed(backbone, flat, score(logits).sum())) for score in scores]


def for_class(classes: Sequence[int]) -> Score:
    """Return the score of one class for each picture: by how much its logit is above the mean of all."""
    return lambda logits: logits[range(len(classes)), list(classes)] - logits.mean(dim=1)


def rather_than(classes: Sequence[int], others: Sequence[int]) -> Score:
    """Return the score of one class against another for each picture: the difference of their logits."""
    rows = range(len(classes))
    return lambda logits: logits[rows, list(classes)] - logits[rows, list(others)]


@dataclass(frozen=True, slots=True)
class _Trace:
    """A network's way from pictures to features, where its gradients are wanted.

    Attributes:
        network: Whose.
        view: Of the pictures.
        features: (B, D).
        held: What it held at each place of its last layer; of a transformer that answers by its class token, the
            attention of each block, (B, heads, tokens, tokens).
    """

    network: Network
    view: str
    features: Tensor
    held: list[Tensor]

    def added(self, gradients: Sequence[Tensor], of_features: Tensor) -> Tensor:
        """Return (B, h, w): what each place adds to a score whose gradients these are."""
        if _by_token(self.network):
            relevance = _grid(self.network, _relevance(self.held, gradients))
            added = (self.features.detach() * of_features).sum(dim=1).abs()
            return relevance * (added / relevance.sum(dim=(1, 2)).clamp(min=1e-12))[:, None, None]
        products = self.held[0].detach() * gradients[0]
        if products.ndim == 3:
            return _grid(self.network, products.sum(dim=2))
        return products.sum(dim=3 if getattr(self.network.module, "output_fmt", "NCHW") == "NHWC" else 1)


def _by_token(network: Network) -> bool:
    return getattr(network.module, "global_pool", "") == "token"


def _traced(network: Network, view: str, pictures: Tensor) -> _Trace:
    module: Any = network.module
    batch = Normalised(network).batch(pictures)
    batch = batch.flip(3) if view == "mirror" else batch
    if not _by_token(network):
        with torch.no_grad():
            held = module.forward_features(batch)
        return _Trace(network, view, module.forward_head(held.requires_grad_()), [held])
    attentions: list[Tensor] = []
    with ExitStack() as stack:
        try:
            for block in module.blocks:
                stack.callback(setattr, block.attn, "fused_attn", block.attn.fused_attn)
                block.attn.fused_attn = False  # which would not tell the attention
                hook = lambda _layer, _inputs, output: attentions.append(output.requires_grad_())  # noqa: E731
                stack.callback(block.attn.attn_drop.register_forward_hook(hook).remove)
        except AttributeError as error:
            raise _nowhere(network) from error
        features = module(batch)
    return _Trace(network, view, features, attentions)


def _relevance(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return (B, tokens): what reaches the class token of each, block by block (Chefer et al. 2021, eq. 5, 6)."""
    batch, _, tokens, _ = attentions[0].shape
    reached = torch.eye(tokens).repeat(batch, 1, 1)
    for attention, gradient in zip(attentions, gradients, strict=True):
        reached = reached + (attention.detach() * gradient).relu().mean(dim=1) @ reached
    return reached[:, 0]


def _summed(backbone: Backbone, traces: Sequence[_Trace], score: Tensor) -> Tensor:
    """Return (B, S, S): what each place adds to the score, over all networks and views."""
    frame = backbone.networks[widest(backbone)]
    side, whole = frame.preprocess.size, _share(frame)
    total: Tensor = torch.zeros(())
    asked = [tensor for trace in traces for tensor in (trace.features, *trace.held)]
    gradients = iter(torch.autograd.grad(score, asked, retain_graph=True))
    for trace in traces:
        of_features, *of_held = islice(gradients, 1 + len(trace.held))
        added = trace.added(of_held, of_features)
        inner = min(side, round(side * _share(trace.network) / whole))
        density = added.shape[1] * added.shape[2] / inner**2  # many small places add as much as few large ones
        shown = density * functional.interpolate(added[:, None], (inner, inner), mode="bilinear")[:, 0]
        before = (side - inner) // 2
        after = side - inner - before
        total = total + functional.pad(
            shown.flip(2) if trace.view == "mirror" else shown, (before, after, before, after)
        )
    return total


def _grid(network: Network, values: Tensor) -> Tensor:
    """Return (B, h, w): the (B, tokens) values of what is no class token."""
    places = values[:, int(getattr(network.module, "num_prefix_tokens", 0)) :]
    side = round(places.shape[1] ** 0.5)
    if side**2 != places.shape[1]:
        raise _nowhere(network)
    return places.reshape(-1, side, side)


def _normed(total: Tensor) -> Floats:
    strongest = total.abs().amax(dim=(1, 2), keepdim=True)  # for or against: weak evidence stays faint
    heat: Floats = (total.relu() / strongest.clamp(min=1e-12)).numpy()
    return heat


def _share(network: Network) -> float:
    """Return the share of the shorter side that a network sees."""
    return network.preprocess.crop if network.preprocess.resize == "crop" else 1.0


def _nowhere(network: Network) -> ConfigError:
    return ConfigError(
        f"Where {network.name} looked cannot be shown: its answer does not come from a grid of places.",
        "Heat maps can be drawn of networks that pool a grid, and of vision transformers.",
    )
