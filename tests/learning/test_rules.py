"""The rules together: what is made of logits, and what is told of rules that can do little."""

from __future__ import annotations

import numpy as np

from headstart.learning import calibration, conformal, out_of_distribution, rules
from headstart.learning.rules import PredictionRules


def fitted(rows: int) -> tuple[PredictionRules, np.ndarray, np.ndarray]:
    """Return rules, and the logits and targets of easy pictures that they were fitted to."""
    targets = np.arange(rows) % 4
    logits = (20 * np.eye(4)[targets] + np.random.default_rng(0).normal(size=(rows, 4))).astype(np.float32)
    scaled = calibration.fit(logits, targets, targets * 0)
    sets = conformal.fit(scaled.probabilities(logits), targets)
    own = out_of_distribution.familiarity("energy", logits, logits, {})
    return PredictionRules(scaled, sets, out_of_distribution.fit("energy", 0.05, own, {})), logits, targets


def test_rules_of_few_easy_pictures_tell_what_they_cannot_do():
    codes = [told.code for told in rules.findings(*fitted(8))]
    assert codes == ["bounded-confidence", "sets-hold-everything", "refuses-nothing"]
    assert [told.code for told in rules.findings(*fitted(200))] == ["bounded-confidence"]
    assert rules.findings(PredictionRules(), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) == []


def test_a_refused_picture_keeps_its_set_in_the_figures():
    made, logits, _ = fitted(200)
    applied = rules.apply(made, logits / 50, logits)
    assert not applied.known.any()
    assert applied.sets.any(axis=1).all()
