"""Labelled pictures → a trained, calibrated, measured classifier: the recipe, in the order of the drawing.

Prepare, group, partition, fit the rounds, measure, experiment, refit. Validation pictures measure and decide nothing:
whatever there is to choose is chosen within the training part. After measuring, the head is fitted once more on
training and validation pictures together, unless the plan says otherwise; pictures that the data itself calls "test"
are never learned from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.config import CalibrationConfig, TrainConfig
from headstart.data import sources, splits
from headstart.data.splits import Grouping, Partition
from headstart.encoding import cache as caches
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.errors import ConfigError
from headstart.evaluation import comparison, measure, showcase, speed
from headstart.evaluation.comparison import Change
from headstart.evaluation.showcase import Showcase
from headstart.evaluation.speed import Speed
from headstart.experiments import expectation, grouping, leakage
from headstart.experiments import learning_curve as curves
from headstart.experiments.expectation import Expectation, Turn
from headstart.experiments.leakage import LeakageReport
from headstart.experiments.learning_curve import LearningCurve
from headstart.learning import rules
from headstart.learning.heads import Listener, Step, ignore
from headstart.learning.learner import Fitted, Learner
from headstart.learning.rules import PredictionRules
from headstart.model.classifier import Classifier
from headstart.plans import Plan
from headstart.predictions import Evaluation, Predictions, joined
from headstart.records import Dataset, Displayable, Finding, Integers, Progress, Provenance, Splits, silence
from headstart.scale.filling import Filling
from headstart.workflows import crops, decide, prepare, provenance, resume
from headstart.workflows.prepare import Begun, Prepared
from headstart.workflows.resume import PreviousRun


@dataclass(frozen=True, slots=True)
class TrainingResult(Displayable):
    """What `train` gives.

    Attributes:
        classifier: Ready to predict; refitted on training and validation pictures unless the plan says otherwise.
        evaluations: "validation" and, where the data brings one, "test" → figures of heads that had not learned from
            what they measure.
        predictions: The same parts → the predictions behind the figures.
        findings: Everything a person should know about the data.
        history: Loss and accuracy along the fit that was measured.
        plan: What was decided.
        splits: Rows of the usable pictures.
        leakage: What the figures owe to pictures that resemble those learned from.
        dataset: The usable pictures.
        digests: SHA-256 of the bytes of each.
        curve: Accuracy against training pictures, if asked for.
        changes: What changed since a previous run, on the pictures that both measured; the first is of all of them.
        expected: What the saved head is expected to reach, an estimate beside `evaluation`; None where it is the
            measured one, is fitted in epochs or with the network, or where that would take long.
        showcase: Which pictures are worth looking at.
        speed: What an answer costs on this machine; None where all pictures came from the cache, as starting the
            engine to find out would take longer than what is left to do.
        seconds: How long the training took.
    """

    classifier: Classifier
    evaluations: Mapping[str, Evaluation]
    predictions: Mapping[str, Predictions]
    findings: tuple[Finding, ...]
    history: tuple[Step, ...]
    plan: Plan
    splits: Splits
    leakage: LeakageReport
    dataset: Dataset
    digests: Sequence[str]
    curve: LearningCurve | None = None
    changes: tuple[Change, ...] = ()
    expected: Expectation | None = None
    showcase: Showcase = field(default_factory=Showcase, repr=False)
    speed: Speed | None = None
    seconds: float = 0.0

    @property
    def evaluation(self) -> Evaluation:
        """The figures to report: of the data's own test part where it brings one, else of the validation part."""
        return self.evaluations.get("test") or self.evaluations["validation"]

    def __repr__(self) -> str:
        """Return e.g. `TrainingResult(120 classes, 8640 pictures, accuracy 0.868 [0.852, 0.885])`."""
        classes, accuracy = len(self.classifier.classes), self.evaluation.overall["accuracy"]
        return f"TrainingResult({classes} classes, {len(self.dataset)} pictures, accuracy {accuracy})"


@dataclass(frozen=True, slots=True)
class Round:
    """A head, its rules, and the pictures that it had not learned from."""

    fitted: Fitted
    rules: PredictionRules
    split: Splits

    @property
    def learned(self) -> Integers:
        """Rows that the head has learned from."""
        return self.fitted.learned(self.split.train)

    def findings(self, groups: Integers, plan: CalibrationConfig) -> list[Finding]:
        """Return what to know of the split, the fit and the rules."""
        of_rules = rules.findings(self.rules, self.fitted, groups, plan)
        return [*self.split.findings, *self.fitted.findings, *of_rules]


def unheard(begun: Begun) -> None:
    """Hear no plan: the listener of whoever did not ask for one."""


def train(
    data: Any,
    config: TrainConfig | None = None,
    *,
    cache: caches.CacheChoice = caches.DEFAULT,
    progress: Progress = silence,
    listen: Listener = ignore,
    planned: Callable[[Begun], None] = unheard,
    previous: PreviousRun | None = None,
    learning_curve: bool = False,
    cluster: str | None = None,
) -> TrainingResult:
    """Check, split, encode, fit, calibrate and evaluate.

    Args:
        data: What `sources.dataset_of` takes: a dataset, a path, or a data frame with paths.
        config: What to do differently from the defaults.
        cache: A folder where features are kept; None: keep nothing.
        progress: Hears how far it is.
        listen: Hears loss and accuracy of each step of the fit.
        planned: Hears what is going to be done, before any picture is encoded; what it hears has a flag, `enough`, that
            ends the training of networks.
        previous: What a previous run on some of these pictures left, from `read_previous`: they stay learned or
            measured as they were, and the result says what changed on them.
        learning_curve: Whether to measure how the accuracy grows with the pictures, and where that leads.
        cluster: Whose workers encode, train networks, and compute for heads of many pictures: "auto", "HOST:PORT" or
            "local:N"; None: this process does. The result is the same, that of trained networks up to rounding.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
        ConfigError: The configuration does not fit this machine.
        StorageError: The cache cannot be written.
    """
    started, folder = time.monotonic(), caches.resolve(cache)
    asked = resume.heeded(previous, config or TrainConfig())
    with Filling(cluster, folder) as filling:
        dataset = sources.dataset_of(data, cache=folder)
        begun = prepare.begin(dataset, asked, cache=folder, progress=progress, filling=filling)
        arrived = resume.arrivals(previous, begun.inspection.dataset, begun.inspection.digests)
        planned(begun)
        prepared = prepare.encode(begun, cache=folder, progress=progress, filling=filling)
        prepared = crops.add(prepared, begun.budget, cache=folder, progress=progress, filling=filling)
        features, plan = prepared.features, prepared.plan
        learner = prepared.learner(cache=folder, progress=progress, limits=begun.limits(), filling=filling)
        grouped = grouping.decide(learner, prepared.resemblance, plan.split, progress=progress)
        partition = splits.partition(
            features.dataset,
            grouped,
            plan.split,
            plan.seed,
            previous=resume.parts(previous, features, plan.split),
            in_turn=plan.head.watch != "validation" and plan.head.finetune == "none",
        )
        rounds, last = _fit(learner, partition, grouped, plan, listen)
        saved, rows = _refit(learner, last, plan)
        if len(rounds) == 1 and saved.tuned is not None and plan.finetune.watch == "training":
            rounds = [last := _whole(learner, last, saved, rows)]
        predictions = _predict(rounds, last, grouped.groups, folder)
        leaked = leakage.report(learner, rounds[0].fitted, rounds[0].split, grouped, prepared.resemblance, plan)
        curve, unmeasured = _curve(learner, rounds[0], grouped, progress) if learning_curve else (None, [])
        changes = resume.changes(previous, features, predictions)
        told = provenance.describe(
            last.split, last.fitted, None if saved is last.fitted else rows, prepared, len(rounds)
        )
        evaluations = {name: measure.measure(one, plan.seed, folder) for name, one in predictions.items()}
        found = [*prepared.findings, *arrived, *grouped.findings, *last.findings(grouped.groups, plan.calibration)]
        classifier = _classifier(prepared, saved, rules.carried(last.rules, saved, rows, plan.seed), told)
        return TrainingResult(
            classifier,
            evaluations,
            predictions,
            (*found, *leakage.findings(leaked), *_measured(evaluations), *comparison.findings(changes), *unmeasured),
            rounds[0].fitted.history,
            plan,
            last.split,
            leaked,
            features.dataset,
            features.digests,
            curve,
            changes,
            _expected(learner, rounds, last, rows, grouped.groups, plan),
            _shown(rounds, last, predictions, prepared),
            speed.measure(classifier, features.dataset) if prepared.encoded else None,
            time.monotonic() - started,
        )


def _fit(
    learner: Learner, partition: Partition, grouped: Grouping, plan: Plan, listen: Listener
) -> tuple[list[Round], Round]:
    """Return the measured rounds, and the one whose head or way of fitting is saved."""

    def watched(split: Splits) -> Integers:
        return split.validation if len(split.validation) or plan.head.watch == "validation" else split.test

    def ruled(one: Fitted, split: Splits, calibration: CalibrationConfig = plan.calibration) -> Round:
        return Round(one, rules.fit(learner, one, split.train, grouped.groups, calibration), split)

    first, final = partition.rounds[0], partition.final
    if partition.fold is not None:
        fits = learner.in_turn(final.train, watched(final), partition.fold, grouped.groups, listen=listen)
        rounds = [ruled(fits.turns[0], first)]
        known = rounds[0].rules.score_in(plan.calibration)  # compared once
        rounds += [ruled(fits.turns[n], split, known) for n, split in enumerate(partition.rounds[1:], start=1)]
        return rounds, ruled(fits.last, final)

    def fitted(split: Splits, begin: float | None = None, listener: Listener = ignore) -> Round:
        return ruled(learner.fit(split.train, watched(split), grouped.groups, begin=begin, listen=listener), split)

    rounds = [fitted(first, listener=listen)]
    rounds += [fitted(split, rounds[0].fitted.best) for split in partition.rounds[1:]]
    last = rounds[0] if len(rounds) == 1 else fitted(final, rounds[0].fitted.best)
    return rounds, last


def _predict(rounds: list[Round], last: Round, groups: Integers, folder: Path | None) -> dict[str, Predictions]:
    """Return what heads say of the parts that they had not learned from."""
    validated = [_said(one, one.split.validation, groups, folder) for one in rounds]
    parts = {"validation": joined(validated, folder), "test": _said(last, last.split.test, groups, folder)}
    return {name: predictions for name, predictions in parts.items() if len(predictions)}


def _said(one: Round, rows: Integers, groups: Integers, folder: Path | None) -> Predictions:
    features = one.fitted.features
    applied = rules.apply_to(one.rules, one.fitted, rows, folder)
    return Predictions(
        features.names(rows),
        features.classes,
        applied.probabilities,
        targets=features.dataset.labels.select(rows),
        groups=groups[rows],
        sets=applied.sets,
        p_value=applied.p_value,
        known=applied.known,
    )


def _measured(evaluations: Mapping[str, Evaluation]) -> list[Finding]:
    """Return what to know of the figures of the part that is reported."""
    return measure.findings(evaluations.get("test") or evaluations["validation"])


def _shown(rounds: list[Round], last: Round, said: Mapping[str, Predictions], prepared: Prepared) -> Showcase:
    """Return which pictures are worth looking at, of the part that is reported."""
    if "test" in said:
        answered, reported = [last], said["test"]
        turns = [(last.split.test, last.learned)]
    else:
        answered, reported = rounds, said["validation"]
        turns = [(one.split.validation, one.learned) for one in rounds]
    shown = showcase.find(prepared.features, reported, turns, prepared.resemblance.near_duplicates)
    return replace(shown, heads=tuple((_networks(one.fitted, prepared)[0], one.fitted.head) for one in answered))


def _curve(
    learner: Learner, first: Round, grouped: Grouping, progress: Progress
) -> tuple[LearningCurve | None, list[Finding]]:
    """Return the learning curve of the first round, or why there is none: what was trained is not lost for that."""
    split, features = first.split, learner.features
    measured = split.validation if len(split.validation) else split.test

    def probabilities(rows: Integers, share: float) -> NDArray[np.float64]:
        fewer = learner.refit(rows, first.fitted.best, share=share, views=1)
        return first.rules.calibration.probabilities(fewer.logits(measured))

    try:
        curve = curves.measure(
            features.targets,
            features.classes,
            split.train,
            measured,
            probabilities,
            groups=grouped.kept if split.origin == "data" else grouped.groups,
            design=curves.Design(seed=learner.seed),
            progress=progress,
        )
    except ConfigError as error:
        return None, [Finding("no-learning-curve", "warning", error.message.rstrip("."), (), error.hint)]
    return curve, []


def _expected(
    learner: Learner, rounds: list[Round], last: Round, saved: Integers, groups: Integers, plan: Plan
) -> Expectation | None:
    """Return what to expect of the head that learned from the saved rows, where it costs little to find out."""
    pictures, _, dim = learner.features.values.shape
    cheap = decide.costs_little(pictures, len(learner.features.classes), dim)
    if plan.head.in_epochs or plan.head.finetune != "none" or not cheap:
        return None
    test = last.split.test  # gives the figure to report where there is one
    turns = [
        Turn(one.fitted, one.learned, test if len(test) else one.split.validation)
        for one in ([last] if len(test) else rounds)
    ]
    return expectation.expect(learner, turns, saved, groups)


def _refit(learner: Learner, last: Round, plan: Plan) -> tuple[Fitted, Integers]:
    """Return the head to save and the rows that it learned from."""
    train, validation = last.split.train, last.split.validation
    # a trained network has not learned from what it watched, a head of very many pictures not from what calibrated it
    unseen = len(validation) or len(last.fitted.left_out) or last.fitted.tuned is not None
    if not (plan.refit and unseen):
        return last.fitted, last.learned
    rows = np.sort(np.concatenate([train, validation]))
    saved = learner.refit(rows, last.fitted.best, begin=last.fitted)
    return saved, last.learned if saved is last.fitted else rows


def _whole(learner: Learner, measured: Round, saved: Fitted, rows: Integers) -> Round:
    """Return the round with a network that has learned from its training rows whole, as the saved one has from all.

    The one that had to prove itself has not learned from what it watched, up to a third of them. Where there is no time
    left for one more training, it stays.
    """
    first, train = measured.fitted, measured.split.train
    again = saved if np.array_equal(rows, train) else learner.refit(train, first.best, begin=first)
    if again is first:
        return measured
    told = {**first.provenance, "watched": 0}
    fitted = replace(first, head=again.head, tuned=again.tuned, provenance=told)
    return replace(measured, fitted=fitted, rules=rules.carried(measured.rules, fitted, train, learner.seed))


def _networks(fitted: Fitted, prepared: Prepared) -> tuple[Backbone, tuple[Encoder, ...]]:
    """Return whose features a head takes: the frozen networks', behind those of what was trained with it."""
    trained = fitted.tuned
    if trained is None:
        return prepared.backbone, prepared.encoders
    networks = (*trained.backbone.networks, *prepared.backbone.networks)
    return Backbone(networks), (*trained.encoders, *prepared.encoders)


def _classifier(prepared: Prepared, saved: Fitted, kept: PredictionRules, told: Provenance) -> Classifier:
    """Return what is given: the head that is saved, on the networks whose features it takes."""
    backbone, encoders = _networks(saved, prepared)
    classes, views = prepared.features.classes, prepared.plan.predicted
    return Classifier(backbone, encoders, saved.head, kept, classes, told, views)
