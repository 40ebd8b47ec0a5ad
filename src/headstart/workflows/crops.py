"""Prepared pictures → the same with crops of those that are learned from, where asked for or where they prove better.

A sample decides. What it needed is in the cache and serves the training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart import arrays
from headstart.data import splits
from headstart.encoding import crops, features
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.experiments import crops as experiment
from headstart.experiments import trying
from headstart.learning import learners
from headstart.learning.prior import LabelRows
from headstart.predictions import Interval
from headstart.records import Finding, Integers, LabelledFeatures, Progress, silence
from headstart.scale.filling import Filling
from headstart.workflows.budget import Budget
from headstart.workflows.prepare import Prepared

COUNT = 4  # of each picture; on grocery two bring half of what four do
PICTURES = 600  # on which it is found out whether crops are better
SHARE = 1 / 3  # of what a budget leaves, that encoding crops may take
STAGE = "Encoding crops"
ADVICE = "--set pictures.crops=4 learns from them anyway, 0 does not try."


def add(
    prepared: Prepared,
    budget: Budget | None,
    *,
    cache: Path | None = None,
    progress: Progress = silence,
    filling: Filling | None = None,
) -> Prepared:
    """Return what was prepared, with further views that are learned from, and the plan that says how many.

    Pictures that the data keeps for testing are never learned from, and get none.

    Args:
        prepared: Whose plan says how many, or that a sample decides.
        budget: How the time is spent that there is; None: it does not matter.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears how far it is.
        filling: What computes elsewhere what the cache lacks, but for the sample; None: all is computed here.

    Raises:
        StorageError: The cache cannot be written.
    """
    plan, known = prepared.plan, prepared.features
    rows = np.flatnonzero([part != "test" for part in known.dataset.packed.splits])
    count, told = plan.pictures.crops, None
    if count == "if-better":
        count, told = _decided(prepared, rows, budget, cache, progress)
    if count:
        known = _cropped(known, prepared.encoders, _views(prepared, count), rows, cache, progress, filling)
    plan = replace(plan, pictures=replace(plan.pictures, crops=count))
    return replace(prepared, features=known, plan=plan, findings=(*prepared.findings, *([told] if told else [])))


def _decided(
    prepared: Prepared, rows: Integers, budget: Budget | None, cache: Path | None, progress: Progress
) -> tuple[int, Finding | None]:
    """Return how many crops of each picture are learned from, and why."""
    started = time.monotonic()
    if budget is not None:
        needed = len(rows) * COUNT * budget.seconds_a_picture / len(prepared.plan.views)
        left = budget.deadline - started
        if needed > SHARE * left:
            text = f"Crops were not tried: they would take about {needed:.0f} of the {left:.0f} seconds that are left"
            return 0, Finding("crops", "note", text, (), "Give more time; what was encoded is kept.")
    known, found = _tried(prepared, rows, cache, progress)
    if found is None:
        return 0, None
    better = found.high < 0
    text = (
        f"Learning from {COUNT} random parts of each picture too changes the log-loss by {found}, out of fold on "
        f"{len(known)} pictures (found out in {time.monotonic() - started:.0f} s): they are "
        f"{'' if better else 'not '}learned from"
    )
    return COUNT if better else 0, Finding("crops", "note", text, (), ADVICE)


def _tried(
    prepared: Prepared, rows: Integers, cache: Path | None, progress: Progress
) -> tuple[LabelledFeatures, Interval | None]:
    """Return a sample, and what crops add to its log-loss, by the first of the networks."""
    plan, whole, network = prepared.plan, prepared.features, Backbone(prepared.backbone.networks[:1])
    rows = rows[trying.draw(whole.dataset.select(rows), PICTURES, plan.seed)]
    dataset = whole.dataset.select(rows)
    known = LabelledFeatures(
        dataset,
        arrays.take(whole.values, rows)[:, :1, : network.dim],
        dataset.classes,
        dataset.classes.encode(dataset.labels),
        tuple(whole.digests[row] for row in rows),
    )
    known = _cropped(known, prepared.encoders[:1], _views(prepared, COUNT), np.arange(len(rows)), cache, progress)
    head = replace(plan.head, finetune="none")
    learner = learners.build(known, head, LabelRows(network.labels, network.rows, network.offsets), plan.seed)
    return known, experiment.gain(learner, _groups(prepared)[rows])


def _groups(prepared: Prepared) -> Integers:
    """Return (N,) what is left out together: also pictures that only may show one object, to be on the safe side."""
    groups = splits.group_ids(prepared.features.dataset, prepared.features.digests)
    near, alike = prepared.resemblance.near_duplicates, prepared.resemblance.same_object
    return splits.united(splits.united(groups, near), alike)


def _views(prepared: Prepared, count: int) -> tuple[str, ...]:
    return crops.names(count, mirror=prepared.plan.finetune.flip)


def _cropped(
    known: LabelledFeatures,
    encoders: Sequence[Encoder],
    views: Sequence[str],
    rows: Integers,
    cache: Path | None,
    progress: Progress,
    filling: Filling | None = None,
) -> LabelledFeatures:
    """Return features with those of crops of some rows behind them; the other rows, never learned from, get zeros."""
    digests = [known.digests[row] for row in rows]

    def told(stage: str, done: int, total: int) -> None:
        progress(STAGE if stage == "Encoding" else stage, done, total)

    some = known.dataset.select(rows)
    deadly = {} if filling is None else filling(some, digests, encoders, views=views, progress=told)
    table = features.extract(some, digests, encoders, views=views, cache=cache, progress=told, failures=deadly).table
    pictures, own, dim = known.values.shape
    half = np.float16 in (known.values.dtype, table.values.dtype)
    values = arrays.zeros((pictures, own + len(views), dim), cache, half=half)
    for part, block in arrays.blocks(known.values):
        values[part, :own] = block
    for part, block in arrays.blocks(table.values):
        values[rows[part], own:] = block
    for place, row in enumerate(rows):
        if place in table.failures or table.digests[place] != digests[place]:  # the file changed since it was encoded
            values[row, own:] = known.values[row, 0]
    arrays.release(values)
    return replace(known, values=values)
