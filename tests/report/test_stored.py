"""What a training leaves for later commands comes back exactly, and is refused by name where it is damaged."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import ArtifactError
from headstart.model.artifact import load_classifier
from headstart.predictions import Predictions
from headstart.records import ClassNames
from headstart.report import card, plots, run, stored
from headstart.workflows.train import TrainingResult

RUN = Path(__file__).parents[1] / "artifacts" / "v3"
ODD = [
    "a",
    "A",
    " a",
    "path",
    "split",
    "label",
    "predicted",
    'q"uo,te',
    "two\nlines",
    "probability:a",
    "=1+1",
    "sha256",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(RUN, tmp_path / "model")


def predictions(classes: list[str], rows: int) -> Predictions:
    said = np.random.default_rng(0).dirichlet(np.ones(len(classes)), rows)
    targets = tuple(classes[row % len(classes)] for row in range(rows))
    return Predictions(tuple(f" {name}.png" for name in range(rows)), ClassNames(classes), said, targets=targets)


def test_classes_of_any_name_come_back(folder: Path):
    said = predictions(ODD, 20)
    stored.write_predictions(folder / "predictions.csv", {"validation": said})
    rows = "".join(f" {row}.png,x,validation,{row:064}\n" for row in range(20))
    (folder / "pictures.csv").write_text("path,label,split,sha256\n" + rows, encoding="utf-8")
    previous = stored.read_previous(folder)
    assert previous.classes == tuple(ODD)
    assert list(previous.answers.values()) == [ODD[k] for k in said.probabilities.argmax(axis=1)]


def test_predictions_are_written_row_by_row(tmp_path: Path):
    said = predictions([f"c{k}" for k in range(500)], 200)
    tracemalloc.start()
    stored.write_predictions(tmp_path / "predictions.csv", {"validation": said})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "predictions.csv").stat().st_size / 2


@pytest.mark.parametrize(
    "damage", ["", "path,split\n", "path,split,label,predicted,a\nx,y\n", 'path,split,label,predicted\n"']
)
def test_a_damaged_table_is_named(folder: Path, damage: str):
    (folder / "predictions.csv").write_text(damage, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"cannot be gone on from: .*predictions\.csv"):
        stored.read_previous(folder)


@pytest.mark.parametrize("name", ["evaluation.json", "trust.json"])
@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"validation": 1}', '{"similarity": 3}', "[" * 10**5, "NaN"])
def test_damaged_figures_are_an_error(folder: Path, name: str, text: str):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=name):
        stored.read_evaluation(folder) if name == "evaluation.json" else stored.read_trust(folder)


def test_every_damaged_figure_is_told(folder: Path):
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    content["validation"]["overall"]["accuracy"] = ["x", 1]
    content["validation"]["pictures"] = None
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"(?s)validation\.pictures is null.*validation\.overall\.accuracy"):
        stored.read_evaluation(folder)


def test_a_plot_or_card_that_fails_loses_no_model(
    small_result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no fonts")

    monkeypatch.setattr(plots, "confusion", broken)
    monkeypatch.setattr(card, "of", broken)
    with pytest.warns(
        UserWarning, match=r"plots/confusion\.png \(ValueError: no fonts\), README\.md \(ValueError: no fonts\)"
    ):
        run.save(small_result, tmp_path / "model")
    assert load_classifier(tmp_path / "model").classes == small_result.classifier.classes
    assert stored.read_previous(tmp_path / "model").classes == small_result.classifier.classes


def test_an_interrupt_while_plots_are_drawn_says_that_the_model_is_saved(
    small_result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(card, "of", interrupted)
    with pytest.warns(UserWarning, match="The model is saved in .*headstart report"), pytest.raises(KeyboardInterrupt):
        run.save(small_result, tmp_path / "model")
    assert load_classifier(tmp_path / "model").classes == small_result.classifier.classes
    assert not (tmp_path / "model" / "README.md").exists()
