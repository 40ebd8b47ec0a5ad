"""Heat maps: hot where the evidence is, other for another head, and the same for networks of every build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import contracts
import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from headstart.encoding import backbone as backbones
from headstart.encoding.backbone import Backbone
from headstart.encoding.eager import Normalised
from headstart.encoding.network import Network
from headstart.errors import ConfigError, PictureError
from headstart.learning.heads import Head
from headstart.model import attribution
from headstart.records import Floats, Pixels, Preprocess

SIDE, PATCH = 192, 64
COLOURS = ((230, 40, 40), (40, 200, 60), (60, 80, 240))  # of the patch, one of each class


class Patched(NamedTuple):
    """Grey noise with a small patch in a corner, whose colour decides the class."""

    pictures: list[Pixels]
    labels: list[int]
    corners: list[tuple[int, int]]


def patched(count: int, seed: int) -> Patched:
    random = np.random.default_rng(seed)
    pictures, labels, corners = [], [k % len(COLOURS) for k in range(count)], []
    for label in labels:
        picture = random.normal(128, 6, (SIDE, SIDE, 3))
        top, left = random.choice([0, SIDE - PATCH], 2).tolist()
        picture[top : top + PATCH, left : left + PATCH] = COLOURS[label]
        corners.append((top, left))
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return Patched(pictures, labels, corners)


def seen(backbone: Backbone, drawn: Patched) -> list[list[Pixels]]:
    return attribution.prepared(backbone, drawn.pictures)


def features(backbone: Backbone, drawn: Patched) -> Floats:
    parts = []
    with torch.no_grad():
        for network, pictures in zip(backbone.networks, seen(backbone, drawn), strict=True):
            parts.append(Normalised(network)(torch.from_numpy(np.stack(pictures))))
    return torch.cat(parts, dim=1).numpy()


def fitted(backbone: Backbone) -> Head:
    drawn = patched(24, seed=0)
    found = LogisticRegression(C=0.1, max_iter=500).fit(features(backbone, drawn), drawn.labels)
    return Head.of_linear(found.coef_, found.intercept_)


def heat(backbone: Backbone, head: Head, drawn: Patched, views: Sequence[str] = ("original",)) -> Floats:
    score = attribution.for_class(drawn.labels)
    return attribution.heat_maps(backbone, head, views, seen(backbone, drawn), [score])[0]


def in_the_patch(maps: Floats, drawn: Patched) -> tuple[float, float]:
    """Return how often the hottest place, and which share of the heat, lies in the quarter of the patch."""
    half = maps.shape[1] // 2
    hottest, shares = [], []
    for one, (top, left) in zip(maps, drawn.corners, strict=True):
        rows, columns = slice(half) if top == 0 else slice(half, None), slice(half) if left == 0 else slice(half, None)
        hottest.append(one[rows, columns].max() == one.max() > 0)
        shares.append(one[rows, columns].sum() / max(one.sum(), 1e-9))
    return float(np.mean(hottest)), float(np.mean(shares))


@pytest.fixture(scope="module", params=["lite0@192/1.0", "lite0@192/1.0+lite0@160/0.9"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return backbones.load(request.param)


@pytest.fixture(scope="module")
def head(backbone: Backbone) -> Head:
    return fitted(backbone)


@pytest.mark.slow
@pytest.mark.parametrize("views", [("original",), ("original", "mirror")])
def test_the_patch_that_decides_the_class_is_where_the_map_is_hot(
    backbone: Backbone, head: Head, views: tuple[str, ...]
):
    drawn = patched(9, seed=1)
    assert head.logits(features(backbone, drawn)).argmax(axis=1).tolist() == drawn.labels
    maps = heat(backbone, head, drawn, views)
    assert maps.shape == (9, SIDE, SIDE)
    assert maps.min() == 0
    assert maps.max() == 1
    hottest, share = in_the_patch(maps, drawn)
    assert hottest > 0.8  # by chance 0.25
    assert share > 0.55


@pytest.mark.slow
def test_a_head_of_random_weights_gives_another_map(backbone: Backbone, head: Head):
    drawn = patched(9, seed=1)
    torch.manual_seed(0)
    other = contracts.head(backbone.dim, len(COLOURS))
    first, second = heat(backbone, head, drawn), heat(backbone, other, drawn)
    assert np.abs(first - second).mean(axis=(1, 2)).min() > 0.1
    assert in_the_patch(second, drawn)[0] < 0.8


def test_what_speaks_for_one_class_speaks_against_the_other(backbone: Backbone, head: Head):
    drawn = patched(3, seed=2)
    others = [(label + 1) % len(COLOURS) for label in drawn.labels]
    scores = [attribution.rather_than(drawn.labels, others), attribution.rather_than(others, drawn.labels)]
    one, other = attribution.heat_maps(backbone, head, ("original",), seen(backbone, drawn), scores)
    assert (np.minimum(one, other) == 0).all()
    assert np.maximum(one, other).max(axis=(1, 2)) == pytest.approx(np.ones(3), abs=0.05)
    assert in_the_patch(one, drawn)[0] > 0.6


def of_module(name: str, module: nn.Module, side: int) -> Backbone:
    """Return a backbone of one network of timm."""
    module.reset_classifier(0)
    module.eval().requires_grad_(False)
    how = Preprocess(side, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    none = np.zeros(0, np.float32)
    return Backbone((Network(name, lambda: module, module.num_features, how, {}, "", (), none, none),))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_transformer_looks_at_the_patch_too(pool: str):
    torch.manual_seed(0)
    shape = {"img_size": SIDE // 2, "global_pool": pool, "num_classes": len(COLOURS)}
    module = timm.create_model("test_vit", **shape)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for step in range(50):
        drawn = patched(12, seed=10 + step)
        pictures = np.stack(drawn.pictures)[:, ::2, ::2].transpose(0, 3, 1, 2)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            module((torch.from_numpy(pictures).float() / 255 - 0.5) / 0.25), torch.tensor(drawn.labels)
        )
        loss.backward()
        optimizer.step()
    classifier = module.get_classifier()
    head = Head.of_linear(classifier.weight.detach().numpy(), classifier.bias.detach().numpy())
    backbone, fused = of_module("test_vit", module, SIDE // 2), module.blocks[0].attn.fused_attn
    drawn = patched(24, seed=3)
    hottest, share = in_the_patch(heat(backbone, head, drawn), drawn)
    assert hottest > 0.7
    assert share > 0.5
    assert module.blocks[0].attn.fused_attn == fused  # and it is what it was
    assert not module.blocks[0].attn.attn_drop._forward_hooks


def test_the_gradient_goes_through_every_layer_of_a_head_as_it_predicts():
    torch.manual_seed(0)
    backbone = of_module("test_resnet", timm.create_model("test_resnet"), 64)
    head = contracts.head(backbone.dim, 3, 32, 32, batch_norm=True)
    drawn = patched(6, seed=4)
    maps = heat(backbone, head, drawn)
    assert maps.any(axis=(1, 2)).sum() > 2
    np.testing.assert_array_equal(maps, heat(backbone, head, drawn))  # nothing is dropped, no statistics are learned


def test_places_that_come_before_their_channels_are_summed_over_these():
    shape = {"img_size": 64, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
    backbone = of_module("swin", timm.create_model("swin_tiny_patch4_window7_224", **shape), 64)
    places = backbone.networks[0].module.forward_features(torch.zeros(1, 3, 64, 64)).shape
    assert places == (1, 8, 8, 32)
    assert heat(backbone, contracts.head(32, 3), patched(2, seed=5)).shape == (2, 64, 64)


def test_a_network_that_answers_from_no_place_is_refused():
    backbone = of_module("cait_xxs24_224", timm.create_model("cait_xxs24_224", depth=1, img_size=64), 64)
    with pytest.raises(ConfigError, match="Where cait_xxs24_224 looked cannot be shown"):
        heat(backbone, contracts.head(backbone.dim, 3), patched(1, seed=6))


def test_a_picture_that_cannot_be_used_is_named(backbone: Backbone):
    with pytest.raises(PictureError, match="a picture: not one of JPEG"):
        attribution.prepared(backbone, [b"no picture"])
