"""A classifier: whatever engine runs it, a row depends on its own picture alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import contracts
import numpy as np
import pytest
from conftest import draw_folders

from headstart.errors import ConfigError, DataError, PictureError
from headstart.model.classifier import Classifier
from headstart.workflows.train import TrainingResult


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return sorted(draw_folders(tmp_path / "new", each=12).rglob("*.png"))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 not much of a JPEG")
    return path


@pytest.fixture
def classifier(small_result: TrainingResult) -> Classifier:
    return on("openvino-f32", small_result.classifier)


def on(engine: str, classifier: Classifier) -> Classifier:
    """The same classifier on another engine."""
    try:
        return replace(classifier, encoder=contracts.encoder(engine), backbone=contracts.lite0())
    except ConfigError as error:
        pytest.skip(str(error))  # no bf16 in this processor


@pytest.mark.parametrize("engine", contracts.ENGINES)
def test_classifier_keeps_the_contract(small_result: TrainingResult, pictures: list[Path], bad: Path, engine: str):
    contracts.check_classifier(on(engine, small_result.classifier), pictures, bad)


def test_classifier_is_right_and_names_its_classes(classifier: Classifier, pictures: list[Path]):
    said = classifier.predict_many(pictures)
    assert [one.label for one in said] == [path.parent.name for path in pictures]
    assert {name for name, _ in said[0].top} == {"ash", "birch", "cedar"}


def test_engines_agree_on_the_class(small_result: TrainingResult, pictures: list[Path]):
    labels = [
        [one.label for one in on(engine, small_result.classifier).predict_many(pictures)]
        for engine in ("torch-f32", "openvino-f32")
    ]
    assert labels[0] == labels[1]


@pytest.mark.parametrize("where", [0, 17, 36])
def test_A3_bad_picture_keeps_its_row_and_changes_no_other(
    classifier: Classifier, pictures: list[Path], bad: Path, where: int
):
    without = classifier.predict_many(pictures).probabilities
    said = classifier.predict_many([*pictures[:where], bad, *pictures[where:]])
    assert (said[where].path, said[where].status, said[where].label) == (str(bad), "error", None)
    assert np.delete(said.probabilities, where, axis=0).tobytes() == without.tobytes()


def test_A3_bad_pictures_alone_are_rows_too(classifier: Classifier, bad: Path, tmp_path: Path):
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    said = classifier.predict_many([bad, empty])
    assert [one.status for one in said] == ["error", "error"]
    assert said[1].error == "the file is empty"


def test_predict_raises_for_a_bad_picture(classifier: Classifier, bad: Path):
    with pytest.raises(PictureError, match=r"bad\.jpg: "):
        classifier.predict(bad)


def test_predict_takes_one_picture(classifier: Classifier, pictures: list[Path]):
    with pytest.raises(ConfigError, match="stands for 36 pictures"):
        classifier.predict(pictures[0].parent.parent)


def test_predict_of_a_missing_file_names_it(classifier: Classifier, tmp_path: Path):
    with pytest.raises((DataError, PictureError), match=r"nowhere\.png"):
        classifier.predict(tmp_path / "nowhere.png")


def test_embeddings_and_probabilities_of_bad_pictures_are_nan(classifier: Classifier, pictures: list[Path], bad: Path):
    embedded, probable = classifier.embed([pictures[0], bad]), classifier.predict_proba([pictures[0], bad])
    assert embedded.shape == (2, classifier.backbone.dim)
    assert probable.shape == (2, 3)
    for values in (embedded, probable):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


def test_cache_changes_no_prediction(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    plain = classifier.predict_many(pictures)
    for _ in range(2):
        cached = classifier.predict_many(pictures, cache=tmp_path / "cache")
        np.testing.assert_array_equal(cached.probabilities, plain.probabilities)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_without_a_cache_nothing_is_written(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    classifier.predict_many(pictures)
    assert sorted(tmp_path.rglob("*")) == before


def test_same_picture_twice_is_two_equal_rows(classifier: Classifier, pictures: list[Path]):
    said = classifier.predict_many([pictures[0], pictures[20], pictures[0]])
    np.testing.assert_array_equal(said.probabilities[0], said.probabilities[2])
    assert said[0] == said[2]
