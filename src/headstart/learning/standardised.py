"""Rows of features → the same less their mean, over their deviation, block by block, and what a head says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from headstart import arrays
from headstart.records import Floats, Integers


@dataclass(frozen=True)
class Standardised:
    """Rows of features less their mean, over their deviation: kept so where memory allows, else made for each block.

    Attributes:
        features: (all rows, V, D), each view a picture of its own.
        rows: (N,) which of them.
        mean: (D,).
        deviation: (D,).
        kept: (N · V, D) standardised; None: made of the features when it is asked for.
    """

    features: Floats
    rows: Integers
    mean: Tensor
    deviation: Tensor
    kept: Tensor | None = None

    @classmethod
    def of(cls, features: Floats, rows: Integers) -> Standardised:
        """Learn mean and deviation of some rows."""
        return cls(features, rows, *_moments(features, rows)).resident()

    def resident(self) -> Standardised:
        """Return the same, standardised once and kept where memory allows."""
        views, dim = self.features.shape[1:]
        if 4 * len(self.rows) * views * dim > arrays.RESIDENT:
            return self
        kept = torch.empty(len(self.rows) * views, dim)
        for part in arrays.parts(len(self.rows)):
            kept[views * part.start : views * part.stop] = self.block(part)
        return replace(self, kept=kept)

    def block(self, part: slice) -> Tensor:
        """Return (n · V, D) standardised views of n rows."""
        views = self.features.shape[1]
        if self.kept is not None:
            return self.kept[views * part.start : views * part.stop]
        return self.apply(arrays.take(self.features, self.rows[part])).flatten(0, 1)

    def apply(self, values: Floats) -> Tensor:
        """Return features (…, D) standardised, in their place."""
        return torch.from_numpy(values).sub_(self.mean).div_(self.deviation)

    def logits(self, places: Integers, weights: Tensor) -> Floats:
        """Return (M, K): what (D + 1, K) weights say of the first view of some of the rows, by their places."""
        found = np.empty((len(places), weights.shape[1]), dtype=np.float32)
        for part in arrays.parts(len(places)):
            own = places[part]
            if self.kept is not None:
                values = self.kept[own * self.features.shape[1]]
            else:
                values = self.apply(arrays.take(self.features[:, 0], self.rows[own]))
            found[part] = scores(values, weights).numpy()
        return found


def scores(rows: Tensor, weights: Tensor) -> Tensor:
    """Return (N, K): what (D + 1, K) weights, the bias in the last row, say of (N, D)."""
    return torch.addmm(weights[-1], rows, weights[:-1])


def _moments(features: Floats, rows: Integers) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation (D,) over rows and views, in one pass (Chan, Golub and LeVeque 1979)."""
    count, mean = 0, torch.zeros(features.shape[2], dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for _, block in arrays.blocks(features, rows):
        values = torch.from_numpy(block).flatten(0, 1)
        own, both = values.mean(dim=0), count + len(values)
        apart = own.double() - mean
        squares += values.sub_(own).square_().sum(dim=0) + apart.square() * (count * len(values) / both)
        mean, count = mean + apart * (len(values) / both), both
    # a constant feature says nothing; dividing by next to nothing would make noise of it
    deviation = (squares / max(count, 1)).sqrt().clamp_min(1e-6)
    return mean.float(), deviation.float()
