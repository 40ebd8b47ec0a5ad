"""Labelled pictures → what must be known of them before anything is learned, and whose labels are doubtful.

The first step of `train`, and all that `headstart check` and `headstart audit` do. What is found is told; nothing is
left out here but what could not be decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.config import Plan, TrainConfig, apply_recipe, resolve, resolve_head
from headstart.data import splits
from headstart.encoding import backbone as backbones
from headstart.encoding import features, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import default_cache
from headstart.encoding.features import VIEWS, Extraction
from headstart.evaluation.label_errors import Suspect, find_suspects
from headstart.experiments import grouping
from headstart.experiments.grouping import Optimism
from headstart.inspection import duplicates, files, quality, shortcuts
from headstart.inspection.duplicates import Resemblance
from headstart.inspection.files import Inspection
from headstart.learning import calibration, learner, prior
from headstart.learning.learner import Material
from headstart.records import ClassNames, Dataset, Finding, ImageProperties, Integers, Progress, Splits, found, silence

FOLDS = 5  # in which shortcuts are sought


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of the usable pictures.

    Attributes:
        material: Them, with features; its groups are those that no split may part (copies, unless the plan says
            otherwise, and groups of the data), and all may be learned.
        properties: What each looks like at a glance.
        resemblance: Which are copies and same-object pictures.
        alike: (N,) groups that keep same-object pictures together too.
        findings: What to tell.
    """

    material: Material
    properties: ImageProperties
    resemblance: Resemblance
    alike: Integers
    findings: tuple[Finding, ...]


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


def extract(
    inspection: Inspection, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> Extraction:
    """Return features and properties of inspected pictures, as a plan wants them."""
    return features.extract(
        inspection.dataset,
        inspection.digests,
        runtime.build(backbone, plan.encoder),
        backbone,
        views=VIEWS if plan.pictures.mirror else VIEWS[:1],
        with_properties=True,
        cache=cache,
        progress=progress,
    )


def check(
    dataset: Dataset, config: TrainConfig | None = None, *, cache: Path | None = None, progress: Progress = silence
) -> tuple[Finding, ...]:
    """Return everything a person should know about labelled pictures before training.

    Args:
        dataset: From `read`.
        config: What to do differently from the defaults.
        cache: Where features are kept, for the training that follows; None: the default cache folder.
        progress: Hears how far it is.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
    """
    backbone, plan = prepare(config or TrainConfig())
    return look(dataset, backbone, plan, cache=cache or default_cache(), progress=progress)


def look(
    dataset: Dataset, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> tuple[Finding, ...]:
    """Do what `check` does, by a plan that was decided. `cache` None keeps nothing."""
    inspection = files.inspect(dataset, progress)
    extraction = extract(inspection, backbone, plan, cache=cache, progress=progress)
    seen = examine(inspection, extraction, backbone, plan, progress)
    return (*seen.findings, *grouping.findings(weigh_same_object(seen, backbone, plan, progress)))


def audit(
    dataset: Dataset, config: TrainConfig | None = None, *, cache: Path | None = None, progress: Progress = silence
) -> tuple[Suspect, ...]:
    """Return the pictures whose label is doubtful, the most doubtful first.

    Each is judged by a linear head that had learned from neither it nor its copies.

    Args:
        dataset: From `read`.
        config: What to do differently from the defaults.
        cache: Where features are kept; None: the default cache folder.
        progress: Hears how far it is.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
    """
    backbone, plan = prepare(config or TrainConfig())
    return doubt(dataset, backbone, plan, cache=cache or default_cache(), progress=progress)


def doubt(
    dataset: Dataset, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> tuple[Suspect, ...]:
    """Do what `audit` does, by a plan that was decided. `cache` None keeps nothing."""
    inspection = files.inspect(dataset, progress, keep_conflicting=True)
    extraction = extract(inspection, backbone, plan, cache=cache, progress=progress)
    seen = examine(inspection, extraction, backbone, plan, progress)
    material, copies = seen.material, seen.resemblance.near_duplicates
    rows = material.parts.train
    fold = splits.folds(material.dataset, splits.united(material.groups, copies), plan.head.folds, plan.seed)
    held = learner.out_of_fold(material, backbone, plan, rows, fold, progress=progress)
    scaled = calibration.fit(held.logits, material.targets[held.rows], held.fold, "temperature")
    probabilities = np.full((len(rows), len(material.classes)), np.nan)
    probabilities[held.rows] = scaled.probabilities(held.logits)
    names = [sample.name for sample in material.dataset]
    return find_suspects(names, material.targets, material.classes, probabilities, copies=duplicates.members(copies))


def weigh_same_object(seen: Examination, backbone: Backbone, plan: Plan, progress: Progress = silence) -> Optimism:
    """Return what same-object pictures among the pictures that may be learned add, and whether they stay together."""
    progress("Comparing with same-object pictures", 0, 1)
    material = seen.material
    learned = np.array([row for row, sample in enumerate(material.dataset) if sample.split in (None, "train")])
    nothing = np.array([], dtype=np.int64)
    gap = grouping.look_alike_gap(
        replace(material, parts=Splits(learned, nothing, nothing)), seen.alike, backbone, plan
    )
    progress("Comparing with same-object pictures", 1, 1)
    return grouping.decide(gap, plan.split.same_object, given=splits.is_given(material.dataset))


def examine(
    inspection: Inspection, extraction: Extraction, backbone: Backbone, plan: Plan, progress: Progress = silence
) -> Examination:
    """Look at everything that can be known before training.

    Args:
        inspection: From `files.inspect`.
        extraction: Of its dataset, with properties.
        backbone: Whose labels may overlap with the classes.
        plan: For the seed.
        progress: Hears how far it is.

    Raises:
        DataError: Fewer than two classes could be decoded.
    """
    progress("Examining", 0, 1)
    table = extraction.table
    kept = np.array([row for row in range(len(inspection.dataset)) if row not in table.failures], dtype=np.int64)
    whole = len(kept) == len(table.values)
    dataset = inspection.dataset.select(kept)
    unusable = files.unusable(inspection.dataset, table.failures)
    files.refuse_one_class(dataset, unusable)
    digests = tuple(table.digests[row] for row in kept)
    classes, values = dataset.classes, table.values if whole else table.values[kept]
    assert table.properties is not None  # noqa: S101  # asked for by who extracts
    properties, targets = table.properties.select(kept), classes.encode(dataset.labels)
    known = splits.group_ids(dataset, digests)
    resemblance = duplicates.find(properties, values[:, 0], targets, digests, plan.seed)
    groups = splits.united(known, resemblance.near_duplicates) if plan.split.near_duplicates == "together" else known
    nothing = np.array([], dtype=np.int64)
    everything = Splits(np.arange(len(dataset)), nothing, nothing)
    fold = splits.folds(dataset, groups, FOLDS, plan.seed)
    findings = [
        *inspection.findings,
        *files.remarks(table.observations),
        *unusable,
        *duplicates.findings(dataset, resemblance, digests),
        *quality.inspect(dataset, properties, backbone.preprocess.size),
        *shortcuts.inspect(dataset, properties, targets, classes, fold),
        *_overlap(classes, backbone, plan),
    ]
    progress("Examining", 1, 1)
    material = Material(dataset, values, classes, targets, digests, groups, everything)
    return Examination(
        material, properties, resemblance, splits.united(groups, resemblance.same_object), tuple(findings)
    )


def _overlap(classes: ClassNames, backbone: Backbone, plan: Plan) -> list[Finding]:
    """Return which classes are among the labels that the backbone was pre-trained on, and what that means."""
    names = prior.candidates(classes, backbone.labels) if len(backbone.rows) else {}
    start = "; the head starts from what it knows of them" if plan.head.prior == "names" else ""
    return found(
        "pre-training-overlap",
        "note",
        f"{{n}} of {len(classes)} classes are among the labels the backbone was pre-trained on{start}. If it has seen "
        "these very pictures, the figures flatter it",
        [f"{name} = {backbone.labels[rows[0]].split(',')[0]}" for name, rows in names.items()],
        "Pictures that are younger than the network, or taken by yourself, give a figure that nothing flatters.",
    )
