"""A labelled dataset → a trained, calibrated, measured classifier: the recipe, in the order of the drawing.

Validation pictures measure and decide nothing: the strength of the penalty and the temperature come from folds of the
training part. After measuring, the head is fitted once more on training and validation pictures together; pictures that
the data itself calls "test" are never learned from.
"""

from __future__ import annotations

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

from headstart.config import Plan, TrainConfig, resolve
from headstart.data import checks, splits
from headstart.data.checks import Inspection
from headstart.encoding import backbone as backbones
from headstart.encoding import features, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import default_cache
from headstart.encoding.features import VIEWS, Extraction
from headstart.judging import evaluation
from headstart.learning import heads, prior
from headstart.learning.heads import Head, History, Selection, Step
from headstart.learning.prior import Prior
from headstart.model.classifier import Classifier
from headstart.records import (
    ClassNames,
    Dataset,
    Evaluation,
    Finding,
    Floats,
    Integers,
    Predictions,
    Progress,
    Provenance,
    Splits,
    found,
    silence,
)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What `train` gives.

    Attributes:
        classifier: Ready to predict; refitted on training and validation pictures unless the plan says otherwise.
        evaluations: "validation" and, where the data brings one, "test" → figures of the head fitted on the training
            part alone.
        predictions: The same parts → the predictions behind the figures.
        findings: Everything a person should know about the data.
        history: Loss and accuracy along the fit that was measured.
        plan: What was decided.
        splits: Rows of the usable pictures.
    """

    classifier: Classifier
    evaluations: Mapping[str, Evaluation]
    predictions: Mapping[str, Predictions]
    findings: tuple[Finding, ...]
    history: tuple[Step, ...]
    plan: Plan
    splits: Splits

    @property
    def evaluation(self) -> Evaluation:
        """The figures to report: of the data's own test part where it brings one, else of the validation part."""
        return self.evaluations.get("test") or self.evaluations["validation"]


@dataclass(frozen=True, slots=True)
class _Material:
    """Usable pictures with all that the fit needs, row by row."""

    dataset: Dataset
    values: Floats  # (N, V, D)
    classes: ClassNames
    truth: Integers  # (N,)
    digests: tuple[str, ...]  # (N,)
    groups: Integers  # (N,)
    parts: Splits


@dataclass(frozen=True, slots=True)
class _Learned:
    """What the training part gave."""

    head: Head
    selection: Selection
    prior: Prior
    history: tuple[Step, ...]


def prepare(config: TrainConfig) -> tuple[Backbone, Plan]:
    """Load the backbone and decide what the configuration left open.

    Raises:
        BackboneError: The weights cannot be had.
        ConfigError: What was asked for is not to be had on this machine.
    """
    encoder = runtime.choose(config.encoder)
    size = None if config.pictures.size == "auto" else config.pictures.size
    backbone = backbones.load(config.encoder.backbone, config.encoder.weights, size=size, resize=config.pictures.resize)
    local = encoder.backbone.startswith("local-dir:")  # fed back, the plan must ask for the same folder
    return backbone, resolve(
        config, backbone.preprocess, encoder if local else replace(encoder, backbone=backbone.name)
    )


def train(
    dataset: Dataset, config: TrainConfig | None = None, *, cache: Path | None = None, progress: Progress = silence
) -> TrainingResult:
    """Check, split, encode, fit, calibrate and evaluate.

    Args:
        dataset: Labelled pictures, from `read`.
        config: What to do differently from the defaults.
        cache: Where features are kept; None: the default cache folder.
        progress: Hears how far it is.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
        ConfigError: The configuration does not fit this machine.
        StorageError: The cache cannot be written.
    """
    inspection = checks.inspect(dataset, progress)
    backbone, plan = prepare(config or TrainConfig())
    return fit(inspection, backbone, plan, cache=cache or default_cache(), progress=progress)


def fit(
    inspection: Inspection, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> TrainingResult:
    """Do what `train` does, from a dataset that was inspected and a plan that was shown. `cache` None keeps nothing."""
    extraction = features.extract(
        inspection.dataset,
        inspection.digests,
        runtime.build(backbone, plan.encoder),
        backbone,
        views=VIEWS if plan.pictures.mirror else VIEWS[:1],
        cache=cache,
        progress=progress,
    )
    plan = replace(plan, encoder=extraction.encoder.plan)  # the engine may have fallen back to a safer one
    material = _usable(inspection, extraction, plan)
    learned = _learn(material, backbone, plan, progress)
    base = Classifier(backbone, extraction.encoder, learned.head, learned.selection.temperature, material.classes)
    said = {
        name: _judge(base, material, rows) for name in ("validation", "test") if len(rows := material.parts.part(name))
    }
    head, rows = learned.head, material.parts.train
    if plan.refit and len(material.parts.validation):
        rows = np.sort(np.concatenate([rows, material.parts.validation]))
        head = _refit(material, backbone, plan, rows, learned.selection.strength, progress)
    provenance = Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        data=_describe_data(material),
        training=_describe_training(material, learned, rows),
        engine=_describe_engine(extraction),
    )
    return TrainingResult(
        replace(base, head=head, provenance=provenance),
        {name: evaluation.measure(predictions, plan.seed) for name, predictions in said.items()},
        said,
        (*inspection.findings, *_findings(inspection, extraction, material, learned)),
        learned.history,
        plan,
        material.parts,
    )


def _usable(inspection: Inspection, extraction: Extraction, plan: Plan) -> _Material:
    """Leave out what could not be decoded, then split."""
    table = extraction.table
    kept = np.array([row for row in range(len(inspection.dataset)) if row not in table.failures], dtype=np.int64)
    dataset = inspection.dataset.select(kept)
    checks.refuse_one_class(dataset, checks.unusable(inspection.dataset, table.failures))
    digests = tuple(table.digests[row] for row in kept)
    groups = splits.group_ids(dataset, digests)
    parts = splits.split(dataset, groups, plan.split.validation, plan.seed)
    values = table.values if len(kept) == len(table.values) else table.values[kept]
    return _Material(dataset, values, dataset.classes, dataset.classes.encode(dataset.labels), digests, groups, parts)


def _learn(material: _Material, backbone: Backbone, plan: Plan, progress: Progress) -> _Learned:
    """Choose the strength and the temperature by folds of the training part, and fit the head that is measured."""
    rows, iterations = material.parts.train, plan.head.max_iterations
    known = _prior(material, backbone, plan, rows)
    fold = splits.folds(material.dataset.select(rows), material.groups[rows], plan.split.folds, plan.seed)
    # The folds learn from the pictures alone, without their mirror images: half of the time, and on every data set
    # tried the same strength.
    problem = _problem(material, known, plan, rows, views=1, fold=fold)
    selection = heads.select_strength(problem, plan.head.l2, iterations=iterations, progress=progress)
    problem = _problem(material, known, plan, rows)
    watched = material.parts.validation if len(material.parts.validation) else material.parts.test
    history = History(problem, material.values, watched, material.truth[watched])
    weights = problem.fit(selection.strength, iterations=iterations, watch=history)
    return _Learned(problem.head(weights), selection, known, tuple(history.steps))


def _refit(
    material: _Material, backbone: Backbone, plan: Plan, rows: Integers, strength: float, progress: Progress
) -> Head:
    """Fit the head once more, on more pictures, with the strength that was found."""
    progress("Refitting on all pictures", 0, 1)
    problem = _problem(material, _prior(material, backbone, plan, rows), plan, rows)
    head = problem.head(problem.fit(strength, iterations=plan.head.max_iterations))
    progress("Refitting on all pictures", 1, 1)
    return head


def _prior(material: _Material, backbone: Backbone, plan: Plan, rows: Integers) -> Prior:
    if plan.head.prior == "none":
        return prior.none(backbone.dim, len(material.classes))
    return prior.match(material.classes, backbone, material.values[rows, 0], material.truth[rows])


def _problem(
    material: _Material,
    known: Prior,
    plan: Plan,
    rows: Integers,
    *,
    views: int | None = None,
    fold: Integers | None = None,
) -> heads.Problem:
    values, balanced = material.values[:, :views], plan.head.class_weight == "balanced"
    return heads.Problem(values, rows, material.truth[rows], known, balanced=balanced, fold=fold)


def _judge(classifier: Classifier, material: _Material, rows: Integers) -> Predictions:
    said = classifier.judge(material.dataset.select(rows), material.values[rows, 0])
    return replace(said, groups=material.groups[rows])


def _findings(inspection: Inspection, extraction: Extraction, material: _Material, learned: _Learned) -> list[Finding]:
    table, known, selection = extraction.table, learned.prior, learned.selection
    too_few = [] if selection.scores else [f"strength {selection.strength:g}", "temperature 1"]
    return [
        *checks.remarks(table.observations),
        *checks.unusable(inspection.dataset, table.failures),
        *material.parts.findings,
        *found(
            "pre-training-overlap",
            "note",
            f"{{n}} of {len(material.classes)} classes are among the labels the backbone was pre-trained on; the head "
            "starts from what it knows of them. If it has seen these very pictures, the figures flatter it",
            [f"{name} = {label.split(',')[0]}" for name, label in known.matched.items()],
        ),
        *found(
            "too-few-to-choose",
            "warning",
            "there are too few pictures to choose the strength and the temperature by folds, so they are fixed and the "
            "probabilities are not calibrated",
            too_few,
            "With two or more training pictures in most classes both are chosen from the data.",
        ),
    ]


def _describe_data(material: _Material) -> dict[str, Any]:
    parts = {name: len(material.parts.part(name)) for name in ("train", "validation", "test")}
    return {
        "pictures": len(material.dataset),
        "classes": len(material.classes),
        "parts": parts,
        "given_split": material.parts.given,
        "digest": _digest([(s.name, str(s.label), d) for s, d in zip(material.dataset, material.digests, strict=True)]),
        "split_digest": _digest({n: sorted(material.dataset[r].name for r in material.parts.part(n)) for n in parts}),
    }


def _describe_training(material: _Material, learned: _Learned, rows: Integers) -> dict[str, Any]:
    refitted = len(rows) > len(material.parts.train)
    return {
        "strength": learned.selection.strength,
        "strengths_tried": [list(score) for score in learned.selection.scores],
        "fitted_on": f"{len(rows)} training{' and validation' if refitted else ''} pictures",
        "refitted": refitted,
        "figures_of": f"the head fitted on the {len(material.parts.train)} training pictures",
        "matched": learned.prior.matched,
    }


def _describe_engine(extraction: Extraction) -> dict[str, Any]:
    compared = asdict(extraction.agreement) if extraction.agreement else None
    return {"version": extraction.encoder.version, "difference_from_torch_float32": compared}


def _versions() -> dict[str, str]:
    packages = ("headstart", "torch", "timm", "openvino", "numpy", "pillow", "scipy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
