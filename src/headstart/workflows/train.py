"""A labelled dataset → a trained, calibrated, measured classifier: the recipe, in the order of the drawing.

Validation pictures measure and decide nothing: whatever there is to choose is chosen within the training part. After
measuring, the head is fitted once more on training and validation pictures together, unless the plan says otherwise;
pictures that the data itself calls "test" are never learned from.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.config import Plan, TrainConfig
from headstart.data import splits
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import default_cache
from headstart.encoding.features import Extraction
from headstart.errors import ConfigError, DataError
from headstart.evaluation import comparison, measure
from headstart.evaluation.comparison import Change
from headstart.experiments import grouping
from headstart.experiments import learning_curve as curves
from headstart.experiments.grouping import Optimism
from headstart.experiments.learning_curve import LearningCurve
from headstart.inspection import duplicates, files
from headstart.inspection.duplicates import Resemblance
from headstart.inspection.files import Inspection
from headstart.learning import learner
from headstart.learning.heads import Listener, Step, ignore
from headstart.learning.learner import Learned, Material
from headstart.model.classifier import Classifier
from headstart.records import (
    ClassNames,
    Dataset,
    Evaluation,
    Finding,
    Integers,
    Predictions,
    Progress,
    Provenance,
    Splits,
    found,
    joined,
    silence,
)
from headstart.workflows.prepare import examine, extract, prepare, weigh_same_object


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """What a previous run left that a later one on the same pictures and more can go on from.

    Attributes:
        parts: SHA-256 of a picture's bytes → "train", "validation" or "test".
        said: The same → the class that was predicted while the picture was held out.
        classes: That it knew.
    """

    parts: Mapping[str, str]
    said: Mapping[str, str]
    classes: ClassNames


@dataclass(frozen=True, slots=True)
class TrainingResult:
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
        optimism: What the figures owe to pictures that resemble those learned from.
        dataset: The usable pictures.
        digests: SHA-256 of the bytes of each.
        curve: Accuracy against training pictures, if asked for.
        changes: What changed since a previous run, on the pictures that both measured; the first is of all of them.
    """

    classifier: Classifier
    evaluations: Mapping[str, Evaluation]
    predictions: Mapping[str, Predictions]
    findings: tuple[Finding, ...]
    history: tuple[Step, ...]
    plan: Plan
    splits: Splits
    optimism: Optimism
    dataset: Dataset
    digests: tuple[str, ...]
    curve: LearningCurve | None = None
    changes: tuple[Change, ...] = ()

    @property
    def evaluation(self) -> Evaluation:
        """The figures to report: of the data's own test part where it brings one, else of the validation part."""
        return self.evaluations.get("test") or self.evaluations["validation"]


def train(
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = silence,
    listen: Listener = ignore,
    previous: PreviousRun | None = None,
    learning_curve: bool = False,
) -> TrainingResult:
    """Check, split, encode, fit, calibrate and evaluate.

    Args:
        dataset: Labelled pictures, from `read`.
        config: What to do differently from the defaults.
        cache: Where features are kept; None: the default cache folder.
        previous: What a previous run on some of these pictures left, from `read_previous`: they stay learned or measured
            as they were, and the result says what changed on them.
        learning_curve: Whether to measure how the accuracy grows with the pictures, and where that leads.
        progress: Hears how far it is.
        listen: Hears loss and accuracy of each step of the fit.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
        ConfigError: The configuration does not fit this machine.
        StorageError: The cache cannot be written.
    """
    inspection = files.inspect(dataset, progress)
    backbone, plan = prepare(config or TrainConfig())
    return fit(
        inspection,
        backbone,
        plan,
        cache=cache or default_cache(),
        progress=progress,
        listen=listen,
        previous=previous,
        learning_curve=learning_curve,
    )


def fit(
    inspection: Inspection,
    backbone: Backbone,
    plan: Plan,
    *,
    cache: Path | None,
    progress: Progress = silence,
    listen: Listener = ignore,
    previous: PreviousRun | None = None,
    learning_curve: bool = False,
) -> TrainingResult:
    """Do what `train` does, from a dataset that was inspected and a plan that was shown. `cache` None keeps nothing."""
    if previous is not None:
        inspection = _carry_over(inspection, previous, plan)
    learner.check(inspection.dataset, plan)
    extraction = extract(inspection, backbone, plan, cache=cache, progress=progress)
    plan = replace(plan, encoder=extraction.encoder.plan)  # the engine may have fallen back to a safer one
    seen = examine(inspection, extraction, backbone, plan, progress)
    optimism = weigh_same_object(seen, backbone, plan, progress)
    material = replace(seen.material, groups=seen.alike) if optimism.together else seen.material
    # a split that the data brings is kept, but for copies; same-object pictures then stay together in the folds that choose
    kept = seen.material.groups if optimism.given else material.groups
    partition = splits.partition(
        material.dataset,
        material.groups,
        plan.split,
        plan.seed,
        kept=kept,
        aside=duplicates.conflicting(seen.resemblance.near_duplicates, material.targets),
        even=optimism.together,
    )

    def learn(parts: Splits, begin: float | None = None, listener: Listener = ignore) -> Learned:
        part = replace(material, parts=parts)
        return learner.learn(part, backbone, plan, cache=cache, begin=begin, progress=progress, listen=listener)

    def judge(learned: Learned, rows: Integers) -> Predictions:
        judging = Classifier(backbone, extraction.encoder, learned.head, learned.rules, material.classes)
        measured = material.dataset.select(rows)
        said = judging.predict_features(material.values[rows, 0], [s.name for s in measured], targets=measured.labels)
        return replace(said, groups=material.groups[rows])

    rounds = [learn(partition.rounds[0], listener=listen)]
    rounds += [learn(parts, rounds[0].best) for parts in partition.rounds[1:]]
    learned = rounds[0] if len(rounds) == 1 else learn(partition.final, rounds[0].best)
    validated = [judge(one, parts.validation) for one, parts in zip(rounds, partition.rounds, strict=True)]
    said = {"validation": joined(validated), "test": judge(learned, partition.final.test)}
    said = {name: predictions for name, predictions in said.items() if len(predictions)}
    first = replace(material, parts=partition.rounds[0], groups=kept)
    material = replace(material, parts=partition.final)
    optimism = _weigh(optimism, first, seen.resemblance, backbone, plan, rounds[0], said)
    curve, unmeasured = _curve(first, backbone, plan, rounds[0], progress) if learning_curve else (None, [])
    changes = _changes(material, previous, said)
    head, rows = learned.head, partition.final.train
    if plan.refit and len(partition.final.validation):
        rows = np.sort(np.concatenate([rows, partition.final.validation]))
        head = learner.refit(material, backbone, plan, learned.best, rows, progress, begin=head)
    provenance = Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        data=_describe_data(material),
        training=_describe_training(material, learned, plan, rows, len(partition.rounds)),
        engine=_describe_engine(extraction),
    )
    return TrainingResult(
        Classifier(backbone, extraction.encoder, head, learned.rules, material.classes, provenance),
        {name: measure.measure(predictions, plan.seed) for name, predictions in said.items()},
        said,
        (
            *seen.findings,
            *partition.final.findings,
            *learned.findings,
            *grouping.findings(optimism),
            *comparison.findings(changes),
            *unmeasured,
        ),
        rounds[0].history,
        plan,
        partition.final,
        optimism,
        material.dataset,
        material.digests,
        curve,
        changes,
    )


def _carry_over(inspection: Inspection, previous: PreviousRun, plan: Plan) -> Inspection:
    """Return the inspection with each picture of the previous run in the part where it was, and new ones dealt out.

    Raises:
        ConfigError: None of the previous run's pictures is here.
    """
    dataset, digests = inspection.dataset, inspection.digests
    old = np.array([digest in previous.parts for digest in digests])
    if not old.any():
        raise ConfigError(
            f"None of the {len(previous.parts)} pictures of the previous run is among these {len(dataset)}.",
            "DATA holds the old pictures and the new ones; they are known by their bytes, not by their names.",
        )
    findings = _arrivals(dataset, old, previous, len(previous.parts) - len(set(digests) & previous.parts.keys()))
    inspection = replace(inspection, findings=(*inspection.findings, *findings))
    in_turn = plan.split.folds or plan.split.repeats > 1 or set(previous.parts.values()) <= {"train", ""}
    if in_turn or splits.is_given(dataset):
        return inspection  # every picture is measured in its turn, or the data says which
    new = np.flatnonzero(~old)
    parts = {int(row): previous.parts[digests[row]] for row in np.flatnonzero(old)} | dict.fromkeys(
        new.tolist(), "train"
    )
    if len(new):
        fresh = dataset.select(new)
        groups = splits.group_ids(fresh, [digests[row] for row in new])
        with contextlib.suppress(DataError):  # too few of each class to hold one out: all are learned from
            held = splits.split(fresh, groups, plan.split.validation, plan.seed).validation
            parts |= dict.fromkeys(new[held].tolist(), "validation")
    samples = tuple(replace(sample, split=parts[row]) for row, sample in enumerate(dataset))
    return replace(inspection, dataset=replace(dataset, samples=samples))


def _arrivals(dataset: Dataset, old: NDArray[np.bool_], previous: PreviousRun, gone: int) -> list[Finding]:
    """Return which pictures and classes are new, and how many of the previous run's are not here."""
    new = [sample.name for sample, known in zip(dataset, old, strict=True) if not known]
    classes = [name for name in dataset.classes if name not in previous.classes]
    return [
        *found("new-pictures", "note", "{n} picture(s) are new since the previous run", new),
        *found("new-classes", "note", "{n} class(es) are new since the previous run", classes),
        *found(
            "gone-pictures",
            "warning",
            f"{gone} picture(s) of the previous run are not here and no longer learned from",
            ["changed, moved away or removed"] if gone else [],
            "Give the old pictures together with the new ones.",
        ),
    ]


def _changes(material: Material, previous: PreviousRun | None, said: Mapping[str, Predictions]) -> tuple[Change, ...]:
    """Return what changed on pictures of the previous run's classes that both it and this one measured."""
    if previous is None:
        return ()
    digest_of = {sample.name: digest for sample, digest in zip(material.dataset, material.digests, strict=True)}
    before: list[bool] = []
    after: list[bool] = []
    labels: list[str] = []
    groups: list[int] = []
    for predictions in said.values():
        for row, one in enumerate(predictions):
            label, once = (predictions.targets or ())[row], previous.said.get(digest_of[one.path])
            if once is not None and label in previous.classes:
                before.append(once == label)
                after.append(one.label == label)
                labels.append(str(label))
                groups.append(int(predictions.groups[row]) if predictions.groups is not None else row)
    if not labels:
        return ()
    return comparison.compare(np.array(before), np.array(after), labels, np.array(groups))


def _curve(
    material: Material, backbone: Backbone, plan: Plan, learned: Learned, progress: Progress
) -> tuple[LearningCurve | None, list[Finding]]:
    """Return the learning curve of the first round, or why there is none: what was trained is not lost for that."""
    parts = material.parts
    measured = parts.validation if len(parts.validation) else parts.test

    def probabilities(rows: Integers, share: float) -> NDArray[np.float64]:
        # the same prior variance for any number of rows: the penalty is of the mean loss
        best = learned.best if plan.head.in_epochs else learned.best / share
        head = learner.refit(material, backbone, plan, best, rows, views=1)
        return learned.rules.calibration.probabilities(head.logits(material.values[measured, 0]))

    try:
        curve = curves.measure(
            material.targets,
            material.classes,
            parts.train,
            measured,
            probabilities,
            groups=material.groups,
            seed=plan.seed,
            progress=progress,
        )
    except ConfigError as error:
        return None, [Finding("no-learning-curve", "warning", error.message.rstrip("."), (), error.hint)]
    return curve, []


def _weigh(
    optimism: Optimism,
    material: Material,
    resemblance: Resemblance,
    backbone: Backbone,
    plan: Plan,
    learned: Learned,
    said: Mapping[str, Predictions],
) -> Optimism:
    """Return what the figures of the first round owe to resemblance."""
    part = "test" if len(material.parts.test) else "validation"
    rows = material.parts.part(part)
    right = said[part].probabilities[: len(rows)].argmax(axis=1) == material.targets[rows]
    bands = grouping.bands(material, resemblance, rows, right, material.parts.train)
    naive = grouping.naive_split(material, plan)
    if naive is None:
        return replace(optimism, bands=bands)
    return grouping.measure_naive(replace(optimism, bands=bands), material, resemblance, backbone, plan, learned, naive)


def _describe_data(material: Material) -> dict[str, Any]:
    parts = {name: len(material.parts.part(name)) for name in ("train", "validation", "test")}
    return {
        "pictures": len(material.dataset),
        "classes": len(material.classes),
        "parts": parts,
        "given_split": material.parts.given,
        "digest": _digest([(s.name, str(s.label), d) for s, d in zip(material.dataset, material.digests, strict=True)]),
        "split_digest": _digest({n: sorted(material.dataset[r].name for r in material.parts.part(n)) for n in parts}),
    }


def _describe_training(material: Material, learned: Learned, plan: Plan, rows: Integers, rounds: int) -> dict[str, Any]:
    refitted = len(rows) > len(material.parts.train)
    watched = learned.told["watched"] if plan.head.in_epochs and plan.head.watch == "training" else 0
    aside = f", {watched} of them only to stop it" if watched else ""
    return {
        **learned.told,
        "fitted_on": f"{len(rows)} training and validation pictures"
        if refitted
        else f"{len(rows)} training pictures{aside}",
        "refitted": refitted,
        "figures_of": f"the head fitted on the {len(material.parts.train)} training pictures{aside}"
        if rounds == 1
        else f"{rounds} heads fitted the same way, each measured on pictures left out for it",
        "matched": dict(learned.matched),
    }


def _describe_engine(extraction: Extraction) -> dict[str, Any]:
    compared = asdict(extraction.agreement) if extraction.agreement else None
    return {"version": extraction.encoder.version, "difference_from_torch_float32": compared}


def _versions() -> dict[str, str]:
    packages = ("headstart", "torch", "timm", "openvino", "numpy", "pillow", "scipy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
