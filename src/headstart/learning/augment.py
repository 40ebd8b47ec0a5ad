"""A picture that is learned from → what one epoch sees of it: a part, perhaps mirrored, in a slightly other light.

What is drawn depends on seed, epoch and row alone, neither on the threads that read ahead nor on who is learned from
beside it, so that a training that was killed goes on to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from headstart.data import pictures
from headstart.encoding import crops, reading
from headstart.encoding.reading import Loaded
from headstart.errors import PictureError
from headstart.records import LabelledFeatures, Place, Preprocess


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How the pictures of a training are read.

    Attributes:
        features: Whose pictures, and with which digests.
        preprocesses: What each network takes when it is asked about a picture.
        shown: The same of what it learns from, of the side that it was trained on: in parts of pictures things are
            larger than in whole ones (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
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

    def _augmented(self, path: Place, row: int, epoch: int) -> Loaded:
        largest = max(self.shown, key=lambda one: one.size)
        try:
            content = pictures.read(path, largest)
            pixels = content.decode(largest).pixels
        except PictureError as error:
            return Loaded("", problem=error.message)
        shown = {
            network: crops.augmented(pixels, preprocess, self.mirror, self.drawn(epoch, row))
            for network, preprocess in enumerate(self.shown)
        }
        return Loaded(content.digest, pixels=shown)

    def drawn(self, epoch: int, row: int) -> Generator:
        """Return what draws for this picture in this epoch."""
        return np.random.default_rng([self.seed, epoch, row, 0])

    def light(self, batch: Tensor, rows: list[int], epoch: int) -> Tensor:
        """Return (B, 3, S, S) uint8 pictures in another light each."""
        draws = (np.random.default_rng([self.seed, epoch, row, 1]) for row in rows)
        return torch.stack([crops.lit(picture, drawn) for picture, drawn in zip(batch, draws, strict=True)])
