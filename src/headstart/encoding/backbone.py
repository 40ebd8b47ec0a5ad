"""Networks side by side → one backbone: each sees the picture in its own way, and its features
stand behind those of the one before.

Nothing that learns from features knows how many networks gave them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.encoding import network
from headstart.encoding.network import Network
from headstart.records import Floats, Preprocess


@dataclass(frozen=True, slots=True, repr=False)
class Backbone:
    """Frozen networks that see the same picture, from pictures to features.

    Attributes:
        networks: At least one; the features of each stand behind those of the one before it.
    """

    networks: tuple[Network, ...]

    def __repr__(self) -> str:
        """Return one line instead of whole networks."""
        sizes = " + ".join(f"{one.name} at {one.preprocess.size} px" for one in self.networks)
        return f"Backbone({sizes}, {self.dim} features)"

    @property
    def name(self) -> str:
        """The network's name; of several `a@320+b@300`, each with its picture size."""
        if len(self.networks) == 1:
            return self.networks[0].name
        return "+".join(f"{one.name}@{one.preprocess.size}" for one in self.networks)

    @property
    def dim(self) -> int:
        """D: the number of features of all networks together."""
        return sum(one.dim for one in self.networks)

    @property
    def preprocess(self) -> Preprocess:
        """How the first network wants its pictures; each has its own in `networks`."""
        return self.networks[0].preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """What each of `rows` stands for; empty if unknown."""
        return self.networks[0].labels

    @property
    def rows(self) -> Floats:
        """(number of labels, D) weights of the classifier that was pre-trained; empty if unknown."""
        if len(self.networks) > 1:
            return np.zeros((0, self.dim), np.float32)
        return self.networks[0].rows

    @property
    def offsets(self) -> Floats:
        """(number of labels,) its biases."""
        return self.networks[0].offsets


def load(name: str, weights: str = "", *, size: int | None = None, resize: str = "crop") -> Backbone:
    """Return a backbone with pre-trained weights; arguments and errors are those of `network.load`."""
    return Backbone((network.load(name, weights, size=size, resize=resize),))
