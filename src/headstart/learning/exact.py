"""Matrix products of which no row depends, not by a bit, on how many others are asked for.

A product of floats adds up in an order that the library chooses by the shape of the matrices, and each order rounds
otherwise. Rounded to whole numbers that are small enough, no sum is rounded at all: then every order gives the same,
at the full speed of the library, for one row as for many. What it costs is precision: of each row and column 26 bits of
its length are kept, so that a product is off by what products of float32 are off by, some 1e-7 of the two lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BITS = 26  # of the length of a row; products of two rows are then whole numbers below 2^53, all of which float64 has
FEW = 1 << 21  # multiplications that are done at once here: to wake the threads of BLAS takes longer
BLOCK = 128  # rows that are rounded at once, few enough for the processor's cache


@dataclass(frozen=True, slots=True)
class Factor:
    """The right side of a product, made ready once for many left ones.

    Attributes:
        whole: (D, K) whole numbers.
        scale: (K,) powers of two; whole · scale is the matrix, but for rounding.
    """

    whole: Array
    scale: Array


def factor(matrix: NDArray[np.floating]) -> Factor:
    """Return a (D, K) matrix as the right side of products."""
    whole, scale = rounded(matrix.T)
    return Factor(whole.T, scale[:, 0])


def product(rows: NDArray[np.floating], right: Factor) -> Array:
    """Return rows (N, D) times the right side (D, K), as (N, K) float64."""
    with np.errstate(invalid="ignore", over="ignore"):  # of a row that is not finite; it gives none that is
        whole, scale = rounded(rows)
        few = whole.size * right.whole.shape[1] <= FEW
        result: Array = np.einsum("nd,dk->nk", whole, right.whole) if few else whole @ right.whole
        result *= scale  # powers of two: nothing is rounded
        result *= right.scale
    return result


def rounded(rows: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return (N, D) whole numbers and (N, 1) powers of two to multiply them by.

    No sum of products of two such rows, however far it has come, exceeds the product of their lengths (Cauchy and
    Schwarz), so all are exact in any order. A row that is not finite gives no number, and harms no other row.
    """
    whole, scale = np.empty(rows.shape), np.empty((len(rows), 1))
    for begin in range(0, len(rows), BLOCK):
        block = whole[begin : begin + BLOCK]
        block[:] = rows[begin : begin + BLOCK]
        length = np.sqrt(np.square(block).sum(axis=1, keepdims=True))
        step = np.ldexp(1.0, np.clip(np.frexp(length)[1], -900, 900) - BITS)
        block *= 1 / step
        np.rint(block, out=block)
        scale[begin : begin + BLOCK] = step
    return whole, scale
