"""The layers of a classifier, in the order in which a picture passes them."""

from __future__ import annotations

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
    modules = (classifier.backbone.networks[0].module, classifier.head)
    wanted = sum(p.numel() for module in modules for p in module.parameters())
    assert sum(row["parameters"] for row in layers.layers(classifier)) == wanted + 1


def test_looking_at_the_layers_leaves_the_network_as_it_was(small_result: TrainingResult):
    module = small_result.classifier.backbone.networks[0].module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert layers.layers(small_result.classifier) == layers.layers(small_result.classifier)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
