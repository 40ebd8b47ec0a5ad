"""Suspects: wrong labels come first, copies that contradict each other before all, and the order of rows is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.evaluation.label_errors import Suspect, find_suspects
from headstart.records import ClassNames

CLASSES = ClassNames(["ash", "birch", "cedar"])


def drawn(count: int = 200, wrong: int = 10, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names, labels of which the first `wrong` are flipped, and probabilities that know the right ones."""
    rng = np.random.default_rng(seed)
    right = np.arange(count) % 3
    logits = rng.normal(0, 1, (count, 3)) + 8 * np.eye(3)[right]
    targets = right.copy()
    targets[:wrong] = (right[:wrong] + rng.integers(1, 3, wrong)) % 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [f"{row:03d}.jpg" for row in range(count)], targets, probabilities


def told(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_planted_flips_are_ranked_first_and_called_likely():
    names, targets, probabilities = drawn()
    suspects = find_suspects(names, targets, CLASSES, probabilities)
    assert {suspect.name for suspect in suspects[:10]} == set(names[:10])
    assert all(suspect.is_likely for suspect in suspects[:10])


def test_the_suggested_label_is_the_right_one():
    names, targets, probabilities = drawn()
    for suspect in find_suspects(names, targets, CLASSES, probabilities, most=10):
        row = names.index(suspect.name)
        assert (suspect.label, suspect.suggested) == (CLASSES[targets[row]], CLASSES[row % 3])


def test_the_order_of_the_rows_decides_nothing():
    names, targets, probabilities = drawn()
    copies = [[0, 30, 61], [5, 6]]
    order = np.random.default_rng(1).permutation(len(names))
    place = np.argsort(order).tolist()
    shuffled = find_suspects(
        [names[row] for row in order],
        targets[order],
        CLASSES,
        probabilities[order],
        near_duplicates=[[place[row] for row in group] for group in copies],
    )
    assert shuffled == find_suspects(names, targets, CLASSES, probabilities, near_duplicates=copies)


def test_equal_pictures_are_in_the_order_of_their_names():
    probabilities = told([0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0])
    suspects = find_suspects(["b", "a", "c", "d"], np.array([0, 0, 0, 1]), CLASSES, probabilities)
    assert [suspect.name for suspect in suspects] == ["a", "b"]


def test_the_confidence_is_that_of_the_suggested_label_against_the_given_one():
    probabilities = told([0.2, 0.6, 0.2], [0.1, 0.8, 0.1])
    (suspect, *_) = find_suspects(["a", "b"], np.array([0, 1]), CLASSES, probabilities)
    assert (suspect.label, suspect.suggested) == ("ash", "birch")
    assert suspect.confidence == pytest.approx(0.6 / (0.6 + 0.2))


@pytest.mark.parametrize(("row", "confidence"), [([0, 1, 0], 1.0), ([1, 0, 0], 0.0)])
def test_probabilities_of_nought_and_one_are_borne(row: list[float], confidence: float):
    (suspect,) = find_suspects(["a"], np.array([0]), CLASSES, told(row))
    assert suspect.confidence == pytest.approx(confidence)


def test_one_in_twenty_is_listed_of_clean_labels_but_none_is_called_likely():
    names, targets, probabilities = drawn(wrong=0)
    probabilities = 0.1 * probabilities + 0.9 * np.eye(3)[targets]
    suspects = find_suspects(names, targets, CLASSES, probabilities)
    assert len(suspects) == 10
    assert not any(suspect.is_likely for suspect in suspects)
    assert all(suspect.confidence < 0.5 for suspect in suspects)


def test_all_that_are_likely_are_listed_beyond_one_in_twenty():
    names, targets, probabilities = drawn(wrong=40)
    suspects = find_suspects(names, targets, CLASSES, probabilities)
    assert {suspect.name for suspect in suspects} >= set(names[:40])


def test_most_limits_the_list():
    assert len(find_suspects(*drawn()[:2], CLASSES, drawn()[2], most=3)) == 3


def test_the_label_of_the_fewer_copies_comes_first_whatever_the_model_says():
    names, targets, probabilities = drawn()
    copies = [[20, 23, 26]]  # of one class
    targets[23] = 0
    probabilities[20] = probabilities[23] = probabilities[26] = [0.9, 0.05, 0.05]
    suspect = find_suspects(names, targets, CLASSES, probabilities, near_duplicates=copies)[0]
    assert (suspect.name, suspect.label, suspect.suggested) == ("023.jpg", "ash", "cedar")
    assert suspect.is_likely
    assert suspect.duplicate_of == "020.jpg"


def test_the_probabilities_decide_between_as_many_copies():
    probabilities = told([0.1, 0.7, 0.2], [0.2, 0.7, 0.1], [0.9, 0, 0.1], [0, 0.9, 0.1])
    suspects = find_suspects(
        ["a", "b", "c", "d"], np.array([0, 1, 0, 1]), CLASSES, probabilities, near_duplicates=[[0, 1]]
    )
    assert suspects[0] == Suspect("a", "ash", "birch", pytest.approx(0.7 / 0.8), "b")


def test_copies_that_agree_are_not_suspected_but_named():
    names, targets, probabilities = drawn()
    suspects = find_suspects(names, targets, CLASSES, probabilities, near_duplicates=[[0, 100], [150, 153]])
    twins = {suspect.name: suspect.duplicate_of for suspect in suspects if suspect.duplicate_of}
    assert twins["000.jpg"] == "100.jpg"
    assert suspects[0].name == "000.jpg"  # contradicted by 100.jpg
    assert "150.jpg" not in twins


def test_a_copy_with_the_suggested_label_is_named_before_another():
    probabilities = np.full((4, 3), 1 / 3)
    suspects = find_suspects(
        list("abcd"), np.array([2, 0, 1, 1]), CLASSES, probabilities, near_duplicates=[[0, 1, 2, 3]]
    )
    assert [(s.name, s.suggested, s.duplicate_of) for s in suspects[:2]] == [("a", "birch", "c"), ("b", "birch", "c")]


def test_rows_that_no_model_has_judged_are_suspected_only_for_their_copies():
    names, targets, probabilities = drawn()
    probabilities[[0, 1, 2]] = np.nan
    suspects = find_suspects(names, targets, CLASSES, probabilities, near_duplicates=[[0, 99], [1, 100]])
    assert {suspect.name for suspect in suspects[:2]} == {"000.jpg", "001.jpg"}  # 99 and 100 contradict them
    assert [suspect.confidence for suspect in suspects[:2]] == [0.5, 0.5]
    assert "002.jpg" not in {suspect.name for suspect in suspects}


def test_labels_of_one_class_only_are_borne():
    suspects = find_suspects(["a", "b"], np.array([0, 0]), CLASSES, told([0.9, 0.1, 0], [0.2, 0.8, 0]))
    assert [(suspect.name, suspect.is_likely) for suspect in suspects] == [("b", False)]


def test_thousands_of_copies_of_one_picture_take_no_time_of_their_square():
    count = 5000
    names, targets = [f"{row:05d}" for row in range(count)], np.arange(count) % 3
    suspects = find_suspects(
        names, targets, CLASSES, np.full((count, 3), 1 / 3), near_duplicates=[list(range(count))], most=count
    )
    twins = {suspect.name: (suspect.suggested, suspect.duplicate_of) for suspect in suspects}
    assert len(twins) > 3000  # of the two classes that are outvoted
    for name, (suggested, twin) in twins.items():
        assert twin == next(one for one in names[CLASSES.index(suggested) :: 3] if one != name)
