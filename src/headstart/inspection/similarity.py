"""Features → how alike pictures are: the cosine of their features once the mean of the dataset is taken off.

Without that, all pictures of one kind point the same way and every cosine is close to 1. Up to `blocks.FEW` rows are
compared all with all; of more, each with its neighbours in an index.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.arrays import Rows
from headstart.inspection import blocks, neighbours
from headstart.inspection.blocks import Computed
from headstart.records import Floats, Integers

BLOCK = 2048  # rows of a block of products


def directions(features: NDArray[np.floating], mean: Floats) -> Floats:
    """Return (N, D) features as float32 unit vectors away from the mean (D,)."""
    shifted: Floats = features - mean
    shifted /= np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-12)
    return shifted


def away(features: Rows, mean: Floats) -> Computed:
    """Return the `directions` of (N, D) features, which may lie in a file, as rows that are computed when asked for."""
    return Computed(len(features), lambda part: directions(arrays.take(features, part), mean))


def nearest(queries: Floats, references: Rows, count: int = 1) -> Floats:
    """Return the (M, count) largest similarities of each query to the references, largest first.

    Args:
        queries: (M, D) directions.
        references: (N, D) directions.
        count: How many; at most N.
    """
    torch = _torch()
    result = torch.full((len(queries), count), -torch.inf)
    for start in range(0, len(references), blocks.FEW):
        known = torch.from_numpy(references[start : start + blocks.FEW]).T
        for begin in range(0, len(queries), BLOCK):
            block = torch.from_numpy(queries[begin : begin + BLOCK]) @ known
            best = torch.cat([result[begin : begin + BLOCK], block], dim=1).topk(count, dim=1).values
            result[begin : begin + BLOCK] = best
    return np.asarray(result.numpy())


def most_like(
    queries: Floats,
    references: Rows,
    count: int,
    among: Callable[[slice], NDArray[np.bool_]] | None = None,
) -> tuple[Integers, Floats]:
    """Return the (M, count) references that are most alike to each query, and how alike, the most alike first.

    Args:
        queries: (M, D) directions.
        references: (N, D) directions; memory does not grow with them.
        count: How many.
        among: Some references → (B, M) which of them count for which query; None: all do. Where fewer than `count` do,
            the last are -1, and alike to -inf.
    """
    best = np.full((count, len(queries)), -1, dtype=np.int64)
    alike = np.full((count, len(queries)), -np.inf, dtype=np.float32)
    for part in arrays.parts(len(references), BLOCK):
        block = references[part] @ queries.T
        if among is not None:
            block[~among(part)] = -np.inf
        places = np.repeat(np.arange(part.start, part.stop)[:, None], len(queries), axis=1)
        alike, best = np.concatenate([alike, block]), np.concatenate([best, places])
        kept = np.argsort(-alike, axis=0, kind="stable")[:count]
        alike, best = np.take_along_axis(alike, kept, 0), np.take_along_axis(best, kept, 0)
    best[~np.isfinite(alike)] = -1
    return best.T, alike.T


def company(vectors: Rows, least: float) -> Integers:
    """Return (N,) how many others of the (N, D) directions are at least this alike to each.

    Of very many directions, no more than an index gives are counted.
    """
    if len(vectors) > blocks.FEW:
        found = [rows for rows, _, _ in neighbours.search(vectors, vectors, least)]
        return np.bincount(np.concatenate(found), minlength=len(vectors))
    torch = _torch()
    held, step = torch.from_numpy(vectors[:]), BLOCK // 8  # a block is as wide as there are pictures
    counts, block = np.empty(len(vectors), dtype=np.int64), torch.empty(step, len(vectors))
    for begin in range(0, len(held), step):
        rows = held[begin : begin + step]
        torch.mm(rows, held.T, out=block[: len(rows)])  # one block for all: freed ones would stay with the process
        counts[begin : begin + step] = np.count_nonzero(block[: len(rows)].numpy() >= least, axis=1)
    return counts - 1


def pairs(
    vectors: Rows, least: float, *, most: int | None = None, others: Rows | None = None
) -> tuple[Integers, Floats]:
    """Return the (P, 2) pairs of rows at least this alike, first row before second, and their (P,) similarities.

    Args:
        vectors: (N, D) directions.
        least: The smallest similarity.
        most: So many pairs at most, the most alike; memory is bounded by it. None: all.
        others: (N, D) what the second row of a pair is taken from; None: `vectors`.
    """
    others = vectors if others is None else others
    found, values = (_compared if len(vectors) <= blocks.FEW else _indexed)(vectors, others, least, most)
    return (found, values) if most is None else most_alike(found, values, most)


def _compared(vectors: Rows, others: Rows, least: float, most: int | None) -> tuple[Integers, Floats]:
    """Compare all with all; of many pairs some more than the `most` alike may be left."""
    one = vectors[:]
    other = one if others is vectors else others[:]
    found: list[Integers] = [np.zeros((0, 2), dtype=np.int64)]
    values: list[Floats] = [np.zeros(0, dtype=np.float32)]
    for row in range(0, len(one), BLOCK):
        for column in range(row, len(one), BLOCK):
            block = one[row : row + BLOCK] @ other[column : column + BLOCK].T
            first, second = np.nonzero(block >= least)
            alike = block[first, second]
            fits = first + row < second + column
            found.append(np.stack([first[fits] + row, second[fits] + column], axis=1))
            values.append(alike[fits])
            if most is not None and sum(map(len, values)) > 2 * most:
                kept, alike = most_alike(np.concatenate(found), np.concatenate(values), most)
                found, values, least = [kept], [alike], max(least, float(alike.min()))
    return np.concatenate(found), np.concatenate(values)


def _indexed(vectors: Rows, others: Rows, least: float, most: int | None) -> tuple[Integers, Floats]:
    """Compare each of the others with its neighbours, whose number bounds that of the pairs."""
    codes, values = [], []
    for row, near, alike in neighbours.search(vectors, others, least):
        codes.append(np.minimum(row, near) * len(vectors) + np.maximum(row, near))
        values.append(alike)
    code, first = np.unique(np.concatenate(codes), return_index=True)
    return np.stack(np.divmod(code, len(vectors)), axis=1), np.concatenate(values)[first]


def _torch() -> Any:
    """Import PyTorch where products are asked for: a prediction needs directions alone."""
    return importlib.import_module("torch")


def most_alike(found: Integers, values: Floats, most: int) -> tuple[Integers, Floats]:
    """Return the `most` pairs of the largest values, in their order."""
    if len(values) <= most:
        return found, values
    kept = np.sort(np.argpartition(values, len(values) - most)[len(values) - most :])
    return found[kept], values[kept]
