"""The plan of a head → the learner that fits it."""

from __future__ import annotations

from pathlib import Path

from headstart.learning.epochs import SgdLearner
from headstart.learning.learner import Learner
from headstart.learning.linear import LogisticLearner
from headstart.learning.prior import LabelRows
from headstart.learning.spread import Spread
from headstart.learning.tuner import FineTuneLearner, Tuning
from headstart.plans import HeadPlan
from headstart.records import LabelledFeatures, Progress, silence


def build(
    features: LabelledFeatures,
    plan: HeadPlan,
    label_rows: LabelRows,
    seed: int,
    *,
    checkpoints: Path | None = None,
    progress: Progress = silence,
    tuning: Tuning | None = None,
    spread: Spread | None = None,
) -> Learner:
    """Return the learner of a plan.

    Args:
        features: To learn from.
        plan: Of the head.
        label_rows: For the prior.
        seed: Of folds, orders and first weights.
        checkpoints: Where epochs keep their state, so that a killed fit goes on; None: nowhere.
        progress: Hears of every fit.
        tuning: How the networks are trained too, where they are.
        spread: Has other machines compute for linear heads of many pictures; None: this one does.
    """
    linear = LogisticLearner(features, plan, label_rows, seed, progress, spread)
    if tuning is not None:
        return FineTuneLearner(linear, tuning, checkpoints)
    return SgdLearner(linear, checkpoints) if plan.in_epochs else linear
