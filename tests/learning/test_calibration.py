"""Temperature: one number that makes confidences honest and leaves the answers alone."""

from __future__ import annotations

import numpy as np
import pytest

from headstart import metrics
from headstart.learning import calibration
from headstart.learning.calibration import Calibration


def honest(rows: int = 4000, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax is the very distribution that the targets is drawn from."""
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


def test_no_other_temperature_has_a_smaller_loss():
    logits, targets = honest(rows=300)
    best, loss = calibration.fit_temperature(logits, targets)
    others = best * np.linspace(0.5, 2, 61)
    assert loss <= min(metrics.log_loss(Calibration(t).probabilities(logits), targets) for t in others) + 1e-7


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


def test_perfect_and_hopeless_logits_end_at_the_bounds():
    targets = np.arange(40) % 4
    surest, _ = calibration.fit_temperature(5 * np.eye(4, dtype=np.float32)[targets], targets)
    doubt, _ = calibration.fit_temperature(5 * np.eye(4, dtype=np.float32)[(targets + 1) % 4], targets)
    assert calibration.LOW <= surest < 1
    assert doubt == pytest.approx(calibration.HIGH, rel=0.01)


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


def test_too_few_rows_change_nothing():
    logits, targets = honest(rows=calibration.FEWEST - 1)
    assert calibration.fit(logits, targets, np.zeros(len(targets), int)) == Calibration()


@pytest.mark.parametrize(
    ("temperature", "factors", "offsets"),
    [(0, None, None), (float("nan"), None, None), (1, (1.0,), None), (1, (float("inf"),), (0.0,))],
)
def test_what_is_no_calibration_is_refused(temperature: float, factors: object, offsets: object):
    with pytest.raises(ValueError, match="temperature|vector scaling"):
        Calibration(temperature, factors, offsets)
