"""The recipe: what it gives, what decides it, and that it can be repeated."""

from __future__ import annotations

import numpy as np

from headstart.training import TrainingResult


def test_small_problem_is_learned(small_result: TrainingResult):
    assert small_result.evaluation.overall["accuracy"].value == 1.0
    assert small_result.classifier.classes == ("ash", "birch", "cedar")


def test_validation_predictions_are_probabilities(small_result: TrainingResult):
    said = small_result.predictions["validation"]
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1)
    assert len(said) == 6
