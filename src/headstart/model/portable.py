"""A classifier → one module of PyTorch from decoded pictures of any size, or from tensors, to probabilities.

Everything that happens after decoding is in it: resampling, crop or letterbox, normalisation, the networks, views,
head, calibration, and how familiar the picture is. Pictures are resampled as Pillow does it, by a product with one
matrix for each side; its entries are functions of the picture's size, so a graph that was traced once computes them for
every size. Other runtimes are given what is traced here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from headstart.encoding.eager import Normalised
from headstart.encoding.network import Network
from headstart.learning import modules
from headstart.learning.out_of_distribution import NEIGHBOURS, OutOfDistributionRule
from headstart.model.classifier import Classifier
from headstart.records import Floats, Pixels, Preprocess

Input = Literal["pictures", "tensors"]


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _hamming(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)), torch.zeros_like(x))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


# interpolation → (how far its kernel reaches, the kernel), as Pillow's Resample.c has them
KERNELS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).to(x.dtype)),
    "bilinear": (1.0, lambda x: (1 - x.abs()).clamp(min=0)),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}


HALF = 2e-4  # of a level: what is that close below a half is one, but for the rounding of a sum in float32


class _Side(NamedTuple):
    """Which part of one side of the pictures goes where: begin and width in pixels of the picture, then in cells."""

    begin: Tensor
    width: Tensor
    offset: Tensor
    cells: Tensor


class Resampled(nn.Module):
    """(N, H, W, 3) uint8 → (N, 3, S, S) float32 with whole values in [0, 255]: what `images.prepare` gives."""

    def __init__(self, preprocess: Preprocess) -> None:
        """Keep how it is done."""
        super().__init__()
        self.preprocess = preprocess
        background = torch.tensor(preprocess.background, dtype=torch.float32)
        self.background: Tensor
        self.register_buffer("background", background.view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        values = pictures.permute(0, 3, 1, 2).float()
        # positions of pixels as a sum of ones, since a length would be traced as a number
        rows = torch.ones_like(values[0, 0, :, 0]).double().cumsum(0) - 1
        columns = torch.ones_like(values[0, 0, 0, :]).double().cumsum(0) - 1
        height, width = rows.max() + 1, columns.max() + 1
        across, shown_across = self._matrix(columns, self._side(width, height))
        down, shown_down = self._matrix(rows, self._side(height, width))
        values = _whole(down @ _whole(values @ across.T))
        if self.preprocess.resize != "letterbox":
            return values
        return torch.where(shown_down[:, None] & shown_across[None, :], values, self.background)

    def _side(self, own: Tensor, other: Tensor) -> _Side:
        size, nothing = float(self.preprocess.size), torch.zeros_like(own)
        cells = torch.full_like(own, size)
        if self.preprocess.resize == "crop":
            width = torch.minimum(own, other) * self.preprocess.crop
            return _Side((own - width) / 2, width, nothing, cells)
        if self.preprocess.resize == "squash":
            return _Side(nothing, own, nothing, cells)
        count = torch.round(own * (size / torch.maximum(own, other))).clamp(min=1)
        return _Side(nothing, own, torch.floor((size - count) / 2), count)

    def _matrix(self, pixel: Tensor, side: _Side) -> tuple[Tensor, Tensor]:
        """Return the (S, L) weights of each pixel in each cell, and (S,) which cells show any of the picture."""
        row = torch.arange(self.preprocess.size, dtype=torch.float64, device=pixel.device) - side.offset
        shown = (row >= 0) & (row < side.cells)
        scale = side.width / side.cells
        centre = (side.begin + (row + 0.5) * scale)[:, None]
        if self.preprocess.interpolation == "nearest":
            return (pixel[None, :] == torch.floor(centre)).float(), shown
        reach, kernel = KERNELS[self.preprocess.interpolation]
        wide = scale.clamp(min=1)
        weights = kernel((pixel[None, :] + 0.5 - centre) / wide)
        first, end = torch.floor(centre - reach * wide + 0.5), torch.floor(centre + reach * wide + 0.5)
        weights = torch.where((pixel >= first) & (pixel < end), weights, torch.zeros_like(weights))
        weights = weights / weights.sum(dim=1, keepdim=True)
        return torch.where(shown[:, None], weights, torch.zeros_like(weights)).float(), shown


def _whole(values: Tensor) -> Tensor:
    """Return values as 8 bits hold them: Pillow rounds after each of the two sides, and halves up."""
    return torch.floor(values + (0.5 + HALF)).clamp(0, 255)


def prepared(pixels: Sequence[Pixels], preprocess: Preprocess) -> Floats:
    """Return pictures that `images.prepare` made as the tensors that a network itself takes.

    Args:
        pixels: N pictures (S, S, 3) uint8.
        preprocess: By which they were prepared.

    Returns:
        (N, 3, S, S) float32, normalised.
    """
    mean, std = (np.array(values, dtype=np.float32) for values in (preprocess.mean, preprocess.std))
    scaled = (np.stack(pixels).astype(np.float32) - 255 * mean) / (255 * std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


class _Seen(nn.Module):
    """What is given of the pictures → the mean of one network's features over the views."""

    def __init__(self, network: Network, views: tuple[str, ...], takes: Input) -> None:
        super().__init__()
        self.resampled = Resampled(network.preprocess) if takes == "pictures" else None
        self.network, self.views = Normalised(network), views

    def forward(self, given: Tensor) -> Tensor:
        if self.resampled is not None:
            given = (self.resampled(given) - self.network.mean) / self.network.std
        seen = torch.cat([given.flip(3) if view == "mirror" else given for view in self.views])
        features: Tensor = self.network.module(seen)  # all views in one batch, so that the network is there once
        return features.reshape(len(self.views), -1, features.shape[1]).mean(dim=0)


class Portable(nn.Module):
    """Pictures (N, H, W, 3) uint8, RGB, upright → (N, K) probabilities and (N,) how familiar they are.

    Or, where it takes tensors, what `prepared` gives for each network → the same. How familiar a picture is, is told by
    the classifier's own score for "none of these"; without a rule, by nothing.
    """

    def __init__(self, classifier: Classifier, takes: Input = "pictures") -> None:
        """Take everything from a classifier."""
        super().__init__()
        networks, self.takes = classifier.backbone.networks, takes
        self.seen = nn.ModuleList(_Seen(network, classifier.views, takes) for network in networks)
        self.head = modules.of(classifier.head)
        self.factors, self.offsets = (
            nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)
            for values in classifier.rules.calibration.affine(len(classifier.classes))
        )
        rule = classifier.rules.out_of_distribution
        self.familiarity = None if rule is None else Familiarity(rule)
        self.eval()

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities, and familiarity where there is a rule."""
        given = given * len(self.seen) if self.takes == "pictures" else given
        features = torch.cat([one(own) for one, own in zip(self.seen, given, strict=True)], dim=1)
        logits = self.head(features)
        probabilities = torch.softmax(logits * self.factors + self.offsets, dim=1)
        return (probabilities,) if self.familiarity is None else (probabilities, self.familiarity(logits, features))


class Familiarity(nn.Module):
    """(N, K) logits and (N, D) features → (N,) the score of a rule for "none of these"; see `out_of_distribution`."""

    def __init__(self, rule: OutOfDistributionRule) -> None:
        """Keep the score and what it needs."""
        super().__init__()
        self.score = rule.score
        for name, values in rule.arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(values)))

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """See the class."""
        familiarity: Tensor = getattr(self, f"_{self.score}")(logits, features, dict(self.named_buffers()))
        return familiarity

    def _energy(self, logits: Tensor, *_: Any) -> Tensor:
        return torch.logsumexp(logits, dim=1)

    def _logit(self, logits: Tensor, *_: Any) -> Tensor:
        return logits.max(dim=1).values

    def _labels(self, logits: Tensor, features: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        rivals: Tensor = (features @ held["rows"].T + held["offsets"]).max(dim=1).values
        return 2 * self._logit(logits) - rivals

    def _neighbours(self, _: Tensor, features: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        shifted = features - held["mean"]
        shifted = shifted / shifted.norm(dim=1, keepdim=True).clamp(min=1e-12)
        alike: Tensor = (shifted @ held["kept"].T).topk(min(NEIGHBOURS, len(held["kept"])), dim=1).values
        return alike.mean(dim=1)

    def _mahalanobis(self, _: Tensor, features: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        centre = held["means"].mean(dim=0)
        moved, means = features @ held["whitening"] - centre, held["means"] - centre
        apart = (moved**2).sum(dim=1, keepdim=True) - 2 * moved @ means.T + (means**2).sum(dim=1)
        distance: Tensor = apart.min(dim=1).values.clamp(min=0).sqrt()
        return -distance
