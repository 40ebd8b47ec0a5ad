"""Things photographed several times from close by, as features that are drawn, and what learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.config import HeadConfig
from headstart.inspection.duplicates import Resemblance
from headstart.learning import learners
from headstart.learning.learner import Learner
from headstart.learning.prior import LabelRows
from headstart.plans import resolve_head
from headstart.records import ClassNames, Dataset, LabelledFeatures, Sample

DIM = 30


def drawn(
    things: int, shots: int, spread: float, classes: int = 3, seed: int = 0
) -> tuple[LabelledFeatures, Resemblance]:
    """Return things that say little of their class, each photographed several times."""
    generator = np.random.default_rng(seed)
    thing = np.repeat(np.arange(things), shots)
    targets = thing % classes
    centres = generator.normal(size=(things, DIM)) + 0.35 * np.eye(classes, DIM)[np.arange(things) % classes]
    values = (centres[thing] + spread * generator.normal(size=(len(thing), DIM))).astype(np.float32)
    samples = tuple(Sample(Path(f"{n:04d}"), f"{n:04d}", "abc"[k]) for n, k in enumerate(targets))
    alone = np.arange(len(thing))
    features = LabelledFeatures(
        Dataset(Path(), samples), values[:, None], ClassNames("abc"), targets, tuple(map(str, alone))
    )
    first = np.unique(thing, return_index=True)[1]
    return features, Resemblance(alone, first[thing], 0.8, 0.3)


def learner_of(features: LabelledFeatures) -> Learner:
    """Return a learner of linear heads that knows nothing beforehand."""
    none = np.zeros((0, DIM), np.float32)
    plan = resolve_head(HeadConfig(hidden=(), prior="none"))
    return learners.build(features, plan, LabelRows((), none, none[:, 0]), 0)
