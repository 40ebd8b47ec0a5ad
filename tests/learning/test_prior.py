"""Which class names the backbone knows, and what the head starts from."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from headstart import arrays
from headstart.encoding import backbone
from headstart.encoding.backbone import Backbone
from headstart.encoding.network import Network
from headstart.learning import prior
from headstart.records import ClassNames

LABELS = ("tench, Tinca tinca", "American robin, Turdus migratorius", "Cardigan, Cardigan Welsh corgi", "cardigan")


@functools.cache
def lite0() -> Backbone:
    """Return the smallest bundled backbone."""
    return backbone.load("lite0")


def matched(*names: str, features: np.ndarray | None = None, targets: np.ndarray | None = None) -> prior.Prior:
    """Return the prior of these classes, by default with three pictures each of nothing in particular."""
    targets = np.repeat(np.arange(len(names)), 3) if targets is None else targets
    features = np.ones((len(targets), lite0().dim), np.float32) if features is None else features
    return prior.match(ClassNames(names), known(lite0()), features, targets, np.arange(len(targets)))


def known(backbone: Backbone) -> prior.LabelRows:
    """Return the classifier that a backbone was pre-trained with."""
    return prior.LabelRows(backbone.labels, backbone.rows, backbone.offsets)


def row_of(label: str) -> int:
    """Return the row of the pre-trained classifier for a label."""
    return next(row for row, known in enumerate(lite0().labels) if known.startswith(label))


@pytest.mark.parametrize(
    "name",
    ["tench", "Tinca tinca", "TENCH", "tinca_tinca", "tinca-tinca", " Tinca  Tinca ", "fish/tench", "a/b/Tinca_tinca"],
)
def test_a_name_is_found_by_any_lemma_however_it_is_written(name: str):
    assert prior.candidates(ClassNames([name]), LABELS) == {name: [0]}


@pytest.mark.parametrize("name", ["tinca", "ten", "robin", "tench/other", "tenchs", "corgi", "", "-"])
def test_parts_of_a_lemma_are_no_match(name: str):
    assert prior.candidates(ClassNames([name]), LABELS) == {}


def test_a_name_of_several_labels_keeps_them_all():
    assert prior.candidates(ClassNames(["cardigan"]), LABELS) == {"cardigan": [2, 3]}


def test_the_whole_nested_name_comes_before_its_last_part():
    labels = ("robin", "birds/robin")
    assert prior.candidates(ClassNames(["birds/robin"]), labels) == {"birds/robin": [1]}


def test_a_matched_class_starts_from_the_pre_trained_row():
    known, row = matched("no such thing", "whippet"), row_of("whippet")
    np.testing.assert_array_equal(known.weights[:, 1], lite0().rows[row])
    assert known.bias[1] == lite0().offsets[row]
    assert known.matched == {"whippet": lite0().labels[row]}


def test_a_class_without_a_match_starts_from_zero():
    known = matched("no such thing", "whippet")
    assert not known.weights[:, 0].any()
    assert known.bias[0] == 0


def test_nothing_matched_is_the_prior_that_knows_nothing():
    known = matched("left shoe", "right shoe")
    assert known.weights.shape == (lite0().dim, 2)
    assert not known.weights.any()
    assert not known.bias.any()
    assert known.matched == known.ambiguous == {}


def test_a_prior_of_none_is_zeros():
    known = prior.none(5, 3)
    assert (known.weights.shape, known.bias.shape) == ((5, 3), (3,))
    assert not known.weights.any()


@pytest.mark.parametrize("meant", [0, 1])
def test_pictures_decide_what_an_ambiguous_name_means(meant: int):
    rows = prior.candidates(ClassNames(["crane"]), lite0().labels)["crane"]
    features = np.repeat(lite0().rows[rows[meant]][None], 4, axis=0)
    known = matched("crane", "something", features=features, targets=np.array([0, 0, 0, 1]))
    assert known.matched["crane"] == lite0().labels[rows[meant]]
    assert known.ambiguous == {"crane": 2}


def test_pictures_of_other_classes_do_not_decide():
    rows = prior.candidates(ClassNames(["crane"]), lite0().labels)["crane"]
    features = lite0().rows[[rows[1], rows[0], rows[0], rows[0]]]
    known = matched("crane", "something", features=features, targets=np.array([0, 1, 1, 1]))
    assert known.matched["crane"] == lite0().labels[rows[1]]


def test_a_backbone_without_labels_gives_no_prior():
    empty = np.zeros(0, np.float32)
    own = lite0().networks[0]
    plain = Backbone((Network("own", own.build, own.dim, own.preprocess, {}, "", (), empty, empty),))
    found = prior.match(
        ClassNames(["whippet", "tench"]),
        known(plain),
        np.ones((2, lite0().dim), np.float32),
        np.arange(2),
        np.arange(2),
    )
    assert not found.weights.any()
    assert found.matched == {}


def test_two_classes_may_have_the_same_label():
    known = matched("gray fox", "grey_fox")
    np.testing.assert_array_equal(known.weights[:, 0], known.weights[:, 1])
    assert known.weights.any()


def rest(names: str, features: np.ndarray, targets: list[int]) -> tuple[str, ...]:
    """Return the labels that none of the classes stands for, where label k has the k-th feature."""
    rows = prior.LabelRows(LABELS, np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    every = np.arange(len(targets))
    return prior.foreign(ClassNames(names.split()), rows, features.astype(np.float32), np.array(targets), every).labels


def test_labels_that_are_named_like_a_class_are_no_foreign_ones():
    pictures = np.eye(4)[[0, 0, 0, 2]]  # robins that look like tenches say nothing: a label is named like them
    assert rest("american_robin cardigan", pictures, [0, 0, 0, 1]) == (LABELS[0],)


def test_a_class_of_another_name_stands_for_what_a_fifth_of_its_pictures_look_like():
    assert rest("fish wool", np.eye(4)[[0, 0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 2]], [0] * 5 + [1] * 7) == (LABELS[2],)


def test_of_very_many_labels_few_pictures_are_scored_at_once(monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    take = arrays.take
    monkeypatch.setattr(arrays, "take", lambda values, rows: taken.append(len(rows)) or take(values, rows))
    monkeypatch.setattr(prior, "SCORED", 2 * len(LABELS))
    assert rest("fish wool", np.eye(4)[[0, 0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 2]], [0] * 5 + [1] * 7) == (LABELS[2],)
    assert taken == [2] * 6


def test_a_backbone_without_a_classifier_has_no_foreign_labels():
    two = np.arange(2)
    assert prior.foreign(ClassNames("ab"), prior.NO_LABELS, np.ones((2, 4), np.float32), two, two).labels == ()
