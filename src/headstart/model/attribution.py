"""A picture, networks and a head → where in the picture the evidence for a class lies.

This is Grad-CAM (Selvaraju et al. 2017) with the gradient taken at each place instead of its mean over all places.
Where features are pooled globally that is the same; where they are not, it shows only places that were used (HiResCAM;
Draelos and Carin 2020). The gradient runs through whatever head there is, and through the mean over views. Each place
of each network says how much it adds to the score, in one unit, so maps of several networks add up.

It runs in PyTorch and float32, whatever engine the answers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.data.pictures import InMemory
from headstart.encoding import reading
from headstart.encoding.backbone import Backbone
from headstart.encoding.network import ONE_AT_A_TIME, Network
from headstart.encoding.runtime import Normalised
from headstart.errors import ConfigError, PictureError
from headstart.learning.heads import Head
from headstart.records import Floats, Pixels

Score = Callable[[Tensor], Tensor]  # (B, K) logits → (B,) what is explained


def widest(backbone: Backbone) -> int:
    """Return which network sees most of a picture: maps lie over the picture as that one sees it."""
    return max(range(len(backbone.networks)), key=lambda number: _share(backbone.networks[number]))


def prepared(backbone: Backbone, sources: Sequence[Path | InMemory]) -> list[list[Pixels]]:
    """Return of each network the pictures as it wants them, (S, S, 3).

    Raises:
        PictureError: One cannot be used.
    """
    preprocesses = [network.preprocess for network in backbone.networks]
    parts = tuple((number, 0) for number in range(len(preprocesses)))
    loaded = [reading.load(source, preprocesses, lambda _: parts) for source in sources]
    for source, one in zip(sources, loaded, strict=True):
        if one.problem:
            raise PictureError(f"{source if isinstance(source, Path) else 'a picture'}: {one.problem}")
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
    with ONE_AT_A_TIME, torch.enable_grad():  # one network may be asked by several threads, and keeps what it was asked
        places: list[tuple[int, str, Tensor]] = []
        features = []
        for number, (network, pictures) in enumerate(zip(backbone.networks, seen, strict=True)):
            values = []
            for view in views:
                batch = Normalised(network).batch(torch.from_numpy(np.stack(pictures)))
                held, vectors = _traced(network, batch.flip(3) if view == "mirror" else batch)
                places.append((number, view, held))
                values.append(vectors)
            features.append(torch.stack(values).mean(dim=0))
        logits = head.eval()(torch.cat(features, dim=1))
        return [_normed(_summed(backbone, places, score(logits).sum())) for score in scores]


def for_class(classes: Sequence[int]) -> Score:
    """Return the score of one class for each picture: by how much its logit is above the mean of all."""
    return lambda logits: logits[range(len(classes)), list(classes)] - logits.mean(dim=1)


def rather_than(classes: Sequence[int], others: Sequence[int]) -> Score:
    """Return the score of one class against another for each picture: the difference of their logits."""
    rows = range(len(classes))
    return lambda logits: logits[rows, list(classes)] - logits[rows, list(others)]


def _traced(network: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the network holds at each place, where its gradient is wanted, and its (B, D) features.

    Places are those of the last layer, but of a transformer that answers by its class token: there, those of the last
    attention, by which that token learns of the others.
    """
    module: Any = network.module
    if getattr(module, "global_pool", "") != "token":
        with torch.no_grad():
            held = module.forward_features(batch)
        return held, module.forward_head(held.requires_grad_())
    taken: list[Tensor] = []

    def take(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        taken.append(output.requires_grad_())
        return output

    try:
        hook = module.blocks[-1].norm1.register_forward_hook(take)
    except AttributeError as error:
        raise _nowhere(network) from error
    try:
        features = module(batch)
    finally:
        hook.remove()
    return taken[0], features


def _summed(backbone: Backbone, places: Sequence[tuple[int, str, Tensor]], score: Tensor) -> Tensor:
    """Return (B, S, S): what each place adds to the score, over all networks and views."""
    frame = backbone.networks[widest(backbone)]
    side, whole = frame.preprocess.size, _share(frame)
    total: Tensor = torch.zeros(())
    gradients = torch.autograd.grad(score, [held for _, _, held in places], retain_graph=True)
    for (number, view, held), gradient in zip(places, gradients, strict=True):
        network = backbone.networks[number]
        added = _grid(network, held.detach() * gradient)
        inner = min(side, round(side * _share(network) / whole))
        density = added.shape[1] * added.shape[2] / inner**2  # many small places add as much as few large ones
        shown = density * functional.interpolate(added[:, None], (inner, inner), mode="bilinear")[:, 0]
        before = (side - inner) // 2
        after = side - inner - before
        shown = functional.pad(shown.flip(2) if view == "mirror" else shown, (before, after, before, after))
        total = total + shown
    return total


def _grid(network: Network, products: Tensor) -> Tensor:
    """Return (B, h, w): the sum over the channels of each place."""
    module: Any = network.module
    if products.ndim == 4:
        return products.sum(dim=3 if getattr(module, "output_fmt", "NCHW") == "NHWC" else 1)
    tokens = products[:, int(getattr(module, "num_prefix_tokens", 0)) :].sum(dim=2)
    side = round(tokens.shape[1] ** 0.5)
    if side**2 != tokens.shape[1]:
        raise _nowhere(network)
    return tokens.reshape(-1, side, side)


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
