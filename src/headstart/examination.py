"""Inspected pictures and their features → what must be known of the data before anything is learned from it.

The first step of `train`, and all that `headstart check` does. What is found is told; nothing is left out here but what
could not be decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.config import Plan
from headstart.data import checks, duplicates, quality, shortcuts, splits
from headstart.data.checks import Inspection
from headstart.data.duplicates import Kinship
from headstart.encoding.backbone import Backbone
from headstart.encoding.features import Extraction
from headstart.learning import prior
from headstart.learning.fitting import Material
from headstart.records import ClassNames, Finding, Looks, Progress, Splits, found, silence

FOLDS = 5  # in which shortcuts are sought


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of the usable pictures.

    Attributes:
        material: Them, with features; its groups are copies by bytes and groups of the data, and all may be learned.
        looks: What each looks like at a glance.
        kinship: Which are copies and look-alikes.
        findings: What to tell.
    """

    material: Material
    looks: Looks
    kinship: Kinship
    findings: tuple[Finding, ...]


def examine(
    inspection: Inspection, extraction: Extraction, backbone: Backbone, plan: Plan, progress: Progress = silence
) -> Examination:
    """Look at everything that can be known before training.

    Args:
        inspection: From `checks.inspect`.
        extraction: Of its dataset, with looks.
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
    unusable = checks.unusable(inspection.dataset, table.failures)
    checks.refuse_one_class(dataset, unusable)
    digests = tuple(table.digests[row] for row in kept)
    classes, values = dataset.classes, table.values if whole else table.values[kept]
    assert table.looks is not None  # noqa: S101  # asked for by who extracts
    looks, truth = table.looks.select(kept), classes.encode(dataset.labels)
    known = splits.group_ids(dataset, digests)
    kinship = duplicates.find(looks.thumbnails, values, truth, known, plan.seed)
    nothing = np.array([], dtype=np.int64)
    everything = Splits(np.arange(len(dataset)), nothing, nothing)
    fold = splits.folds(dataset, kinship.copies, FOLDS, plan.seed)
    findings = [
        *inspection.findings,
        *checks.remarks(table.observations),
        *unusable,
        *duplicates.findings(dataset, kinship, digests),
        *quality.inspect(dataset, looks, backbone.preprocess.size),
        *shortcuts.inspect(dataset, looks, truth, classes, fold),
        *_overlap(classes, backbone),
    ]
    progress("Examining", 1, 1)
    return Examination(
        Material(dataset, values, classes, truth, digests, known, everything), looks, kinship, tuple(findings)
    )


def _overlap(classes: ClassNames, backbone: Backbone) -> list[Finding]:
    """Return which classes are among the labels that the backbone was pre-trained on, and what that means."""
    names = prior.candidates(classes, backbone.labels) if len(backbone.rows) else {}
    return found(
        "pre-training-overlap",
        "note",
        f"{{n}} of {len(classes)} classes are among the labels the backbone was pre-trained on; the head starts from what "
        "it knows of them. If it has seen these very pictures, the figures flatter it",
        [f"{name} = {backbone.labels[rows[0]].split(',')[0]}" for name, rows in names.items()],
        "Pictures that are younger than the network, or taken by yourself, give a figure that nothing flatters.",
    )
