"""None of these: scores that know the familiar, a rate that is kept, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headstart.learning import out_of_distribution
from headstart.learning.out_of_distribution import OF_LOGITS, SCORES, Score
from headstart.learning.prior import LabelRows

ELSEWHERE = -4 * np.eye(4, 12, dtype=np.float32).sum(axis=0)
FOREIGN = LabelRows(("elsewhere",), ELSEWHERE[None], -(ELSEWHERE @ ELSEWHERE)[None] / 2)  # a label that is no class


def drawn(rows: int = 400, classes: int = 4, seed: int = 0, apart: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features in as many clusters as classes, and the classes."""
    generator = np.random.default_rng(seed)
    targets = np.arange(rows) % classes
    centres = apart * np.eye(classes, 12)
    return (centres[targets] + generator.normal(size=(rows, 12))).astype(np.float32), targets


def logits(features: np.ndarray, classes: int = 4, apart: float = 4.0) -> np.ndarray:
    """Return those of the head that knows the clusters."""
    centres = apart * np.eye(classes, 12)
    return (features @ centres.T - (centres**2).sum(axis=1) / 2).astype(np.float32)


def strangers(rows: int = 200) -> np.ndarray:
    """Return features in a cluster that belongs to no class."""
    return (ELSEWHERE + np.random.default_rng(9).normal(size=(rows, 12))).astype(np.float32)


def rule(score: Score, refused: float = 0.05) -> out_of_distribution.OutOfDistributionRule:
    features, targets = drawn()
    rows = np.arange(len(targets))
    own = out_of_distribution.held_out(
        score, features, targets, rows, rows % 5, logits(features), rows, lambda _: FOREIGN
    )
    arrays = out_of_distribution.learn(score, features, targets, foreign=FOREIGN)
    return out_of_distribution.fit(score, refused, own, arrays)


@pytest.mark.parametrize("score", SCORES)
def test_strangers_are_refused_and_own_pictures_at_the_rate_that_was_asked_for(score: Score):
    fresh, foreign = drawn(2000, seed=1)[0], strangers()
    own, other = (rule(score).p_value(logits(values), values) for values in (fresh, foreign))
    assert (other < 0.05).mean() > 0.99
    assert (own < 0.05).mean() == pytest.approx(0.05, abs=0.03)  # 400 held-out scores: a deviation of 1.1 points


@pytest.mark.parametrize("score", SCORES)
def test_p_value_of_own_pictures_is_uniform(score: Score):
    fresh = drawn(4000, seed=2)[0]
    typical = np.sort(rule(score).p_value(logits(fresh), fresh))
    # 400 scores may be off by 0.07 by chance, and the folds had four fifths of the pictures to be near to
    assert np.abs(typical - np.linspace(0, 1, 4000)).max() < 0.15
    assert 0 < typical[0] <= typical[-1] < 1


@pytest.mark.parametrize("score", SCORES)
def test_a_row_does_not_depend_on_its_company(score: Score):
    fresh = drawn(300, seed=3)[0]
    whole = rule(score).p_value(logits(fresh), fresh)
    parts = [rule(score).p_value(logits(fresh[n : n + 1]), fresh[n : n + 1])[0] for n in (0, 17, 299)]
    np.testing.assert_array_equal(whole[[0, 17, 299]], parts)


def test_held_out_rows_are_scored_without_their_fold():
    features, targets = drawn(100)
    twins = np.concatenate([features, features])  # each row has a copy, in the same fold
    rows, fold = np.arange(200), np.tile(np.arange(100) % 5, 2)
    held = out_of_distribution.held_out(
        "neighbours", twins, np.tile(targets, 2), rows, fold, np.zeros((200, 4), np.float32), rows
    )
    known = out_of_distribution.familiarity(
        "neighbours", np.zeros((200, 4), np.float32), twins, out_of_distribution.learn("neighbours", twins, targets)
    )
    assert (held < known).all()


def test_what_belongs_to_a_held_out_row_is_not_learned_from_where_only_some_of_its_fold_are_held_out():
    features, targets = drawn(100)
    twins, rows, one = np.concatenate([features, features]), np.arange(100), np.zeros(50, dtype=np.int64)
    asked = ("neighbours", twins, np.tile(targets, 2), rows[:50], one, np.zeros((50, 4), np.float32))
    held = out_of_distribution.held_out(*asked, np.arange(200), groups=np.tile(rows, 2))
    others = np.append(np.arange(50, 100), np.arange(150, 200))
    np.testing.assert_array_equal(held, out_of_distribution.held_out(*asked, others))
    assert (held < out_of_distribution.held_out(*asked, np.arange(200))).all()


def fitted(features: np.ndarray) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
    """Return what "fits" the head that knows the clusters of the given classes."""
    return lambda rows, known: lambda values: logits(values)[:, known]


def test_compare_prefers_what_tells_classes_left_out():
    features, targets = drawn(600)
    areas = out_of_distribution.compare(features, targets, np.arange(600), fitted(features), 0, lambda *_: FOREIGN)
    assert set(areas) == set(SCORES)
    assert min(areas.values()) > 0.9


def test_compare_sees_that_a_score_knows_nothing():
    features, targets = drawn(600)
    blind = lambda rows, known: lambda values: np.zeros((len(values), len(known)), np.float32)  # noqa: E731
    areas = out_of_distribution.compare(features, targets, np.arange(600), blind, seed=0)
    assert areas["energy"] == pytest.approx(0.5)
    assert areas["neighbours"] > 0.8


def test_energy_is_the_logarithm_of_the_summed_exponentials():
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = out_of_distribution.familiarity("energy", values, np.zeros((5, 2), np.float32), {})
    np.testing.assert_allclose(found, np.log(np.exp(values.astype(float)).sum(axis=1)))


def test_labels_of_the_backbone_tell_what_the_logits_do_not():
    """A label that is no class, next to a class: the head knows no difference, the label does."""
    features, targets = drawn(600)
    near = (features[:200] + 4 * np.eye(12)[11]).astype(np.float32)  # as far along a direction that the head ignores
    beside = LabelRows(("near",), 8 * np.eye(12, dtype=np.float32)[11:], np.zeros(1, np.float32))
    arrays = out_of_distribution.learn("labels", features, targets, foreign=beside)
    for score, low, high in (("logit", 0.45, 0.55), ("labels", 0.95, 1)):
        own, other = (
            out_of_distribution.familiarity(score, logits(values), values, arrays) for values in (features, near)
        )
        assert low <= (own[:, None] > other).mean() <= high


@pytest.mark.parametrize("foreign", [None, LabelRows((), np.zeros((0, 12), np.float32), np.zeros(0, np.float32))])
def test_without_labels_of_the_backbone_there_is_no_such_score(foreign: LabelRows | None):
    features, targets = drawn()
    assert out_of_distribution.learn("labels", features, targets, foreign=foreign) == {}
    areas = out_of_distribution.compare(features, targets, np.arange(400), fitted(features), seed=0)
    assert set(areas) == set(SCORES) - {"labels"}


def test_mahalanobis_heeds_the_shape_of_the_clusters():
    """Along the direction in which pictures vary a step means little."""
    generator = np.random.default_rng(0)
    values = (generator.normal(size=(2000, 2)) * (10, 1)).astype(np.float32)
    arrays = out_of_distribution.learn("mahalanobis", values, np.zeros(2000, np.int64))
    along, across = out_of_distribution.familiarity(
        "mahalanobis", np.zeros((2, 1), np.float32), np.array([[8, 0], [0, 8]], np.float32), arrays
    )
    assert along > across


def test_few_held_out_pictures_refuse_nobody():
    few = out_of_distribution.fit("energy", 0.05, np.arange(10.0), {})
    assert few.p_value(np.full((1, 2), -99, np.float32), np.zeros((1, 2), np.float32))[0] > 0.05


@pytest.mark.parametrize(("count", "refused", "rate"), [(19, 0.05, 0), (20, 0.05, 0.05), (20, 0.01, 0), (1, 0.5, 0)])
def test_the_rate_is_the_one_that_can_be_held(count: int, refused: float, rate: float):
    few = out_of_distribution.fit("energy", refused, np.arange(float(count)), {})
    strangest = few.p_value(np.full((1, 2), -99, np.float32), np.zeros((1, 2), np.float32))[0]
    assert few.rate == rate
    assert (strangest < refused) == (rate > 0)
    assert [told.code for told in out_of_distribution.findings(few)] == ["refuses-nothing"] * (rate == 0)


@pytest.mark.parametrize("score", SCORES)
def test_no_held_out_score_is_no_rule(score: Score):
    features, targets = drawn(40)
    arrays = out_of_distribution.learn(score, features, targets, foreign=FOREIGN)
    for own in (np.zeros(0), np.full(3, np.nan), np.array([np.inf])):
        assert out_of_distribution.fit(score, 0.05, own, arrays) is None
    assert out_of_distribution.findings(None) == []


@pytest.mark.parametrize("score", SCORES)
def test_pictures_that_are_all_one_group_leave_nothing_to_learn_from(score: Score):
    features, targets = drawn(40)
    rows = np.arange(40)
    one = np.zeros(40, np.int64)
    own = out_of_distribution.held_out(score, features, targets, rows, one, logits(features), rows)
    assert np.isnan(own).all() == (score not in OF_LOGITS)
    assert out_of_distribution.learn(score, features[:0], targets[:0]) == {}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_pictures_of_a_class_that_are_all_alike_give_numbers(score: Score, rows: int):
    targets = np.arange(rows) % 2
    features = (100 * np.eye(2, 12, dtype=np.float32) + 1)[targets]
    arrays = out_of_distribution.learn(score, features, targets, foreign=FOREIGN)
    rule = out_of_distribution.fit(
        score, 0.05, out_of_distribution.familiarity(score, features[:, :2], features, arrays), arrays
    )
    fresh = np.vstack([features, np.full((1, 12), -7, np.float32), np.zeros((1, 12), np.float32)])
    assert np.isfinite([*rule.own, *rule.p_value(fresh[:, :2], fresh)]).all()
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_where_too_few_are_tried_to_leave_classes_out_nothing_is_compared():
    features, targets = drawn(4)
    never = lambda rows, known: pytest.fail("nothing to fit")  # noqa: E731
    assert out_of_distribution.compare(features, targets, np.arange(4), never, seed=0) == {}


def test_scores_are_those_of_plain_arithmetic():
    features, targets = drawn(300)
    fresh, nothing = drawn(50, seed=4)[0], np.zeros((50, 4), np.float32)
    arrays = out_of_distribution.learn("neighbours", features, targets)
    moved = (fresh - arrays["mean"]).astype(float)
    alike = np.sort(moved @ arrays["kept"].T / np.linalg.norm(moved, axis=1, keepdims=True), axis=1)
    found = out_of_distribution.familiarity("neighbours", nothing, fresh, arrays)
    np.testing.assert_allclose(found, alike[:, -10:].mean(axis=1), atol=1e-6)
    arrays = out_of_distribution.learn("mahalanobis", features, targets)
    apart = (fresh @ arrays["whitening"])[:, None] - arrays["means"]
    found = out_of_distribution.familiarity("mahalanobis", nothing, fresh, arrays)
    np.testing.assert_allclose(found, -np.linalg.norm(apart, axis=2).min(axis=1), atol=1e-5)


def test_the_grid_keeps_the_ranks_of_many_scores():
    own = np.random.default_rng(0).normal(size=20_000)
    many = out_of_distribution.fit("energy", 0.05, own, {})
    assert len(many.own) == out_of_distribution.GRID
    score = np.array([[np.quantile(own, 0.05)]], dtype=np.float32)
    assert many.p_value(score, np.zeros((1, 1), np.float32))[0] == pytest.approx(0.05, abs=2e-3)


def test_copies_of_what_was_learned_are_no_new_pictures_in_a_comparison():
    """Each picture twice: near to its copy, whatever class it is of, neighbours would know all of the new ones."""
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(size=(300, 12)), 2, axis=0).astype(np.float32)
    targets, rows, pairs = np.arange(600) // 2 % 4, np.arange(600), np.arange(600) // 2
    areas = [
        out_of_distribution.compare(features, targets, rows, fitted(features), seed=0, groups=groups)["neighbours"]
        for groups in (None, pairs)
    ]
    assert areas[0] > 0.6 > areas[1]
