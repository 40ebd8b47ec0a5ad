"""Networks side by side → one backbone: each sees the picture in its own way, and its features stand behind those of
the one before.

Nothing that learns from features knows how many networks gave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.encoding import wanted
from headstart.encoding.network import Network
from headstart.errors import ConfigError
from headstart.records import Floats, Preprocess


@dataclass(frozen=True, slots=True, repr=False)
class Backbone:
    """Frozen networks that see the same picture, from pictures to features.

    Attributes:
        networks: At least one; the features of each stand behind those of the one before it.
        labels: What each row of their pre-trained classifiers stands for; empty if unknown.
        rows: (number of labels, D) weights that classify by all of them: those of each network that has any, divided
            by the number of these, beside zeros where a network does not know the label.
        offsets: (number of labels,) their biases, averaged in the same way.
    """

    networks: tuple[Network, ...]
    labels: tuple[str, ...] = field(init=False)
    rows: Floats = field(init=False)
    offsets: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Put the classifiers of the networks together."""
        for name, value in zip(("labels", "rows", "offsets"), _classifier(self.networks), strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Return one line instead of whole networks."""
        return f"Backbone({self.description}, {self.dim} features)"

    @property
    def name(self) -> str:
        """The network's name; of several `a@320+b@300`, each with its picture size."""
        if len(self.networks) == 1:
            return self.networks[0].name
        return "+".join(f"{one.name}@{one.preprocess.size}" for one in self.networks)

    @property
    def description(self) -> str:
        """What a person reads: `a at 320 px + b at 300 px`."""
        return " + ".join(f"{one.name} at {one.preprocess.size} px" for one in self.networks)

    @property
    def dim(self) -> int:
        """D: the number of features of all networks together."""
        return sum(one.dim for one in self.networks)

    @property
    def preprocess(self) -> Preprocess:
        """How the first network wants its pictures; each has its own in `networks`."""
        return self.networks[0].preprocess


def load(text: str, weights: str = "", *, size: int | None = None, resize: str = "crop") -> Backbone:
    """Return a backbone with pre-trained weights.

    Args:
        text: See `wanted.parse`.
        weights: As `pretrained.load` takes it, of a single network.
        size: Side of the pictures in pixels, of networks for which the text names none; None: each its own.
        resize: The policy to put into each `Preprocess`.

    Raises:
        BackboneError: A name is unknown (the closest ones are shown), or weights cannot be had or do not fit.
        ConfigError: The text is wrong, or a network cannot take pictures of that size.
    """
    from headstart.encoding import pretrained  # needs PyTorch, which a saved backbone does not

    wanted.refuse_contradictions(text, weights)
    asked = wanted.parse(text)
    networks = [
        pretrained.load(one.name, weights, size=one.size or size, crop=one.crop, resize=resize) for one in asked
    ]
    seen = [(one.digest, one.preprocess) for one in networks]
    for place, own in enumerate(seen):
        if own in seen[:place]:
            raise ConfigError(
                f"encoder.backbone is {text!r}: {asked[place]} is {asked[seen.index(own)]}, which would count twice.",
                "Leave one of them out, or name another picture size: NAME@SIZE.",
            )
    return Backbone(tuple(networks))


def spelled(text: str, backbone: Backbone) -> str:
    """Return the text that asks for exactly this backbone, which was loaded by a text.

    A network alone has its picture size in `pictures.size`; of several, each has its own.
    """
    asked = wanted.parse(text)
    if len(asked) == 1 and asked[0].crop is None:
        return asked[0].name
    pairs = zip(asked, backbone.networks, strict=True)
    return "+".join(str(replace(one, size=loaded.preprocess.size)) for one, loaded in pairs)


def preprocessing(text: str, size: int | None = None, resize: str = "crop") -> tuple[Preprocess, ...]:
    """Return how each network would want its pictures, without weights; arguments and errors are those of `load`."""
    from headstart.encoding import pretrained  # as above

    return tuple(
        pretrained.preprocessing(one.name, one.size or size, resize, crop=one.crop) for one in wanted.parse(text)
    )


def _classifier(networks: Sequence[Network]) -> tuple[tuple[str, ...], Floats, Floats]:
    """Return labels, rows and offsets of a classifier of all networks; see `Backbone`."""
    knowing = [one for one in networks if len(one.rows)]
    if len(networks) == 1 or not knowing:
        first = knowing[0] if knowing else networks[0]
        return first.labels, first.rows, first.offsets
    names = {key: label for one in knowing for key, label in zip(_keys(one), one.labels, strict=True)}
    place = {key: row for row, key in enumerate(names)}
    rows = np.zeros((len(names), sum(one.dim for one in networks)), np.float32)
    offsets = np.zeros(len(names), np.float32)
    begin = 0
    for one in networks:
        own = [place[key] for key in _keys(one)]
        if own:
            rows[own, begin : begin + one.dim] = one.rows / len(knowing)
            offsets[own] += one.offsets / len(knowing)
        begin += one.dim
    return tuple(names.values()), rows, offsets


def _keys(network: Network) -> tuple[str, ...]:
    return network.meanings or network.labels
