"""Crops as views: what is drawn, by what, and that the cache keeps them as it keeps any view."""

from __future__ import annotations

import hashlib
from pathlib import Path

import contracts
import numpy as np
from conftest import draw_folders

from headstart.data import sources
from headstart.encoding import crops, features
from headstart.records import Preprocess

PREPROCESS = Preprocess(32, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
DIGESTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(20)]


def test_what_is_drawn_depends_on_content_and_number_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    one, two = crops.names(2, mirror=True)
    seen = crops.shown(pixels, PREPROCESS, one, DIGESTS[0])
    assert (seen.shape, seen.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(seen, crops.shown(pixels, PREPROCESS, one, DIGESTS[0]))
    assert not np.array_equal(seen, crops.shown(pixels, PREPROCESS, two, DIGESTS[0]))
    assert not np.array_equal(seen, crops.shown(pixels, PREPROCESS, one, DIGESTS[1]))


def test_no_crop_is_mirrored_where_that_shows_another_thing():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :20] = 255
    for mirror, sides in ((False, {True}), (True, {True, False})):
        seen = [crops.shown(pixels, PREPROCESS, crops.names(1, mirror=mirror)[0], digest) for digest in DIGESTS]
        assert {bool(one[:, 0].mean() > one[:, -1].mean()) for one in seen} == sides


def test_crops_are_kept_and_never_taken_for_one_another(tmp_path: Path):
    dataset = sources.read(draw_folders(tmp_path / "photos", each=2))
    views = ("original", *crops.names(1, mirror=True), *crops.names(1, mirror=False))
    encoders = [contracts.encoder()]
    first, again = (
        features.extract(dataset, None, encoders, views=asked, cache=tmp_path / "cache").table
        for asked in (views, views[::-1])
    )
    assert (first.encoded, again.encoded) == (6, 0)
    np.testing.assert_array_equal(first.values, again.values[:, ::-1])
    assert not np.array_equal(first.values[:, 0], first.values[:, 1])
