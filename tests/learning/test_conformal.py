"""Sets of classes: they hold the true one as often as they say, and are those of MAPIE."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from headstart.learning import conformal
from headstart.learning.conformal import SetRule

METHODS = ["lac", "aps"]


def honest(rows: int = 1000, classes: int = 12, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that are the very distribution the targets are drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, sharpness, (rows, classes))
    shares = np.exp(logits)
    targets = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return shares / shares.sum(axis=1, keepdims=True), targets


def covered(rule: SetRule, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return which pictures' sets hold their true class."""
    return rule.sets(probabilities)[np.arange(len(targets)), targets]


class Told(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are its probabilities."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.classes)

    def fit(self, X: np.ndarray, y: np.ndarray) -> Told:
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)


class NoChance(np.random.RandomState):
    """MAPIE takes a random part of the true class off its APS score; ours leaves that class out, the same every day."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.ones(size)


@pytest.mark.parametrize("method", METHODS)
def test_E7_mean_coverage_over_200_splits_is_what_was_asked_for(method: str):
    said, targets = honest(4000)
    level, size, generator = 0.9, 500, np.random.default_rng(1)
    shares = []
    for _ in range(200):
        order = generator.permutation(len(targets))
        rule = conformal.fit(said[order[:size]], targets[order[:size]], level=level, method=method)
        shares.append(covered(rule, said[order[size:]], targets[order[size:]]).mean())
    error = 3 * np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert level - error <= np.mean(shares) <= level + 1 / (size + 1) + error


@pytest.mark.parametrize("level", [0.55, 0.9, 0.99])
@pytest.mark.parametrize("method", METHODS)
def test_E7_sets_are_those_of_mapie(method: str, level: float):
    said, targets = honest(999)
    peer = SplitConformalClassifier(Told(12), level, conformity_score=method, prefit=True, random_state=NoChance(0))
    peer.conformalize(said[:500], targets[:500])
    _, wanted = peer.predict_set(said[500:], {"include_last_label": True})
    rule = conformal.fit(said[:500], targets[:500], level=level, method=method, fewest=501)
    certain = np.eye(12, dtype=bool)[said[500:].argmax(axis=1)]  # MAPIE's LAC leaves sets empty
    np.testing.assert_array_equal(rule.sets(said[500:]), wanted[:, :, 0] | certain)


@pytest.mark.parametrize(("size", "level", "wanted"), [(9, 0.9, 9), (99, 0.55, 55), (100, 0.55, 56), (10, 0.9, 10)])
def test_the_quantile_is_the_textbook_rank(size: int, level: float, wanted: int):
    doubt = np.random.default_rng(0).permutation(size) / 1000
    said = np.column_stack([1 - doubt, doubt])
    rule = conformal.fit(said, np.zeros(size, dtype=np.int64), level=level)
    assert rule.quantile == pytest.approx(np.sort(doubt)[wanted - 1])


@pytest.mark.parametrize("size", [0, 1, 8])
def test_too_few_pictures_give_every_class(size: int):
    said, targets = honest(size, classes=4)
    rule = conformal.fit(said, targets, level=0.9)
    assert rule.quantile == np.inf
    assert rule.sets(honest(20, classes=4)[0]).all()


def test_sets_that_say_nothing_are_told():
    said, targets = honest(9, classes=4)
    (told,) = conformal.findings(conformal.fit(said[:8], targets[:8], level=0.9))
    assert told.code == "sets-hold-everything"
    assert "fewer than 9" in told.message
    assert conformal.findings(conformal.fit(said, targets, level=0.9)) == []


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_numbers_are_left_aside(method: str):
    said, targets = honest(50)
    more = np.vstack([said, np.full((1, 12), np.nan)])
    assert conformal.fit(more, np.append(targets, 0), method=method) == conformal.fit(said, targets, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_the_most_probable_class_is_always_in_the_set(method: str):
    rule = SetRule(method, 0.5, 0.0)
    said, _ = honest(50)
    np.testing.assert_array_equal(rule.sets(said), np.eye(12, dtype=bool)[said.argmax(axis=1)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quantile", [0.8, np.inf])
def test_pictures_without_an_answer_have_an_empty_set(method: str, quantile: float):
    said, _ = honest(3)
    said[1] = np.nan
    np.testing.assert_array_equal(SetRule(method, 0.9, quantile).sets(said).any(axis=1), [True, False, True])


def test_lac_holds_the_classes_that_are_probable_enough():
    said = np.array([[0.5, 0.3, 0.2], [0.9, 0.06, 0.04]])
    np.testing.assert_array_equal(SetRule("lac", 0.9, 0.75).sets(said), [[1, 1, 0], [1, 0, 0]])


def test_aps_holds_the_classes_until_the_quantile_is_passed():
    said = np.array([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5], [0.05, 0.9, 0.05]])
    np.testing.assert_array_equal(SetRule("aps", 0.9, 0.7).sets(said), [[0, 1, 1], [1, 0, 1], [0, 1, 0]])


def test_sums_an_ulp_above_one_are_within_reach():
    said = np.array([[0.5, 0.3, 0.2 + 2e-16, 0.0]])
    assert np.cumsum(said).max() > 1
    targets = np.full(20, 3)  # the last class, said to be impossible
    assert conformal.fit(np.repeat(said, 20, axis=0), targets, method="aps").sets(said).all()


@pytest.mark.parametrize("method", METHODS)
def test_sets_of_sure_and_right_answers_are_small(method: str):
    said, targets = honest(8000, sharpness=15)
    rule = conformal.fit(said[:4000], targets[:4000], level=0.95, method=method)
    assert covered(rule, said[4000:], targets[4000:]).mean() == pytest.approx(0.95, abs=0.015)
    assert rule.sets(said).sum(axis=1).mean() < 1.5


@pytest.mark.parametrize("method", METHODS)
def test_a_set_does_not_depend_on_the_pictures_beside_it(method: str):
    said, targets = honest(300)
    rule = conformal.fit(said, targets, method=method)
    alone = np.vstack([rule.sets(row[None]) for row in said])
    np.testing.assert_array_equal(rule.sets(said), alone)


def test_a_higher_level_never_takes_a_class_away():
    said, targets = honest(400)
    low, high = (conformal.fit(said, targets, level=level, method="aps").sets(said) for level in (0.8, 0.95))
    assert (high >= low).all()
    assert high.sum() > low.sum()


def test_a_hard_class_is_covered_by_a_quantile_of_its_own():
    said, targets = honest(8000, classes=4)
    generator = np.random.default_rng(2)
    hidden = (targets == 3) & (generator.random(len(targets)) < 0.5)
    said[hidden] = said[hidden][:, [1, 3, 2, 0]]  # half of class 3 looks like another
    shared, own = (conformal.fit(said[:4000], targets[:4000], fewest=n) for n in (10_000, 200))
    rows = np.arange(4000, 8000)[targets[4000:] == 3]
    assert shared.by_class is None
    assert covered(shared, said[rows], targets[rows]).mean() < 0.85
    assert covered(own, said[rows], targets[rows]).mean() == pytest.approx(0.9, abs=0.03)


def test_classes_that_are_too_small_share_a_quantile():
    said, targets = honest(900, classes=3)
    rows = np.flatnonzero((targets != 2) | (np.cumsum(targets == 2) <= 199))
    rule = conformal.fit(said[rows], targets[rows])
    assert rule.by_class is not None
    assert rule.by_class[2] == rule.quantile
    assert rule.quantile not in rule.by_class[:2]


@pytest.mark.parametrize(("method", "level", "named"), [("raps", 0.9, "'raps'"), ("lac", 1.0, "1.0"), ("aps", 0, "0")])
def test_what_is_no_rule_is_refused_by_its_value(method: str, level: float, named: str):
    with pytest.raises(ValueError, match=f"cannot be {named}"):
        SetRule(method, level, 0.5)
