"""What a fine-tuning is asked, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from headstart.encoding.backbone import Backbone
from headstart.learning.augment import Augmentation
from headstart.learning.clock import Ended, Limits
from headstart.learning.heads import Head, Step
from headstart.plans import FineTunePlan
from headstart.records import Floats, Integers, Progress, silence


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, on what, and how.

    Attributes:
        augmentation: How the pictures are read, and which they are.
        backbone: Where the weights start; it is left as it is.
        plan: Rates and epochs.
        device: Where it is computed.
        balanced: Whether each class counts as much as any other.
        checkpoints: Where its state is kept after each epoch; None: nowhere.
        limits: When to end.
        progress: Hears of every step.
    """

    augmentation: Augmentation
    backbone: Backbone
    plan: FineTunePlan
    device: str = "cpu"
    balanced: bool = False
    checkpoints: Path | None = None
    limits: Limits = field(default_factory=Limits)
    progress: Progress = silence


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows are for what, and for how long.

    Attributes:
        learned: Learned from.
        watched: Their loss stops the epochs; without any, all epochs run.
        epochs: Over which the learning rate falls.
        beside: (W, K) logits of the watched rows that are averaged with the network's own; None: it answers alone.
        until: The epoch after which to end; None: the last.
        follows: How many epochs of the same length follow for each of these, in a fit on more rows that must end by
            the deadline too.
    """

    learned: Integers
    watched: Integers
    epochs: int
    beside: Floats | None = None
    until: int | None = None
    follows: float = 0.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuning gives.

    Attributes:
        backbone: With the weights of the best epoch; without watched rows, of the last.
        head: Of the same epoch.
        best: Its number; 0 is where it started.
        epochs: Over which the learning rate fell; fewer than planned where time was short.
        history: One step an epoch, 0 first.
        logits: (W, K) of the watched rows after each, averaged with those beside.
        ended: Why it ended before its time; empty: it did not.
    """

    backbone: Backbone
    head: Head
    best: int
    epochs: int
    history: tuple[Step, ...]
    logits: tuple[Floats, ...]
    ended: Ended
