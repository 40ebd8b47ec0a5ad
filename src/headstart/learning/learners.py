"""The plan of a head → the learner that fits it."""

from __future__ import annotations

from pathlib import Path

from headstart.config import HeadPlan
from headstart.learning.epochs import SgdLearner
from headstart.learning.learner import Learner
from headstart.learning.linear import LogisticLearner
from headstart.learning.prior import LabelRows
from headstart.records import LabelledFeatures, Progress, silence


def build(
    features: LabelledFeatures,
    plan: HeadPlan,
    label_rows: LabelRows,
    seed: int,
    *,
    checkpoints: Path | None = None,
    progress: Progress = silence,
) -> Learner:
    """Return the learner of a plan.

    Args:
        features: To learn from.
        plan: Of the head.
        label_rows: For the prior.
        seed: Of folds, orders and first weights.
        checkpoints: Where epochs keep their state, so that a killed fit goes on; None: nowhere.
        progress: Hears of every fit.
    """
    linear = LogisticLearner(features, plan, label_rows, seed, progress)
    return SgdLearner(linear, checkpoints) if plan.in_epochs else linear
