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
    chance = [said(0.0, seed) for seed in range(1, 40)]
    wins = [proof.prove(said(0.0, 100 + n), chance, TARGETS, ALONE, n).won for n in range(20)]
    assert sum(wins) <= 1  # the best of 39 on the pictures that choose is no better on the others


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


def test_halves_part_no_group_and_hold_something_each():
    for groups in (ALONE // 5, np.where(ALONE < 100, 0, ALONE), ALONE % 3):
        half = proof._half(groups, 0)
        assert 0 < half.sum() < PICTURES
        assert not set(groups[half]) & set(groups[~half])
