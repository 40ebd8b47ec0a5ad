"""The recipe: what it gives, what decides it, and that it can be repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, draw_folders, picture

from headstart.config import read_config
from headstart.data import sources
from headstart.encoding import cache as caches
from headstart.errors import DataError
from headstart.evaluation import showcase
from headstart.experiments import expectation, leakage
from headstart.learning import linear
from headstart.learning.heads import Head
from headstart.records import Dataset, Finding
from headstart.workflows import decide, resume
from headstart.workflows import train as workflow
from headstart.workflows.resume import PreviousRun
from headstart.workflows.train import TrainingResult

pytestmark = pytest.mark.slow  # trains, or kills what trains

Train = Callable[..., TrainingResult]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices are fitted faster without threads, above all where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train on Lite0 at 64 px; settings as dotted names. One cache for the module: most pictures are encoded once."""
    shared = tmp_path_factory.mktemp("cache")

    def call(dataset: Dataset, cache: Path = shared, **settings: object) -> TrainingResult:
        flags = {name.replace("__", "."): value for name, value in settings.items()}
        return workflow.train(dataset, read_config(None, flags=SMALL | {"split.folds": 0} | flags), cache=cache)

    return call


@pytest.fixture(scope="module")
def plain_result(train: Train, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """What `photos` give with the defaults."""
    return train(sources.read(draw_folders(tmp_path_factory.mktemp("plain") / "photos")))


@pytest.fixture(scope="module")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures with a split of their own: of every six one is validation and one is test."""
    dataset = sources.read(draw_folders(tmp_path_factory.mktemp("split") / "photos", each=18))
    parts = ("validation", "test", "train", "train", "train", "train")
    return replace(dataset, samples=tuple(replace(s, split=parts[row % 6]) for row, s in enumerate(dataset)))


@pytest.fixture(scope="module")
def split_result(split_photos: Dataset, train: Train) -> TrainingResult:
    """What training on them gives, with the refit."""
    return train(split_photos)


def same(one: Head, other: Head) -> bool:
    """Whether two heads are equal to the bit."""
    return np.array_equal(one.weight, other.weight) and np.array_equal(one.bias, other.bias)


def repaint(dataset: Dataset, rows: np.ndarray) -> None:
    """Overwrite these pictures with ones of another colour."""
    for row in rows:
        picture((250, 10, 10), 5000 + int(row)).save(dataset[row].path)


def relabelled(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Return the dataset with the labels of these rows moved to the next class."""
    samples, classes = list(dataset.samples), dataset.classes
    for row in rows:
        label = classes[(classes.index(samples[row].label) + 1) % len(classes)]
        samples[row] = replace(samples[row], label=label)
    return replace(dataset, samples=tuple(samples))


def found(result: TrainingResult, code: str) -> Finding:
    """Return the one finding with this code."""
    (finding,) = (f for f in result.findings if f.code == code)
    return finding


def test_small_problem_is_learned(small_result: TrainingResult):
    assert small_result.evaluation.overall["accuracy"].value == 1.0
    assert small_result.classifier.classes == ("ash", "birch", "cedar")


def test_validation_predictions_are_probabilities(small_result: TrainingResult):
    said = small_result.predictions["validation"]
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1)
    assert len(said) == 36  # each in its turn


def test_every_picture_measures_where_that_costs_little(photos: Path, train: Train, monkeypatch: pytest.MonkeyPatch):
    auto = {"split.folds": "auto"}
    result = train(sources.read(photos), **auto)
    assert sorted(result.predictions["validation"].names) == sorted(sample.name for sample in result.dataset)
    assert (result.plan.split.folds, len(result.splits.train), len(result.splits.validation)) == (5, 36, 0)
    told = result.classifier.provenance.training
    assert told["figures_of"] == "5 heads fitted the same way, each measured on pictures left out for it"
    monkeypatch.setattr(decide, "MOST_WORK", 36 * 3 * 1280 - 1)
    assert train(sources.read(photos), **auto).plan.split.folds == 0


def test_a_share_that_was_asked_for_is_held_out(photos: Path, train: Train):
    result = train(sources.read(photos), **{"split.folds": "auto", "split.validation": 0.5})
    assert (result.plan.split.folds, len(result.splits.validation)) == (0, 18)


def test_a_given_split_and_a_previous_run_that_held_out_a_share_are_kept(photos: Path, train: Train):
    auto = {"split.folds": "auto"}
    read = sources.read(photos)
    given = replace(
        read, samples=tuple(replace(s, split="test" if n % 4 == 0 else "train") for n, s in enumerate(read))
    )
    assert train(given, **auto).plan.split.folds == 0
    share = PreviousRun({"0" * 64: "validation"}, {}, read.classes, {})
    assert resume.heeded(share, read_config(None)).split.folds == 0
    assert resume.heeded(share, read_config(None, ["split.folds=3"])).split.folds == 3
    assert resume.heeded(replace(share, parts={"0" * 64: "train"}), read_config(None)).split.folds == "auto"


def test_no_row_is_in_two_parts_and_every_row_in_one(small_result: TrainingResult):
    parts = small_result.splits
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(rows.tolist()) == list(range(36))


def test_the_plan_has_decided_everything(small_result: TrainingResult):
    assert "auto" not in small_result.plan.to_toml()
    assert small_result.plan.pictures.size == 64


def test_E5_pixels_of_validation_pictures_decide_nothing(photos: Path, train: Train):
    dataset = sources.read(photos)
    clean = train(dataset, refit=False)
    repaint(dataset, clean.splits.validation)
    poisoned = train(dataset, refit=False)
    assert poisoned.evaluation.overall["accuracy"].value < 1
    assert same(clean.classifier.head, poisoned.classifier.head)
    assert clean.classifier.temperature == poisoned.classifier.temperature
    assert clean.classifier.provenance.training == poisoned.classifier.provenance.training


def test_E5_labels_of_validation_pictures_decide_nothing(split_photos: Dataset, train: Train):
    clean = train(split_photos, refit=False)
    poisoned = train(relabelled(split_photos, clean.splits.validation), refit=False)
    assert poisoned.evaluations["validation"].overall["accuracy"].value == 0
    assert same(clean.classifier.head, poisoned.classifier.head)
    assert clean.classifier.temperature == poisoned.classifier.temperature
    assert clean.classifier.provenance.training == poisoned.classifier.provenance.training


def test_E5_labels_of_validation_pictures_are_learned_in_the_refit_only(
    split_photos: Dataset, split_result: TrainingResult, train: Train
):
    poisoned = train(relabelled(split_photos, split_result.splits.validation))
    assert not same(split_result.classifier.head, poisoned.classifier.head)
    assert split_result.classifier.temperature == poisoned.classifier.temperature
    assert split_result.classifier.provenance.training == poisoned.classifier.provenance.training


def test_E6_labels_of_test_pictures_are_never_learned_from(
    split_photos: Dataset, split_result: TrainingResult, train: Train
):
    poisoned = train(relabelled(split_photos, split_result.splits.test))
    assert poisoned.evaluations["test"].overall["accuracy"].value == 0
    assert poisoned.evaluations["validation"].overall == split_result.evaluations["validation"].overall
    assert same(split_result.classifier.head, poisoned.classifier.head)
    assert split_result.classifier.temperature == poisoned.classifier.temperature


def test_E6_pixels_of_test_pictures_are_never_learned_from(
    split_photos: Dataset, split_result: TrainingResult, train: Train, tmp_path: Path
):
    shutil.copytree(split_photos.root, tmp_path / "photos")
    samples = tuple(replace(sample, path=tmp_path / "photos" / sample.name) for sample in split_photos)
    own = Dataset(tmp_path / "photos", samples)
    repaint(own, split_result.splits.test)
    poisoned = train(own)
    assert poisoned.evaluations["test"].overall["accuracy"].value < 1
    assert same(split_result.classifier.head, poisoned.classifier.head)
    assert split_result.classifier.temperature == poisoned.classifier.temperature


def test_E8_the_same_seed_gives_the_same_head_and_figures(photos: Path, train: Train, plain_result: TrainingResult):
    again = train(sources.read(photos), photos.parent / "a cache of its own")
    assert same(again.classifier.head, plain_result.classifier.head)
    assert again.evaluation.overall == plain_result.evaluation.overall
    assert again.classifier.provenance.data == plain_result.classifier.provenance.data
    said, before = (result.predictions["validation"].probabilities for result in (again, plain_result))
    np.testing.assert_array_equal(said, before)


def test_E8_another_seed_holds_out_other_pictures(photos: Path, train: Train, plain_result: TrainingResult):
    assert train(sources.read(photos), seed=1).splits.validation.tolist() != plain_result.splits.validation.tolist()


def test_E8_the_order_of_the_rows_decides_nothing(photos: Path, train: Train, plain_result: TrainingResult):
    dataset = sources.read(photos)
    other = train(dataset.select(np.random.default_rng(0).permutation(len(dataset))))
    assert other.classifier.provenance.data == plain_result.classifier.provenance.data
    assert same(other.classifier.head, plain_result.classifier.head)
    assert other.classifier.temperature == plain_result.classifier.temperature


def test_E8_the_order_of_the_rows_decides_no_figure(photos: Path, train: Train):
    dataset = sources.read(photos)
    noisy = relabelled(dataset, np.arange(0, len(dataset), 4))
    first = train(noisy)
    second = train(noisy.select(np.random.default_rng(0).permutation(len(noisy))))
    assert first.evaluation.overall == second.evaluation.overall


def test_E9_shuffled_labels_score_at_chance(train: Train, tmp_path: Path):
    dataset = sources.read(draw_folders(tmp_path / "photos", each=20))
    labels = np.random.default_rng(0).permutation(dataset.labels).tolist()
    shuffled = tuple(replace(sample, label=label) for sample, label in zip(dataset, labels, strict=True))
    accuracy = train(replace(dataset, samples=shuffled), split__validation=0.5).evaluation.overall["accuracy"]
    assert accuracy.low <= 1 / 3 <= accuracy.high
    assert accuracy.high < 0.8


def test_E3_identical_pictures_with_different_labels_are_left_out(photos: Path, train: Train):
    (photos / "birch" / "twin.png").write_bytes((photos / "ash" / "ash_00.png").read_bytes())
    result = train(sources.read(photos))
    assert found(result, "conflicting-duplicates").names == ("ash/ash_00.png (ash) = birch/twin.png (birch)",)
    assert result.classifier.provenance.data["pictures"] == 35


def test_E1_copies_never_stand_on_both_sides_of_the_split(photos: Path, train: Train):
    for file in sorted(photos.rglob("*.png")):
        file.with_stem(f"{file.stem}_copy").write_bytes(file.read_bytes())
    dataset = sources.read(photos)
    parts = train(dataset).splits
    learned, measured = ({dataset[row].path.read_bytes() for row in rows} for rows in (parts.train, parts.validation))
    assert measured
    assert not learned & measured


def test_B13_a_class_of_one_picture_is_learned_but_not_measured(photos: Path, train: Train):
    (photos / "elm").mkdir()
    picture((210, 70, 160), 7).save(photos / "elm" / "only.png")
    result = train(sources.read(photos))
    assert "elm" in result.classifier.classes
    assert "elm" not in result.evaluation.per_class
    assert found(result, "unmeasured-classes").names == ("elm",)
    assert result.classifier.predict(photos / "elm" / "only.png").label == "elm"


def test_B13_a_class_of_two_pictures_is_learned_and_measured(photos: Path, train: Train):
    (photos / "elm").mkdir()
    for seed in (9007, 9008):  # those of ash have the same noise in another colour
        picture((210, 70, 160), seed).save(photos / "elm" / f"{seed}.png")
    result = train(sources.read(photos))
    assert result.evaluation.support.tolist()[result.classifier.classes.index("elm")] == 1


def test_the_refit_learns_from_all_pictures_and_says_so(photos: Path, train: Train):
    told = train(sources.read(photos)).classifier.provenance.training
    assert told["refitted"] is True
    assert told["fitted_on"] == "36 training and validation pictures"
    assert told["figures_of"] == "the head fitted on the 30 training pictures"


def test_what_only_calibrated_is_learned_from_where_nothing_else_is_to_be_refitted_for(
    photos: Path, train: Train, monkeypatch: pytest.MonkeyPatch
):
    for name, few in (("MANY", 10), ("CHOSEN_BY", 6), ("APART", 2)):
        monkeypatch.setattr(linear, name, few)
    dataset = sources.read(photos)
    parts = ("test", *5 * ("train",))
    given = replace(dataset, samples=tuple(replace(one, split=parts[n % 6]) for n, one in enumerate(dataset)))
    told = train(given).classifier.provenance.training
    assert told["figures_of"] == "the head fitted on the 30 training pictures, 2 of them only to calibrate it"
    assert told["fitted_on"] == "30 training pictures"
    kept = train(given, refit=False).classifier.provenance.training
    assert kept["fitted_on"] == "30 training pictures, 2 of them only to calibrate it"


def test_what_only_calibrated_is_not_among_what_was_learned_from(
    photos: Path, train: Train, monkeypatch: pytest.MonkeyPatch
):
    for name, few in (("MANY", 10), ("CHOSEN_BY", 6), ("APART", 2)):
        monkeypatch.setattr(linear, name, few)
    told: dict[str, list[int]] = {}

    def heard(module: ModuleType, name: str, learned: Callable[..., list[np.ndarray]]) -> None:
        own = getattr(module, name)

        def call(*given: Any) -> Any:
            told[name] = [len(rows) for rows in learned(*given)]
            return own(*given)

        monkeypatch.setattr(module, name, call)

    heard(leakage, "bands", lambda fitted, measured, *rest: [measured.learned])
    heard(showcase, "find", lambda features, said, turns, *rest: [turns[0][1]])
    heard(expectation, "expect", lambda learner, turns, saved, groups: [turns[0].learned, saved])
    dataset = sources.read(photos)
    parts = ("test", *5 * ("train",))
    given = replace(dataset, samples=tuple(replace(one, split=parts[n % 6]) for n, one in enumerate(dataset)))
    train(given)
    assert told == {"bands": [28], "find": [28], "expect": [28, 30]}
    assert train(given, refit=False).expected is None
    assert told["expect"] == [28, 28]


def test_without_refit_the_saved_head_is_the_one_that_was_measured(photos: Path, train: Train):
    dataset = sources.read(photos)
    result = train(dataset, refit=False)
    told = result.classifier.provenance.training
    assert (told["refitted"], told["fitted_on"]) == (False, "30 training pictures")
    held = dataset.select(result.splits.validation)
    again = result.classifier.predict_many(held)
    np.testing.assert_array_equal(again.probabilities, result.predictions["validation"].probabilities)


def test_mirror_images_are_learned_from(photos: Path, train: Train, plain_result: TrainingResult):
    assert plain_result.plan.pictures.mirror is False
    mirrored = train(sources.read(photos), pictures__mirror=True)
    assert not same(mirrored.classifier.head, plain_result.classifier.head)


def test_without_mirror_images_none_are_encoded(photos: Path, train: Train):
    own = photos.parent / "a cache of its own"
    result = train(sources.read(photos), own, pictures__mirror=False)
    assert result.plan.pictures.mirror is False
    assert sum(state.rows for state in caches.survey(own)) == 2 * 36  # features and properties


def test_balanced_weights_give_a_rare_class_more_room(train: Train, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", ("ash", "birch"), each=24)
    for file in sorted((photos / "ash").iterdir())[4:]:
        file.unlink()
    options = {"head__l2": 10.0, "refit": False}
    plain, fair = (train(sources.read(photos), head__class_weight=kind, **options) for kind in ("none", "balanced"))
    biases = [result.classifier.head.bias for result in (plain, fair)]
    pictures = [photos / "ash" / "ash_00.png"]
    assert not np.array_equal(*biases)
    margins = [np.diff(one.classifier.head_logits(one.classifier.embed(pictures)))[0, 0] for one in (plain, fair)]
    assert margins[1] < margins[0]  # the other class's lead


def test_a_given_split_is_kept_and_both_parts_are_measured(split_photos: Dataset, split_result: TrainingResult):
    for name in ("train", "validation", "test"):
        rows = split_result.splits.part(name)
        assert {split_photos[row].split for row in rows} == {name}
        assert name == "train" or split_result.evaluations[name].pictures == len(rows)
    told = split_result.classifier.provenance
    assert told.data["parts"] == {"train": 36, "validation": 9, "test": 9}
    assert told.data["split"] == "data"
    assert told.training["fitted_on"] == "45 training and validation pictures"


def test_a_given_split_without_validation_reports_its_test_part(split_photos: Dataset, train: Train):
    samples = tuple(replace(s, split="test" if s.split == "test" else "train") for s in split_photos)
    result = train(replace(split_photos, samples=samples))
    assert list(result.evaluations) == ["test"]
    assert result.evaluation.pictures == 9
    assert result.classifier.provenance.training["refitted"] is False


def test_A2_corrupt_pictures_are_left_out_and_named(photos: Path, train: Train):
    (photos / "ash" / "ash_03.png").write_bytes(b"")
    whole = (photos / "birch" / "birch_05.png").read_bytes()
    (photos / "birch" / "birch_05.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cedar" / "cedar_01.png").write_bytes(b"no picture at all")
    result = train(sources.read(photos))
    named = [name for f in result.findings if f.code == "unusable-pictures" for name in f.names]
    assert [name.split(" ")[0] for name in sorted(named)] == [
        "ash/ash_03.png",
        "birch/birch_05.png",
        "cedar/cedar_01.png",
    ]
    assert result.classifier.provenance.data["pictures"] == 33


def test_A2_a_corrupt_picture_changes_nothing_else(photos: Path, train: Train, plain_result: TrainingResult):
    (photos / "ash" / "broken.png").write_bytes(b"no picture at all")
    assert same(train(sources.read(photos)).classifier.head, plain_result.classifier.head)


def test_a_class_whose_pictures_are_all_corrupt_is_no_class(photos: Path, train: Train):
    for file in (photos / "cedar").iterdir():
        file.write_bytes(f"no picture, {file.name}".encode())
    assert train(sources.read(photos)).classifier.classes == ("ash", "birch")


def test_B13_one_usable_class_is_refused_with_the_reason(photos: Path, train: Train):
    for file in (*(photos / "ash").iterdir(), *(photos / "birch").iterdir()):
        file.write_bytes(f"no picture, {file.name}".encode())
    with pytest.raises(DataError, match=r"one class only \('cedar'\).*\n- 24 picture"):
        train(sources.read(photos))


def test_too_few_pictures_to_choose_by_are_said_to_be(train: Train, tmp_path: Path):
    result = train(sources.read(draw_folders(tmp_path / "photos", each=4)))
    told = found(result, "too-few-to-choose")
    assert (told.severity, told.names) == ("warning", ("l2 0.03",))
    assert told.message.startswith("9 training pictures can be left out in folds")


def test_classes_the_backbone_knows_are_said_to_be(train: Train, tmp_path: Path):
    result = train(sources.read(draw_folders(tmp_path / "photos", ("whippet", "left shoe"), each=6)))
    assert found(result, "pre-training-overlap").names == ("whippet = whippet",)
    plain = train(sources.read(tmp_path / "photos"), head__prior="none")
    assert "the head starts from" not in found(plain, "pre-training-overlap").message


def test_the_history_ends_at_the_figures_of_the_head_that_was_measured(small_result: TrainingResult):
    last = small_result.history[-1]
    assert last.validation_accuracy == small_result.evaluation.overall["accuracy"].value
    assert len(small_result.history) >= 2
