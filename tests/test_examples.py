"""The examples in docs/ run as written, and the estimator keeps scikit-learn's contract as far as pictures allow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_folders, write_table
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils import estimator_checks

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    importlib.import_module(name).main()


@pytest.mark.slow
def test_camera_trap_holds_whole_places_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run("camera_trap", monkeypatch)
    honest, careless = (float(line.split(": right on ")[-1].split(": ")[-1].split()[0]) for line in told(capsys)[:2])
    assert honest < careless


@pytest.mark.slow
def test_catalogue_learns_a_new_class(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run("catalogue", monkeypatch, photos, "cedar")
    before, after = told(capsys)[:2]
    assert before.startswith("Before: of 12 pictures of 'cedar'")
    assert after.endswith("on 3 classes.")


@pytest.mark.slow
def test_kaggle_dogs_ends_with_a_file_in_the_order_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    kaggle = tmp_path / "kaggle"
    draw_folders(tmp_path / "drawn")
    (kaggle / "train").mkdir(parents=True)
    rows = ["id,breed"]
    for file in sorted((tmp_path / "drawn").rglob("*.png")):
        rows.append(f"{file.stem},{file.parent.name}")
        Image.open(file).save(kaggle / "train" / f"{file.stem}.jpg")
    write_table(kaggle / "labels.csv", *rows)
    (kaggle / "test").mkdir()
    for name in ("f00d", "beef"):
        Image.open(file).save(kaggle / "test" / f"{name}.jpg")
    write_table(kaggle / "sample_submission.csv", "id,ash,birch,cedar", "f00d,0,0,0", "beef,0,0,0")
    run("kaggle_dogs", monkeypatch, kaggle, "--quality", "fast", "--out", tmp_path / "run")
    lines = (tmp_path / "run" / "submission.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,ash,birch,cedar"
    assert [line.split(",")[0] for line in lines[1:]] == ["f00d", "beef"]
    assert told(capsys)[0].startswith("Log-loss")


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def estimator_class() -> type:
    return importlib.import_module("estimator").HeadstartClassifier


@pytest.mark.slow
def test_scikit_learn_can_cross_validate_and_search(estimator_class: type, photos: Path):
    paths = sorted(photos.rglob("*.png"))
    labels = [{"ash": 30, "birch": 4, "cedar": 100}[path.parent.name] for path in paths]
    found = GridSearchCV(estimator_class(), {"quality": ["fast"]}, cv=2).fit(paths, labels)
    assert found.best_score_ > 0.8
    assert found.classes_.tolist() == [4, 30, 100]
    assert found.predict(paths[:2]).dtype == found.classes_.dtype
    said = found.predict_proba(paths)
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert found.score(paths, labels) > 0.8
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        found.predict_proba([paths[0], "nowhere.png"])


def test_what_does_not_fit_together_is_refused(estimator_class: type, photos: Path):
    paths = sorted(photos.rglob("*.png"))
    with pytest.raises(ValueError, match="one label a path"):
        estimator_class().fit(paths, ["a"])
    with pytest.raises(NotFittedError):
        estimator_class().predict(paths)


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
    ],
)
def test_the_checks_of_scikit_learn_that_need_no_table_of_numbers(estimator_class: type, check: str):
    getattr(estimator_checks, check)("HeadstartClassifier", estimator_class())
