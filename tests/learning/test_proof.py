"""Whether a fine-tuned network is better: paired, by groups, and not on the pictures that chose its epoch."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.learning import proof

PICTURES, CLASSES = 120, 4
TARGETS = np.arange(PICTURES) % CLASSES
ALONE = np.arange(PICTURES)


def said(strength: float, seed: int = 0) -> np.ndarray:
    """Return logits that know the classes so well."""
    noise = np.random.default_rng(seed).normal(0, 1, (PICTURES, CLASSES))
    return (noise + strength * np.eye(CLASSES)[TARGETS]).astype(np.float32)


def test_what_is_better_wins_with_an_interval_below_zero():
    proved = proof.prove(said(1), [said(1), said(2), said(3, seed=1)], TARGETS, ALONE, 0)
    assert proved.won
    assert proved.difference.low <= proved.difference.value <= proved.difference.high < 0
    np.testing.assert_allclose(proved.difference.value, proved.tuned - proved.frozen)
    assert proved.accuracy.value > 0.1
    assert str(proved).startswith("log-loss 0.")


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_is_no_better_does_not_win(strength: float):
    assert not proof.prove(said(1), [said(1), said(strength, seed=3)], TARGETS, ALONE, 0).won


def test_many_epochs_of_chance_do_not_win():
    chance = [said(0.0, seed) for seed in range(1, 16)]
    wins = [proof.prove(said(0.0, 100 + n), chance, TARGETS, ALONE, n).won for n in range(8)]
    assert sum(wins) <= 1  # the best of 15 on the pictures that choose is no better on the others


def test_an_overconfident_network_is_compared_at_its_own_temperature():
    assert proof.prove(said(1), [said(1), 20 * said(2)], TARGETS, ALONE, 0).won


def test_pictures_of_one_group_tell_less():
    epochs = [said(1), said(1.6, seed=2)]
    alone = proof.prove(said(1), epochs, TARGETS, ALONE, 0).difference
    grouped = proof.prove(said(1), epochs, TARGETS, ALONE // 6, 0).difference
    assert grouped.high - grouped.low != alone.high - alone.low


@pytest.mark.parametrize(("pictures", "groups"), [(29, 29), (120, 9)])
def test_too_little_tells_nothing(pictures: int, groups: int):
    family = ALONE[:pictures] % groups
    assert proof.prove(said(1)[:pictures], [said(3)[:pictures]], TARGETS[:pictures], family, 0) is None


@pytest.mark.parametrize("groups", [ALONE, ALONE // 5, np.where(ALONE < 100, 0, ALONE)], ids=["one", "five", "large"])
def test_folds_part_no_group_and_each_measures_something(groups: np.ndarray):
    fold = proof._folds(groups, 0)
    assert set(fold) == set(range(proof.FOLDS))
    assert all(len(set(fold[groups == group])) == 1 for group in groups)


def test_the_verdict_does_not_hang_on_how_folds_are_drawn():
    epochs = [said(1), said(1.5, seed=2)]
    values = [proof.prove(said(1), epochs, TARGETS, ALONE, seed).difference.value for seed in range(8)]
    assert np.std(values) < 0.02
