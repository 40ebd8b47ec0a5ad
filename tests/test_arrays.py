"""Half precision is read as the single precision that it stands for, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from headstart import arrays

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("halves", [FINITE, EVERY], ids=["finite", "every"])
def test_every_half_is_the_same_number(halves: np.ndarray):
    taken = arrays.take(halves, slice(None))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(bits(taken), bits(halves.astype(np.float32)))


def test_rows_of_any_shape_and_order_are_taken():
    halves = FINITE[: 63 * 1000].reshape(100, 2, 315)[:, :, ::3]
    rows = np.array([3, 3, 99, 0])
    np.testing.assert_array_equal(bits(arrays.take(halves, rows)), bits(halves[rows].astype(np.float32)))
    np.testing.assert_array_equal(bits(arrays.take(halves, slice(5, 9))), bits(halves[5:9].astype(np.float32)))
    assert arrays.take(halves, slice(0, 0)).shape == (0, 2, 105)


def test_what_is_taken_is_a_copy():
    values = np.ones((3, 2), dtype=np.float32)
    arrays.take(values, slice(None))[:] = 7
    assert (values == 1).all()
