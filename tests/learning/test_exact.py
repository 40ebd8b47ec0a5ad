"""Products of which no row depends on the others, and which are as precise as those of float32."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.learning import exact


def drawn(rows: int, columns: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of very different lengths, and a matrix to multiply them with."""
    generator = np.random.default_rng(0)
    lengths = 10.0 ** generator.integers(-4, 5, (rows, 1))
    return (lengths * generator.normal(size=(rows, columns))).astype(np.float32), generator.normal(
        size=(columns, classes)
    )


@pytest.mark.parametrize(("columns", "classes"), [(1, 1), (3, 2), (333, 5), (1280, 100), (9001, 3)])
def test_a_row_does_not_depend_on_its_company_by_a_bit(columns: int, classes: int):
    rows, matrix = drawn(70, columns, classes)
    right = exact.factor(matrix)
    whole = exact.product(rows, right)
    for number in (1, 2, 3, 8, 33):
        np.testing.assert_array_equal(exact.product(rows[20 : 20 + number], right), whole[20 : 20 + number])
    np.testing.assert_array_equal(exact.product(np.asfortranarray(rows), right), whole)


@pytest.mark.parametrize("columns", [1, 12, 1280, 20_000])
def test_products_are_as_precise_as_those_of_float32(columns: int):
    rows, matrix = drawn(50, columns, 7)
    wanted = rows.astype(float) @ matrix
    lengths = np.linalg.norm(rows, axis=1, keepdims=True) * np.linalg.norm(matrix, axis=0)
    assert (np.abs(exact.product(rows, exact.factor(matrix)) - wanted) / lengths).max() < 1e-7


def test_a_row_that_is_not_finite_harms_no_other():
    rows, matrix = drawn(5, 20, 3)
    right = exact.factor(matrix)
    wanted = exact.product(rows, right)
    rows[2, 0], rows[4, 1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        found = exact.product(rows, right)
    np.testing.assert_array_equal(found[[0, 1, 3]], wanted[[0, 1, 3]])
    assert not np.isfinite(found[[2, 4]]).any()


def test_zeros_and_nothing_are_met():
    right = exact.factor(np.zeros((4, 3)))
    assert exact.product(np.ones((2, 4)), right).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert exact.product(np.zeros((0, 4)), right).shape == (0, 3)
