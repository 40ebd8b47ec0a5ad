"""How long a person wants to wait → the highest level of quality that there is time for, by the speed of this machine.

A few pictures are encoded at each level, from the cheapest up, until one does not fit any more; what is encoded on the
way is kept. What the cache holds already costs nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from headstart.config import TrainConfig
from headstart.encoding import features, runtime
from headstart.errors import ConfigError
from headstart.inspection.files import Inspection
from headstart.levels import QUALITIES, Quality
from headstart.records import Progress, silence
from headstart.workflows import decide
from headstart.workflows.decide import Decision

WARMING = 8  # pictures that are encoded first: an engine compiles, and is compared, before it runs
TIMED = 48  # pictures that are timed
STAGE = "Measuring the speed"

# Seconds of everything but encoding, with some air: dogs (8,640 × 120 × 1,280) take 18 on two cores.
LEARNING = 1.2e-8  # for each picture × class × feature
LOOKING = 1.5e-3  # for each picture
BEGINNING = 8.0  # for each training
PRODUCT = 0.005  # of matrices of 2,048 × 1,280 and 1,280 × 128
GUESSED = 0.02  # seconds that encoding a picture takes
SPARE = 0.9  # of the budget is planned with
STEP_UP = 1.5  # a level costs at least so many times as much as the one below, so that some need not be measured


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a level would take.

    Attributes:
        quality: The level.
        seconds: Until a model is saved, from now on.
        pictures_per_second: Read, decoded and encoded; 0 where nothing had to be encoded.
        missing: Pictures that have to be encoded.
    """

    quality: Quality
    seconds: float
    pictures_per_second: float
    missing: int


@dataclass(frozen=True, slots=True)
class Budget:
    """How a budget is spent.

    Attributes:
        seconds: In all.
        deadline: By `time.monotonic`.
        estimates: What was measured, the cheapest level first.
    """

    seconds: float
    deadline: float
    estimates: tuple[Estimate, ...]

    @property
    def seconds_a_picture(self) -> float:
        """What encoding a picture takes at the level that was measured last; a guess where the cache held all."""
        rates = [one.pictures_per_second for one in self.estimates if one.pictures_per_second]
        return 1 / rates[-1] if rates else GUESSED


def spend(
    config: TrainConfig, inspection: Inspection, *, begun: float, cache: Path | None, progress: Progress = silence
) -> tuple[Decision, Budget]:
    """Return the decision of the highest level that there is time for, no higher than what was asked for.

    Args:
        config: With a budget.
        inspection: The usable pictures.
        begun: When the training began, by `time.monotonic`.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of the measuring.

    Raises:
        ConfigError: Not even the cheapest level fits.
    """
    deadline = begun + config.budget
    asked = QUALITIES if config.quality == "auto" else QUALITIES[: QUALITIES.index(config.quality) + 1]
    estimates: list[Estimate] = []
    taken: Decision | None = None
    for place, quality in enumerate(asked):
        progress(STAGE, place, len(asked))
        left = SPARE * (deadline - time.monotonic())
        if estimates and STEP_UP * estimates[-1].missing / max(estimates[-1].pictures_per_second, 1e-9) > left:
            break
        decision = decide.decide(replace(config, quality=quality), inspection.dataset)
        estimates.append(_estimate(quality, decision, inspection, cache))
        if estimates[-1].seconds > SPARE * (deadline - time.monotonic()):
            break
        taken = decision
    progress(STAGE, len(asked), len(asked))
    if taken is None:
        raise _too_short(config, inspection, estimates[0], time.monotonic() - begun)
    return taken, Budget(config.budget, deadline, tuple(estimates))


def _estimate(quality: Quality, decision: Decision, inspection: Inspection, cache: Path | None) -> Estimate:
    """Encode a few pictures, and return how long all would take."""
    dataset, plan, dim = inspection.dataset, decision.plan, decision.backbone.dim
    encoders = runtime.build_all(decision.backbone, plan.encoder)
    views = plan.views
    crops = plan.pictures.crops if isinstance(plan.pictures.crops, int) else 0  # else what time is left decides
    missing = features.missing(dataset, inspection.digests, encoders, views=views, cache=cache)
    learning = len(dataset) * (LOOKING + len(dataset.classes) * dim * LEARNING)
    rest = BEGINNING + learning * _slowness()
    cropped = len(dataset) * crops / len(views)  # worth so many pictures
    if not len(missing):
        return Estimate(quality, rest + cropped * GUESSED, 0.0, 0)
    chosen = np.random.default_rng(plan.seed).permutation(missing)
    seconds = 0.0
    for rows in (chosen[:WARMING], chosen[WARMING : WARMING + TIMED]):
        started = time.monotonic()
        digests = [inspection.digests[row] for row in rows]
        some = features.extract(dataset.select(rows), digests, encoders, views=views, with_properties=True, cache=cache)
        encoders, seconds = some.encoders, time.monotonic() - started
    rate = max(1, min(TIMED, len(missing) - WARMING)) / max(seconds, 1e-9)
    left = max(0, len(missing) - WARMING - TIMED)
    return Estimate(quality, rest + (left + cropped) / rate, rate, left)


def _slowness() -> float:
    """Return how long products of matrices take here and now, compared to where the seconds above were measured."""
    one, other = torch.ones(2048, 1280), torch.ones(1280, 128)
    taken = []
    for _ in range(15):
        started = time.monotonic()
        one @ other
        taken.append(time.monotonic() - started)
    return max(1.0, float(np.mean(taken[5:])) / PRODUCT)


def _too_short(config: TrainConfig, inspection: Inspection, least: Estimate, gone: float) -> ConfigError:
    return ConfigError(
        f"A budget of {config.budget:.0f} seconds is too short: with quality {least.quality}, training on "
        f"{len(inspection.dataset):,} pictures takes about {(gone + least.seconds) / SPARE:.0f} on this machine.",
        "Give more time, or fewer pictures. What was encoded so far is kept.",
    )
