"""A labelled dataset → a trained, calibrated, measured classifier: the recipe, in the order of the drawing.

Validation pictures measure and decide nothing: whatever there is to choose is chosen within the training part. After
measuring, the head is fitted once more on training and validation pictures together, unless the plan says otherwise;
pictures that the data itself calls "test" are never learned from.
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

from headstart.config import Plan, TrainConfig, apply_recipe, resolve, resolve_head
from headstart.data import checks, splits
from headstart.data.checks import Inspection
from headstart.encoding import backbone as backbones
from headstart.encoding import features, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import default_cache
from headstart.encoding.features import VIEWS, Extraction
from headstart.judging import evaluation
from headstart.learning import fitting
from headstart.learning.fitting import Learned, Material
from headstart.learning.heads import Listener, Step, ignore
from headstart.model.classifier import Classifier
from headstart.records import (
    Dataset,
    Evaluation,
    Finding,
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


def prepare(config: TrainConfig) -> tuple[Backbone, Plan]:
    """Load the backbone and decide what the configuration left open.

    Raises:
        BackboneError: The weights cannot be had.
        ConfigError: What was asked for is not to be had on this machine.
    """
    config = apply_recipe(config)
    resolve_head(config.head)  # what excludes itself is said before the weights are fetched
    encoder = runtime.choose(config.encoder)
    size = None if config.pictures.size == "auto" else config.pictures.size
    backbone = backbones.load(config.encoder.backbone, config.encoder.weights, size=size, resize=config.pictures.resize)
    local = encoder.backbone.startswith("local-dir:")  # fed back, the plan must ask for the same folder
    return backbone, resolve(
        config, backbone.preprocess, encoder if local else replace(encoder, backbone=backbone.name)
    )


def train(
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = silence,
    listen: Listener = ignore,
) -> TrainingResult:
    """Check, split, encode, fit, calibrate and evaluate.

    Args:
        dataset: Labelled pictures, from `read`.
        config: What to do differently from the defaults.
        cache: Where features are kept; None: the default cache folder.
        progress: Hears how far it is.
        listen: Hears loss and accuracy of each step of the fit.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
        ConfigError: The configuration does not fit this machine.
        StorageError: The cache cannot be written.
    """
    inspection = checks.inspect(dataset, progress)
    backbone, plan = prepare(config or TrainConfig())
    return fit(inspection, backbone, plan, cache=cache or default_cache(), progress=progress, listen=listen)


def fit(
    inspection: Inspection,
    backbone: Backbone,
    plan: Plan,
    *,
    cache: Path | None,
    progress: Progress = silence,
    listen: Listener = ignore,
) -> TrainingResult:
    """Do what `train` does, from a dataset that was inspected and a plan that was shown. `cache` None keeps nothing."""
    fitting.check(inspection.dataset, plan)
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
    learned = fitting.learn(material, backbone, plan, cache=cache, progress=progress, listen=listen)
    base = Classifier(backbone, extraction.encoder, learned.head, learned.temperature, material.classes)
    said = {
        name: _judge(base, material, rows) for name in ("validation", "test") if len(rows := material.parts.part(name))
    }
    head, rows = learned.head, material.parts.train
    if plan.refit and len(material.parts.validation):
        rows = np.sort(np.concatenate([rows, material.parts.validation]))
        head = fitting.refit(material, backbone, plan, learned.best, rows, progress)
    provenance = Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        data=_describe_data(material),
        training=_describe_training(material, learned, plan, rows),
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


def _usable(inspection: Inspection, extraction: Extraction, plan: Plan) -> Material:
    """Leave out what could not be decoded, then split."""
    table = extraction.table
    kept = np.array([row for row in range(len(inspection.dataset)) if row not in table.failures], dtype=np.int64)
    dataset = inspection.dataset.select(kept)
    checks.refuse_one_class(dataset, checks.unusable(inspection.dataset, table.failures))
    digests = tuple(table.digests[row] for row in kept)
    groups = splits.group_ids(dataset, digests)
    parts = splits.split(dataset, groups, plan.split.validation, plan.seed)
    values = table.values if len(kept) == len(table.values) else table.values[kept]
    return Material(dataset, values, dataset.classes, dataset.classes.encode(dataset.labels), digests, groups, parts)


def _judge(classifier: Classifier, material: Material, rows: Integers) -> Predictions:
    said = classifier.judge(material.dataset.select(rows), material.values[rows, 0])
    return replace(said, groups=material.groups[rows])


def _findings(inspection: Inspection, extraction: Extraction, material: Material, learned: Learned) -> list[Finding]:
    table = extraction.table
    return [
        *checks.remarks(table.observations),
        *checks.unusable(inspection.dataset, table.failures),
        *material.parts.findings,
        *found(
            "pre-training-overlap",
            "note",
            f"{{n}} of {len(material.classes)} classes are among the labels the backbone was pre-trained on; the head "
            "starts from what it knows of them. If it has seen these very pictures, the figures flatter it",
            [f"{name} = {label.split(',')[0]}" for name, label in learned.matched.items()],
        ),
        *learned.findings,
    ]


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


def _describe_training(material: Material, learned: Learned, plan: Plan, rows: Integers) -> dict[str, Any]:
    refitted = len(rows) > len(material.parts.train)
    watched = learned.told["watched"] if plan.head.in_epochs and plan.head.watch == "training" else 0
    aside = f", {watched} of them only to stop it" if watched else ""
    return {
        **learned.told,
        "fitted_on": f"{len(rows)} training and validation pictures"
        if refitted
        else f"{len(rows)} training pictures{aside}",
        "refitted": refitted,
        "figures_of": f"the head fitted on the {len(material.parts.train)} training pictures{aside}",
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
