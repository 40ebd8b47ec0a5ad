"""What a notebook shows of a session: it answers in place, is bounded, escaped, and drawn only when asked for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_folders
from test_page import HOSTILE, Tags

import headstart as hs
from headstart.evaluation import measure
from headstart.predictions import Prediction, Predictions
from headstart.records import ClassNames, Dataset, Sample
from headstart.report import notebook
from headstart.workflows.train import TrainingResult


def seen(thing: Any) -> Tags:
    """Return what a notebook shows, of what came through the front door."""
    assert hs.Dataset
    return Tags(thing._repr_html_())


def told(classes: list[str], rows: int = 20) -> Predictions:
    said = np.random.default_rng(0).dirichlet(np.ones(len(classes)), rows)
    targets = tuple(classes[row % len(classes)] for row in range(rows))
    return Predictions(tuple(f"{classes[0]}{row}.png" for row in range(rows)), ClassNames(classes), said, {}, targets)


def pictures(page: Tags) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in page.tags if tag == "img"]


def test_a_result_answers_in_a_sentence_with_figures_and_a_plot(small_result: TrainingResult):
    page = seen(small_result)
    assert "Right on 100 of 100 new pictures" in page.text
    assert str(small_result.evaluation.overall["accuracy"]) in page.text
    assert any(tag == "svg" for tag, _ in page.tags)
    assert "Trained on 36 pictures, 3 classes" in page.text


def test_a_dataset_shows_small_pictures_and_counts(tmp_path: Path):
    page = seen(hs.read(draw_folders(tmp_path / "photos", ("ash", "birch"), each=9)))
    assert "18 pictures, 2 classes" in page.text
    assert len(pictures(page)) == notebook.PICTURES
    assert {one["alt"] for one in pictures(page)} == {"ash", "birch"}
    assert all((one["src"] or "").startswith("data:image/webp;base64,") for one in pictures(page))


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    samples = (Sample(tmp_path / "a.png", "a.png", "ash"), Sample(tmp_path / "gone.png", "gone.png", "ash"))
    assert pictures(seen(Dataset(tmp_path, samples))) == []


def test_the_errors_of_a_result_are_shown_with_what_they_were_taken_for(small_result: TrainingResult):
    from headstart.evaluation.showcase import Mistake, Showcase

    shown = Showcase(errors=1, mistakes=(Mistake(0, (("cedar", 0.9), ("ash", 0.1)), 0.1, ()),))
    page = seen(dataclasses.replace(small_result, showcase=shown))
    assert [one["alt"] for one in pictures(page)] == [f"{small_result.dataset[0].label}, not cedar"]


def test_a_prediction_shows_its_best_classes(small_result: TrainingResult):
    page = seen(small_result.classifier.predict(small_result.dataset[0].path))
    assert f"{small_result.dataset[0].label}" in page.text
    assert sum(tag == "meter" for tag, _ in page.tags) == 3
    assert "could not be used" in seen(Prediction("a.png", "error", error="It is empty.")).text


def test_predictions_show_their_first_rows_and_how_many_more():
    page = seen(told(["ash", "birch"], 1000))
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + notebook.ROWS
    assert "990 more pictures" in page.text


def test_a_classifier_says_what_it_is(small_result: TrainingResult):
    page = seen(small_result.classifier)
    assert "Classifier of 3 classes" in page.text
    assert "ash, birch, cedar" in page.text
    assert str(small_result.classifier.rules.calibration) in page.text


def test_B11_hostile_names_are_shown_and_not_run(tmp_path: Path):
    draw_folders(tmp_path, ("ash",), each=1)
    samples = tuple(Sample(tmp_path / "ash/ash_00.png", name, name) for name in HOSTILE)
    said = told(HOSTILE)
    evaluation = measure.measure(said)
    for thing in (Dataset(tmp_path / "<script>", samples), said, said[0], evaluation):
        page = seen(thing)
        assert not [tag for tag, _ in page.tags if tag == "script"]
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert "\u202e" not in page.text
    assert "<script>alert(1)</script>" in seen(said).text


def test_ten_thousand_classes_stay_small():
    classes = [f"{'species ' * 30}{number}" for number in range(10_000)]
    samples = tuple(Sample(Path("nowhere"), name, name) for name in classes)
    for thing in (Dataset(Path(), samples), told(classes, 3)):
        assert len(thing._repr_html_()) < 30_000


@pytest.mark.slow
def test_only_who_asks_loads_what_draws():
    code = (
        "import sys; import headstart as hs; from pathlib import Path; import headstart.records as r; "
        "assert r.Dataset(Path(), ())._repr_html_() is None; hs.Dataset; "
        "assert not {'matplotlib', 'jinja2'} & sys.modules.keys(); "
        "assert 'headstart' in hs.Dataset(Path(), ())._repr_html_(); assert 'torch' not in sys.modules; print('light')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "light\n"
