"""A previous run on some of the same pictures → where they stay in this one, and what changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.config import TrainConfig
from headstart.data import corrections, splits
from headstart.data.splits import Parts
from headstart.errors import ConfigError
from headstart.evaluation import comparison
from headstart.evaluation.comparison import Change
from headstart.plans import SplitPlan
from headstart.predictions import Predictions
from headstart.records import ClassNames, Dataset, Finding, LabelledFeatures, found, numbered


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """What a previous run left that a later one on the same pictures and more can go on from.

    Attributes:
        parts: SHA-256 of a picture's bytes → "train", "validation" or "test".
        answers: The same → the class that was predicted while the picture was held out.
        classes: That it knew.
        labels: SHA-256 of a picture's bytes → its label then.
        names: The same → what it was called.
    """

    parts: Mapping[str, str]
    answers: Mapping[str, str]
    classes: ClassNames
    labels: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)


def arrivals(previous: PreviousRun | None, dataset: Dataset, digests: Sequence[str]) -> list[Finding]:
    """Return which pictures and classes are new, how many of the previous run's are gone, and which labels changed;
    nothing without a previous run.

    Raises:
        ConfigError: None of the previous run's pictures is here.
    """
    if previous is None:
        return []
    known = [digest in previous.parts for digest in digests]
    if not any(known):
        raise ConfigError(
            f"None of the {len(previous.parts)} pictures of the previous run is among these {len(dataset)}.",
            "DATA holds the old pictures and the new ones; they are known by their bytes, not by their names.",
        )
    gone = len(previous.parts.keys() - set(digests))
    return [
        *found(
            "new-pictures",
            "note",
            "{n} [picture is|pictures are] new since the previous run",
            [name for name, old in zip(dataset.names, known, strict=True) if not old],
        ),
        *found(
            "new-classes",
            "note",
            "{n} [class is|classes are] new since the previous run",
            [name for name in dataset.classes if name not in previous.classes],
        ),
        *corrections.changed_labels(previous.labels, dataset, digests),
        *found(
            "gone-pictures",
            "warning",
            numbered("{n} [picture|pictures] of the previous run [is|are] not here and no longer learned from", gone),
            ["changed, moved away or removed"] if gone else [],
            "Give the old pictures together with the new ones.",
        ),
    ]


def heeded(previous: PreviousRun | None, config: TrainConfig) -> TrainConfig:
    """Return the configuration, folds left away where a previous run held out a share: its pictures stay where they
    were, unless folds are asked for.
    """
    if previous is None or config.split.folds != "auto" or "validation" not in previous.parts.values():
        return config
    return replace(config, split=replace(config.split, folds=0))


def parts(previous: PreviousRun | None, features: LabelledFeatures, config: SplitPlan) -> Parts | None:
    """Return (N,) where the previous run had each picture, "" for new ones; None where that decides nothing.

    It decides nothing where every picture is measured in its turn, now or then, or the data says which.
    """
    if previous is None or config.folds or config.repeats > 1 or splits.is_given(features.dataset):
        return None
    if set(previous.parts.values()) <= {"train", ""}:
        return None
    return np.array([previous.parts.get(digest, "") for digest in features.digests])


def changes(
    previous: PreviousRun | None, features: LabelledFeatures, predictions: Mapping[str, Predictions]
) -> tuple[Change, ...]:
    """Return what changed on pictures of the previous run's classes that both it and this one measured."""
    if previous is None:
        return ()
    digest_of = dict(zip(features.dataset.names, features.digests, strict=True))
    rows = [
        (previous.answers[digest_of[one.path]], one.label, label, group)
        for part in predictions.values()
        for one, label, group in zip(part, part.targets or (), part.grouped(), strict=True)
        if digest_of[one.path] in previous.answers and label in previous.classes
    ]
    if not rows:
        return ()
    before, after, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    return comparison.compare(before == labels, after == labels, labels.tolist(), groups)
