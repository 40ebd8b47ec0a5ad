"""Heads of a million pictures, and what a second run does before them; see `scale.py`.

- `train`: split, choose the penalty, fit, calibrate, learn what is none of the classes, answer the validation part,
  measure, fit once more on everything.
- `warm`: know the digests of pictures on a store, and take their features and properties from the cache, all at once as
  a training does, and features again block by block as a prediction does. Their places do not exist, so that nothing
  can be read.

Features are drawn, not computed: clouds in 64 dimensions, seen through 1,280 and rectified, with noise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
from scale_check import DIM, LATENT
from side_by_side import MB, Bound, anonymous, say

from headstart import arrays
from headstart.packed import Digests
from headstart.records import ClassNames, Dataset, Floats, LabelledFeatures, Sample
from headstart.samples import Samples

PREDICTING = "features, as a prediction asks for them"
SPREAD = 3.0  # of a class around its centre; centres are about 11 from each other


class Clock:
    """Seconds of each stage, and the most bytes that were held in it besides mapped files."""

    def __init__(self) -> None:
        """Begin without any."""
        self.seconds: dict[str, float] = {}
        self.anonymous: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, and tell it."""
        begun = time.perf_counter()
        with anonymous() as peak:
            yield
        self.seconds[name], self.anonymous[name] = time.perf_counter() - begun, peak[0]
        say(f"{name}: {self.seconds[name]:,.1f} s, {peak[0] / MB:,.0f} MB")


# ---- in the child -------------------------------------------------------------------------------------------------


def drawn(pictures: int, classes: int, folder: Path) -> LabelledFeatures:
    """Return features of so many pictures, in memory or mapped from a file, as an extraction leaves them."""
    world = np.random.default_rng(1)
    centres, mixing = world.normal(size=(classes, LATENT)), world.normal(size=(LATENT, DIM)) / LATENT**0.5
    targets = np.random.default_rng(0).permutation(np.arange(pictures) % classes)
    values = arrays.zeros((pictures, 1, DIM), folder, half=True)
    for part in arrays.parts(pictures, 25_000):
        own = np.random.default_rng([2, part.start])
        latent = centres[targets[part]] + SPREAD * own.normal(size=(part.stop - part.start, LATENT))
        noise = 0.2 * own.standard_normal((part.stop - part.start, DIM), dtype=np.float32)
        values[part, 0] = np.maximum(0, (latent @ mixing).astype(np.float32) + noise)
        arrays.release(values)
    names = ClassNames(f"class-{number:05d}" for number in range(classes))
    samples = (Sample(Path(f"{row}.jpg"), f"{row}.jpg", names[k]) for row, k in enumerate(targets))
    digests = Digests.of(f"{row:064x}" for row in range(pictures))
    return LabelledFeatures(Dataset(Path(), Samples.of(samples)), values, names, targets, digests)


def train(where: str, pictures: int, classes: int) -> dict[str, Any]:
    """Fit and measure; return seconds, bytes and figures."""
    from headstart.config import TrainConfig, apply_recipe
    from headstart.data import splits
    from headstart.evaluation import measure
    from headstart.learning import learners, rules
    from headstart.learning.prior import NO_LABELS
    from headstart.plans import resolve_head
    from headstart.predictions import Predictions

    config, clock = apply_recipe(TrainConfig()), Clock()
    with clock.stage("drawing"):
        features = drawn(pictures, classes, Path(where))
    groups = np.arange(pictures)
    learner = learners.build(features, resolve_head(config.head), NO_LABELS, 0)
    with clock.stage("splitting"):
        split = splits.split(features.dataset, groups, 0.2, 0)
    with clock.stage("choosing the penalty and fitting"):
        fitted = learner.fit(split.train, split.validation, groups)
    with clock.stage("calibration, sets, none of these"):
        made = rules.fit(learner, fitted, split.train, groups, config.calibration)
    with clock.stage("answering"):
        said = rules.apply_to(made, fitted, split.validation, Path(where))
    with clock.stage("measuring"):
        labels = features.dataset.labels.select(split.validation)
        answers = Predictions(
            features.names(split.validation),
            features.classes,
            said.probabilities,
            targets=labels,
            groups=groups[split.validation],
            sets=said.sets,
            p_value=said.p_value,
            known=said.known,
        )
        evaluation = measure.measure(answers, 0)
    with clock.stage("fitting on everything"):
        learner.refit(np.arange(pictures), fitted.best, begin=fitted)
    figures = {name: evaluation.overall[name].value for name in ("accuracy", "log_loss", "ece")}
    return {"seconds": clock.seconds, "anonymous": clock.anonymous, "figures": figures}


def warm(where: str, pictures: int, classes: int) -> dict[str, Any]:
    """Take digests, features and properties of pictures that were seen before; return seconds and bytes."""
    from headstart.config import EncoderConfig
    from headstart.delivery import forms
    from headstart.encoding import backbone, features, runtime
    from headstart.encoding.opened import Opened
    from headstart.inspection import files
    from headstart.records import Locator

    folder, asked = Path(where), EncoderConfig(backbone="lite0", device="cpu")
    encoders, clock = runtime.build_all(backbone.load("lite0"), runtime.choose(asked)), Clock()
    samples = Samples.of(
        Sample(
            Locator("s3://nowhere/", f"{row:07d}.jpg", size=1000, mark=row + 1), f"{row:07d}.jpg", f"{row % classes}"
        )
        for row in range(pictures)
    )
    dataset = Dataset(Locator("s3://nowhere"), samples)
    with clock.stage("filling the cache"):
        digests = fill(folder, dataset, encoders)
    with clock.stage("digests"):
        known, failures = files.fingerprints(dataset, cache=folder)
    with clock.stage("features and properties"):
        table = features.extract(dataset, known, encoders, with_properties=True, cache=folder).table
    right = known == digests and not failures and not table.failures and not table.encoded
    with clock.stage(PREDICTING), Opened() as opened:
        for part in arrays.parts(pictures, forms.BLOCK):
            block = dataset.select(np.arange(part.start, part.stop))
            again = features.extract(block, None, encoders, cache=folder, opened=opened).table
            right = right and not again.failures and not again.encoded and again.digests == digests[part]
    return {"seconds": clock.seconds, "anonymous": clock.anonymous, "figures": {"right": float(right)}}


def fill(cache: Path, dataset: Dataset, encoders: tuple[object, ...]) -> Digests:
    """Put features, properties and digests of pictures into a cache, and return the digests."""
    from headstart.data import manifest
    from headstart.encoding import kept_properties
    from headstart.encoding.cache import LARGE_SHARD, Store
    from headstart.encoding.shelves import recipe
    from headstart.inspection import properties

    cache.mkdir(mode=0o700, exist_ok=True)
    digests = Digests.of(hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(dataset)))
    manifest.note({sample.path: digest for sample, digest in zip(dataset, digests, strict=True)}, cache)
    (encoder,) = encoders
    stores = [
        Store(cache, recipe(encoder, "original"), encoder.dim),
        Store(cache, kept_properties.properties_recipe(encoder.preprocess), properties.DIM),
    ]
    generator = np.random.default_rng(0)
    for part in arrays.parts(len(dataset), LARGE_SHARD):
        for store in stores:
            values: Floats = generator.standard_normal((part.stop - part.start, store.dim), dtype=np.float32)
            store.add(digests[part], values)
    os.sync()  # a cache that was filled on another day is on the disk
    return digests


# ---- in the parent ------------------------------------------------------------------------------------------------


def measure_training(arguments: argparse.Namespace) -> int:
    """Measure heads, print, write the section."""
    about = side_by_side.machine()
    answers = {}
    for share in (1,) if arguments.whole else (4, 2, 1):
        pictures = arguments.pictures // share
        say(f"{pictures:,} pictures")
        answers[pictures] = run("train", pictures, arguments)
    small, large = (_held(answers[pictures]) for pictures in (min(answers), max(answers)))
    rows = [
        (
            f"{pictures:,}",
            f"{sum(one['seconds'].values()) - one['seconds']['drawing']:,.0f}",
            f"{_held(one) / MB:,.0f}",
            f"{one['figures']['accuracy']:.4f}",
            f"{one['figures']['log_loss']:.4f}",
            f"{one['figures']['ece']:.4f}",
        )
        for pictures, one in answers.items()
    ]
    whole = answers[max(answers)]
    stages = [
        (name, f"{took:,.0f}", f"{whole['anonymous'][name] / MB:,.0f}") for name, took in whole["seconds"].items()
    ]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: {arguments.classes:,} classes, features (N, 1, {DIM}) drawn at random, in float16 in a mapped "
        "file where they are more than 512 MB. Memory is what a process holds besides mapped files.",
        "",
        *side_by_side.table(("pictures", "seconds", "MB", "accuracy", "log-loss", "ECE"), rows),
        "",
        *side_by_side.table((f"stage, of {max(answers):,}", "seconds", "MB"), stages),
    ]
    room = 4000 if arguments.classes <= 10_000 else 8000
    bounds = [Bound("memory besides mapped files", large / MB, "<=", room, "{:,.0f} MB")]
    if not arguments.whole:
        bounds.append(Bound("growth of memory from a quarter to the whole", large / small - 1, "<=", 0.15))
    name, title = f"scale-train-{arguments.classes}", "Heads of {:,} pictures, {:,} classes"
    title = title.format(arguments.pictures, arguments.classes)
    return side_by_side.report(name, title, lines, bounds, arguments.results)


def measure_warm(arguments: argparse.Namespace) -> int:
    """Measure a second run, print, write the section."""
    about = side_by_side.machine()
    answer = run("warm", arguments.pictures, arguments)
    for told in (answer["seconds"], answer["anonymous"]):
        told.pop("filling the cache")
    seconds = answer["seconds"]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: digests of {arguments.pictures:,} places on a store that does not exist, then their features "
        f"({DIM}) and properties, from the cache, and the features once more in blocks. Nothing is decoded, and "
        "nothing could be read.",
        "",
        *side_by_side.table(
            ("stage", "seconds", "MB"),
            [(name, f"{took:,.1f}", f"{answer['anonymous'][name] / MB:,.0f}") for name, took in seconds.items()],
        ),
    ]
    bounds = [
        Bound("seconds before a training", sum(seconds.values()) - seconds[PREDICTING], "<=", 60, "{:.1f}"),
        Bound("memory besides mapped files", _held(answer) / MB, "<=", 4000, "{:,.0f} MB"),
        Bound("all digests known, nothing encoded", answer["figures"]["right"], ">=", 1, "{:.0f}"),
    ]
    return side_by_side.report("scale-warm", "A second run over a million names", lines, bounds, arguments.results)


def _held(answer: dict[str, Any]) -> int:
    """Return the most bytes of any stage."""
    return max(answer["anonymous"].values())


def run(part: str, pictures: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a child answers."""
    with side_by_side.workplace(arguments.work) as work:
        cache = side_by_side.fresh(work, "cache")
        return side_by_side.run_part(part, cache, pictures, arguments.classes, cache=cache).answer()


CHILDREN = {"train": train, "warm": warm}
