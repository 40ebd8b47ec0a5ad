"""Very many pictures: an index in place of comparing all with all, and blocks in place of everything at once.

How many are many is made small here; `benchmarks/scale.py` has a million.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from headstart import arrays
from headstart.inspection import blocks, duplicates, scenes, similarity, thumbnails
from headstart.records import Dataset, ImageProperties, Sample


def drawn(pictures: int, copies: int, seed: int = 0) -> tuple[ImageProperties, np.ndarray, np.ndarray]:
    """Return properties, features and classes; the last pictures are the first with noise, every other mirrored."""
    generator = np.random.default_rng(seed)
    spectrum = 400 / (1 + np.hypot(*np.meshgrid(np.arange(32), np.arange(32))))
    waves = np.cos(np.pi * np.outer(np.arange(32) + 0.5, np.arange(32)) / 32) / 4
    first = pictures - copies
    plain = 120 + waves @ (generator.normal(size=(first, 32, 32)) * spectrum) @ waves.T
    again = plain[:copies] + generator.normal(size=(copies, 32, 32))
    again[::2] = again[::2, :, ::-1]
    colours = 10 * generator.normal(size=(first, 1, 1, 2)) + np.zeros((1, 8, 8, 1))
    targets = np.arange(first) % 7
    latent = generator.normal(size=(7, 16))[targets] + generator.normal(size=(first, 16))
    features = latent @ generator.normal(size=(16, 48))
    near = features[:copies] + 0.05 * generator.normal(size=(copies, 48))
    figures = np.full((pictures, len(ImageProperties.FIGURES)), 300)
    both = (np.concatenate(pair).astype(np.float32) for pair in ((plain, again), (colours, colours[:copies])))
    properties = ImageProperties(figures.astype(np.float32), *both)
    return properties, np.concatenate([features, near]).astype(np.float32), np.append(targets, targets[:copies])


def find(properties: ImageProperties, features: np.ndarray, targets: np.ndarray) -> duplicates.Resemblance:
    return duplicates.find(properties, features, targets, [str(row) for row in range(len(targets))])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FEW", 100)


def test_an_index_gives_the_groups_that_comparing_all_gives(monkeypatch: pytest.MonkeyPatch):
    given = drawn(700, 60)
    whole = find(*given)
    np.testing.assert_array_equal(whole.near_duplicates[640:], np.arange(60))
    monkeypatch.setattr(blocks, "FEW", 300)
    parts = find(*given)
    np.testing.assert_array_equal(parts.near_duplicates, whole.near_duplicates)
    np.testing.assert_array_equal(parts.same_object, whole.same_object)
    assert (parts.alike, parts.unlike) == pytest.approx((whole.alike, whole.unlike))
    assert whole.recall is None
    assert parts.recall >= 0.99


def test_how_much_an_index_finds_is_told():
    dataset = Dataset(Path(), tuple(Sample(Path(name), name, "a") for name in "xy"))
    alone = np.arange(2)
    assert duplicates.findings(dataset, duplicates.Resemblance(alone, alone, 0.8, 0.6), "xy") == []
    (note,) = duplicates.findings(dataset, duplicates.Resemblance(alone, alone, 0.8, 0.6, 0.9971), "xy")
    assert (note.code, note.severity) == ("sought-by-index", "note")
    assert "99.7%" in note.message


@pytest.mark.usefixtures("few")
def test_the_same_pictures_have_the_same_groups_every_time():
    given = drawn(500, 40)
    one, other = find(*given), find(*given)
    np.testing.assert_array_equal(one.near_duplicates, other.near_duplicates)
    np.testing.assert_array_equal(one.same_object, other.same_object)


@pytest.mark.usefixtures("few")
def test_features_and_properties_may_lie_in_files(tmp_path: Path):
    properties, features, targets = drawn(300, 20)
    mapped = []
    for name, values in {"f": properties.figures, "t": properties.thumbnails, "c": properties.colours}.items():
        np.save(tmp_path / f"{name}.npy", values)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    np.save(tmp_path / "features.npy", features.astype(np.float16)[:, None])
    halves = np.load(tmp_path / "features.npy", mmap_mode="r")[:, 0]
    found = find(ImageProperties(*mapped), halves, targets)
    np.testing.assert_array_equal(found.near_duplicates, find(properties, features, targets).near_duplicates)


def test_what_a_scene_shares_is_found_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch):
    properties, _, _ = drawn(300, 0)
    generator = np.random.default_rng(1)
    thumbs = properties.thumbnails.copy()
    thumbs[100:220] = thumbs[0] * generator.uniform(0.9, 1.1, (120, 1, 1)) + 3 * generator.normal(size=(120, 32, 32))
    thumbs[210:220] = thumbs[100:110] + 0.3 * generator.normal(size=(10, 32, 32))
    colours = np.zeros_like(properties.colours)
    given = ImageProperties(properties.figures, thumbs.astype(np.float32), colours)
    (whole,) = scenes.find(given, np.arange(300))
    monkeypatch.setattr(blocks, "FEW", 50)
    (parts,) = scenes.find(given, np.arange(300))
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-5)
    planted = {(row, row + 110) for row in range(100, 110)}
    for scene in (whole, parts):
        proposed = scenes.alike(scene)
        told = proposed[thumbnails.same(given, proposed)]
        assert planted <= set(map(tuple, told.tolist()))


def test_many_scenes_are_found_several_at_once_as_one_by_one(monkeypatch: pytest.MonkeyPatch):
    properties, _, _ = drawn(300, 0)
    generator = np.random.default_rng(2)
    thumbs, shown = properties.thumbnails, generator.permutation(240) // 12  # 20 cameras of 12 pictures, in no order
    cameras = thumbs[:20].copy()
    cameras[1::4] = 0.95 * cameras[::4] + 0.05 * cameras[1::4]  # every other pair of cameras looks at one place …
    cameras[1::4, 12:24, 12:24] += 80  # … where one sees a car
    thumbs[60:] = cameras[shown] + generator.normal(size=(240, 32, 32))
    given = ImageProperties(properties.figures, thumbs, np.zeros_like(properties.colours))
    whole = scenes.find(given, np.arange(300))
    assert len(whole) == 20
    monkeypatch.setattr(blocks, "FEW", 50)
    for together, ahead in ((1, 1), (3, 40), (32, 4096)):
        monkeypatch.setattr(scenes, "_TOGETHER", together)
        monkeypatch.setattr(scenes, "_AHEAD", ahead)
        found = scenes.find(given, np.arange(300))
        assert [one.rows.tolist() for one in found] == [one.rows.tolist() for one in whole]


def test_directions_are_those_of_all_at_once_whatever_is_asked_for():
    features = np.random.default_rng(0).normal(size=(60, 24)).astype(np.float32)
    mean = arrays.mean(features)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-5)
    vectors = similarity.away(features, mean)
    np.testing.assert_array_equal(vectors[:], similarity.directions(features, mean))
    np.testing.assert_array_equal(vectors[np.array([7, 3])], vectors[:][[7, 3]])


def test_the_mean_of_blocks_is_the_mean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "BLOCK", 64)
    features = np.random.default_rng(0).normal(size=(1030, 5)).astype(np.float16)
    np.testing.assert_allclose(arrays.mean(features), features.astype(np.float64).mean(axis=0), atol=1e-6)


def test_memory_grows_with_a_block_and_not_with_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "FEW", 500)
    monkeypatch.setattr(arrays, "BLOCK", 500)
    features = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float16, (6000, 256))
    features[:] = np.random.default_rng(0).normal(size=features.shape)
    tracemalloc.start()
    vectors = similarity.away(features, arrays.mean(features))
    similarity.nearest(vectors[:10], vectors, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # all directions are 6.1 MB


def test_a_group_stops_growing_at_its_limit_however_many_pairs_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
):
    generator = np.random.default_rng(0)
    targets, pairs = np.zeros(60, dtype=np.int64), generator.integers(0, 60, (400, 2))
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    whole = duplicates._same_object(np.arange(60), pairs, targets)
    assert 2 <= np.bincount(whole).max() <= 48
    monkeypatch.setattr(duplicates, "_AT_ONCE", 7)
    np.testing.assert_array_equal(duplicates._same_object(np.arange(60), pairs, targets), whole)


@pytest.mark.parametrize("count", [1, 3])
def test_the_most_alike_are_found_in_blocks(count: int, monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    known = similarity.directions(generator.normal(size=(100, 6)).astype(np.float32), np.zeros(6, np.float32))
    queries = similarity.directions(generator.normal(size=(5, 6)).astype(np.float32), np.zeros(6, np.float32))
    monkeypatch.setattr(similarity, "BLOCK", 7)
    whole = queries @ known.T
    places, alike = similarity.most_like(queries, known, count)
    np.testing.assert_array_equal(places, np.argsort(-whole, axis=1)[:, :count])
    np.testing.assert_allclose(alike, np.take_along_axis(whole, places, axis=1), atol=1e-6)
    odd = np.arange(100) % 2 == 1
    places, _ = similarity.most_like(queries, known, count, lambda part: np.repeat(odd[part, None], 5, axis=1))
    np.testing.assert_array_equal(places, np.argsort(np.where(odd, -whole, 9), axis=1)[:, :count])
    places, alike = similarity.most_like(queries, known[:2], 3)
    assert (places[:, 2] == -1).all()
    assert np.isneginf(alike[:, 2]).all()
