"""A head that workers of a cluster fit together, against one that this process fits; see `scale.py`.

Measured, each run in a process of its own: so many iterations on features as `scale_train` draws them, without a fifth
of the rows. `alone`: this process, all processors; `one worker`: `local:1`, all processors; `halved`: `local:2` of
which each worker has half of the processors, against `half`, `local:1` on one half. What workers need to begin, and
what it takes to write the features to where they see them, is told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import scale_ray
import scale_train
import side_by_side
from scale_check import DIM
from side_by_side import Bound, say

ITERATIONS = 10
PENALTY = 0.01
JUDGED = 20_000  # rows whose log-loss is compared


def fit(where: str, pictures: int, classes: int, cluster: str, cores: int) -> dict[str, Any]:
    """Fit, and return seconds, the log-loss and a digest of the weights."""
    if cores:
        os.sched_setaffinity(0, range(cores))
    import torch

    from headstart.learning import prior
    from headstart.learning.problem import Problem
    from headstart.learning.spread import Spread
    from headstart.records import silence
    from headstart.scale.filling import Filling

    features, rows = scale_train.drawn(pictures, classes, Path(where)), np.arange(pictures)
    given = features.values, rows, features.targets, prior.none(DIM, classes)
    problem = Problem.of(*given, fold=np.where(rows % 5, -1, 0))
    begun = time.monotonic()
    with Filling(cluster or None, Path(where)) as filling:
        shown = Spread(filling, silence)(problem) if cluster else problem
        shown.fit(PENALTY, iterations=1, leave_out=0)  # everybody is there and has seen the rows
        ready = time.monotonic()
        weights = shown.fit(PENALTY, iterations=ITERATIONS, leave_out=0)
        seconds = time.monotonic() - ready
    judged = problem.order.argsort()[:JUDGED]
    logits = torch.from_numpy(problem.rows.logits(judged, torch.from_numpy(weights).float()))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(features.targets[:JUDGED]))
    digest = hashlib.sha256(weights.tobytes()).hexdigest()
    return {"start": ready - begun, "seconds": seconds, "loss": float(loss), "digest": digest}


def measure(arguments: argparse.Namespace) -> int:
    """Measure, print, write the section."""
    about, runs = side_by_side.machine(), {}
    for name, given in scale_ray.WAYS.items():
        with side_by_side.workplace(arguments.work) as work:
            cache = side_by_side.fresh(work, "cache")
            counts = arguments.pictures, arguments.classes
            runs[name] = side_by_side.run_part("fit", cache, *counts, *given, cache=cache).answer()
        say(f"{name}: {runs[name]['seconds']:.1f} s")
    rows = [
        (name, f"{one['start']:.1f}", f"{one['seconds']:.1f}", f"{one['loss']:.6f}", one["digest"][:8])
        for name, one in runs.items()
    ]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: {ITERATIONS} iterations of L-BFGS on {arguments.pictures:,} drawn rows × {DIM}, "
        f"{arguments.classes:,} classes. `half`: one worker with {scale_ray.HALF} core(s); `halved`: two such workers. "
        "`start`: workers begin, the features are written to where they see them, and one iteration.",
        "",
        *side_by_side.table(("run", "start", "seconds", "log-loss", "digest of the weights"), rows),
    ]
    losses = [one["loss"] for one in runs.values()]
    took = {name: one["seconds"] for name, one in runs.items()}
    bounds = [
        Bound("overhead of one worker", took["one worker"] / took["alone"] - 1, "<=", 0.1, "{:+.3f}"),
        Bound(
            "one / two workers, each on half of the cores",
            runs["half"]["seconds"] / runs["halved"]["seconds"],
            ">=",
            1.8,
        ),
        Bound("largest difference of log-loss", max(losses) - min(losses), "<=", 1e-4, "{:.1e}"),
    ]
    return side_by_side.report("scale-fit", "A head that a cluster fits", lines, bounds, arguments.results)


CHILDREN = {"fit": fit}
