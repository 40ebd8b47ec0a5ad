"""Records as plain values: everything JSON can hold, nothing it cannot."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import ArtifactError
from headstart.learning.conformal import SetRule
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.learning.rules import PredictionRules
from headstart.predictions import Interval
from headstart.records import Finding, found
from headstart.report import redraw, summary
from headstart.workflows.train import TrainingResult


def test_an_evaluation_is_strict_json(small_result: TrainingResult):
    content = summary.of_evaluation(small_result.evaluation)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["pictures"] == 36
    assert content["overall"]["accuracy"][0] == 1


def test_every_figure_is_a_value_with_its_interval(small_result: TrainingResult):
    content = summary.of_evaluation(small_result.evaluation)
    for value, low, high in [
        *content["overall"].values(),
        *(v for k, v in content["per_class"]["ash"].items() if k != "pictures"),
    ]:
        assert low <= value <= high


def test_classes_have_their_number_of_pictures(small_result: TrainingResult):
    content = summary.of_evaluation(small_result.evaluation)["per_class"]
    assert {name: figures["pictures"] for name, figures in content.items()} == {"ash": 12, "birch": 12, "cedar": 12}


def test_a_figure_that_does_not_exist_is_null(small_result: TrainingResult):
    nothing = replace(small_result.evaluation, overall={"ece": Interval(np.nan, np.nan, np.inf)})
    assert summary.of_evaluation(nothing)["overall"] == {"ece": [None, None, None]}


def test_confusions_are_listed_with_their_names(small_result: TrainingResult):
    confused = replace(small_result.evaluation, confused=(("ash", "birch", 3),))
    wanted = [{"given": "ash", "predicted": "birch", "pictures": 3}]
    assert summary.of_evaluation(confused)["most_confused"] == wanted


def test_findings_keep_all_their_names_but_of_very_many(monkeypatch: pytest.MonkeyPatch):
    names = tuple(f"{k}.png" for k in range(500))
    (content,) = summary.of_findings([Finding("code", "warning", "text", names, "advice")])
    assert content == {
        "code": "code",
        "severity": "warning",
        "message": "text",
        "names": list(names),
        "unnamed": 0,
        "advice": "advice",
    }
    monkeypatch.setattr(summary, "MOST_NAMES", 300)
    (content,) = summary.of_findings([Finding("code", "warning", "text", names, unnamed=7)])
    assert (len(content["names"]), content["unnamed"]) == (300, 207)


def test_rules_that_have_too_few_pictures_are_said_to_do_nothing():
    rules = PredictionRules(
        sets=SetRule("lac", 0.9, math.inf),
        out_of_distribution=OutOfDistributionRule("energy", 0.05, (0.1, 0.2), 19),
    )
    told = summary._of_rules(rules, 7)
    assert "Sets list all 7 classes: there are too few" in summary.sets_line(told["sets"])
    assert summary.unknown_line(told["unknown"]).endswith("takes 20 held-out pictures, and there are 19")
    enough = replace(
        rules, sets=SetRule("lac", 0.9, 0.7), out_of_distribution=OutOfDistributionRule("energy", 0.05, (), 20)
    )
    told = summary._of_rules(enough, 7)
    assert summary.sets_line(told["sets"]) == "Sets (lac) are made to hold the true class of 90% of pictures"
    assert "made to refuse 5% of pictures" in summary.unknown_line(told["unknown"])


def test_nothing_of_a_report_needs_what_trained_it():
    rooms = ", ".join(f"headstart.report.{name}" for name in ("plots", "summary", "stored", "redraw", "card"))
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "False\n"


def test_a_run_is_drawn_again_from_its_folder_as_it_was(model_folder: Path, tmp_path: Path):
    redraw.redraw(model_folder, tmp_path)
    first, again = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (model_folder / "plots", tmp_path))
    assert first == again
    assert len(again) == 6


@pytest.mark.parametrize("name", ["evaluation.json", "trust.json", "model.json", "history.csv"])
def test_a_run_that_lacks_a_file_cannot_be_drawn_again(model_folder: Path, tmp_path: Path, name: str):
    for file in ("evaluation.json", "trust.json", "model.json", "history.csv"):
        shutil.copy(model_folder / file, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        redraw.redraw(tmp_path)


def test_what_is_expected_of_the_saved_model_is_told_as_an_estimate():
    told = {"accuracy": [0.889, 0.88, 0.897], "gain": [0.004, -0.001, 0.009]}
    line = summary.expected_line(told | {"learned_from": 100, "measured_heads_learned_from": 80})
    assert "learned from 100 pictures, those measured from 80" in line
    assert "estimated, not measured: accuracy 0.889 [0.880, 0.897], +0.4 points [-0.1, +0.9]" in line


def test_of_a_million_names_the_first_are_kept_and_all_are_counted():
    names = [f"{row}.jpg" for row in range(summary.MOST_NAMES + 1)]
    (told,) = summary.of_findings(found("small", "note", "{n} [picture is|pictures are] small", names))
    assert told["names"] == names[:-1]
    assert told["message"] == "100,001 pictures are small"
