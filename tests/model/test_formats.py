"""Models of every format, made by the code of their time, answer today as they did then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.model.artifact import FORMAT, load_classifier
from headstart.report import stored

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
sys.path.insert(0, str(ARTIFACTS))

import make  # noqa: E402

FORMATS = [f"v{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_of_every_format_answers_as_it_did(name: str, tmp_path: Path):
    answers = json.loads((ARTIFACTS / name / "answers.json").read_text(encoding="utf-8"))
    said = load_classifier(ARTIFACTS / name).predict_many(make.pictures(tmp_path))
    assert list(said.classes) == answers["classes"]
    np.testing.assert_allclose(said.probabilities, answers["probabilities"], atol=1e-5)
    for then, now in (("sets", said.sets), ("p_value", said.p_value), ("typicality", said.p_value)):
        if then in answers:
            np.testing.assert_allclose(now, answers[then], atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_says_which_it_is(name: str):
    assert json.loads((ARTIFACTS / name / "model.json").read_text(encoding="utf-8"))["format"] == int(name[1:])


@pytest.mark.parametrize("name", FORMATS)
def test_the_figures_of_every_format_are_read(name: str):
    assert stored.read_evaluation(ARTIFACTS / name)["validation"]["pictures"] == 16
    trust = stored.read_trust(ARTIFACTS / name)
    assert (trust is None) == (name == "v1")
    assert trust is None or trust["same_object"]["kept_together"] is False


@pytest.mark.parametrize("name", FORMATS[1:])
def test_a_run_of_every_format_can_be_gone_on_from(name: str):
    previous = stored.read_previous(ARTIFACTS / name)
    assert previous.classes == ("ash", "birch", "cedar", "elm")
    assert (len(previous.parts), len(previous.answers)) == (80, 16)
