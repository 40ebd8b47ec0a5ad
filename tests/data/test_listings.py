"""What is predicted is listed by names: which ones, in which order, and at what price."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from conftest import draw_folders

from headstart.data import listings, sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three folders and two pictures of other kinds of names."""
    draw_folders(tmp_path, each=3)
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes((tmp_path / "ash" / "ash_00.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_row_is_that_of_the_dataset(here: Path):
    given = ["b.png", "ash", "cedar/*.png", "a.png", "gone.png", "birch"]
    listed, dataset = listings.of(given), sources.read_pictures(given)
    assert list(listed) == [listed[row] for row in range(len(listed))] == list(dataset)
    assert list(listed.names()) == [sample.name for sample in dataset]
    assert len(listed) == 12
    assert listed.dataset(3, 7).samples == dataset.samples[3:7]


def test_the_digest_tells_names_order_and_place(here: Path):
    digests = {
        listings.of(given).digest()
        for given in (["ash"], ["birch"], ["ash", "birch"], ["birch", "ash"], ["ash/*.png"], ["ash/ash_00.png"])
    }
    assert len(digests) == 6
    assert listings.of([here / "ash"]).digest() == listings.of(["ash"]).digest()
    (here / "ash" / "ash_03.png").touch()
    assert listings.of(["ash"]).digest() not in digests


def test_a_name_costs_little_memory(tmp_path: Path):
    for number in range(20):
        (tmp_path / f"folder-{number:04d}").mkdir()
        for index in range(250):
            os.close(os.open(tmp_path / f"folder-{number:04d}" / f"img_{index:016x}.jpg", os.O_CREAT))
    listings.of([tmp_path])  # what is imported or kept once
    tracemalloc.start()
    listed = listings.of([tmp_path])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listed) == 5000
    assert kept / len(listed) < 150  # bytes, of which the text itself takes 37
