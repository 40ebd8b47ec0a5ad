"""A picture that is learned from → what one epoch sees of it: a part, perhaps mirrored, in a slightly other light.

What is drawn depends on seed, epoch and row alone, neither on the threads that read ahead nor on who is learned from
beside it, so that a training that was killed goes on to the same bits.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from headstart.data import images, pictures
from headstart.encoding import reading
from headstart.encoding.reading import Loaded
from headstart.errors import PictureError
from headstart.records import LabelledFeatures, Pixels, Preprocess

LEAST_AREA = 0.5  # share of the picture that is left to see
MOST_SLANT = math.log(4 / 3)  # of the logarithm of the aspect ratio
JITTER = 0.2  # of brightness, contrast and saturation
TRIES = 10  # for a part that fits into the picture


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How the pictures of a training are read.

    Attributes:
        features: Whose pictures, and with which digests.
        preprocesses: What each network takes when it is asked about a picture.
        shown: The same of what it learns from, which may be smaller: in parts of pictures things are larger than in
            whole ones (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
        mirror: Whether a mirrored picture shows the same thing.
        seed: Of what is drawn.
    """

    features: LabelledFeatures
    preprocesses: tuple[Preprocess, ...]
    shown: tuple[Preprocess, ...]
    mirror: bool
    seed: int

    def load(self, row: int, epoch: int | None) -> Loaded:
        """Return what an epoch sees of a picture, for each network; with None what they are asked about later."""
        path = self.features.dataset[row].path
        if epoch is None:
            parts = tuple((network, 0) for network in range(len(self.preprocesses)))
            loaded = reading.load(path, self.preprocesses, lambda _: parts)
        else:
            loaded = self._augmented(path, row, epoch)
        changed = not loaded.problem and loaded.digest != self.features.digests[row]
        return Loaded(loaded.digest, problem="it has changed") if changed else loaded

    def _augmented(self, path: Path, row: int, epoch: int) -> Loaded:
        largest = max(self.shown, key=lambda one: one.size)
        try:
            content = pictures.read(path, largest)
            pixels = content.decode(largest).pixels
        except PictureError as error:
            return Loaded("", problem=error.message)
        shown = {
            network: augmented(pixels, preprocess, self.mirror, self.drawn(epoch, row))
            for network, preprocess in enumerate(self.shown)
        }
        return Loaded(content.digest, pixels=shown)

    def drawn(self, epoch: int, row: int) -> Generator:
        """Return what draws for this picture in this epoch."""
        return np.random.default_rng([self.seed, epoch, row, 0])

    def light(self, batch: Tensor, rows: list[int], epoch: int) -> Tensor:
        """Return (B, 3, S, S) uint8 pictures in another light each."""
        functional: Any = importlib.import_module("torchvision.transforms.v2.functional")
        lit = []
        for picture, row in zip(batch, rows, strict=True):
            low, high = 1 - JITTER, 1 + JITTER
            draw = np.random.default_rng([self.seed, epoch, row, 1]).uniform(low, high, 3).tolist()
            picture = functional.adjust_brightness(picture, draw[0])
            picture = functional.adjust_contrast(picture, draw[1])
            lit.append(functional.adjust_saturation(picture, draw[2]))
        return torch.stack(lit)


def augmented(pixels: Pixels, preprocess: Preprocess, mirror: bool, drawn: Generator) -> Pixels:
    """Return (S, S, 3): a part of a picture, as large as the network takes it, perhaps mirrored.

    Args:
        pixels: (H, W, 3) the whole picture.
        preprocess: What the network takes; where it shows the whole picture, parts have its aspect ratio.
        mirror: Whether every other picture is mirrored.
        drawn: Draws.
    """
    left, top, width, height = part(pixels.shape[1], pixels.shape[0], preprocess.resize == "crop", drawn)
    whole = replace(preprocess, resize="squash" if preprocess.resize == "crop" else preprocess.resize)
    shown = images.prepare(np.ascontiguousarray(pixels[top : top + height, left : left + width]), whole)
    mirrored = bool(drawn.integers(2)) and mirror
    return np.ascontiguousarray(shown[:, ::-1]) if mirrored else shown


def part(width: int, height: int, square: bool, drawn: Generator) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of a random part of a picture, as torchvision's RandomResizedCrop draws it.

    That one draws from the generator of the process, which threads that read ahead would share.

    Args:
        width: Of the picture.
        height: Of the picture.
        square: Whether parts are about square, or about of the picture's aspect ratio.
        drawn: Draws.
    """
    for _ in range(TRIES):
        area = width * height * drawn.uniform(LEAST_AREA, 1)
        ratio = math.exp(drawn.uniform(-MOST_SLANT, MOST_SLANT)) * (1 if square else width / height)
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = drawn.integers(width - across + 1), drawn.integers(height - down + 1)
            return int(left), int(top), across, down
    side = min(width, height)
    across, down = (side, side) if square else (width, height)  # no part of a very long picture is half of its area
    return (width - across) // 2, (height - down) // 2, across, down
