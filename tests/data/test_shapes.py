"""How much of the pictures a crop cuts away, from the headers of a few of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from headstart.data import shapes
from headstart.records import Preprocess

CROP = Preprocess(224, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)


def test_a_crop_costs_long_pictures_more_and_letterbox_is_suggested():
    long, usual = shapes.cropped([(300, 100)] * 3, CROP), shapes.cropped([(400, 300), (300, 400)], CROP)
    assert str(usual) == "the crop cuts away 25% of a picture (median of 2)"
    assert str(long) == "the crop cuts away 67% of a picture (median of 3); --resize letterbox keeps the whole picture"


def test_what_every_square_loses_too_is_no_reason_for_letterbox():
    told = shapes.cropped([(300, 300)], replace(CROP, crop=0.8))
    assert str(told) == "the crop cuts away 36% of a picture (median of 1)"


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
def test_what_is_not_cropped_is_not_told(resize: str):
    assert shapes.cropped([(300, 100)], replace(CROP, resize=resize)) is None
    assert shapes.cropped([], CROP) is None


def test_sizes_are_read_of_a_sample_and_of_pictures_only(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "pipe.png")
    files = [tmp_path / name for name in ("a.png", "bad.png", "pipe.png", "none.png")]
    assert shapes.sample(files) == [(30, 20)]
    assert len(shapes.sample([tmp_path / "a.png"] * 500)) == shapes.SAMPLE
