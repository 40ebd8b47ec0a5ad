"""Whether further views are worth learning from, found out on pictures that were left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from shots import DIM, drawn, learner_of

from headstart.experiments import crops
from headstart.predictions import Interval


def test_views_that_show_more_of_a_class_win_and_those_of_others_do_not():
    known, _ = drawn(things=60, shots=1, spread=0.1)
    generator = np.random.default_rng(1)
    classes = 1.2 * np.eye(3, DIM)

    def gain(targets: np.ndarray) -> Interval:
        shown = np.stack([known.targets, *[targets] * 4], axis=1)  # the first view is always of the own class
        values = (classes[shown] + generator.normal(size=(60, 5, DIM))).astype(np.float32)
        told = crops.gain(learner_of(replace(known, values=values)), np.arange(60))
        assert told is not None
        return told

    assert gain(known.targets).high < 0
    assert gain((known.targets + 1) % 3).high > 0


def test_of_too_few_pictures_nothing_is_said():
    known, _ = drawn(things=6, shots=1, spread=0.1)
    assert crops.gain(learner_of(known), np.arange(6)) is None
