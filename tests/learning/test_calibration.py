"""Temperature: one number that makes confidences honest, leaves the answers alone, and claims no more than it saw."""

from __future__ import annotations

import numpy as np
import pytest

from headstart import metrics
from headstart.learning import calibration
from headstart.learning.calibration import Calibration


def honest(rows: int = 4000, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax is the very distribution that the targets are drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (rows, classes))
    noise = generator.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits + noise).argmax(axis=1)


@pytest.mark.parametrize("known", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_recovered(known: float):
    logits, targets = honest()
    found, _ = calibration.fit_temperature(logits * np.float32(known), targets)
    assert found == pytest.approx(known, rel=0.05)


def test_the_loss_is_that_of_the_calibrated_probabilities():
    logits, targets = honest()
    temperature, loss = calibration.fit_temperature(logits * 3, targets)
    assert loss == pytest.approx(metrics.log_loss(Calibration(temperature).probabilities(logits * 3), targets))


@pytest.mark.parametrize("rows", [30, 300])
def test_no_other_temperature_suits_better_where_one_row_in_n_and_two_is_wrong(rows: int):
    logits, targets = honest(rows)
    best, _ = calibration.fit_temperature(logits, targets)
    own = np.eye(6)[targets]
    next_best = np.eye(6)[np.where(own, -np.inf, logits).argmax(axis=1)]
    wanted = ((rows + 1) * own + next_best) / (rows + 2)
    loss = [-(wanted * np.log(Calibration(t).probabilities(logits))).sum() for t in best * np.linspace(0.5, 2, 61)]
    assert -(wanted * np.log(Calibration(best).probabilities(logits))).sum() <= min(loss) + 1e-6 * rows


def test_many_errors_leave_the_temperature_where_the_likelihood_has_it():
    logits, targets = honest(3000)
    best, loss = calibration.fit_temperature(logits, targets)
    others = [metrics.log_loss(Calibration(t).probabilities(logits), targets) for t in best * np.linspace(0.9, 1.1, 41)]
    assert loss <= min(others) + 1e-6


def test_the_answers_stay_as_they_are():
    logits, _ = honest()
    for temperature in (0.02, 0.7, 50.0):
        said = Calibration(temperature).probabilities(logits)
        np.testing.assert_array_equal(said.argmax(axis=1), logits.argmax(axis=1))


def test_overconfident_probabilities_become_honest():
    logits, targets = honest()
    temperature, _ = calibration.fit_temperature(logits * 4, targets)
    before, after = (metrics.ece(Calibration(t).probabilities(logits * 4), targets) for t in (1.0, temperature))
    assert before > 0.1
    assert after < before / 4


def test_rows_are_finite_and_sum_to_one_whatever_the_logits():
    said = Calibration(0.02).probabilities(np.array([[1e4, -1e4, 0], [0, 0, 0]], dtype=np.float32))
    np.testing.assert_allclose(said, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_perfect_logits_are_believed_as_far_as_their_number_allows_and_hopeless_ones_not_at_all():
    targets = np.arange(40) % 4
    surest, _ = calibration.fit_temperature(5 * np.eye(4, dtype=np.float32)[targets], targets)
    doubt, _ = calibration.fit_temperature(5 * np.eye(4, dtype=np.float32)[(targets + 1) % 4], targets)
    said = Calibration(surest).probabilities(5 * np.eye(4, dtype=np.float32)[targets])
    assert said.max(axis=1) == pytest.approx(41 / 42, abs=1e-4)
    assert doubt == pytest.approx(calibration.HIGH, rel=0.01)


def separable(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of four classes that are always right, their targets, and the logits half way to other classes."""
    generator, targets = np.random.default_rng(seed), np.arange(rows) % 4
    centres, spread = 20 * np.eye(4), generator.normal(0, 2, (rows, 4))
    moved = (targets + generator.integers(1, 4, rows)) % 4
    return centres[targets] + spread, targets, (centres[targets] + centres[moved]) / 2 + spread


@pytest.mark.parametrize("scaling", ["best", "temperature", "vector"])
@pytest.mark.parametrize("rows", [5, 20, 60, 120])
def test_easy_pictures_make_nobody_surer_than_their_number_allows(rows: int, scaling: str):
    logits, targets, shifted = separable(rows)
    rules = calibration.fit(logits, targets, np.arange(rows) % 5, scaling)
    assert 1 - 2.5 / (rows + 2) < rules.probabilities(logits).max(axis=1).mean() <= 1 - 0.9 / (rows + 2)
    said = rules.probabilities(shifted)
    assert metrics.accuracy(said, targets) < 0.75
    assert metrics.log_loss(said, targets) < 1.2  # 12 and more with the temperature 0.02 of the likelihood alone


def test_copies_are_one_picture():
    logits, targets, _ = separable(20)
    thrice, fold = np.tile(np.arange(20), 3), np.zeros(60, np.int64)
    once = calibration.fit(logits, targets, fold[:20])
    assert calibration.fit(logits[thrice], targets[thrice], fold, groups=thrice).temperature == pytest.approx(
        once.temperature
    )
    assert calibration.fit(logits[thrice], targets[thrice], fold).temperature < once.temperature


def test_too_few_errors_are_told_and_many_are_not():
    logits, targets, shifted = separable(120)
    (told,) = calibration.findings(logits, targets)
    assert told.code == "bounded-confidence"
    assert "0 of 120" in told.message
    assert "0.992" in told.message
    assert calibration.findings(shifted, targets) == []


def distorted(rows: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of which some classes are too loud and some too low."""
    logits, targets = honest(rows)
    return (logits * np.array([0.3, 0.3, 1, 1, 3, 3]) + np.array([2, -2, 0, 0, 1, -1])).astype(np.float32), targets


def test_vector_scaling_is_taken_where_classes_need_numbers_of_their_own():
    logits, targets = distorted()
    fold = np.arange(len(targets)) % 5
    best, plain = (calibration.fit(logits, targets, fold, scaling) for scaling in ("best", "temperature"))
    assert best.factors is not None
    assert len(best.factors) == len(best.offsets or ()) == 6
    fresh, answers = distorted()
    loss = [metrics.log_loss(rules.probabilities(fresh), answers) for rules in (best, plain)]
    assert loss[0] < loss[1] - 0.1


def test_one_number_is_taken_where_it_is_enough():
    logits, targets = honest()
    rules = calibration.fit(logits * 3, targets, np.arange(len(targets)) % 5)
    assert rules.factors is None
    assert rules.temperature == pytest.approx(3, rel=0.1)


def test_vector_scaling_of_honest_logits_changes_little():
    logits, targets = honest()
    rules = calibration.fit(logits, targets, np.arange(len(targets)) % 5, "vector")
    np.testing.assert_allclose(rules.factors, 1, atol=0.1)
    np.testing.assert_allclose(rules.offsets, 0, atol=0.1)


def test_a_class_that_one_half_lacks_leaves_the_temperature():
    logits, targets = distorted()
    fold = np.where(targets == 0, 0, np.arange(len(targets)) % 5)
    assert calibration.fit(logits, targets, fold).factors is None


@pytest.mark.parametrize("logits", [np.zeros((0, 6), np.float32), np.full((3, 6), np.nan, np.float32)])
def test_no_usable_rows_change_nothing(logits: np.ndarray):
    nothing = np.zeros(len(logits), np.int64)
    assert calibration.fit(logits, nothing, nothing) == Calibration()


def test_rows_that_are_not_finite_are_left_aside():
    logits, targets = honest(50)
    fold = np.zeros(51, np.int64)
    more = np.vstack([logits, np.full((1, 6), np.inf, np.float32)])
    assert calibration.fit(more, np.append(targets, 0), fold) == calibration.fit(logits, targets, fold[1:])


@pytest.mark.parametrize(
    ("temperature", "factors", "offsets"),
    [(0, None, None), (float("nan"), None, None), (1, (1.0,), None), (1, (float("inf"),), (0.0,))],
)
def test_what_is_no_calibration_is_refused(temperature: float, factors: object, offsets: object):
    with pytest.raises(ValueError, match="temperature|vector scaling"):
        Calibration(temperature, factors, offsets)


def test_the_largest_logits_of_float32_have_a_log_softmax():
    far = np.finfo(np.float32).max
    with np.errstate(all="raise", under="ignore"):
        found = calibration.log_softmax(np.array([[far, -far]], dtype=np.float32))
    np.testing.assert_array_equal(found, [[0, -2 * np.float64(far)]])


def test_of_very_much_that_was_held_out_some_calibrates(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 4, 20_000)
    logits = (3 * np.eye(4)[targets] + generator.normal(size=(20_000, 4))).astype(np.float32)
    whole = calibration.fit(logits, targets, targets * 0)
    monkeypatch.setattr(calibration, "HELD", 4 * 2000)
    some = calibration.fit(logits, targets, targets * 0, groups=np.arange(20_000))
    assert some.temperature != whole.temperature
    assert some.temperature == pytest.approx(whole.temperature, rel=0.1)
