"""Pictures and crops of them → does learning from the crops too tell pictures apart better that were left out?"""

from __future__ import annotations

import numpy as np

from headstart import metrics
from headstart.experiments import trying
from headstart.learning import calibration
from headstart.learning.learner import NOBODY, Learner
from headstart.predictions import Interval
from headstart.records import Integers


def gain(learner: Learner, groups: Integers) -> Interval | None:
    """Return what learning from all views instead of the first one adds to the log-loss, with a 95 % interval.

    Both answer the same pictures, of which they have learned from neither any view nor any of their groups; what is
    asked about is the first view. The penalty is that of the first view: with crops the same one won. None where too
    few pictures can be left out to tell.

    Args:
        learner: Of linear heads.
        groups: (N,) rows of one group are left out together.
    """
    rows = np.arange(len(groups))
    fitted = learner.fit(rows, NOBODY, groups)
    held = fitted.held
    if held is None or len(held.rows) < calibration.FEWEST:
        return None
    logits = np.empty_like(held.logits)
    for one in np.unique(held.fold):
        own = held.fold == one
        more = learner.refit(np.setdiff1d(rows, held.rows[own]), fitted.best)
        logits[own] = more.logits(held.rows[own])
    targets, members = learner.features.targets[held.rows], groups[held.rows]
    losses = [
        trying.losses(trying.calibrated(said, targets, held.fold, members), targets) for said in (held.logits, logits)
    ]
    return metrics.mean_interval(losses[1] - losses[0], members, seed=learner.seed)
