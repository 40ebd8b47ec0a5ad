"""Labelled pictures → everything a person should know about them before training: what `headstart check` says."""

from __future__ import annotations

from typing import Any

from headstart.config import TrainConfig
from headstart.data import sources, splits
from headstart.encoding import cache as caches
from headstart.experiments import grouping, leakage
from headstart.experiments.leakage import LeakageReport
from headstart.records import Finding, Progress, silence
from headstart.scale.filling import Filling
from headstart.workflows import prepare


def check(
    data: Any,
    config: TrainConfig | None = None,
    *,
    cache: caches.CacheChoice = caches.DEFAULT,
    progress: Progress = silence,
    cluster: str | None = None,
) -> tuple[Finding, ...]:
    """Return everything a person should know about labelled pictures before training.

    Args:
        data: What `sources.dataset_of` takes: a dataset, a path, or a data frame with paths.
        config: What to do differently from the defaults.
        cache: A folder where features are kept, for the training that follows; None: keep nothing.
        progress: Hears how far it is.
        cluster: As in `train`.

    Raises:
        DataError: The data cannot be learned from.
        BackboneError: The backbone's weights cannot be had.
    """
    with Filling(cluster, folder := caches.resolve(cache)) as filling:
        dataset = sources.dataset_of(data, cache=folder)
        begun = prepare.begin(dataset, config or TrainConfig(), cache=folder, progress=progress, filling=filling)
        prepared = prepare.encode(begun, cache=folder, progress=progress, filling=filling)
        learner = prepared.learner(filling=filling)
        decided = grouping.decide(learner, prepared.resemblance, prepared.plan.split, progress=progress)
    given = splits.is_given(prepared.features.dataset)
    told = leakage.findings(LeakageReport(decided.gap, decided.same_object, given))
    return (*prepared.findings, *decided.findings, *told)
