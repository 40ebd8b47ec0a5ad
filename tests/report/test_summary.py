"""Records as plain values: everything JSON can hold, nothing it cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch

from headstart.records import Finding, Interval
from headstart.report import summary
from headstart.workflows.train import TrainingResult


def test_an_evaluation_is_strict_json(small_result: TrainingResult):
    content = summary.of_evaluation(small_result.evaluation)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["pictures"] == 6
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
    assert {name: figures["pictures"] for name, figures in content.items()} == {"ash": 2, "birch": 2, "cedar": 2}


def test_a_figure_that_does_not_exist_is_null(small_result: TrainingResult):
    nothing = replace(small_result.evaluation, overall={"ece": Interval(np.nan, np.nan, np.inf)})
    assert summary.of_evaluation(nothing)["overall"] == {"ece": [None, None, None]}


def test_confusions_are_listed_with_their_names(small_result: TrainingResult):
    confused = replace(small_result.evaluation, confused=(("ash", "birch", 3),))
    wanted = [{"given": "ash", "predicted": "birch", "pictures": 3}]
    assert summary.of_evaluation(confused)["most_confused"] == wanted


def test_findings_keep_all_their_names():
    names = tuple(f"{k}.png" for k in range(500))
    (content,) = summary.of_findings([Finding("code", "warning", "text", names, "advice")])
    assert content == {
        "code": "code",
        "severity": "warning",
        "message": "text",
        "names": list(names),
        "advice": "advice",
    }


def test_the_layers_go_from_the_picture_to_the_probabilities(small_result: TrainingResult):
    rows = summary.of_layers(small_result.classifier)
    assert rows[0]["output"] == [1, 64, 64, 3]
    assert (rows[-2]["name"], rows[-2]["output"], rows[-2]["parameters"]) == ("head.linear", [1, 3], 1280 * 3 + 3)
    assert (rows[-1]["name"], rows[-1]["output"]) == ("calibration", [1, 3])


def test_the_layers_hold_every_parameter_once(small_result: TrainingResult):
    classifier = small_result.classifier
    wanted = sum(p.numel() for module in (classifier.backbone.module, classifier.head) for p in module.parameters())
    assert sum(row["parameters"] for row in summary.of_layers(classifier)) == wanted + 1


def test_looking_at_the_layers_leaves_the_network_as_it_was(small_result: TrainingResult):
    module = small_result.classifier.backbone.module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert summary.of_layers(small_result.classifier) == summary.of_layers(small_result.classifier)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
