"""Labelled pictures + configuration → all that is known of them before anything is learned.

What every workflow begins with: decide, read and hash (`begin`), then encode and look (`encode`). What is found is
told; nothing is left out here but what could not be used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from headstart import arrays
from headstart.config import TrainConfig, apply_recipe
from headstart.data import splits
from headstart.encoding import features, runtime, sizes, wanted
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import FITS
from headstart.encoding.encoder import Agreement, Encoder
from headstart.encoding.features import Extraction
from headstart.inspection import duplicates, files, properties, quality, shortcuts
from headstart.inspection.duplicates import Resemblance
from headstart.inspection.files import Inspection
from headstart.learning import learners, prior
from headstart.learning.clock import Limits
from headstart.learning.elsewhere import Elsewhere
from headstart.learning.learner import Learner
from headstart.learning.prior import LabelRows
from headstart.learning.spread import Spread
from headstart.learning.tuner import Tuning
from headstart.plans import Plan, refuse_contradictions, watches_validation
from headstart.records import ClassNames, Dataset, Finding, LabelledFeatures, Progress, found, silence
from headstart.scale.filling import Filling
from headstart.workflows import budget, decide, quantizing
from headstart.workflows.budget import Budget

FOLDS = 5  # in which shortcuts are sought
UNLIMITED = Limits()
AFTERWARDS = 15.0  # seconds from the last epoch to the saved model, besides encoding


@dataclass(frozen=True, slots=True)
class Begun:
    """Pictures that were read, and what is going to be done with them.

    Attributes:
        inspection: The usable files.
        backbone: With its weights.
        plan: What was decided.
        budget: How the time is spent that there is; None: it does not matter.
        enough: Set, by whoever watches, it ends the training of networks: the best so far is measured and given.
    """

    inspection: Inspection
    backbone: Backbone
    plan: Plan
    budget: Budget | None = None
    enough: Event = field(default_factory=Event)

    def limits(self) -> Limits:
        """Return when the training of networks that begins now must end."""
        if self.budget is None:
            return Limits(time.monotonic() + 60 * self.plan.finetune.minutes, self.enough.is_set)
        # a network that was trained sees all pictures once more, and then there is the rest
        after = len(self.inspection.dataset) * self.budget.seconds_a_picture + AFTERWARDS
        return Limits(self.budget.deadline - after, self.enough.is_set)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pictures that were encoded and looked at.

    Attributes:
        features: Of the usable pictures.
        resemblance: Which are near-duplicates, and which show one object.
        findings: What to tell.
        backbone: That encoded them.
        encoders: The engine that was taken in the end, for each network.
        agreement: How it compares with PyTorch float32; None if nobody knows.
        plan: With the engine that was taken in the end.
        encoded: How many pictures were encoded now; of none, the engine was not even started.
    """

    features: LabelledFeatures
    resemblance: Resemblance
    findings: tuple[Finding, ...]
    backbone: Backbone
    encoders: tuple[Encoder, ...]
    agreement: Agreement | None
    plan: Plan
    encoded: int = 0

    def learner(
        self,
        *,
        cache: Path | None = None,
        progress: Progress = silence,
        limits: Limits = UNLIMITED,
        filling: Filling | None = None,
    ) -> Learner:
        """Return what fits heads, or the networks too, as the plan says; see `learners.build`.

        Args:
            cache: The folder of the cache, where epochs keep their state; None: they keep none.
            progress: Hears of every fit.
            limits: When the training of networks must end.
            filling: Whose cluster trains networks, and computes for linear heads of many pictures; None: nobody's.
        """
        plan, head = self.plan, self.plan.head
        rows = LabelRows(self.backbone.labels, self.backbone.rows, self.backbone.offsets)
        trained = self.backbone.networks if plan.finetune.networks == "all" else self.backbone.networks[:1]
        engine = runtime.usual(plan.encoder)  # what is trained would have to be calibrated again
        elsewhere = None if filling is None or filling.address is None else Elsewhere(filling.opened)
        tuning = Tuning(Backbone(trained), engine, plan.finetune, plan.predicted, limits, elsewhere)
        return learners.build(
            self.features,
            head,
            rows,
            plan.seed,
            checkpoints=cache and cache / FITS,
            progress=progress,
            tuning=None if head.finetune == "none" else tuning,
            spread=None if filling is None or filling.address is None else Spread(filling, progress),
        )


def begin(
    dataset: Dataset,
    config: TrainConfig,
    *,
    cache: Path | None = None,
    progress: Progress = silence,
    keep_conflicting: bool = False,
    filling: Filling | None = None,
) -> Begun:
    """Refuse what cannot be done, read the files, load the backbone, and decide what the configuration left open.

    Args:
        dataset: Labelled pictures.
        config: What was asked for.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every file.
        keep_conflicting: Whether byte-identical pictures with different labels stay.
        filling: What reads many files elsewhere; None: all are read here.

    Raises:
        DataError: The data cannot be learned from.
        ConfigError: Settings exclude each other, do not go with the data, or are not to be had on this machine.
        BackboneError: The weights cannot be had.
    """
    begun = time.monotonic()
    asked = apply_recipe(config)
    refuse_contradictions(asked)
    wanted.refuse_contradictions(asked.encoder.backbone, asked.encoder.weights)
    splits.check(dataset, config.split, watches_validation(asked))
    read = files.fingerprints if filling is None else filling.fingerprints
    inspection = files.inspect(dataset, progress, keep_conflicting=keep_conflicting, cache=cache, read=read)
    if config.budget:
        decision, spent = budget.spend(config, inspection, begun=begun, cache=cache, progress=progress)
        return Begun(inspection, decision.backbone, decision.plan, spent)
    decision = decide.decide(config, inspection.dataset)
    return Begun(inspection, decision.backbone, decision.plan)


def encode(
    begun: Begun, *, cache: Path | None, progress: Progress = silence, filling: Filling | None = None
) -> Prepared:
    """Compute features and image properties, and look at everything that can be known before training.

    Args:
        begun: From `begin`.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.
        filling: What computes elsewhere what the cache lacks; None: all is computed here.

    Raises:
        DataError: Fewer than two classes could be decoded.
        StorageError: The cache cannot be written.
    """
    inspection, backbone, plan = begun.inspection, begun.backbone, begun.plan
    encoders, told = quantizing.choose(inspection, backbone, plan, cache=cache, progress=progress)
    asked = inspection.dataset, inspection.digests, encoders
    wanted: dict[str, Any] = {"views": plan.views, "with_properties": True, "progress": progress}
    deadly = {} if filling is None else filling(*asked, **wanted)
    extraction = features.extract(*asked, **wanted, cache=cache, failures=deadly)
    files.correct(inspection, extraction.table.digests, cache)
    plan = replace(plan, encoder=extraction.encoders[0].plan)  # the engine may have fallen back to a safer one
    progress("Examining", 0, 1)
    averaged = plan.predict.views == "mirror"
    labelled, kept, unusable = _labelled(inspection.dataset, extraction, averaged=averaged, cache=cache)
    table = extraction.table
    assert table.properties is not None  # noqa: S101  # asked for above
    seen = properties.select(table.properties, kept, cache)
    resemblance = duplicates.find(seen, labelled.values[:, 0], labelled.targets, labelled.digests, plan.seed)
    dataset, classes = labelled.dataset, labelled.classes
    groups = splits.united(splits.group_ids(dataset, labelled.digests), resemblance.near_duplicates)
    fold = splits.folds(dataset, groups, FOLDS, plan.seed)
    findings = (
        *inspection.findings,
        *told,
        *files.remarks(table.observations),
        *unusable,
        *duplicates.findings(dataset, resemblance, labelled.digests),
        *quality.inspect(dataset, seen, sizes.trained_on(backbone.networks[0])),
        *shortcuts.inspect(dataset, seen, labelled.targets, classes, fold),
        *_overlap(classes, backbone, plan),
    )
    progress("Examining", 1, 1)
    encoders, agreement = extraction.encoders, extraction.agreement
    return Prepared(labelled, resemblance, findings, backbone, encoders, agreement, plan, table.encoded)


def _labelled(
    dataset: Dataset, extraction: Extraction, *, averaged: bool, cache: Path | None
) -> tuple[LabelledFeatures, np.ndarray, list[Finding]]:
    """Return the features of the pictures that could be decoded, their rows, and what is told of the others."""
    table = extraction.table
    kept = np.setdiff1d(np.arange(len(dataset)), list(table.failures))
    unusable = files.unusable(dataset, table.failures)
    usable = dataset.select(kept)
    files.refuse_one_class(usable, unusable)
    values = arrays.select(table.values, kept, cache)
    values = features.mean(values, cache) if averaged else values
    classes = usable.classes
    digests = table.digests.select(kept)
    return LabelledFeatures(usable, values, classes, classes.encode(usable.labels), digests), kept, unusable


def _overlap(classes: ClassNames, backbone: Backbone, plan: Plan) -> list[Finding]:
    """Return which classes are among the labels that the backbone was pre-trained on, and what that means."""
    names = prior.candidates(classes, backbone.labels) if len(backbone.rows) else {}
    start = "; the head starts from what it knows of them" if plan.head.prior == "names" else ""
    if plan.quality == "best" and plan.head.finetune == "none" and decide.knows_most(backbone, classes):
        start += ", and no network is trained (--set head.finetune=all tries it)"
    return found(
        "pre-training-overlap",
        "note",
        f"{{n}} of {len(classes)} classes are among the labels the backbone was pre-trained on{start}. If it has seen "
        "these very pictures, the figures flatter it",
        [f"{name} = {backbone.labels[rows[0]].split(',')[0]}" for name, rows in names.items()],
        "Pictures that are younger than the network, or taken by yourself, give a figure that nothing flatters.",
    )
