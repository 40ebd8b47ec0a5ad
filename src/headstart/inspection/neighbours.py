"""Directions → the most alike of each, by an index, where there are too many to compare all with all.

The index is a graph of neighbours (HNSW, Malkov and Yashunin 2018), for which this is the one door to usearch. It holds
the vectors in 16 bits along the directions in which they differ most, and proposes; what it proposes is compared as it
is. It finds nearly all, not all: whoever asks says how many it missed. Each quarter of a million rows has an index of
its own, which one thread builds in the order of the rows: the same rows have the same neighbours every time, however
many threads build beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.arrays import Rows
from headstart.data import limits
from headstart.inspection import blocks
from headstart.records import Floats, Integers

COUNT = 16  # neighbours of a row that are asked for, itself among them
DIMS = 128  # of a vector in the index
_SAMPLE = 10_000  # vectors that tell in which directions they differ
_LINKS, _SEEN = 12, 48  # of a node in the graph, and candidates of which they are the best, also in a search
_SLACK = 0.05  # by which a proposed similarity may be below the one that is asked for
_PAIRS = 2**12  # that are compared at once
_GRAPH = 250_000  # rows of an index


def search(vectors: Rows, queries: Rows, least: float) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield, block by block, (P,) queries, (P,) other rows that are alike, and their (P,) similarities.

    Args:
        vectors: (N, D) directions.
        queries: (N, D) of the same rows, perhaps turned.
        least: The smallest similarity.
    """
    basis = _basis(vectors)
    stretches = list(arrays.parts(len(vectors), _GRAPH))
    with ThreadPoolExecutor(limits.available_cores()) as pool:
        indexes = list(pool.map(lambda stretch: _index(vectors, stretch, basis), stretches))
    for index in indexes:  # together they look at as many as one would, and miss less
        index.expansion_search = max(COUNT, _SEEN // len(indexes))
    for part in _parts(np.arange(len(queries))):
        block = queries[part]
        near, apart = _nearest(indexes, (block @ basis).astype(np.float16))
        place, rank = np.nonzero((near != part[:, None]) & (1 - apart >= least - _SLACK))
        other = near[place, rank]
        alike = _alike(block, place, vectors, other)
        fits = alike >= least
        yield part[place[fits]], other[fits], alike[fits]


def _index(vectors: Rows, stretch: slice, basis: Floats) -> Any:
    from usearch.index import Index

    index = Index(
        ndim=basis.shape[1], metric="cos", dtype="f16", connectivity=_LINKS, expansion_add=_SEEN,
        expansion_search=_SEEN, enable_key_lookups=False,
    )  # fmt: skip
    for part in _parts(np.arange(stretch.start, stretch.stop)):
        index.add(part.astype(np.uint64), (vectors[part] @ basis).astype(np.float16), threads=1)
    return index


def _nearest(indexes: Sequence[Any], asked: NDArray[np.float16]) -> tuple[Integers, Floats]:
    """Return (M, C) the rows nearest to each of M directions in any index, nearest first, and how far apart they are.

    Where an index has fewer, the distance of the others is infinite.
    """
    found = [index.search(asked, COUNT) for index in indexes]
    there = [np.arange(one.keys.shape[1]) < one.counts[:, None] for one in found]
    near = np.concatenate([one.keys.astype(np.int64) for one in found], axis=1)
    apart = np.concatenate(
        [np.where(own, one.distances, np.inf) for own, one in zip(there, found, strict=True)], axis=1
    )
    best = np.argsort(apart, axis=1, kind="stable")[:, :COUNT]
    return np.take_along_axis(near, best, axis=1), np.take_along_axis(apart, best, axis=1)


def _parts(rows: Integers) -> list[Integers]:
    """Return N > 1 rows in parts of two or more: of one row usearch answers in another form."""
    return np.array_split(rows, -(-len(rows) // blocks.FEW))


def _basis(vectors: Rows) -> Floats:
    """Return (D, `DIMS`) the directions, at right angles, in which a sample of vectors is largest."""
    some = vectors[arrays.spaced(len(vectors), _SAMPLE)]
    basis: Floats = np.linalg.eigh(some.T @ some)[1][:, -DIMS:]
    return np.ascontiguousarray(basis)


def _alike(block: Floats, place: Integers, vectors: Rows, other: Integers) -> Floats:
    """Return (P,) similarities of rows of a block (P,) to other rows (P,)."""

    def products(pairs: Integers) -> Floats:
        one, two = pairs.T
        return np.asarray(np.einsum("pd,pd->p", block[one], vectors[two]))

    return blocks.by_all_cores(products, np.stack([place, other], axis=1), _PAIRS, np.float32)
