"""Features → how alike pictures are: the cosine of their features once the mean of the dataset is taken off.

Without that, all pictures of one kind point the same way and every cosine is close to 1. A picture and its mirror image
are the same thing, so two pictures are as alike as the better of the two comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

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
        references: (N, V, D) directions; of the V views of a picture the best counts.
        count: How many; at most N.
    """
    result = np.empty((len(queries), count), dtype=np.float32)
    held = torch.from_numpy(np.ascontiguousarray(references.transpose(1, 0, 2)))  # (V, N, D)
    for begin in range(0, len(queries), BLOCK):
        rows = torch.from_numpy(queries[begin : begin + BLOCK])
        best = torch.stack([rows @ view.T for view in held]).amax(dim=0)
        result[begin : begin + BLOCK] = best.topk(count, dim=1).values.numpy()
    return result


def blocks(views: Sequence[Floats]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield (row, column, similarities) blocks that together cover each pair of different rows once or twice.

    Args:
        views: V times (N, D) directions: of the pictures, then of their mirror images.
    """
    held = [torch.from_numpy(view) for view in views]
    size = len(views[0])
    for row in range(0, size, BLOCK):
        for column in range(row, size, BLOCK):
            best = held[0][row : row + BLOCK] @ held[0][column : column + BLOCK].T
            for view in held[1:]:
                torch.maximum(best, held[0][row : row + BLOCK] @ view[column : column + BLOCK].T, out=best)
            yield row, column, best.numpy()


def pairs(views: Sequence[Floats], least: float, labels: Integers | None = None) -> tuple[Integers, Floats]:
    """Return the (P, 2) pairs of rows at least this alike, first row before second, and their (P,) similarities.

    Args:
        views: As in `blocks`.
        least: The smallest similarity.
        labels: (N,) if given, only pairs of one label.
    """
    found: list[Integers] = []
    values: list[Floats] = []
    for row, column, block in blocks(views):
        first, second = np.nonzero(block >= least)
        alike = block[first, second]
        first, second = first + row, second + column
        fits = first < second
        if labels is not None:
            fits &= labels[first] == labels[second]
        found.append(np.stack([first[fits], second[fits]], axis=1))
        values.append(alike[fits])
    return np.concatenate(found), np.concatenate(values)
