"""Copies and same-object pictures: what is one photograph, what is one thing once more, and what is neither."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, scene
from PIL import Image, ImageDraw, ImageOps

from headstart.data import images, splits
from headstart.inspection import duplicates, properties, similarity
from headstart.records import Dataset, ImageProperties, Sample

Change = Callable[[Image.Image], Image.Image]
TURN = Image.Transpose


def cropped(image: Image.Image, left: float, top: float) -> Image.Image:
    """Keep nine tenths of each side, from this share of what is cut away."""
    width, height = round(0.9 * image.width), round(0.9 * image.height)
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    return image.crop((x, y, x + width, y + height))


CHANGES: dict[str, Change] = {
    "re-encoded": lambda image: image,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "larger": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "mirrored": ImageOps.mirror,
    "turned-90": lambda image: image.transpose(TURN.ROTATE_90),
    "turned-180": lambda image: image.transpose(TURN.ROTATE_180),
    "turned-270": lambda image: image.transpose(TURN.ROTATE_270),
    "mirrored-and-turned": lambda image: image.transpose(TURN.TRANSVERSE),
    "cropped-centre": lambda image: cropped(image, 0.5, 0.5),
    "cropped-corner": lambda image: cropped(image, 0.0, 1.0),
    "brighter": lambda image: image.point(lambda value: min(255, round(1.1 * value))),
}


def seen(pictures: list[Image.Image], quality: int = 60) -> ImageProperties:
    """Return the properties of pictures that were saved as JPEG."""
    vectors = []
    for image in pictures:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "JPEG", quality=quality)
        vectors.append(properties.measure(images.decode(stream.getvalue()), len(stream.getvalue())))
    return properties.unpack(np.stack(vectors))


def features(rows: int, copies: int = 0, seed: int = 0) -> np.ndarray:
    """Return features of unrelated pictures; the last ones are close to the first ones."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, 24)).astype(np.float32)
    close = values[:copies] + 0.2 * generator.normal(size=(copies, 24)).astype(np.float32)
    return np.concatenate([values, close])


def find(
    pictures: list[Image.Image], values: np.ndarray, targets: np.ndarray | None = None, quality: int = 60
) -> duplicates.Resemblance:
    targets = np.arange(len(pictures)) % 3 if targets is None else targets
    return duplicates.find(seen(pictures, quality), values, targets, np.arange(len(pictures)))


@pytest.mark.parametrize("kind", CHANGES)
def test_E2_a_changed_copy_is_found(kind: str):
    originals = [scene(seed) for seed in range(40)]
    found = find([*originals, *map(CHANGES[kind], originals[:20])], features(40, copies=20))
    assert (found.near_duplicates[40:] == np.arange(20)).mean() >= (0.9 if "cropped" in kind else 1)
    np.testing.assert_array_equal(found.near_duplicates[:40], np.arange(40))


def test_pictures_of_one_kind_are_no_copies():
    """Noise of one colour: as alike as can be to a network, and no two the same."""
    pictures = [picture((200, 60, 60), seed) for seed in range(30)]
    np.testing.assert_array_equal(find(pictures, 1 + 0.01 * features(30)).near_duplicates, np.arange(30))


def frames(number: int) -> list[Image.Image]:
    """Draw what a fixed camera sees: one textured ground in changing light, with noise, half of them with a scratch."""
    generator = np.random.default_rng(0)
    ground = 120 + 30 * np.asarray(scene(0, (320, 240)).convert("L"), dtype=float) / 64
    ground += 12 * np.repeat(np.repeat(generator.normal(size=(60, 80)), 4, axis=0), 4, axis=1)
    pictures = []
    for turn in range(number):
        frame = 0.6 * ground * generator.uniform(0.95, 1.05) + generator.normal(0, 6, ground.shape)
        down, across = generator.integers(0, 230), generator.integers(0, 300)
        frame[down : down + 4, across : across + 14] += 80 * (turn % 2)
        pictures.append(Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8)))
    return pictures


def shirt(colour: tuple[int, int, int]) -> Image.Image:
    """Draw a shirt of this colour on a patterned ground."""
    image = scene(7, (120, 120)).point(lambda value: 160 + value // 4)
    draw = ImageDraw.Draw(image)
    draw.polygon([(25, 25), (95, 25), (112, 50), (95, 58), (95, 108), (25, 108), (25, 58), (8, 50)], fill=colour)
    draw.rectangle((50, 45, 70, 60), fill=(230, 230, 230))
    return image


def test_pictures_of_a_fixed_camera_are_no_near_duplicates():
    found = find(frames(60), 1 + 0.01 * features(60))
    np.testing.assert_array_equal(found.near_duplicates, np.arange(60))


@pytest.mark.parametrize("kind", ["re-encoded", "larger", "mirrored", "turned-90"])
def test_a_copy_is_found_among_pictures_of_a_fixed_camera(kind: str):
    pictures = frames(40)
    found = find([*pictures, *map(CHANGES[kind], pictures[:2])], 1 + 0.01 * features(42), quality=85)
    np.testing.assert_array_equal(found.near_duplicates, [*range(40), 0, 1])


@pytest.mark.parametrize("other", [(150, 25, 35), (60, 60, 66), (30, 110, 60)])
def test_one_drawing_in_two_colours_is_two_pictures(other: tuple[int, int, int]):
    navy = (25, 30, 90)
    pictures = [shirt(navy), shirt(other), ImageOps.mirror(shirt(navy)), *map(scene, range(10))]
    found = find(pictures, 1 + 0.01 * features(13))
    np.testing.assert_array_equal(found.near_duplicates[:3], [0, 1, 0])


def test_textures_of_one_kind_are_no_near_duplicates():
    """As under a microscope: light falls off alike in all, and what lies there differs."""
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    light = 220 - 120 * (rows**2 + columns**2)
    grains = [np.repeat(np.repeat(np.random.default_rng(n).normal(0, 8, (24, 24)), 4, 0), 4, 1) for n in range(30)]
    pictures = [Image.fromarray(np.clip(light + grain, 0, 255).astype(np.uint8)) for grain in grains]
    found = find([*pictures, *map(ImageOps.mirror, pictures[:3])], 1 + 0.01 * features(33))
    np.testing.assert_array_equal(found.near_duplicates, [*range(30), 0, 1, 2])


def test_flat_pictures_are_copies_by_their_bytes_only():
    pictures = [Image.new("RGB", (40, 40), (value, value, value)) for value in range(100, 130)]
    np.testing.assert_array_equal(find(pictures, features(30)).near_duplicates, np.arange(30))


def test_pictures_of_a_few_pixels_are_copies_by_their_bytes_only():
    """Scans of digits, 8 by 8 pixels: different ones may be the same in a thumbnail."""
    pictures = [scene(seed, (16, 16)) for seed in range(20)]
    np.testing.assert_array_equal(find([*pictures, *pictures], features(20, copies=20)).near_duplicates, np.arange(40))


def test_groups_that_are_known_stay_joined():
    known = np.array([0, 0, *range(2, 20)])
    resemblance = duplicates.find(seen([scene(n) for n in range(20)]), features(20), np.arange(20) % 2, known)
    assert resemblance.near_duplicates[0] == resemblance.near_duplicates[1]
    assert len(np.unique(resemblance.near_duplicates)) == 19


def test_look_alikes_are_pictures_of_one_class_that_are_close():
    values, targets = features(30, copies=10), np.arange(40) % 10
    found = find([scene(seed) for seed in range(40)], values, targets)
    np.testing.assert_array_equal(found.near_duplicates, np.arange(40))
    assert (found.same_object[30:] == found.same_object[:10]).mean() > 0.8
    assert found.unlike < found.alike


def test_look_alikes_are_never_of_two_classes():
    values = features(30, copies=30)
    targets = np.concatenate([np.zeros(30, int), np.ones(30, int)])
    np.testing.assert_array_equal(find([scene(s) for s in range(60)], values, targets).same_object, np.arange(60))


def test_a_group_of_look_alikes_leaves_something_of_its_class():
    """One class is a single clump: without a limit it would be one group, and no split could divide it."""
    clump = 5 + 0.01 * features(20, seed=1)
    values, targets = np.concatenate([features(20), clump]), np.repeat([0, 1], 20)
    sizes = np.bincount(find([scene(s) for s in range(40)], values, targets).same_object)
    assert 2 < sizes.max() <= duplicates.MOST_OF_CLASS * 20


def test_the_order_of_the_pictures_does_not_matter():
    pictures = [*(scene(seed) for seed in range(30)), *(ImageOps.mirror(scene(seed)) for seed in range(8))]
    values, targets = features(30, copies=8), np.arange(38) % 30 % 5
    order = np.random.default_rng(3).permutation(38)
    straight, shuffled = (
        find(pictures, values, targets),
        find([pictures[n] for n in order], values[order], targets[order]),
    )
    pairs = {frozenset(group) for group in splits.members(straight.near_duplicates)}
    assert pairs == {frozenset(int(order[row]) for row in group) for group in splits.members(shuffled.near_duplicates)}


def dataset(labels: str) -> Dataset:
    return Dataset(Path(), tuple(Sample(Path(f"{n}.jpg"), f"{n}.jpg", label) for n, label in enumerate(labels)))


def resemblance(copies: list[int]) -> duplicates.Resemblance:
    return duplicates.Resemblance(np.array(copies), np.array(copies), 0.8, 0.6)


def test_findings_name_each_group_once_and_those_that_contradict_themselves_apart():
    """To remove all but one is no advice where nobody knows which label is right."""
    near, apart = duplicates.findings(dataset("aabcc"), resemblance([0, 0, 0, 3, 3]), list("vwxyz"))
    assert near.names == ("3.jpg = 4.jpg",)
    assert "2 pictures" in near.message
    assert "remove all but one" not in (apart.advice)
    assert apart.code == "conflicting-near-duplicates"
    assert apart.names == ("0.jpg (a) = 1.jpg (a) = 2.jpg (b)",)


def test_byte_identical_pictures_are_another_finding():
    assert duplicates.findings(dataset("aa"), resemblance([0, 0]), ["same", "same"]) == []


def test_conflicting_marks_every_picture_of_the_group():
    marked = duplicates.conflicting(np.array([0, 0, 2, 2, 4]), np.array([0, 1, 1, 1, 0]))
    assert marked.tolist() == [True, True, False, False, False]


def test_nearest_is_the_largest_cosine():
    generator = np.random.default_rng(0)
    mean = generator.normal(size=8).astype(np.float32)
    one, other = (similarity.directions(generator.normal(size=(n, 8)).astype(np.float32), mean) for n in (5, 7))
    wanted = np.sort(one @ other.T, axis=1)[:, ::-1][:, :3]
    np.testing.assert_allclose(similarity.nearest(one, other, 3), wanted, atol=1e-6)


def test_pairs_are_all_above_the_bound_and_each_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "BLOCK", 7)  # several blocks
    vectors = similarity.directions(features(23), np.zeros(24, np.float32))
    found, values = similarity.pairs(vectors, 0.1)
    first, second = np.nonzero(np.triu(vectors @ vectors.T >= 0.1, 1))
    assert sorted(map(tuple, found.tolist())) == sorted(zip(first.tolist(), second.tolist(), strict=True))
    np.testing.assert_allclose(values, (vectors[found[:, 0]] * vectors[found[:, 1]]).sum(axis=1), atol=1e-6)
