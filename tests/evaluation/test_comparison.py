"""Two models on the same pictures: what is counted, how probable it is by chance, what is told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from headstart.evaluation import comparison
from headstart.evaluation.comparison import Change


def changes(lost: int, won: int, kept: int = 4, name: str = "ash", groups: np.ndarray | None = None):
    """Compare on pictures of one class: `kept` right both times, then the lost, then the won."""
    before = np.array([True] * (kept + lost) + [False] * won)
    after = np.array([True] * kept + [False] * lost + [True] * won)
    return comparison.compare(before, after, [name] * len(before), groups)


def joined(*parts: tuple[str, int, int]) -> tuple[Change, ...]:
    """Compare on ten pictures of each class, of which some are lost and some won."""
    before = np.concatenate([[True] * (10 - won) + [False] * won for _, _, won in parts])
    after = np.concatenate([[False] * lost + [True] * (10 - lost) for _, lost, _ in parts])
    return comparison.compare(before, after, [name for name, _, _ in parts for _ in range(10)])


@pytest.mark.parametrize(("lost", "won"), [(0, 1), (1, 5), (7, 7), (12, 3), (40, 71), (300, 420)])
def test_the_test_is_the_exact_binomial_one(lost: int, won: int):
    expected = binomtest(lost, lost + won, 0.5).pvalue
    assert changes(lost, won)[0].p_value == pytest.approx(expected)


def test_five_wins_without_a_loss_are_one_in_sixteen():
    assert changes(0, 5)[0].p_value == 2 * 0.5**5


def test_nothing_changed_is_no_evidence_at_all():
    every, ash = changes(0, 0)
    assert every.p_value == ash.adjusted == 1


def test_shares_and_counts_are_those_of_the_pictures():
    assert changes(1, 3, kept=4)[0] == Change("", 8, 5 / 8, 7 / 8, 1, 3, 0.625, 0.625)


def test_each_class_is_corrected_for_looking_at_all_by_hand():
    every, *classes = joined(("ash", 6, 0), ("birch", 7, 0), ("cedar", 0, 3))
    assert [change.name for change in classes] == ["birch", "ash", "cedar"]
    assert [change.p_value for change in classes] == [2 / 128, 2 / 64, 2 / 8]
    assert [change.adjusted for change in classes] == pytest.approx([3 * 2 / 128, 2 * 2 / 64, 2 / 8])
    assert every.adjusted == every.p_value


def test_a_corrected_value_is_never_below_that_of_a_smaller_one():
    _, *classes = joined(("ash", 6, 0), ("birch", 6, 0), ("cedar", 5, 0))
    assert [change.adjusted for change in classes] == pytest.approx([3 * 2 / 64, 3 * 2 / 64, 3 * 2 / 64])


def test_of_equals_the_worst_fall_comes_first():
    _, *classes = joined(("ash", 0, 5), ("birch", 5, 0), ("cedar", 0, 0))
    assert [change.name for change in classes] == ["birch", "ash", "cedar"]


def test_a_group_has_one_vote():
    every, _ = changes(1, 8, kept=0, groups=np.array([0, 1, 1, 1, 1, 2, 2, 3, 3]))
    assert (every.lost, every.won) == (1, 8)
    assert every.p_value == binomtest(1, 4, 0.5).pvalue


def test_a_group_that_lost_as_much_as_it_won_abstains():
    assert changes(1, 1, groups=np.zeros(6, dtype=np.int64))[0].p_value == 1
    assert changes(1, 3, kept=0, groups=np.array([0, 0, 1, 2]))[0].p_value == binomtest(0, 2, 0.5).pvalue


def test_classes_that_became_worse_are_named_and_those_that_became_better_are_not():
    told = {finding.code: finding for finding in comparison.findings(joined(("ash", 9, 0), ("birch", 0, 9)))}
    assert told["worse-classes"].names == ("ash",)
    assert told["worse-classes"].severity == "warning"
    assert told["worse-classes"].message.startswith("1 class")


def test_the_overall_change_is_one_sentence():
    (note,) = comparison.findings(changes(2, 30, kept=1648))
    assert note.severity == "note"
    assert note.message == "before 0.982, after 0.999 on the same 1,680 pictures, p = 2.5e-07"
