"""Labelled pictures → those whose label is doubtful: what `headstart audit` puts into its sheet."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart import arrays
from headstart.config import TrainConfig
from headstart.data import sources, splits
from headstart.encoding import cache as caches
from headstart.evaluation.label_errors import Suspect, find_suspects
from headstart.learning import calibration
from headstart.records import Progress, silence
from headstart.workflows import prepare


def audit(
    data: Any,
    config: TrainConfig | None = None,
    *,
    cache: caches.CacheChoice = caches.DEFAULT,
    progress: Progress = silence,
) -> tuple[Suspect, ...]:
    """Return the pictures whose label is doubtful, the most doubtful first.

    What is said of each comes from a linear head that had learned from neither it nor its near-duplicates.

    Args:
        data: What `sources.dataset_of` takes: a dataset, a path, or a data frame with paths.
        config: What to do differently from the defaults.
        cache: A folder where features are kept; None: keep nothing.
        progress: Hears how far it is.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
    """
    folder, asked = caches.resolve(cache), config or TrainConfig()
    dataset = sources.dataset_of(data, cache=folder)
    begun = prepare.begin(dataset, asked, cache=folder, progress=progress, keep_conflicting=True)
    prepared = prepare.encode(begun, cache=folder, progress=progress)
    features, plan, near = prepared.features, prepared.plan, prepared.resemblance.near_duplicates
    rows = np.arange(len(features))
    groups = splits.united(splits.group_ids(features.dataset, features.digests), near)
    fold = splits.folds(features.dataset, groups, plan.head.folds, plan.seed)
    held = prepared.learner(progress=progress).out_of_fold(rows, fold)
    scaled = calibration.fit(held.logits, features.targets[held.rows], held.fold, "temperature", groups[held.rows])
    probabilities = arrays.answers((len(rows), len(features.classes)), float, folder)
    probabilities[fold < 0] = np.nan
    for part in arrays.parts(len(held.rows)):
        probabilities[held.rows[part]] = scaled.probabilities(held.logits[part])
        arrays.release(probabilities)
    twins = splits.members(near)
    return find_suspects(features.names(rows), features.targets, features.classes, probabilities, near_duplicates=twins)
