"""Half precision is read as the single precision that it stands for, to the bit."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from headstart import arrays
from headstart.errors import StorageError

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


def test_evenly_spaced_rows_are_so_many_and_reach_from_end_to_end():
    assert arrays.spaced(5, 5).tolist() == arrays.spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert arrays.spaced(11, 3).tolist() == [0, 5, 10]
    assert arrays.spaced(0, 3).tolist() == []
    assert arrays.spaced(7, 0).tolist() == [0]
    for most in (999, 1000, 31_337):
        some = arrays.spaced(100_003, most)
        assert len(np.unique(some)) == most
        assert (some[0], some[-1]) == (0, 100_002)


def test_places_count_within_each_number():
    assert arrays.places(np.array([7, 2, 7, 7, 2, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert arrays.places(np.array([], dtype=np.int64)).tolist() == []


def test_a_file_has_its_size_before_it_is_written_to(tmp_path: Path):
    with open(tmp_path / "x", "w+b") as file, open(tmp_path / "plain", "w+b") as plain:
        arrays.reserve(file.fileno(), 1 << 20)
        assert os.fstat(file.fileno()).st_size == 1 << 20
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(plain.fileno(), 0, 1 << 20)
        if os.fstat(plain.fileno()).st_blocks * 512 < 1 << 20:
            pytest.skip("the file system sets no room aside")  # as those that compress
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20


def test_what_cannot_be_written_says_where_it_may_lie_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(arrays, "RESIDENT", 0)
    with pytest.raises(StorageError, match="nowhere cannot be written") as told:
        arrays.zeros((2, 2), tmp_path / "nowhere")
    assert "HEADSTART_CACHE" in told.value.hint
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="nowhere cannot be written") as told:
        arrays.zeros((2, 2), None)
    assert "TMPDIR" in told.value.hint
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(StorageError, match="No usable temporary directory") as told:
        arrays.zeros((2, 2), None)
    assert "TMPDIR" in told.value.hint
