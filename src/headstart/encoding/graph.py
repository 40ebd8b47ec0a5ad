"""A network as OpenVINO runs it, in bytes that can be kept in a file: in float32, or in 8-bit integers.

Whoever has these bytes needs neither PyTorch nor timm to run the network. What PyTorch made of a few drawn pictures can
go with them, so that any machine can find out whether its own engine agrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headstart.errors import BackboneError
from headstart.records import Floats, Pixels

BLOCKS = (2, 5, 11, 23)  # along a side of each drawn picture
_PARTS = ("graph", "constants")
_WITNESS = "witness"
_CONTROL_FLOW = b"<body"  # of what repeats or chooses parts of a graph: no network here needs it, and it may never end


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Graph:
    """A network: (1, S, S, 3) uint8 → (1, D) features, preprocessing included.

    Attributes:
        graph: OpenVINO's description of it, XML.
        constants: Its weights.
        witness: (len(BLOCKS), D) what PyTorch made of the pictures of `drawn` in float32; None: unknown.
    """

    graph: bytes
    constants: bytes
    witness: Floats | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of graph and constants."""
        inner = (hashlib.sha256(part).digest() for part in (self.graph, self.constants))
        return hashlib.sha256(b"".join(inner)).hexdigest()

    def content(self) -> bytes:
        """Return the file that it is kept as: tensors of bytes, and the witness."""
        parts = zip(_PARTS, (self.graph, self.constants), strict=True)
        arrays: dict[str, NDArray[Any]] = {name: np.frombuffer(part, dtype=np.uint8) for name, part in parts}
        return save(arrays if self.witness is None else arrays | {_WITNESS: np.ascontiguousarray(self.witness)})

    @classmethod
    def of_content(cls, content: bytes) -> Graph:
        """Return what `content` was of.

        Raises:
            BackboneError: It is something else, or a graph that holds others.
        """
        try:
            arrays: Mapping[str, NDArray[Any]] = load(content)
        except (SafetensorError, KeyError) as error:
            raise BackboneError(f"A network's graph is a safetensors file of bytes; this is none: {error}.") from error
        found = {name: f"{values.dtype} of shape {values.shape}" for name, values in arrays.items()}
        witness = arrays.get(_WITNESS)
        fits = all(arrays[name].dtype == np.uint8 and arrays[name].ndim == 1 for name in _PARTS if name in arrays)
        if witness is not None:
            fits &= witness.dtype == np.float32 and witness.ndim == 2 and len(witness) == len(BLOCKS)
        if not fits or set(arrays) - {_WITNESS} != set(_PARTS):
            raise BackboneError(f"A network's graph is {' and '.join(_PARTS)}, bytes each; found was {found}.")
        graph, constants = (arrays[name].tobytes() for name in _PARTS)
        own = cls(graph, constants, witness)
        if not own.graph.startswith(b"<?xml") or _CONTROL_FLOW in own.graph:
            raise BackboneError("A network's graph is no plain one of OpenVINO.")
        return own


def drawn(size: int) -> list[Pixels]:
    """Return pictures (S, S, 3) of coloured blocks, the same ones on every machine."""
    pictures = []
    for blocks in BLOCKS:
        # RandomState, since what it draws never changes (NEP 19)
        colours = np.random.RandomState(blocks).randint(0, 256, (blocks, blocks, 3)).astype(np.uint8)  # noqa: NPY002
        place = np.arange(size) * blocks // size
        pictures.append(np.ascontiguousarray(colours[place][:, place]))
    return pictures
