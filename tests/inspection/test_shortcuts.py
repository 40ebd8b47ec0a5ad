"""Shortcuts: what is planted is found and named, and nothing is said of what chance would do as well."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from headstart.inspection import shortcuts
from headstart.records import ClassNames, Dataset, Finding, ImageProperties, Sample

CLASSES = ClassNames(f"class_{number:02d}" for number in range(12))
EACH = 20
TRUTH = np.repeat(np.arange(len(CLASSES)), EACH)
FOLD = np.tile(np.arange(5), len(TRUTH) // 5)
DATASET = Dataset(
    Path(), tuple(Sample(Path(str(row)), str(row), CLASSES[targets]) for row, targets in enumerate(TRUTH))
)


def alike(**planted: float) -> ImageProperties:
    """Return properties that know nothing of the classes, but for figures planted in class_03."""
    random = np.random.default_rng(0)
    figures = np.zeros((len(TRUTH), len(ImageProperties.FIGURES)), dtype=np.float32)
    for column, name in enumerate(ImageProperties.FIGURES):
        if name not in ("format", "camera"):
            figures[:, column] = random.integers(50, 200, len(TRUTH))
        if name in planted:
            figures[TRUTH == 3, column] = planted[name]
    return ImageProperties(figures, np.zeros((len(TRUTH), 32, 32)), np.zeros((len(TRUTH), 8, 8, 2)))


def inspect(properties: ImageProperties, targets: np.ndarray = TRUTH, fold: np.ndarray = FOLD) -> dict[str, Finding]:
    """Return the findings by their codes."""
    return {finding.code: finding for finding in shortcuts.inspect(DATASET, properties, targets, CLASSES, fold)}


def test_nothing_is_said_of_pictures_that_are_alike():
    assert inspect(alike()) == {}


@pytest.mark.parametrize(
    ("code", "name", "planted"),
    [
        ("shortcut-border", "border", {"border_red": 0, "border_contrast": 1}),
        ("shortcut-light", "light", {"luma": 20, "bright": 40}),
        ("shortcut-format", "file format", {"format": 1}),
        ("shortcut-camera", "camera", {"camera": 9_999_999}),
        ("shortcut-file-size", "file size", {"bytes": 100_000}),
    ],
)
def test_a_class_that_something_gives_away_is_named(code: str, name: str, planted: dict[str, float]):
    findings = inspect(alike(**planted))
    assert set(findings) == {code}
    assert findings[code].names == ("class_03 (F1 1.00)",)
    assert findings[code].message == f"1 class can be told from the {name} alone"
    assert (findings[code].severity, bool(findings[code].advice)) == ("warning", True)


def test_a_class_of_other_size_is_named():
    assert inspect(alike(width=4000, height=3000))["shortcut-size"].names == ("class_03 (F1 1.00)",)


def test_labels_that_can_be_told_as_a_whole_are_one_finding_with_its_share():
    properties = alike()
    properties.figures[:, ImageProperties.FIGURES.index("camera")] = TRUTH
    finding = inspect(properties)["shortcut-camera"]
    assert finding.message == (
        "the label can be told from the camera alone in 100 % of the pictures; by guessing in 8 %"
    )
    assert len(finding.names) == len(CLASSES)
    assert finding.severity == "warning"


def test_labels_that_can_be_told_a_little_are_a_note():
    properties, camera = alike(), np.where(np.arange(len(TRUTH)) % 5 < 1, TRUTH + 1, 0)  # one picture of five
    properties.figures[:, ImageProperties.FIGURES.index("camera")] = camera
    finding = inspect(properties, fold=np.arange(len(TRUTH)) // 5 % 4)["shortcut-camera"]
    assert finding.severity == "note"
    assert len(finding.names) == 5


def test_the_common_class_of_two_is_not_a_shortcut():
    targets = (np.arange(len(TRUTH)) % 10 == 0).astype(np.int64)
    assert inspect(alike(), targets) == {}


def test_two_classes_told_by_light_are_found():
    targets, properties = np.arange(len(TRUTH)) % 2, alike()
    properties.figures[targets == 1, ImageProperties.FIGURES.index("luma")] += 100
    finding = inspect(properties, targets)["shortcut-light"]
    assert finding.severity == "warning"
    assert finding.message.endswith("by guessing in 50 %")


def test_a_class_of_fewer_than_five_is_not_accused():
    properties, few = alike(border_red=0), np.flatnonzero(TRUTH == 3)[4:]
    targets = TRUTH.copy()
    targets[few] = 4
    properties.figures[few, ImageProperties.FIGURES.index("border_red")] = 100
    assert inspect(properties, targets) == {}


def test_pictures_that_are_never_held_out_are_not_judged():
    fold = np.where(TRUTH == 3, -1, FOLD)
    assert inspect(alike(camera=7), fold=fold) == {}


def test_pictures_that_could_not_be_read_are_left_aside():
    properties = alike(camera=7)
    properties.figures[::7] = math.nan
    assert inspect(properties)["shortcut-camera"].names == ("class_03 (F1 1.00)",)


def test_nothing_is_said_of_fewer_than_twenty():
    properties = alike()
    properties.figures[:, ImageProperties.FIGURES.index("camera")] = TRUTH
    for held_out, said in ((9, set()), (10, {"shortcut-camera"})):
        rows = np.flatnonzero((np.arange(len(TRUTH)) % EACH < held_out) & (TRUTH < 2))
        findings = shortcuts.inspect(DATASET.select(rows), properties.select(rows), TRUTH[rows], CLASSES, FOLD[rows])
        assert {finding.code for finding in findings} == said


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_said_of_what_chance_does_to_few_pictures(seed: int):
    random = np.random.default_rng(seed)
    rows = random.permutation(len(TRUTH))[:24]
    targets = random.permutation(np.arange(24) % 2)
    findings = shortcuts.inspect(DATASET.select(rows), alike().select(rows), targets, CLASSES, np.arange(24) % 4)
    assert findings == []


def test_of_very_many_pictures_as_many_of_each_class_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shortcuts, "MOST_ROWS", 150)
    rows = shortcuts._some(np.arange(len(TRUTH)), TRUTH, np.bincount(TRUTH))
    assert set(np.bincount(TRUTH[rows]).tolist()) == {12, 13}
    assert set(inspect(alike(border_red=0, border_contrast=1))) == {"shortcut-border"}


def test_of_very_many_classes_the_largest_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shortcuts, "MOST_CLASSES", 3)
    held = np.bincount(TRUTH)
    held[[2, 3, 7]] += 1
    rows = shortcuts._some(np.arange(len(TRUTH)), TRUTH, held)
    assert set(TRUTH[rows].tolist()) == {2, 3, 7}
