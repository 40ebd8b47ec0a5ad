"""Findings on bad pictures: each kind is found, and nothing is said of good ones."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from headstart.data import images
from headstart.inspection import properties, quality
from headstart.records import Dataset, Finding, ImageProperties, Sample


def scene(seed: int = 0, size: tuple[int, int] = (224, 224)) -> Image.Image:
    """Draw rough noise of many scales, which a photograph is most like."""
    random = np.random.default_rng(seed)
    layers = [Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)) for n in (4, 16, 64, 224)]
    mean = np.mean([layer.resize(size) for layer in layers], axis=0)
    return Image.fromarray(np.clip(128 + 2 * (mean - 128), 0, 255).astype(np.uint8))


def drawn(*pictures: Image.Image) -> tuple[Dataset, ImageProperties]:
    """Return a dataset of pictures called 0, 1, 2 …, and their properties."""
    vectors = []
    for image in pictures:
        file = io.BytesIO()
        image.save(file, "PNG")
        vectors.append(properties.measure(images.decode(file.getvalue()), len(file.getvalue())))
    samples = tuple(Sample(Path(str(row)), str(row), "ash") for row in range(len(pictures)))
    return Dataset(Path(), samples), properties.unpack(np.array(vectors))


def inspect(*pictures: Image.Image, size: int = 64) -> dict[str, Finding]:
    """Return the findings on these pictures by their codes."""
    return {finding.code: finding for finding in quality.inspect(*drawn(*pictures), size)}


GOOD = [scene(seed) for seed in range(4)]


def test_nothing_is_said_of_good_pictures():
    assert inspect(*GOOD) == {}


def test_dark_pictures_are_found_the_darkest_first():
    dim, dimmer = (ImageEnhance.Brightness(GOOD[0]).enhance(factor) for factor in (0.2, 0.1))
    findings = inspect(*GOOD, dim, dimmer)
    assert set(findings) == {"dark-pictures"}
    assert findings["dark-pictures"].names == ("5", "4")
    assert findings["dark-pictures"].message == "2 pictures are very dark"
    assert findings["dark-pictures"].severity == "warning"


def test_washed_out_pictures_are_found_the_brightest_first():
    faded, paler = (Image.blend(GOOD[0], Image.new("RGB", GOOD[0].size, "white"), share) for share in (0.8, 0.9))
    findings = inspect(*GOOD, faded, paler)
    assert set(findings) == {"bright-pictures"}
    assert findings["bright-pictures"].names == ("5", "4")


def test_a_drawing_on_white_paper_is_not_washed_out():
    drawing = Image.new("RGB", (224, 224), "white")
    drawing.paste("black", (100, 40, 110, 180))
    assert "bright-pictures" not in inspect(*GOOD, drawing)


@pytest.mark.parametrize("radius", [3, 6])
def test_blurry_pictures_are_found(radius: int):
    findings = inspect(*GOOD, GOOD[1].filter(ImageFilter.GaussianBlur(radius)))
    assert {code: finding.names for code, finding in findings.items()} == {"blurry-pictures": ("4",)}


def test_tiny_pictures_are_never_called_blurry():
    tiny = [image.resize((64, 64)).filter(ImageFilter.GaussianBlur(6)) for image in GOOD]
    assert inspect(*tiny) == {}


@pytest.mark.parametrize("colour", ["black", "grey", "white"])
def test_pictures_of_one_colour_are_called_plain_and_nothing_else(colour: str):
    findings = inspect(*GOOD, Image.new("RGB", (224, 224), colour))
    assert {code: finding.names for code, finding in findings.items()} == {"plain-pictures": ("4",)}


def test_long_pictures_are_odd():
    assert inspect(*GOOD, scene(9, (800, 200)))["odd-sizes"].names == ("4",)
    assert inspect(*GOOD, scene(9, (200, 800)))["odd-sizes"].names == ("4",)
    assert "odd-sizes" not in inspect(*GOOD, scene(9, (580, 200)))


def test_long_pictures_are_not_odd_among_long_ones():
    assert "odd-sizes" not in inspect(*[scene(seed, (800, 200)) for seed in range(4)])


def test_pictures_much_smaller_than_the_others_are_odd_the_smallest_first():
    assert inspect(*GOOD, scene(9, (66, 66)), scene(9, (65, 65)))["odd-sizes"].names == ("5", "4")
    assert "odd-sizes" not in inspect(*GOOD, scene(9, (80, 80)))


def test_pictures_smaller_than_the_network_sees_are_noted():
    (finding,) = quality.inspect(*drawn(*GOOD, scene(9, (300, 200))), 224)
    assert (finding.code, finding.severity, finding.names) == ("small-pictures", "note", ("4",))
    assert "224" in finding.message


def test_what_most_pictures_are_is_a_note():
    dark = [ImageEnhance.Brightness(image).enhance(0.15) for image in GOOD]
    assert inspect(*dark)["dark-pictures"].severity == "note"


def test_pictures_that_could_not_be_read_are_passed_over():
    dataset, seen = drawn(*GOOD)
    seen.figures[2:] = math.nan
    assert quality.inspect(dataset, seen, 64) == []
    seen.figures[:] = math.nan
    assert quality.inspect(dataset, seen, 64) == []


def test_every_finding_says_what_to_do():
    bad = [Image.new("RGB", (30, 200)), ImageEnhance.Brightness(GOOD[0]).enhance(0.15)]
    assert all(finding.advice for finding in inspect(*GOOD, *bad).values())
