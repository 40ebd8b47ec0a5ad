"""Networks side by side: names, what they were pre-trained to tell apart, and the text that asks for them again."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import contracts
import numpy as np
import pytest

from headstart.encoding import backbone as backbones
from headstart.encoding import pretrained, stages
from headstart.encoding.backbone import Backbone
from headstart.encoding.network import Network
from headstart.errors import BackboneError, ConfigError
from headstart.learning import prior
from headstart.learning.prior import LabelRows
from headstart.records import ClassNames


def knowing(first: list[str], second: list[str]) -> Backbone:
    """Two networks of 4 and 3 features that were pre-trained on some meanings each: `crane.n` is one called crane."""
    networks = []
    for number, (dim, meanings) in enumerate(((4, first), (3, second)), start=1):
        rows = np.arange(len(meanings) * dim, dtype=np.float32).reshape(len(meanings), dim) + number
        offsets = np.arange(len(meanings), dtype=np.float32) * 2 + number
        labels = tuple(one.partition(".")[0] for one in meanings)
        own = contracts.toys().networks[0]
        networks.append(Network("own", own.build, dim, own.preprocess, {}, "", labels, rows, offsets, tuple(meanings)))
    return Backbone(tuple(networks))


def test_the_features_of_several_networks_stand_side_by_side():
    own = contracts.toys()
    assert own.name == "test_resnet@64+test_efficientnet@48"
    assert own.dim == sum(one.dim for one in own.networks)
    assert repr(own) == f"Backbone(test_resnet at 64 px + test_efficientnet at 48 px, {own.dim} features)"


def test_a_network_alone_is_what_it_was():
    one = contracts.lite0().networks[0]
    own = Backbone((one,))
    assert (own.name, own.dim, own.labels) == (one.name, one.dim, one.labels)
    assert own.rows is one.rows
    assert own.offsets is one.offsets


def test_rows_are_divided_by_the_networks_that_have_any():
    own = knowing(["ash", "birch"], ["birch", "ash"])
    first, second = own.networks
    assert own.labels == ("ash", "birch")
    np.testing.assert_array_equal(own.rows, np.hstack([first.rows, second.rows[::-1]]) / 2)
    np.testing.assert_array_equal(own.offsets, (first.offsets + second.offsets[::-1]) / 2)


def test_a_network_without_labels_has_zeros_and_the_others_are_not_divided_for_it():
    own = knowing(["ash", "birch"], [])
    np.testing.assert_array_equal(own.rows, np.hstack([own.networks[0].rows, np.zeros((2, 3))]))
    np.testing.assert_array_equal(own.offsets, own.networks[0].offsets)
    other = knowing([], ["ash"])
    np.testing.assert_array_equal(other.rows, np.hstack([np.zeros((1, 4)), other.networks[1].rows]))
    assert knowing([], []).labels == ()


def test_a_label_that_one_network_does_not_know_has_zeros_there():
    own = knowing(["ash"], ["ash", "cedar"])
    assert own.labels == ("ash", "cedar")
    np.testing.assert_array_equal(own.rows[1], [0, 0, 0, 0, *own.networks[1].rows[1] / 2])


def test_equal_names_of_different_things_are_not_put_together():
    own = knowing(["crane.bird", "crane.machine"], ["crane.poet", "crane.machine"])
    assert own.labels == ("crane", "crane", "crane")
    assert (own.rows.any(axis=1)).all()
    np.testing.assert_array_equal(own.rows[1], np.hstack([own.networks[0].rows[1], own.networks[1].rows[1]]) / 2)


def test_an_ambiguous_name_is_decided_once_by_the_sum_of_all_networks():
    own = knowing(["crane.bird", "crane.machine"], ["crane.bird", "crane.machine"])
    first = own.networks[0].rows
    features = np.hstack([first[:1] - first[1:], 100 * (own.networks[1].rows[1:] - own.networks[1].rows[:1])])
    rows = LabelRows(own.labels, own.rows, own.offsets)
    known = prior.match(ClassNames(["crane", "x"]), rows, features, np.zeros(1), np.zeros(1, np.int64))
    np.testing.assert_array_equal(known.weights[:, 0], own.rows[1])  # the first network alone would take the bird
    assert known.ambiguous == {"crane": 2}


def test_bundled_networks_know_the_same_thousand_things():
    own = backbones.load("lite0@64+lite1@64")
    assert len(own.labels) == 1000
    assert own.labels.count("crane") == 2
    np.testing.assert_array_equal(own.rows, np.hstack([one.rows for one in own.networks]) / 2)


def folder(place: Path) -> Path:
    """A network with its weights as timm's `save_for_hf` writes it."""
    place.mkdir()
    weights = contracts.toys().networks[0].module.state_dict()
    contracts.save_file(weights, place / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {"input_size": [3, 96, 96]}}
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("text", "size", "sizes", "again"),
    [
        ("lite0", 64, [64], "tf_efficientnet_lite0"),
        ("lite0@64", None, [64], "tf_efficientnet_lite0"),
        ("lite0@64", 80, [64], "tf_efficientnet_lite0"),
        ("lite0@64/1.0", None, [64], "tf_efficientnet_lite0@64/1.0"),
        ("lite0+local-dir:{}", 64, [64, 64], "tf_efficientnet_lite0@64+local-dir:{}@64"),
        ("local-dir:{}+lite0@64/0.5", None, [96, 64], "local-dir:{}@96+tf_efficientnet_lite0@64/0.5"),
    ],
)
def test_what_was_loaded_can_be_asked_for_again(
    tmp_path: Path, text: str, size: int | None, sizes: list[int], again: str
):
    place = folder(tmp_path / "a+b")
    text, again = text.format(place), again.format(place)
    own = backbones.load(text, size=size)
    assert [one.preprocess.size for one in own.networks] == sizes
    assert backbones.spelled(text, own) == again
    back = backbones.load(again, size=own.preprocess.size)
    assert [one.preprocess for one in back.networks] == [one.preprocess for one in own.networks]
    assert backbones.preprocessing(text, size) == tuple(one.preprocess for one in own.networks)


def test_the_same_network_by_two_names_is_refused():
    with pytest.raises(ConfigError, match="lite0@64 is tf_efficientnet_lite0, which would count twice"):
        backbones.load("lite0+lite0@64", size=64)


def test_an_unknown_name_among_several_is_answered_with_the_closest():
    with pytest.raises(BackboneError, match="no backbone 'lite9'.*The closest names:.*lite0"):
        backbones.load("lite0@64+lite9@64")


def test_the_crop_asked_for_is_the_network_s():
    own = pretrained.load("lite0", size=64, crop=0.5)
    assert own.preprocess == replace(contracts.lite0().preprocess, crop=0.5)
    assert own.digest == contracts.lite0().networks[0].digest


def test_a_retrained_network_knows_no_labels_and_stands_beside_the_one_that_does():
    frozen = pretrained.load("tf_efficientnet_lite0", "", size=64)
    trained = stages.retrained(frozen, copy.deepcopy(frozen.module))
    both = Backbone((trained, frozen))
    assert (trained.labels, trained.meanings, len(trained.rows)) == ((), (), 0)
    assert both.labels == frozen.labels
    np.testing.assert_array_equal(both.rows, np.pad(frozen.rows, ((0, 0), (trained.dim, 0))))
