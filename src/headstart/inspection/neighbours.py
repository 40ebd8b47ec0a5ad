"""Directions → the most alike of each, by an index, where there are too many to compare all with all.

The index is a graph of neighbours (HNSW, Malkov and Yashunin 2018), for which this is the one door to usearch. It holds
the vectors in 16 bits along the directions in which they differ most, and proposes; what it proposes is compared as it
is. It finds nearly all, not all: whoever asks says how many it missed. One thread builds it, in the order of the rows,
so that the same rows have the same neighbours every time; all threads search.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart.arrays import Rows
from headstart.inspection import blocks
from headstart.records import Floats, Integers

COUNT = 16  # neighbours of a row that are asked for, itself among them
DIMS = 128  # of a vector in the index
_SAMPLE = 10_000  # vectors that tell in which directions they differ
_LINKS, _SEEN = 12, 48  # of a node in the graph, and candidates of which they are the best, also in a search
_SLACK = 0.05  # by which a proposed similarity may be below the one that is asked for
_PAIRS = 2**12  # that are compared at once


def search(vectors: Rows, queries: Rows, least: float) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield, block by block, (P,) queries, (P,) other rows that are alike, and their (P,) similarities.

    Args:
        vectors: (N, D) directions.
        queries: (N, D) of the same rows, perhaps turned.
        least: The smallest similarity.
    """
    basis = _basis(vectors)
    index = _index(vectors, basis)
    for part in _parts(queries):
        block = queries[part]
        found: Any = index.search((block @ basis).astype(np.float16), COUNT)
        near = found.keys.astype(np.int64)
        likely = (np.arange(COUNT) < found.counts[:, None]) & (near != part[:, None])
        place, rank = np.nonzero(likely & (1 - found.distances >= least - _SLACK))
        other = near[place, rank]
        alike = _alike(block, place, vectors, other)
        fits = alike >= least
        yield part[place[fits]], other[fits], alike[fits]


def _index(vectors: Rows, basis: Floats) -> Any:
    from usearch.index import Index

    index = Index(
        ndim=basis.shape[1], metric="cos", dtype="f16", connectivity=_LINKS, expansion_add=_SEEN,
        expansion_search=_SEEN, enable_key_lookups=False,
    )  # fmt: skip
    for part in _parts(vectors):
        index.add(part.astype(np.uint64), (vectors[part] @ basis).astype(np.float16), threads=1)
    return index


def _parts(rows: Rows) -> list[Integers]:
    """Return the numbers of N > 1 rows in parts of two or more: of one row usearch answers in another form."""
    return np.array_split(np.arange(len(rows)), -(-len(rows) // blocks.FEW))


def _basis(vectors: Rows) -> Floats:
    """Return (D, `DIMS`) the directions, at right angles, in which a sample of vectors is largest."""
    some = vectors[np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))]
    basis: Floats = np.linalg.eigh(some.T @ some)[1][:, -DIMS:]
    return np.ascontiguousarray(basis)


def _alike(block: Floats, place: Integers, vectors: Rows, other: Integers) -> Floats:
    """Return (P,) similarities of rows of a block (P,) to other rows (P,)."""

    def products(pairs: Integers) -> Floats:
        one, two = pairs.T
        return np.asarray(np.einsum("pd,pd->p", block[one], vectors[two]))

    return blocks.by_all_cores(products, np.stack([place, other], axis=1), _PAIRS, np.float32)
