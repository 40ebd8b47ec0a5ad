"""Features → how alike pictures are: the cosine of their features once the mean of the dataset is taken off.

Without that, all pictures of one kind point the same way and every cosine is close to 1.
"""

from __future__ import annotations

import numpy as np
import torch

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
    result = np.empty((len(queries), count), dtype=np.float32)
    held = torch.from_numpy(references).T
    for begin in range(0, len(queries), BLOCK):
        block = torch.from_numpy(queries[begin : begin + BLOCK]) @ held
        result[begin : begin + BLOCK] = block.topk(count, dim=1).values.numpy()
    return result


def pairs(vectors: Floats, least: float) -> tuple[Integers, Floats]:
    """Return the (P, 2) pairs of rows at least this alike, first row before second, and their (P,) similarities.

    Args:
        vectors: (N, D) directions.
        least: The smallest similarity.
    """
    held = torch.from_numpy(vectors)
    found: list[Integers] = []
    values: list[Floats] = []
    for row in range(0, len(held), BLOCK):
        for column in range(row, len(held), BLOCK):
            block = held[row : row + BLOCK] @ held[column : column + BLOCK].T
            first, second = (place.numpy() for place in torch.nonzero(block >= least, as_tuple=True))
            alike = block.numpy()[first, second]
            fits = first + row < second + column
            found.append(np.stack([first[fits] + row, second[fits] + column], axis=1))
            values.append(alike[fits])
    return np.concatenate(found), np.concatenate(values)
