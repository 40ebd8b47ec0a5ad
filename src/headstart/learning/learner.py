"""Usable pictures with their features and labels, a plan → a head, the rules that go with it, and what is to be told.

The one place that knows that there are two ways to fit a head: to the end by L-BFGS, where folds of the training part
choose the l2 penalty, or in epochs, where a tenth of it stops them. Either way some training pictures were held out:
their logits give the calibration, the conformal sets and the rule for "none of these"; pictures that measure give none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import HeadPlan, Plan
from headstart.data import splits
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import FITS
from headstart.errors import ConfigError
from headstart.learning import calibration, conformal, logistic, out_of_distribution, prior, sgd
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.learning.prior import Prior
from headstart.learning.rules import PredictionRules
from headstart.records import ClassNames, Dataset, Finding, Floats, Integers, Progress, Splits, found, silence

WATCHED = 10  # one in so many training pictures is watched where epochs are stopped


@dataclass(frozen=True, slots=True)
class Material:
    """Usable pictures with all that a fit needs, row by row.

    Attributes:
        dataset: N samples.
        values: (N, V, D) features.
        classes: K names.
        targets: (N,) positions of their labels.
        digests: (N,) of their files.
        groups: (N,) rows of one group stay together.
        parts: Who learns and who measures.
    """

    dataset: Dataset
    values: Floats
    classes: ClassNames
    targets: Integers
    digests: tuple[str, ...]
    groups: Integers
    parts: Splits


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Training rows that a head of the same kind had not learned from, and what it says of them.

    Attributes:
        rows: (M,) rows of the material.
        fold: (M,) rows of one number were held out together.
        logits: (M, K).
    """

    rows: Integers
    fold: Integers
    logits: Floats


@dataclass(frozen=True, slots=True)
class Learned:
    """What the training part gave.

    Attributes:
        head: Fitted on the training part.
        rules: What turns its logits into probabilities, sets and "none of these".
        held: The training rows that gave the rules.
        history: Loss and accuracy along the fit.
        matched: Class → the backbone's label whose row it was pulled towards.
        told: For the provenance: `head`, one line, and the figures that decided.
        findings: What a person should know of it.
        best: The l2, or the number of epochs, with which more pictures are fitted the same way.
    """

    head: Head
    rules: PredictionRules
    held: HeldOut
    history: tuple[Step, ...]
    matched: Mapping[str, str]
    told: Mapping[str, Any]
    findings: tuple[Finding, ...]
    best: float


def learn(
    material: Material,
    backbone: Backbone,
    plan: Plan,
    *,
    cache: Path | None = None,
    begin: float | None = None,
    progress: Progress = silence,
    listen: Listener = ignore,
) -> Learned:
    """Fit a head on the training part.

    Args:
        material: Of all parts; validation and test are measured along the fit and decide nothing, unless the plan says
            that the validation part stops the epochs.
        backbone: For the prior.
        plan: What was decided.
        cache: Where epochs keep their state, so that a killed fit goes on; None: nowhere.
        begin: The l2 at which the search begins; it does not decide where it ends.
        progress: Hears how far it is.
        listen: Hears the figures of each step.

    Raises:
        ConfigError: The plan watches a validation part that there is not, or the fit diverged.
    """
    if plan.head.in_epochs:
        return _learn_in_epochs(material, backbone, plan, cache, progress, listen)
    return _learn_to_the_end(material, backbone, plan, begin, progress, listen)


def refit(
    material: Material,
    backbone: Backbone,
    plan: Plan,
    best: float,
    rows: Integers,
    progress: Progress = silence,
    *,
    views: int | None = None,
    begin: Head | None = None,
) -> Head:
    """Fit a head on these rows.

    Args:
        material: With features of all pictures.
        backbone: For the prior.
        plan: Of the head.
        best: The l2, or the epochs, that `learn` found best.
        rows: To learn from.
        progress: Hears of it.
        views: Of each picture, the first few; None: all.
        begin: A linear head that has learned from some of these rows, to save steps; it does not decide where they end.
    """
    progress("Refitting on all pictures", 0, 1)
    if plan.head.in_epochs:
        nothing = np.array([], dtype=np.int64)
        used = sgd.Rows(rows, nothing, nothing, until=int(best))
        values = material.values[:, :views]
        head = sgd.fit(values, material.targets, len(material.classes), used, plan.head, plan.seed).head
    else:
        problem = _problem(material, _prior(material, backbone, plan.head, rows), plan.head, rows, views=views)
        start = None if begin is None else problem.weights_of(begin)
        head = problem.head(problem.fit(best, start=start, iterations=plan.head.max_iterations))
    progress("Refitting on all pictures", 1, 1)
    return head


def out_of_fold(
    material: Material,
    backbone: Backbone,
    plan: Plan,
    rows: Integers,
    fold: Integers,
    *,
    tolerance: float | None = None,
    progress: Progress = silence,
) -> HeldOut:
    """Return what linear heads say of rows that they had not learned from.

    Args:
        material: With features of all pictures.
        backbone: For the prior.
        plan: Whether there is one, and class weights.
        rows: That are learned from and held out in turn.
        fold: (len(rows),) with whom each is held out; -1: never.
        tolerance: Of the fits; None: the usual one.
        progress: Hears of every fold.
    """
    known = _prior(material, backbone, plan.head, rows)
    problem = _problem(material, known, plan.head, rows, views=1, fold=fold)
    l2 = logistic.default_l2(problem.prior_known)

    def report(place: int) -> None:
        progress("Fitting what each fold leaves out", place + 1, len(problem.folds))

    _, logits = logistic.out_of_fold(
        problem, l2, iterations=plan.head.max_iterations, tolerance=tolerance, report=report
    )
    held = problem.held_out_rows()
    return HeldOut(rows[held], fold[held], logits)


def _learn_to_the_end(
    material: Material,
    backbone: Backbone,
    plan: Plan,
    begin: float | None,
    progress: Progress,
    listen: Listener,
) -> Learned:
    """Choose the l2 penalty by folds of the training part, and fit the head that is measured."""
    rows, iterations = material.parts.train, plan.head.max_iterations
    known = _prior(material, backbone, plan.head, rows)
    fold = splits.folds(material.dataset.select(rows), material.groups[rows], plan.head.folds, plan.seed)
    # The folds learn from the pictures alone, without their mirror images: half of the time, and on every data set
    # tried the same l2.
    problem = _problem(material, known, plan.head, rows, views=1, fold=fold)
    selection = logistic.select_l2(problem, plan.head.l2, begin=begin, iterations=iterations, progress=progress)
    l2 = selection.l2
    held = HeldOut(rows[selection.rows], fold[selection.rows], selection.logits)
    problem = _problem(material, known, plan.head, rows)
    shown = _shown(material)
    history = logistic.History(problem, material.values, shown, material.targets[shown], listen)
    weights = problem.fit(l2, iterations=iterations, watch=history)
    return Learned(
        problem.head(weights),
        _judgement(material, backbone, plan, held, rows, progress),
        held,
        tuple(history.steps),
        known.matched,
        {
            "head": f"multinomial logistic regression, l2 {l2:g}",
            "l2": l2,
            "l2_tried": [list(score) for score in selection.scores],
        },
        tuple(
            found(
                "too-few-to-choose",
                "warning",
                "there are too few pictures to choose the l2 penalty and the temperature by folds, so they are fixed and "
                "the probabilities are not calibrated",
                [] if selection.scores else [f"l2 {l2:g}", "temperature 1"],
                "With two or more training pictures in most classes both are chosen from the data.",
            )
        ),
        l2,
    )


def _learn_in_epochs(
    material: Material, backbone: Backbone, plan: Plan, cache: Path | None, progress: Progress, listen: Listener
) -> Learned:
    """Fit in epochs until the watched loss stops falling; the watched pictures are those held out."""
    rows = _watch(material, plan)
    fit = sgd.fit(
        material.values,
        material.targets,
        len(material.classes),
        rows,
        plan.head,
        plan.seed,
        folder=None if cache is None else cache / FITS,
        progress=progress,
        listen=listen,
    )
    logits = fit.head.logits(material.values[rows.watched, 0])
    held = HeldOut(rows.watched, np.zeros(len(rows.watched), dtype=np.int64), logits)
    layers = " → ".join(str(width) for width in (*plan.head.hidden, len(material.classes)))
    return Learned(
        fit.head,
        _judgement(material, backbone, plan, held, rows.learned, progress),
        held,
        fit.history,
        {},
        {
            "head": f"dense {layers}, {plan.head.optimizer}, epoch {fit.best} of {len(fit.history)} was best",
            "best_epoch": fit.best,
            "epochs": len(fit.history),
            "stopped_early": len(fit.history) < plan.head.epochs,
            "watched": len(rows.watched),
        },
        _remarks(plan, len(rows.watched)),
        fit.best,
    )


def _judgement(
    material: Material, backbone: Backbone, plan: Plan, held: HeldOut, learned: Integers, progress: Progress
) -> PredictionRules:
    """Return the rules that the held-out rows give."""
    progress("Calibrating", 0, 1)
    asked, targets = plan.calibration, material.targets[held.rows]
    scaled = calibration.fit(held.logits, targets, held.fold, asked.scaling)
    sets = conformal.fit(
        scaled.probabilities(held.logits),
        targets,
        level=asked.level,
        method=asked.sets,
    )
    rule = _out_of_distribution(material, backbone, plan, held, learned)
    progress("Calibrating", 1, 1)
    return PredictionRules(scaled, sets, rule)


def _out_of_distribution(
    material: Material, backbone: Backbone, plan: Plan, held: HeldOut, learned: Integers
) -> OutOfDistributionRule | None:
    """Return the rule for "none of these", by the score that was asked for or that wins on classes left out."""
    asked, features, targets = plan.calibration.unknown, material.values[:, 0], material.targets
    if asked == "none":
        return None
    compared: dict[out_of_distribution.Score, float] = {}
    score: out_of_distribution.Score = (
        "neighbours" if asked == "best" else asked
    )  # works without folds and with few classes
    if asked == "best" and len(held.rows) and len(np.unique(targets[learned])) >= out_of_distribution.FEWEST_CLASSES:
        compared = out_of_distribution.compare(features, targets, learned, _probe(material, backbone, plan), plan.seed)
        enough = max(compared.values(), default=0) - out_of_distribution.TIE
        score = next((name for name in compared if compared[name] >= enough), score)
    if not len(held.rows) and score != "energy":  # each group is then held out on its own
        nothing = np.zeros((len(learned), len(material.classes)), dtype=np.float32)
        held = HeldOut(learned, material.groups[learned], nothing)
    if not len(held.rows):
        return None
    own = out_of_distribution.held_out(score, features, targets, held.rows, held.fold, held.logits, learned)
    arrays = out_of_distribution.learn(score, features[learned], targets[learned], plan.seed)
    return out_of_distribution.fit(score, plan.calibration.refused, own, arrays, compared)


def _probe(
    material: Material, backbone: Backbone, plan: Plan
) -> Callable[[Integers, Integers], Callable[[Floats], Floats]]:
    """Return what fits a linear head to some rows of some classes, and gives its logits."""

    def fitted(rows: Integers, known: Integers) -> Callable[[Floats], Floats]:
        names = ClassNames(material.classes[k] for k in known)
        targets = np.searchsorted(known, material.targets[rows])
        start = _start(names, backbone, plan.head, material.values[rows, 0], targets)
        problem = logistic.Problem(material.values[:, :1], rows, targets, start)
        l2 = logistic.default_l2(problem.prior_known)
        return problem.head(problem.fit(l2, tolerance=logistic.ROUGH)).logits

    return fitted


def _remarks(plan: Plan, watched: int) -> tuple[Finding, ...]:
    """Return what a person should know of what stopped the epochs and gave the temperature."""
    return (
        *found(
            "watched-validation",
            "warning",
            "the validation pictures decided when to stop and at which temperature, so their figures flatter",
            [f"{watched} pictures"] if plan.head.watch == "validation" else [],
            "With head.watch=training a tenth of the training part decides instead.",
        ),
        *found(
            "too-few-to-watch",
            "warning",
            f"{watched} picture(s) can be watched, too few for a temperature; the probabilities are not calibrated",
            ["temperature 1"] if watched < calibration.FEWEST else [],
            "With some three hundred training pictures it comes from the data.",
        ),
    )


def _watch(material: Material, plan: Plan) -> sgd.Rows:
    parts = material.parts
    if plan.head.watch == "validation":
        if not len(parts.validation):
            raise _no_validation()
        return sgd.Rows(parts.train, parts.validation, parts.validation)
    dataset, groups = material.dataset.select(parts.train), material.groups[parts.train]
    fold = splits.folds(dataset, groups, WATCHED, plan.seed)
    sizes = np.bincount(fold[fold >= 0], minlength=WATCHED)
    held = fold == np.argmin(np.abs(sizes - len(fold) / WATCHED))  # a large group may have made one of them too large
    learned = parts.train[~held]
    if len(learned) < 2:
        raise ConfigError(
            f"{len(learned)} picture(s) would be learned from; epochs need two.",
            "Give more training pictures, or leave the recipe and the optimizer away.",
        )
    return sgd.Rows(learned, parts.train[held], _shown(material))


def check(dataset: Dataset, plan: Plan) -> None:
    """Find out, before any encoding, whether the plan asks for what the data's own split does not allow.

    Raises:
        ConfigError: It watches the validation part, and the data bring a split without one; or it repeats that split.
    """
    given = {sample.split for sample in dataset} - {None, "train"}
    if given and plan.split.repeats > 1 and not plan.split.folds:
        raise ConfigError(
            f"split.repeats is {plan.split.repeats}, but the data brings a split of its own, which stays the same.",
            "Leave it away, or measure by folds of the training part: --folds 5.",
        )
    if plan.head.in_epochs and plan.head.watch == "validation" and given and "validation" not in given:
        raise _no_validation()


def _no_validation() -> ConfigError:
    return ConfigError(
        "head.watch is 'validation', but the split that the data brings has no validation part.",
        "With head.watch=training a tenth of the training part is watched.",
    )


def _shown(material: Material) -> Integers:
    return material.parts.validation if len(material.parts.validation) else material.parts.test


def _prior(material: Material, backbone: Backbone, plan: HeadPlan, rows: Integers) -> Prior:
    return _start(material.classes, backbone, plan, material.values[rows, 0], material.targets[rows])


def _start(names: ClassNames, backbone: Backbone, plan: HeadPlan, features: Floats, targets: Integers) -> Prior:
    if plan.prior == "none":
        return prior.none(features.shape[1], len(names))
    return prior.match(names, backbone, features, targets)


def _problem(
    material: Material,
    known: Prior,
    plan: HeadPlan,
    rows: Integers,
    *,
    views: int | None = None,
    fold: Integers | None = None,
) -> logistic.Problem:
    values, balanced = material.values[:, :views], plan.class_weight == "balanced"
    return logistic.Problem(values, rows, material.targets[rows], known, balanced=balanced, fold=fold)
