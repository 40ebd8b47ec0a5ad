"""The layers of a classifier, in the order in which a picture passes them."""

from __future__ import annotations

import contracts
import torch

from headstart.model import layers
from headstart.workflows.train import TrainingResult


def test_the_layers_go_from_the_picture_to_the_probabilities(small_result: TrainingResult):
    rows = layers.layers(small_result.classifier)
    assert rows[0]["output"] == [1, 64, 64, 3]
    assert (rows[-2]["name"], rows[-2]["output"], rows[-2]["parameters"]) == ("head.linear", [1, 3], 1280 * 3 + 3)
    assert (rows[-1]["name"], rows[-1]["output"]) == ("calibration", [1, 3])


def test_the_layers_hold_every_parameter_once(small_result: TrainingResult):
    classifier = small_result.classifier
    wanted = sum(p.numel() for p in classifier.backbone.networks[0].module.parameters())
    wanted += sum(one.size for one in classifier.head.learned)
    assert sum(row["parameters"] for row in layers.layers(classifier)) == wanted + 1


def test_the_layers_of_several_networks_come_one_after_the_other():
    own, backbone = contracts.toy_classifier(), contracts.toys()
    names = [row["name"] for row in layers.layers(own)]
    order = ["preprocess.1", "backbone.1.conv1.0", "preprocess.2", "backbone.2.conv_stem", "features", "views"]
    assert [name for name in names if name in order] == order
    rows = {row["name"]: row for row in layers.layers(own)}
    assert rows["preprocess.2"]["output"] == [1, 48, 48, 3]
    assert (rows["features"]["output"], rows["views"]["type"]) == ([1, backbone.dim], "mean of original and mirror")
    wanted = sum(p.numel() for one in backbone.networks for p in one.module.parameters())
    wanted += sum(one.size for one in own.head.learned)
    assert sum(row["parameters"] for row in rows.values()) == wanted + 1


def test_looking_at_the_layers_leaves_the_network_as_it_was(small_result: TrainingResult):
    module = small_result.classifier.backbone.networks[0].module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert layers.layers(small_result.classifier) == layers.layers(small_result.classifier)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
