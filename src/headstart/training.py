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

from headstart import examination
from headstart.config import Plan, TrainConfig, apply_recipe, resolve, resolve_head
from headstart.data import checks, duplicates, splits
from headstart.data.checks import Inspection
from headstart.data.duplicates import Kinship
from headstart.data.splits import Partition
from headstart.encoding import backbone as backbones
from headstart.encoding import features, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import default_cache
from headstart.encoding.features import VIEWS, Extraction
from headstart.examination import Examination
from headstart.judging import evaluation
from headstart.judging import optimism as optimisms
from headstart.judging.optimism import Optimism
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
    joined,
    silence,
)


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
        material: The usable pictures with features, labels and groups, for whoever goes on from here.
        learned: The head that was measured, as it came out of its fit.
    """

    classifier: Classifier
    evaluations: Mapping[str, Evaluation]
    predictions: Mapping[str, Predictions]
    findings: tuple[Finding, ...]
    history: tuple[Step, ...]
    plan: Plan
    splits: Splits
    optimism: Optimism
    material: Material
    learned: Learned

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
    extraction = extract(inspection, backbone, plan, cache=cache, progress=progress)
    plan = replace(plan, encoder=extraction.encoder.plan)  # the engine may have fallen back to a safer one
    seen = examination.examine(inspection, extraction, backbone, plan, progress)
    material, partition, optimism = _divide(seen, backbone, plan, progress)

    def learn(parts: Splits, listener: Listener = ignore) -> Learned:
        part = replace(material, parts=parts)
        return fitting.learn(part, backbone, plan, cache=cache, progress=progress, listen=listener)

    def judge(learned: Learned, rows: Integers) -> Predictions:
        judging = Classifier(backbone, extraction.encoder, learned.head, learned.judgement, material.classes)
        said = judging.judge(material.dataset.select(rows), material.values[rows, 0])
        return replace(said, groups=material.groups[rows])

    rounds = [learn(parts, listen if not number else ignore) for number, parts in enumerate(partition.rounds)]
    learned = rounds[0] if len(rounds) == 1 else learn(partition.final)
    validated = [judge(one, parts.validation) for one, parts in zip(rounds, partition.rounds, strict=True)]
    said = {"validation": joined(validated), "test": judge(learned, partition.final.test)}
    said = {name: predictions for name, predictions in said.items() if len(predictions)}
    material = replace(material, parts=partition.final)
    optimism = _weigh(
        optimism, replace(material, parts=partition.rounds[0]), seen.kinship, backbone, plan, rounds[0], said
    )
    head, rows = learned.head, partition.final.train
    if plan.refit and len(partition.final.validation):
        rows = np.sort(np.concatenate([rows, partition.final.validation]))
        head = fitting.refit(material, backbone, plan, learned.best, rows, progress)
    provenance = Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        data=_describe_data(material),
        training=_describe_training(material, learned, plan, rows, len(partition.rounds)),
        engine=_describe_engine(extraction),
    )
    return TrainingResult(
        Classifier(backbone, extraction.encoder, head, learned.judgement, material.classes, provenance),
        {name: evaluation.measure(predictions, plan.seed) for name, predictions in said.items()},
        said,
        (*seen.findings, *partition.rounds[0].findings, *learned.findings, *optimisms.findings(optimism)),
        rounds[0].history,
        plan,
        partition.final,
        optimism,
        material,
        learned,
    )


def _divide(
    seen: Examination, backbone: Backbone, plan: Plan, progress: Progress
) -> tuple[Material, Partition, Optimism]:
    """Decide which pictures stay together, and who learns and who measures."""
    kinship, config = seen.kinship, plan.split
    groups = kinship.copies if config.copies == "together" else seen.material.groups
    material = replace(seen.material, groups=groups)
    aside = duplicates.conflicting(kinship.copies, material.truth)
    partition = splits.partition(material.dataset, groups, config, plan.seed, aside=aside)
    progress("Comparing with look-alikes", 0, 1)
    gap = optimisms.look_alike_gap(replace(material, parts=partition.final), kinship, backbone, plan)
    progress("Comparing with look-alikes", 1, 1)
    matters = gap is not None and gap.low > optimisms.MATTERS
    together = config.look_alikes == "together" or (config.look_alikes == "if-it-matters" and matters)
    if together:
        material = replace(material, groups=kinship.look_alikes)
        partition = splits.partition(material.dataset, kinship.look_alikes, config, plan.seed, aside=aside, even=True)
    return material, partition, Optimism(gap, together)


def _weigh(
    optimism: Optimism,
    material: Material,
    kinship: Kinship,
    backbone: Backbone,
    plan: Plan,
    learned: Learned,
    said: Mapping[str, Predictions],
) -> Optimism:
    """Return what the figures of the first round owe to resemblance."""
    part = "validation" if "test" not in said else "test"
    rows = material.parts.part(part)
    right = said[part].probabilities[: len(rows)].argmax(axis=1) == material.truth[rows]
    bands = optimisms.bands(material, kinship, rows, right, material.parts.train)
    naive = optimisms.naive_split(material, plan)
    if naive is None:
        return replace(optimism, bands=bands)
    return optimisms.measure_naive(replace(optimism, bands=bands), material, kinship, backbone, plan, learned, naive)


def extract(
    inspection: Inspection, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> Extraction:
    """Return features and looks of inspected pictures, as a plan wants them."""
    return features.extract(
        inspection.dataset,
        inspection.digests,
        runtime.build(backbone, plan.encoder),
        backbone,
        views=VIEWS if plan.pictures.mirror else VIEWS[:1],
        looking=True,
        cache=cache,
        progress=progress,
    )


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
