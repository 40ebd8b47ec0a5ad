"""The rules together: what is made of logits, and what is told of rules that can do little."""

from __future__ import annotations

from pathlib import Path

import contracts
import numpy as np

from headstart.learning import calibration, conformal, out_of_distribution, rules
from headstart.learning.learner import Fitted, OutOfFold
from headstart.learning.rules import PredictionRules
from headstart.records import ClassNames, Dataset, LabelledFeatures


def fitted(rows: int) -> tuple[PredictionRules, np.ndarray, np.ndarray]:
    """Return rules, and the logits and targets of easy pictures that they were fitted to."""
    targets = np.arange(rows) % 4
    logits = (20 * np.eye(4)[targets] + np.random.default_rng(0).normal(size=(rows, 4))).astype(np.float32)
    scaled = calibration.fit(logits, targets, targets * 0)
    sets = conformal.fit(scaled.probabilities(logits), targets)
    own = out_of_distribution.familiarity("energy", logits, logits, {})
    return PredictionRules(scaled, sets, out_of_distribution.fit("energy", 0.05, own, {})), logits, targets


def told(rows: int) -> list[str]:
    """Return the codes of what is told of rules that so many easy pictures gave."""
    made, logits, targets = fitted(rows)
    every = np.arange(rows)
    features = LabelledFeatures(Dataset(Path(), ()), logits[:, None], ClassNames("abcd"), targets, ())
    held = OutOfFold(every, targets * 0, logits)
    return [one.code for one in rules.findings(made, Fitted(contracts.head(4, 4), features, 1.0, held), every)]


def test_rules_of_few_easy_pictures_tell_what_they_cannot_do():
    assert told(8) == ["bounded-confidence", "sets-hold-everything", "refuses-nothing"]
    assert told(200) == ["bounded-confidence"]


def test_a_refused_picture_keeps_its_set_in_the_figures():
    made, logits, _ = fitted(200)
    applied = rules.apply(made, logits / 50, logits)
    assert not applied.known.any()
    assert applied.sets.any(axis=1).all()
