"""Looking before training: what `check` finds, whose labels `audit` doubts, and what training makes of copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import HUES, SMALL, picture, scene
from PIL import ImageOps

import headstart
from headstart.config import TrainConfig, read_config
from headstart.data import sources
from headstart.errors import ConfigError
from headstart.records import Dataset, Finding
from headstart.workflows.audit import audit
from headstart.workflows.check import check
from headstart.workflows.train import TrainingResult, train

pytestmark = pytest.mark.slow  # trains, or kills what trains


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: most pictures are encoded once."""
    return tmp_path_factory.mktemp("cache")


def config(**settings: object) -> TrainConfig:
    return read_config(
        None, flags=SMALL | {"split.folds": 0} | {name.replace("__", "."): value for name, value in settings.items()}
    )


def named(findings: tuple[Finding, ...], code: str) -> tuple[str, ...]:
    """Return what a finding names; nothing if it was not made."""
    return next((finding.names for finding in findings if finding.code == code), ())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of thirty unrelated pictures, the first five of each with a mirrored and a smaller copy."""
    root = tmp_path_factory.mktemp("scenes") / "photos"
    for number, name in enumerate(("fen", "moor")):
        (root / name).mkdir(parents=True)
        for index in range(30):
            image = scene(100 * number + index)
            image.save(root / name / f"{index:02d}.png")
            if index < 5:
                ImageOps.mirror(image).save(root / name / f"{index:02d}-mirrored.jpg", quality=80)
                image.resize((48, 40)).save(root / name / f"{index:02d}-small.jpg", quality=80)
    return root


@pytest.fixture(scope="module")
def trained(scenes: Path, cache: Path) -> TrainingResult:
    return train(sources.read(scenes), config(), cache=cache)


def test_E2_check_names_every_group_of_copies(scenes: Path, cache: Path):
    groups = named(check(sources.read(scenes), config(), cache=cache), "near-duplicates")
    assert len(groups) == 10
    assert "fen/00-mirrored.jpg = fen/00-small.jpg = fen/00.png" in groups


def test_E2_copies_never_stand_on_both_sides(trained: TrainingResult):
    stem = [sample.name.split(".")[0].split("-")[0] for sample in trained.dataset]
    learned, measured = ({stem[row] for row in trained.splits.part(part)} for part in ("train", "validation"))
    assert measured
    assert not learned & measured


def test_the_random_split_is_told_where_near_duplicates_were_kept_together(trained: TrainingResult):
    drawn = trained.leakage.random_split
    assert drawn is not None
    assert 0 < drawn.leaked < len(drawn.measured.rows)


def test_check_and_train_find_the_same(scenes: Path, cache: Path, trained: TrainingResult):
    checked = {finding.code for finding in check(sources.read(scenes), config(), cache=cache)}
    assert checked <= {finding.code for finding in trained.findings}


def test_the_facade_has_both_verbs():
    assert (headstart.check, headstart.audit) == (check, audit)


@pytest.fixture
def hues(tmp_path: Path) -> Path:
    """Four classes of fifteen noisy pictures, each class of one colour."""
    for name, hue in HUES.items():
        (tmp_path / "hues" / name).mkdir(parents=True)
        for index in range(15):
            picture(hue, hash_of(name) + index).save(tmp_path / "hues" / name / f"{index:02d}.png")
    return tmp_path / "hues"


def hash_of(name: str) -> int:
    return 1000 * (1 + list(HUES).index(name))


def mislabelled(dataset: Dataset, wrong: dict[str, str]) -> Dataset:
    return replace(dataset, samples=tuple(replace(s, label=wrong[s.name]) if s.name in wrong else s for s in dataset))


def test_audit_puts_wrong_labels_first_and_suggests_the_right_ones(hues: Path, cache: Path):
    wrong = {"ash/03.png": "elm", "birch/07.png": "cedar", "elm/11.png": "birch"}
    suspects = audit(mislabelled(sources.read(hues), wrong), config(), cache=cache)
    assert {one.name: one.label for one in suspects[:3]} == wrong
    assert {one.name: one.suggested for one in suspects[:3]} == {name: name.split("/")[0] for name in wrong}
    assert all(one.is_likely for one in suspects[:3])


def test_E3_audit_shows_identical_pictures_with_different_labels(hues: Path, cache: Path):
    (hues / "elm" / "stray.png").write_bytes((hues / "ash" / "03.png").read_bytes())
    first = audit(sources.read(hues), config(), cache=cache)[0]
    assert {first.name, first.duplicate_of} == {"elm/stray.png", "ash/03.png"}


def test_E3_near_duplicates_with_different_labels_measure_nothing(scenes: Path, cache: Path):
    wrong = {"fen/00-mirrored.jpg": "moor", "moor/01-small.jpg": "fen"}
    result = train(mislabelled(sources.read(scenes), wrong), config(), cache=cache)
    apart = {"fen/00", "moor/01"}
    rows = [row for row, sample in enumerate(result.dataset) if sample.name[:-4].split("-")[0] in apart]
    assert len(rows) == 6
    assert set(rows) <= set(result.splits.train.tolist())
    assert len(named(result.findings, "conflicting-near-duplicates")) == 2


def test_E4_pictures_of_one_group_are_no_copies(hues: Path, cache: Path):
    """A camera that took pictures of every class keeps them on one side, and contradicts no label."""
    read = sources.read(hues)
    read = replace(read, samples=tuple(replace(s, group=f"camera {n % 5}") for n, s in enumerate(read)))
    result = train(read, config(), cache=cache)
    cameras = [{result.dataset[row].group for row in result.splits.part(part)} for part in ("train", "validation")]
    assert cameras[1]
    assert not cameras[0] & cameras[1]
    assert named(result.findings, "conflicting-near-duplicates") == ()
    assert not any(one.duplicate_of for one in audit(read, config(), cache=cache))


def test_a_learning_curve_that_cannot_be_measured_loses_no_model(tmp_path: Path, cache: Path):
    for index in range(6):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        scene(index).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    result = train(sources.read(tmp_path), config(), cache=cache, learning_curve=True)
    assert result.curve is None
    assert "a learning curve needs" in next(f.message for f in result.findings if f.code == "no-learning-curve")


def test_a_given_split_is_not_repeated(hues: Path, cache: Path):
    read = sources.read(hues)
    read = replace(read, samples=tuple(replace(s, split="test" if n % 5 == 0 else "train") for n, s in enumerate(read)))
    with pytest.raises(ConfigError, match="split.repeats is 3"):
        train(read, config(split__repeats=3), cache=cache)


def test_a_class_that_is_told_by_its_border_is_named(hues: Path, cache: Path):
    for path in (hues / "ash").iterdir():
        ImageOps.expand(picture(HUES["ash"], int(path.stem), (40, 32)), 4, "black").save(path)
    (said,) = [f for f in check(sources.read(hues), config(), cache=cache) if f.code == "shortcut-border"]
    assert any(name.startswith("ash ") for name in said.names)


def test_E6_a_poisoned_test_part_changes_no_figure_of_the_fit(hues: Path, cache: Path):
    parts = ("validation", "test", "train", "train", "train", "train")
    given = sources.read(hues)
    given = replace(given, samples=tuple(replace(s, split=parts[n % 6]) for n, s in enumerate(given)))
    clean = train(given, config(refit=False), cache=cache)
    for row in clean.splits.test:
        scene(int(row)).save(clean.dataset[row].path)
    poisoned = train(given, config(refit=False), cache=cache)
    assert clean.classifier.rules.calibration == poisoned.classifier.rules.calibration
    assert clean.classifier.rules.sets == poisoned.classifier.rules.sets
    np.testing.assert_array_equal(
        clean.predictions["validation"].probabilities, poisoned.predictions["validation"].probabilities
    )


def test_E7_sets_and_refusals_are_measured_with_the_rest(trained: TrainingResult):
    figures = trained.evaluation.overall
    assert {"coverage", "set_size", "refused", "aurc"} <= set(figures)
    assert 1 <= figures["set_size"].value <= 2


def test_folds_measure_every_picture(hues: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    result = train(sources.read(hues), config(split__folds=3), cache=cache)
    assert sorted(result.predictions["validation"].names) == sorted(sample.name for sample in result.dataset)
    assert result.classifier.provenance.training["fitted_on"] == "60 training pictures"


Train = Callable[..., TrainingResult]


def test_a_learning_curve_grows_to_all_training_pictures(hues: Path, cache: Path):
    result = train(sources.read(hues), config(), cache=cache, learning_curve=True)
    assert result.curve is not None
    assert result.curve.points[-1].pictures_per_class == pytest.approx(len(result.splits.train) / 4)
    assert 0 <= result.curve.doubled.low <= result.curve.doubled.high <= 1


def test_folds_of_the_training_part_leave_a_given_test_part_and_still_tell_similarity(hues: Path, cache: Path):
    read = sources.read(hues)
    read = replace(read, samples=tuple(replace(s, split="test" if n % 5 == 0 else "train") for n, s in enumerate(read)))
    result = train(read, config(split__folds=3), cache=cache)
    assert {name: len(said) for name, said in result.predictions.items()} == {"validation": 48, "test": 12}
    assert sum(band.pictures for band in result.leakage.bands) == 16
