"""A classifier and pictures → how fast it answers on this machine, and how large it is, found out in about a second."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

import numpy as np

from headstart import arrays
from headstart.model.classifier import Classifier
from headstart.records import Dataset

MOST, SECONDS = 32, 0.7  # pictures that are timed together, and how long that may take


@dataclass(frozen=True, slots=True)
class Speed:
    """What an answer costs.

    Attributes:
        alone: Seconds for one picture that comes alone, from its file to its label.
        pictures_per_second: Of many that come together.
        timed: How many these were.
        parameters: How many numbers the weights are.
        megabytes: How large they are, in 10⁶ bytes.
        machine: What it was measured on.
    """

    alone: float
    pictures_per_second: float
    timed: int
    parameters: int
    megabytes: float
    machine: str


def measure(classifier: Classifier, dataset: Dataset) -> Speed:
    """Return what answers cost here; pictures that cannot be read any more cost what they cost."""
    alone = min(_seconds(classifier, dataset.select([0])) for _ in range(2))
    count = int(np.clip(SECONDS / alone, 1, min(MOST, len(dataset))))
    some = dataset.select(arrays.spaced(len(dataset), count))
    tensors = [one for network in classifier.backbone.networks for one in network.module.parameters()]
    head = classifier.head.learned
    return Speed(
        alone,
        count / _seconds(classifier, some),
        count,
        sum(one.numel() for one in tensors) + sum(one.size for one in head),
        (sum(one.numel() * one.element_size() for one in tensors) + sum(one.nbytes for one in head)) / 1e6,
        f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()}; "
        f"{classifier.encoders[0].plan.engine} on {classifier.encoders[0].plan.device}",
    )


def _seconds(classifier: Classifier, pictures: Dataset) -> float:
    begun = time.perf_counter()
    classifier.predict_many(pictures)
    return time.perf_counter() - begun
