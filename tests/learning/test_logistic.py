"""The head: logistic regression as scikit-learn means it, pulled towards a prior, repeatable to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import contracts
import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from headstart import arrays
from headstart.learning import calibration, logistic, prior
from headstart.learning import problem as problems
from headstart.learning.heads import Head
from headstart.learning.logistic import History, select_l2
from headstart.learning.prior import Prior
from headstart.learning.problem import Problem

CLASSES, FEATURES = 4, 12


def drawn(
    rows: int = 200, views: int = 1, seed: int = 0, spread: float = 1.5, shares: tuple[float, ...] = (0.25,) * 4
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (rows, views, FEATURES) of overlapping clouds far from the origin, and their classes."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(CLASSES, rows, p=shares)
    centres = generator.normal(0, 1, (CLASSES, FEATURES))
    features = centres[targets][:, None] + generator.normal(0, spread, (rows, views, FEATURES))
    return (3 + features * np.linspace(0.1, 4, FEATURES)).astype(np.float32), targets


def some_prior(seed: int = 5) -> Prior:
    """Return a prior that knows something of every class."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(0, 0.3, (FEATURES, CLASSES)).astype(np.float32)
    return Prior(weights, generator.normal(0, 1, CLASSES).astype(np.float32))


def problem(
    features: np.ndarray,
    targets: np.ndarray,
    known: Prior | None = None,
    *,
    rows: np.ndarray | None = None,
    **more: object,
) -> Problem:
    """Return the problem of these rows (all of them by default), without a prior by default."""
    rows = np.arange(len(features)) if rows is None else rows
    return Problem.of(features, rows, targets[rows], known or prior.none(FEATURES, CLASSES), **more)


def standardised(features: np.ndarray) -> np.ndarray:
    """Return all views, one a row, with mean 0 and deviation 1, in double precision."""
    flat = features.reshape(-1, FEATURES).astype(np.float64)
    return (flat - flat.mean(axis=0)) / flat.std(axis=0)


def scikit_learn(
    values: np.ndarray, targets: np.ndarray, l2: float, *, class_weight: str | None = None
) -> LogisticRegression:
    """Return scikit-learn's fit of the same problem, as exactly as it can."""
    c = 1 / (len(values) * l2)
    return LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight=class_weight).fit(values, targets)


def probabilities(head: Head, features: np.ndarray) -> np.ndarray:
    """Return what the head says of the first view."""
    return calibration.Calibration().probabilities(head.logits(np.ascontiguousarray(features[:, 0])))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices are fitted faster without threads, above all where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let L-BFGS run until float32 gives no more."""
    monkeypatch.setattr(problems, "TOLERANCE", 1e-13)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("l2", [1.0, 0.03, 0.001])
def test_the_fit_is_that_of_scikit_learn(l2: float):
    features, targets = drawn()
    values = standardised(features)
    wanted = scikit_learn(values, targets, l2).predict_proba(values)
    own = problem(features, targets)
    np.testing.assert_allclose(probabilities(own.head(own.fit(l2, iterations=5000)), features), wanted, atol=5e-4)


def test_the_usual_tolerance_is_close_to_the_exact_fit():
    features, targets = drawn()
    values = standardised(features)
    wanted = scikit_learn(values, targets, 0.03).predict_proba(values)
    own = problem(features, targets)
    np.testing.assert_allclose(probabilities(own.head(own.fit(0.03)), features), wanted, atol=0.02)


@pytest.mark.usefixtures("exact")
def test_each_view_counts_as_a_row():
    features, targets = drawn(views=2)
    wanted = scikit_learn(standardised(features), np.repeat(targets, 2), 0.01).predict_proba(standardised(features))
    own = problem(features, targets)
    np.testing.assert_allclose(probabilities(own.head(own.fit(0.01)), features), wanted[::2], atol=5e-4)


@pytest.mark.usefixtures("exact")
def test_balanced_weights_are_those_of_scikit_learn():
    features, targets = drawn(shares=(0.7, 0.2, 0.06, 0.04))
    values = standardised(features)
    wanted = scikit_learn(values, targets, 0.02, class_weight="balanced").predict_proba(values)
    own = problem(features, targets, balanced=True)
    said = probabilities(own.head(own.fit(0.02)), features)
    np.testing.assert_allclose(said, wanted, atol=5e-4)
    plain = problem(features, targets)
    assert np.abs(probabilities(plain.head(plain.fit(0.02)), features) - wanted).max() > 0.1


@pytest.mark.usefixtures("exact")
def test_leaving_a_fold_out_is_fitting_the_other_rows():
    features, targets = drawn(views=2)
    fold = np.random.default_rng(1).integers(-1, 3, len(targets))
    own = problem(features, targets, fold=fold)
    kept = np.repeat(fold != 1, 2)
    wanted = scikit_learn(standardised(features)[kept], np.repeat(targets, 2)[kept], 0.05)
    said = probabilities(own.head(own.fit(0.05, leave_out=1)), features)
    np.testing.assert_allclose(said, wanted.predict_proba(standardised(features))[::2], atol=5e-4)


def test_what_was_left_out_does_not_matter():
    features, targets = drawn()
    fold = np.arange(len(targets)) % 4
    other = targets.copy()
    other[fold == 2] = (targets[fold == 2] + 1) % CLASSES
    first, second = (problem(features, labels, fold=fold) for labels in (targets, other))
    np.testing.assert_array_equal(first.fit(0.1, leave_out=2), second.fit(0.1, leave_out=2))
    assert (first.fit(0.1, leave_out=1) != second.fit(0.1, leave_out=1)).any()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("leave_out", [None, 1])
def test_the_fit_is_where_the_documented_objective_has_no_slope(balanced: bool, leave_out: int | None):
    features, targets = drawn(rows=120, shares=(0.4, 0.3, 0.2, 0.1))
    known, fold = some_prior(), np.arange(120) % 3
    values, scale = standardised(features), features.reshape(-1, FEATURES).astype(np.float64).std(axis=0)
    own = (1 / np.bincount(targets))[targets] if balanced else np.ones(120)
    own = np.where(fold == leave_out, 0, own) if leave_out is not None else own

    def objective(weights: np.ndarray) -> float:
        each = -log_softmax(values @ weights[:-1] + weights[-1], axis=1)[np.arange(120), targets]
        pull = weights[:-1] - known.weights * scale[:, None]
        return (own @ each) / own.sum() + 0.2 / 2 * (pull**2).sum()

    def slope(weights: np.ndarray) -> float:
        steps = 1e-5 * np.eye(weights.size).reshape(-1, *weights.shape)
        return max(abs(objective(weights + step) - objective(weights - step)) / 2e-5 for step in steps)

    given = problem(features, targets, known, balanced=balanced, fold=fold)
    assert slope(given.fit(0.2, leave_out=leave_out)) < 1e-4
    assert slope(given.start()) > 0.1


def test_a_strong_pull_gives_the_prior_back():
    features, targets = drawn()
    known = some_prior()
    own = problem(features, targets, known)
    head = own.head(own.fit(1e6))
    np.testing.assert_allclose(head.weight.T, known.weights, atol=1e-3)


def test_the_fit_begins_at_the_prior():
    features, targets = drawn()
    known = some_prior()
    own = problem(features, targets, known)
    said = own.head(own.start()).logits(np.ascontiguousarray(features[:, 0]))
    np.testing.assert_allclose(said, features[:, 0] @ known.weights + known.bias, atol=1e-3)


def test_a_weak_pull_forgets_the_prior():
    features, targets = drawn(rows=500, spread=3)
    heads_ = []
    for known in (prior.none(FEATURES, CLASSES), some_prior()):
        own = problem(features, targets, known)
        heads_.append(own.head(own.fit(1e-6, iterations=1000)))
    one, two = (probabilities(head, features) for head in heads_)
    assert np.abs(one - two).max() < 0.1


@pytest.mark.usefixtures("exact")
def test_where_the_fit_begins_does_not_decide_where_it_ends():
    features, targets = drawn()
    own = problem(features, targets, some_prior())
    elsewhere = np.random.default_rng(3).normal(0, 1, (FEATURES + 1, CLASSES))
    np.testing.assert_allclose(own.fit(0.1, start=elsewhere)[:-1], own.fit(0.1)[:-1], atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_problem_twice_gives_the_same_bits(threads: int):
    torch.set_num_threads(threads)
    features, targets = drawn(rows=700, views=2)
    first, second = (problem(features, targets, some_prior(), balanced=True) for _ in range(2))
    np.testing.assert_array_equal(first.fit(0.01), second.fit(0.01))


def test_only_the_rows_that_were_named_are_learned_from():
    features, targets = drawn()
    rows = np.arange(0, 200, 2)
    poisoned, labels = features.copy(), targets.copy()
    poisoned[1::2] = 1e6
    labels[1::2] = 0
    clean, other = problem(features, targets, rows=rows), problem(poisoned, labels, rows=rows)
    np.testing.assert_array_equal(clean.fit(0.1), other.fit(0.1))


def test_the_features_that_were_given_stay_as_they_are():
    features, targets = drawn()
    before = features.copy()
    problem(features, targets).fit(0.1)
    np.testing.assert_array_equal(features, before)


def test_a_constant_feature_does_no_harm():
    features, targets = drawn()
    flat = features.copy()
    flat[..., 3] = 7
    own = problem(flat, targets)
    said = probabilities(own.head(own.fit(0.01)), flat)
    assert np.isfinite(said).all()
    assert (said.argmax(axis=1) == targets).mean() > 0.6


@pytest.mark.parametrize("rows", [1, 3, 255, 256, 257, 600])
def test_the_logits_of_a_row_do_not_depend_on_its_company(rows: int):
    features = np.random.default_rng(0).normal(0, 1, (700, 333)).astype(np.float32)
    torch.manual_seed(0)
    head = contracts.head(333, 37)
    np.testing.assert_array_equal(head.logits(features[50 : 50 + rows]), head.logits(features)[50 : 50 + rows])


def test_logits_are_the_linear_map_and_no_rows_give_none():
    torch.manual_seed(0)
    head = contracts.head(20, 5)
    features = np.random.default_rng(0).normal(0, 1, (9, 20)).astype(np.float32)
    wanted = features @ head.weight.T + head.bias
    np.testing.assert_allclose(head.logits(features), wanted, atol=1e-5)
    assert head.logits(features[:0]).shape == (0, 5)


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_strength_is_the_best_of_a_scan_of_all(seed: int):
    features, targets = drawn(rows=150, seed=seed, spread=2.5)
    l2s = (10.0, 1.0, 0.1, 0.01, 0.001)
    own = problem(features, targets, fold=np.arange(150) % 5)
    losses = {l2: select_l2(own, (l2,)).scores[0][1] for l2 in l2s}
    chosen = select_l2(own, l2s)
    assert chosen.l2 == min(losses, key=losses.__getitem__)
    assert dict(chosen.scores)[chosen.l2] == pytest.approx(losses[chosen.l2], abs=1e-3)


def test_the_scan_meets_cases_at_both_ends_and_between():
    found = set()
    for seed, spread in ((0, 0.3), (0, 2.5), (0, 60.0)):
        features, targets = drawn(rows=150, seed=seed, spread=spread)
        found.add(select_l2(problem(features, targets, fold=np.arange(150) % 5), (10.0, 0.1, 0.001)).l2)
    assert len(found) >= 2


def test_the_out_of_fold_logits_are_those_of_heads_that_have_not_seen_the_row():
    features, targets = drawn(rows=60, spread=3)
    fold = np.arange(60) % 3
    own = problem(features, targets, fold=fold)
    chosen = select_l2(own, (0.1,))
    wanted = np.stack([own.head(own.fit(0.1, leave_out=int(fold[r]))).logits(features[[r], 0])[0] for r in chosen.rows])
    np.testing.assert_allclose(chosen.logits, wanted, atol=1e-3)
    assert sorted(chosen.rows.tolist()) == list(range(60))


def test_the_score_is_the_loss_at_the_best_temperature_of_the_out_of_fold_logits():
    features, targets = drawn(rows=90, spread=3)
    chosen = select_l2(problem(features, targets, fold=np.arange(90) % 3), (0.003,))
    _, loss = calibration.fit_temperature(chosen.logits, targets[chosen.rows])
    assert chosen.scores == ((0.003, pytest.approx(loss)),)


def test_rows_of_no_fold_are_learned_from_and_never_held_out():
    features, targets = drawn(rows=90)
    fold = np.where(np.arange(90) < 10, -1, np.arange(90) % 4)
    chosen = select_l2(problem(features, targets, fold=fold), (0.1,))
    assert sorted(chosen.rows.tolist()) == list(range(10, 90))


@pytest.mark.parametrize(("known", "usual"), [(None, logistic.DEFAULT_L2_ALONE), (1, logistic.DEFAULT_L2)])
def test_too_few_rows_choose_nothing(known: int | None, usual: float):
    features, targets = drawn(rows=20)
    own = problem(features, targets, some_prior() if known else None, fold=np.arange(20) % 5)
    chosen = select_l2(own, (10.0, 1.0, 0.1, 0.03))
    assert (chosen.l2, chosen.scores, len(chosen.rows)) == (usual, (), 20)  # enough to calibrate by


def test_too_few_rows_take_a_strength_that_was_asked_for():
    features, targets = drawn(rows=20)
    own = problem(features, targets, fold=np.arange(20) % 5)
    assert select_l2(own, (0.5,)).l2 == 0.5
    assert select_l2(own, (10.0, 0.5)).l2 in (10.0, 0.5)


def test_the_progress_of_the_choice_ends_complete():
    features, targets = drawn(rows=60)
    heard = []
    own = problem(features, targets, fold=np.arange(60) % 3)
    select_l2(own, (1.0, 0.1), progress=lambda stage, done, total: heard.append((done, total)))
    assert heard[-1][0] == heard[-1][1]
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert all(done <= total for done, total in heard)


def test_the_history_begins_at_the_prior_and_ends_at_the_fit():
    features, targets = drawn()
    rows, watched = np.arange(150), np.arange(150, 200)
    own = problem(features, targets, rows=rows)
    history = History(own, features, watched, targets[watched])
    head = own.head(own.fit(0.1, watch=history))
    said = probabilities(head, features)
    assert history.steps[0].train_loss == pytest.approx(np.log(CLASSES), abs=1e-6)
    assert history.steps[-1].train_loss == pytest.approx(-np.log(said[rows, targets[rows]]).mean(), abs=1e-4)
    assert history.steps[-1].validation_accuracy == (said[watched].argmax(axis=1) == targets[watched]).mean()


def test_a_history_without_watchers_says_so_with_nan():
    features, targets = drawn()
    history = History(problem(features, targets), features, np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert np.isnan(history.steps[0].validation_loss)
    assert np.isfinite(history.steps[0].train_loss)


def test_watching_changes_nothing():
    features, targets = drawn()
    own = problem(features, targets)
    history = History(own, features, np.arange(20), targets[:20])
    np.testing.assert_array_equal(own.fit(0.1, watch=history), own.fit(0.1))


@pytest.mark.parametrize("balanced", [False, True])
def test_rows_that_memory_does_not_hold_give_the_same_head_to_the_bit(monkeypatch: pytest.MonkeyPatch, balanced: bool):
    features, targets = drawn(200, views=2)
    fold = np.arange(len(targets)) % 3
    monkeypatch.setattr(arrays, "BLOCK", 16)
    monkeypatch.setattr(arrays, "NEAR", 50)

    def fitted() -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        own = problem(features, targets, fold=fold, balanced=balanced)
        return own.fit(0.1), *logistic.out_of_fold(own, 0.1)

    kept = fitted()
    monkeypatch.setattr(arrays, "RESIDENT", 0)
    read = fitted()
    np.testing.assert_array_equal(read[0], kept[0])
    np.testing.assert_array_equal(read[1], kept[1])
    np.testing.assert_array_equal(read[2], kept[2])


def test_blocks_are_all_rows_but_those_of_the_fold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "BLOCK", 16)
    monkeypatch.setattr(arrays, "NEAR", 50)
    monkeypatch.setattr(problems, "STRETCH", 70)
    features, targets = drawn(200, views=2)
    fold = np.arange(len(targets)) % 3
    own = problem(features, targets, fold=fold)
    for left_out in (None, 0, 1, 2):
        blocks = [block for stretch in own.stretches for block in own._blocks(stretch, left_out)]
        rows = np.concatenate([own.order[block] for block in blocks])
        assert sorted(rows.tolist()) == [
            row for row in range(len(targets)) if left_out is None or fold[row] != left_out
        ]
        assert max(block.stop - block.start for block in blocks) <= 16


def test_of_very_many_held_out_rows_some_choose(monkeypatch: pytest.MonkeyPatch):
    features, targets = drawn(200, views=2)
    fold = np.arange(len(targets)) % 2
    every = problem(features, targets, fold=fold)
    some = problem(features, targets, fold=fold, held=2 * 10 * every.classes)
    assert len(every.held_out_rows()) == len(targets)
    assert len(some.held_out_rows()) == 20
    weights, logits = logistic.out_of_fold(some, 0.1)
    assert logits.shape == (20, every.classes)
    whole = logistic.out_of_fold(every, 0.1)[1]
    place = {row: number for number, row in enumerate(every.held_out_rows().tolist())}
    np.testing.assert_array_equal(logits, whole[[place[row] for row in some.held_out_rows().tolist()]])


def test_what_is_constant_in_all_blocks_stays_constant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "BLOCK", 7)
    features, targets = drawn(100)
    features[:, 0, 0] = 1e4
    own = problem(features, targets)
    wide = features[:, 0].astype(np.float64)
    np.testing.assert_allclose(own.rows.mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(own.rows.deviation[1:], wide[:, 1:].std(axis=0), rtol=1e-5)
    assert own.rows.deviation[0] == pytest.approx(1e-6)
