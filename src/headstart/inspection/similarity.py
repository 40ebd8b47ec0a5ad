"""Features → how alike pictures are: the cosine of their features once the mean of the dataset is taken off.

Without that, all pictures of one kind point the same way and every cosine is close to 1.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from headstart.records import Floats, Integers

BLOCK = 2048  # rows of a block of products


def directions(features: Floats, mean: Floats) -> Floats:
    """Return (N, D) features as unit vectors away from the mean (D,)."""
    shifted = features - mean
    shifted /= np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-12)
    return shifted


def nearest(queries: Floats, references: Floats, count: int = 1) -> Floats:
    """Return the (M, count) largest similarities of each query to the references, largest first.

    Args:
        queries: (M, D) directions.
        references: (N, D) directions.
        count: How many; at most N.
    """
    torch = _torch()
    result = np.empty((len(queries), count), dtype=np.float32)
    held = torch.from_numpy(references).T
    for begin in range(0, len(queries), BLOCK):
        block = torch.from_numpy(queries[begin : begin + BLOCK]) @ held
        result[begin : begin + BLOCK] = block.topk(count, dim=1).values.numpy()
    return result


def company(vectors: Floats, least: float) -> Integers:
    """Return (N,) how many others of the (N, D) directions are at least this alike to each."""
    torch = _torch()
    held, step = torch.from_numpy(vectors), BLOCK // 8  # a block is as wide as there are pictures
    counts, block = np.empty(len(vectors), dtype=np.int64), torch.empty(step, len(vectors))
    for begin in range(0, len(held), step):
        rows = held[begin : begin + step]
        torch.mm(rows, held.T, out=block[: len(rows)])  # one block for all: freed ones would stay with the process
        counts[begin : begin + step] = np.count_nonzero(block[: len(rows)].numpy() >= least, axis=1)
    return counts - 1


def pairs(
    vectors: Floats, least: float, *, most: int | None = None, others: Floats | None = None
) -> tuple[Integers, Floats]:
    """Return the (P, 2) pairs of rows at least this alike, first row before second, and their (P,) similarities.

    Args:
        vectors: (N, D) directions.
        least: The smallest similarity.
        most: So many pairs at most, the most alike; memory is bounded by it. None: all.
        others: (N, D) what the second row of a pair is taken from; None: `vectors`.
    """
    torch = _torch()
    one, other = torch.from_numpy(vectors), torch.from_numpy(vectors if others is None else others)
    found: list[Integers] = [np.zeros((0, 2), dtype=np.int64)]
    values: list[Floats] = [np.zeros(0, dtype=np.float32)]
    for row in range(0, len(one), BLOCK):
        for column in range(row, len(one), BLOCK):
            block = one[row : row + BLOCK] @ other[column : column + BLOCK].T
            first, second = (place.numpy() for place in torch.nonzero(block >= least, as_tuple=True))
            alike = block.numpy()[first, second]
            fits = first + row < second + column
            found.append(np.stack([first[fits] + row, second[fits] + column], axis=1))
            values.append(alike[fits])
            if most is not None and sum(map(len, values)) > 2 * most:
                kept, alike = _most_alike(np.concatenate(found), np.concatenate(values), most)
                found, values, least = [kept], [alike], max(least, float(alike.min()))
    result, alike = np.concatenate(found), np.concatenate(values)
    return (result, alike) if most is None else _most_alike(result, alike, most)


def _torch() -> Any:
    """Import PyTorch where products are asked for: a prediction needs directions alone."""
    return importlib.import_module("torch")


def _most_alike(found: Integers, values: Floats, most: int) -> tuple[Integers, Floats]:
    """Return the `most` pairs of the largest values, in their order."""
    if len(values) <= most:
        return found, values
    kept = np.sort(np.argpartition(values, len(values) - most)[len(values) - most :])
    return found[kept], values[kept]
