"""Directions → the most alike of each, by an index, where there are too many to compare all with all.

The index is a graph of neighbours in 8-bit integers (HNSW, Malkov and Yashunin 2018), for which this is the one door to
usearch. It finds nearly all, not all: whoever asks says how many it missed. One thread builds it, in the order of the
rows, so that the same rows have the same neighbours every time; all threads search.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.inspection import blocks
from headstart.inspection.blocks import Rows
from headstart.records import Floats, Integers

COUNT = 32  # neighbours of a row that are asked for, itself among them
_LINKS, _BUILT, _SOUGHT = 16, 64, 64  # of a node in the graph; candidates while it is built, and while it is searched


def search(vectors: Rows, queries: Rows) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield, block by block, (M,) queries, and of each the (M, `COUNT`) most alike rows and their similarities.

    Where fewer are found, a similarity is -inf.

    Args:
        vectors: (N, D) of any length.
        queries: (Q, D), more than one.
    """
    from usearch.index import Index

    parts = np.array_split(np.arange(len(vectors)), -(-len(vectors) // blocks.FEW))
    size = vectors[parts[0][:1]].shape[1]
    index = Index(
        ndim=size, metric="cos", dtype="i8", connectivity=_LINKS, expansion_add=_BUILT, expansion_search=_SOUGHT,
        enable_key_lookups=False,
    )  # fmt: skip
    for part in parts:
        index.add(part.astype(np.uint64), _whole(vectors[part]), threads=1)
    for part in np.array_split(np.arange(len(queries)), -(-len(queries) // blocks.FEW)):
        found: Any = index.search(_whole(queries[part]), COUNT)
        alike = np.where(np.arange(COUNT) < found.counts[:, None], 1 - found.distances, -np.inf)
        yield part, found.keys.astype(np.int64), alike.astype(np.float32)


def _whole(vectors: Floats) -> NDArray[np.int8]:
    """Return vectors in whole numbers up to ±127, each by a factor of its own: lengths do not matter here."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12)
    whole: NDArray[np.int8] = np.rint(vectors * (127 / largest)).astype(np.int8)
    return whole
