"""Held-out logits and targets → what a classifier makes of logits: probabilities, sets of classes, "none of these".

The three rules travel together: fitted on the same training pictures that the head had not learned from, saved in one
piece, applied in one call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.config import CalibrationConfig
from headstart.learning import calibration, conformal, out_of_distribution
from headstart.learning.calibration import Calibration
from headstart.learning.conformal import SetRule
from headstart.learning.learner import Fitted, Learner
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.records import Finding, Floats, Integers


@dataclass(frozen=True, slots=True)
class PredictionRules:
    """What is made of logits.

    Attributes:
        calibration: Logits → probabilities.
        sets: Probabilities → sets; None: nothing is said of sets.
        out_of_distribution: Features → "none of these"; None: nothing is ever refused.
    """

    calibration: Calibration = field(default_factory=Calibration)
    sets: SetRule | None = None
    out_of_distribution: OutOfDistributionRule | None = None

    def score_in(self, plan: CalibrationConfig) -> CalibrationConfig:
        """Return the plan with the score for "none of these" that was taken here."""
        rule = self.out_of_distribution
        return plan if rule is None else replace(plan, unknown=rule.score)


@dataclass(frozen=True, slots=True)
class Applied:
    """What was made of the logits of N pictures.

    Attributes:
        probabilities: (N, K).
        sets: (N, K) whether a class is in the picture's set; None without a rule. Of refused pictures too: the share of
            sets that hold the true class is promised for all of the model's own pictures, of which some are refused.
        p_value: (N,) in (0, 1), see `OutOfDistributionRule.p_value`; None without a rule.
        known: (N,) False for pictures that look like none of the classes; None without a rule.
    """

    probabilities: NDArray[np.float64]
    sets: NDArray[np.bool_] | None
    p_value: NDArray[np.float64] | None
    known: NDArray[np.bool_] | None


def apply_to(rules: PredictionRules, fitted: Fitted, rows: Integers, folder: Path | None = None) -> Applied:
    """Return what the rules make of some rows of a fit's features, block by block; `folder` as of `arrays.answers`."""
    seen, classes = fitted.embeddings(rows), fitted.head.shape.classes
    strange = rules.out_of_distribution is not None
    applied = Applied(
        arrays.answers((len(rows), classes), float, folder),
        None if rules.sets is None else arrays.answers((len(rows), classes), bool, folder),
        np.empty(len(rows)) if strange else None,
        np.empty(len(rows), dtype=bool) if strange else None,
    )
    for part, values in arrays.blocks(seen, rows):
        said = apply(rules, fitted.head.logits(values), values)
        for name in (column.name for column in fields(Applied)):
            if (whole := getattr(applied, name)) is not None:
                whole[part] = getattr(said, name)
                arrays.release(whole)
    return applied


def apply(rules: PredictionRules, logits: Floats, features: Floats) -> Applied:
    """Return what the rules make of logits (N, K) and features (N, D); each row depends on its own picture alone."""
    probabilities = rules.calibration.probabilities(logits)
    sets = None if rules.sets is None else rules.sets.sets(probabilities)
    if rules.out_of_distribution is None:
        return Applied(probabilities, sets, None, None)
    p_value = rules.out_of_distribution.p_value(logits, features)
    return Applied(probabilities, sets, p_value, p_value >= rules.out_of_distribution.refused)


def fit(
    learner: Learner, fitted: Fitted, train: Integers, groups: Integers, plan: CalibrationConfig
) -> PredictionRules:
    """Return the rules that the held-out training rows of a fit give.

    Args:
        learner: That fitted it, for the quick heads by which scores of "none of these" are compared.
        fitted: With what it says of held-out rows.
        train: Rows that were learned from, the held-out ones among them or not.
        groups: (N,) rows of one group are held out together where folds do not say it.
        plan: Methods and rates.
    """
    held, features = fitted.held, learner.features
    assert held is not None  # noqa: S101  # a refit has none, and no rules come of it
    targets = features.targets[held.rows]
    scaled = calibration.fit(held.logits, targets, held.fold, plan.scaling, groups[held.rows])
    sets = conformal.fit(scaled.probabilities(held.logits), targets, level=plan.level, method=plan.sets)
    return PredictionRules(scaled, sets, _fit_out_of_distribution(learner, fitted, train, groups, plan))


def _fit_out_of_distribution(
    learner: Learner, fitted: Fitted, train: Integers, groups: Integers, plan: CalibrationConfig
) -> OutOfDistributionRule | None:
    """Return the rule for "none of these", by the score that was asked for or that wins on classes left out."""
    asked, held, targets = plan.unknown, fitted.held, learner.features.targets
    if asked == "none" or held is None:
        return None
    values = fitted.embeddings(np.union1d(train, held.rows))
    foreign = partial(learner.foreign, of=fitted)
    if asked == "labels" and not len(foreign(train).weights):
        asked = "best"  # of networks that were trained further, or whose classifier is not known
    compared: dict[out_of_distribution.Score, float] = {}
    score: out_of_distribution.Score = "neighbours" if asked == "best" else asked  # works with few classes, no folds
    if asked == "best" and len(held.rows) and len(np.unique(targets[train])) >= out_of_distribution.FEWEST_CLASSES:
        compared = out_of_distribution.compare(
            values, targets, train, partial(learner.probe, of=fitted), learner.seed, foreign, groups
        )
        enough = max(compared.values(), default=0) - out_of_distribution.TIE
        score = next((name for name in compared if compared[name] >= enough), score)
    rows, fold, logits = held.rows, held.fold, held.logits
    if not len(rows) and score not in out_of_distribution.NEED_LOGITS:  # each group on its own, or of many a fiftieth
        fold = np.unique(groups[train], return_inverse=True)[1] % out_of_distribution.MOST_FOLDS
        rows, logits = train, np.zeros((len(train), 0), np.float32)
    if not len(rows):
        return None
    own = out_of_distribution.held_out(score, values, targets, rows, fold, logits, train, foreign, groups)
    beside = foreign(train) if score == "labels" else None
    known = out_of_distribution.learn(score, values, targets, train, learner.seed, beside)
    return out_of_distribution.fit(score, plan.refused, own, known, compared)


def carried(rules: PredictionRules, saved: Fitted, rows: Integers, seed: int) -> PredictionRules:
    """Return rules that were fitted to one network for another that was trained the same way on more pictures.

    What is known of features is learned anew; limits and temperature stay, as they do for a head that is fitted again.

    Args:
        rules: Of the network that was measured.
        saved: The other.
        rows: That it learned from.
        seed: Of the choice of pictures that are kept.
    """
    rule = rules.out_of_distribution
    if saved.tuned is None or rule is None or not rule.arrays:
        return rules
    known = out_of_distribution.learn(rule.score, saved.embeddings(rows), saved.features.targets, rows, seed)
    return replace(rules, out_of_distribution=replace(rule, arrays=known))


def findings(
    rules: PredictionRules, fitted: Fitted, groups: Integers, plan: CalibrationConfig | None = None
) -> list[Finding]:
    """Return what to know of rules: what they cannot do, since too little was held out or too few of it was wrong.

    Args:
        rules: What was fitted.
        fitted: With the held-out rows that they were fitted to.
        groups: (N,) rows of one group are one observation.
        plan: What they were to do; None: whatever they do.
    """
    held = fitted.held
    some = held is not None and len(held.rows)
    targets = fitted.features.targets
    return [
        *(calibration.findings(held.logits, targets[held.rows], groups[held.rows]) if held and some else []),
        *(conformal.findings(rules.sets) if rules.sets is not None else []),
        *out_of_distribution.findings(rules.out_of_distribution, "none" if plan is None else plan.unknown),
    ]
