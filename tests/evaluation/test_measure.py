"""Predictions with known labels: what is measured, what is refused, what is counted."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_folders, write_table

from headstart import arrays, metrics
from headstart.data import sources
from headstart.errors import DataError, StorageError
from headstart.evaluation import measure
from headstart.predictions import Predictions
from headstart.records import ClassNames, Dataset, Sample
from headstart.workflows.train import TrainingResult

CLASSES = ClassNames(["ash", "birch", "cedar"])


def said(answers: str, targets: str, errors: dict[int, str] | None = None) -> Predictions:
    """Return fairly sure predictions, each class by its first letter; `-` is a picture without a targets."""
    full = {name[0]: name for name in CLASSES}
    shares = 0.1 + 0.7 * np.eye(3)[[list(full).index(letter) for letter in answers]]
    shares[list(errors or {})] = np.nan
    names = tuple(f"{row}.png" for row in range(len(answers)))
    return Predictions(names, CLASSES, shares, errors or {}, tuple(full.get(letter) for letter in targets))


def test_the_figures_are_those_of_the_metrics():
    result = measure.measure(said("aabbcc", "aabbca"))
    wanted = metrics.overall_intervals(said("aabbcc", "").probabilities, np.array([0, 0, 1, 1, 2, 0]))
    assert {name: result.overall[name] for name in wanted} == wanted
    assert result.overall["accuracy"].value == pytest.approx(5 / 6)


def test_what_is_drawn_of_very_many_classes_lies_where_the_caller_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "ANSWERS", 0)
    measure.measure(said("aabbcc", "aabbca"), folder=tmp_path)
    with pytest.raises(StorageError, match="nowhere"):
        measure.measure(said("aabbcc", "aabbca"), folder=tmp_path / "nowhere")


def test_confusions_are_counted_by_given_label_and_listed_worst_first():
    result = measure.measure(said("abbbca", "aaaabb"))
    np.testing.assert_array_equal(result.confusion, [[1, 3, 0], [1, 0, 1], [0, 0, 0]])
    assert result.confused == (("ash", "birch", 3), ("birch", "ash", 1), ("birch", "cedar", 1))
    assert result.support.tolist() == [4, 2, 0]


def test_ten_thousand_classes_take_no_table_of_all_pairs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "RESAMPLES", 20)
    monkeypatch.setattr(measure, "ROUNDS", 10)
    generator = np.random.default_rng(0)
    classes, rows = ClassNames(f"{number:05d}" for number in range(10_000)), 1000
    truth = generator.integers(0, 10_000, rows)
    answers = np.where(generator.random(rows) < 0.7, truth, (truth + 1) % 10_000)
    shares = np.zeros((rows, 10_000), dtype=np.float32)
    shares[np.arange(rows), answers] = 1
    names = tuple(map(str, range(rows)))
    given = Predictions(names, classes, shares, targets=tuple(classes[k] for k in truth))
    tracemalloc.start()
    result = measure.measure(given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # the table of all pairs alone would be 800 MB
    assert result.cells[:, 2].sum() == rows
    assert result.overall["accuracy"].value == pytest.approx((answers == truth).mean())
    assert len(result.per_class) == len(np.unique(truth))


def test_classes_without_pictures_are_in_no_figure_per_class():
    result = measure.measure(said("abab", "abba"))
    assert list(result.per_class) == ["ash", "birch"]
    assert result.per_class["ash"]["recall"].value == 0.5


def test_failures_are_counted_and_in_no_figure():
    result = measure.measure(said("aabbcc", "aabbca", {5: "truncated"}))
    assert (result.pictures, result.failures) == (5, 1)
    assert result.overall["accuracy"].value == 1
    assert result.confusion.sum() == 5


def test_failures_do_not_change_the_other_rows():
    with_failure = measure.measure(said("aabbccb", "aabbcac", {6: "empty"}))
    without = measure.measure(said("aabbcc", "aabbca"))
    assert with_failure.overall == without.overall


def test_predictions_without_targets_cannot_be_measured():
    plain = said("ab", "ab")
    with pytest.raises(DataError, match="no labels"):
        measure.measure(Predictions(plain.names, CLASSES, plain.probabilities))


def test_predictions_that_all_failed_cannot_be_measured():
    with pytest.raises(DataError, match="None of the 2 pictures"):
        measure.measure(said("ab", "ab", {0: "empty", 1: "truncated"}))


def test_a_picture_without_label_among_labelled_ones_is_refused():
    with pytest.raises(DataError, match="None"):
        measure.measure(said("ab", "a-"))


@pytest.mark.parametrize("share", [1 / 3, 0.9])
def test_shuffled_labels_are_no_better_than_chance(share: float):
    generator = np.random.default_rng(0)
    letters = generator.choice(list("abc"), 300, p=[share, (1 - share) / 2, (1 - share) / 2])
    result = measure.measure(said("".join(letters), "".join(generator.permutation(letters))))
    (told,) = measure.findings(result)
    assert told.code == "no-better-than-chance"
    assert "guessing would be right 0." in told.message


def test_what_was_learned_is_better_than_chance_and_the_largest_class_alone_is_not():
    answers = "a" * 90 + "b" * 10
    assert measure.findings(measure.measure(said("a" * 80 + "b" * 20, answers))) == []  # right as often as all "a"
    assert measure.findings(measure.measure(said("a" * 100, answers))) != []
    assert measure.findings(measure.measure(said("aab", "aab"))) != []  # three pictures show nothing


def test_a_person_gets_one_line():
    given = said("aabbcc", "aabbca", {5: "truncated"})
    assert repr(given) == "Predictions(6 pictures, 3 classes, 1 could not be used)"
    assert repr(measure.measure(given)) == "Evaluation(5 pictures, 3 classes, accuracy 1.000 [0.566, 1.000])"
    one = Dataset(Path("photos"), (Sample(Path("1.png"), "1", "ash"),), layout="folders")
    assert repr(one) == str(one) == "Dataset(1 picture, 1 class, folders, 'photos')"


def test_refused_pictures_have_no_set_and_do_not_move_the_figures():
    plain = said("aabb", "aaba")
    judged = replace(plain, sets=plain.probabilities > 0.5, known=np.array([True, False, True, True]))
    assert [one.set for one in judged] == [("ash",), (), ("birch",), ("birch",)]
    overall = measure.measure(judged).overall
    assert (overall["coverage"].value, overall["set_size"].value, overall["refused"].value) == (0.75, 1, 0.25)


def test_B16_a_class_the_model_does_not_have_is_refused_with_both_lists(small_result: TrainingResult):
    dataset = Dataset(Path(), (Sample(Path("1.png"), "1", "ash"), Sample(Path("2.png"), "2", "oak")))
    with pytest.raises(DataError) as error:
        measure.evaluate(small_result.classifier, dataset)
    assert "'oak'" in error.value.message
    assert "'ash', 'birch', 'cedar'" in error.value.message
    assert error.value.hint


def test_B16_it_is_refused_before_any_picture_is_read(small_result: TrainingResult, tmp_path: Path):
    dataset = Dataset(tmp_path, (Sample(tmp_path / "none.png", "none", "oak"),))
    heard = []
    with pytest.raises(DataError, match="oak"):
        measure.evaluate(small_result.classifier, dataset, cache=tmp_path / "c", progress=lambda *_: heard.append(_))
    assert heard == []
    assert not (tmp_path / "c").exists()


def test_evaluate_predicts_and_measures(small_result: TrainingResult, tmp_path: Path):
    dataset = sources.read(draw_folders(tmp_path / "photos", ("ash", "cedar"), each=4))
    result = measure.evaluate(small_result.classifier, dataset)
    assert result.overall["accuracy"].value == 1
    assert result.support.tolist() == [4, 0, 4]
    assert result.classes == CLASSES


def test_unreadable_pictures_are_counted_not_measured(small_result: TrainingResult, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", ("ash", "cedar"), each=3)
    (photos / "ash" / "ash_01.png").write_bytes(b"")
    result = measure.evaluate(small_result.classifier, sources.read(photos))
    assert (result.pictures, result.failures, result.support.tolist()) == (5, 1, [2, 0, 3])


def test_copies_and_groups_are_one_in_the_intervals(small_result: TrainingResult, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", ("ash",), each=4) / "ash"
    (photos / "copy.png").write_bytes((photos / "ash_00.png").read_bytes())
    rows = [f"{file.stem},ash,{int(file.stem in ('ash_01', 'ash_02'))}" for file in sorted(photos.iterdir())]
    rows = [row if row.endswith("1") else row[:-1] for row in rows]
    table = write_table(tmp_path / "labels.csv", "id,label,group", *rows)
    groups = measure.predict_labelled(small_result.classifier, sources.read(photos, table)).groups
    assert groups[0] == groups[4]
    assert groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3
