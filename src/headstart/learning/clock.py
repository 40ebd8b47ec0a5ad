"""How long a step of a training takes → how long an epoch does, how many there is time for, and when to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headstart.records import Progress

STAGE = "Fine-tuning"
WARMING = 3  # steps that are not counted: threads that read ahead have all to read at once
TIMED = 8  # steps after which it is known how long one takes, until an epoch has come to its end
FEWEST_EPOCHS = 2  # for which it is worth beginning
ENOUGH_EPOCHS = 5  # so many are worth more than a fit on a few more pictures
FEW_MORE = 1.25  # so many times as many pictures
SPARE = 0.9  # of the time that is left is planned with

Ended = Literal["", "stop", "deadline", "diverged"]


def never() -> bool:
    """Go on: what `Limits.stop` says where nobody wants it to end."""
    return False


@dataclass(frozen=True, slots=True)
class Limits:
    """When a fine-tuning must end whatever it could still gain.

    Attributes:
        deadline: By `time.monotonic`; None: there is none.
        stop: Asked between steps; True: end now.
    """

    deadline: float | None = None
    stop: Callable[[], bool] = never


class Clock:
    """Times the steps of a training, tells how far it is, and knows when it must end.

    Attributes:
        ended: Why it must end; empty: it need not.
        epochs: After which it ends, of those there is time for.
    """

    def __init__(
        self, limits: Limits, progress: Progress, *, epochs: int, steps: int, looks: float = 0.0, follows: float = 0.0
    ) -> None:
        """Begin.

        Args:
            limits: When to end.
            progress: Hears of every step.
            epochs: After which it ends if there is time for all.
            steps: In an epoch.
            looks: At pictures after each epoch, as many as are in so many steps.
            follows: How many epochs of the same length follow for each of these and must end by the deadline too,
                unless there is no time for the fewest of both, or more epochs are worth more.
        """
        self.ended: Ended = ""
        self.epochs = self._wanted = epochs
        self._limits, self._progress, self._steps, self._looks, self._follows = limits, progress, steps, looks, follows
        self._stage, self._count, self._since = f"{STAGE}: the first steps", 0, 0.0
        self._step: float | None = None  # seconds
        self._epoch: float | None = None

    def tick(self, done: int, *, planning: bool) -> None:
        """Take note of a step.

        Args:
            done: How many steps of all epochs are.
            planning: Whether the number of epochs may still be changed.
        """
        self._count += 1
        if self._count == WARMING:
            self._since = time.monotonic()
        elif self._count == TIMED:
            self._step = (time.monotonic() - self._since) / (TIMED - WARMING)
            self._progress(self._stage, TIMED, TIMED)
            self._stage = f"{STAGE}, about {self.epoch_seconds():.0f} s an epoch"
            behind = (done - 1) // self._steps  # of a fit that goes on
            if planning and (not behind or behind + 1 < self.epochs):
                self._plan(behind)
            elif self._limits.deadline is not None:
                self.ended = "deadline" if self._fitting(self._limits.deadline, behind) < self.epochs else ""
        if self._step is None:
            self._progress(self._stage, self._count, TIMED)
        else:
            self._progress(self._stage, done, self.epochs * self._steps)
        self.ask()

    def ask(self) -> None:
        """Find out whether somebody wants it to end, or its time is over."""
        if not self.ended and self._limits.stop():
            self.ended = "stop"
        elif not self.ended and self._limits.deadline is not None and time.monotonic() > self._limits.deadline:
            self.ended = "deadline"

    def before(self, epoch: int) -> None:
        """Find out whether there is time for an epoch, counted from 1, and for what follows."""
        self.ask()
        deadline = self._limits.deadline
        if deadline is not None and not self.ended:
            needed = self.epoch_seconds() * (1 + epoch * self._follows)
            self.ended = "deadline" if time.monotonic() + needed > deadline else ""

    def after(self, epoch: int, seconds: float, *, planning: bool) -> None:
        """Take note of how long an epoch, counted from 1, took with the look at pictures at its end.

        While others follow, their number may change: the first is often slower than the rest. After the last one the
        learning rate has fallen to 0, and would have to rise again.
        """
        self._epoch = seconds
        self._stage = f"{STAGE}, about {seconds:.0f} s an epoch"
        if planning and epoch < self.epochs:
            self._plan(epoch)

    def epoch_seconds(self) -> float:
        """Return how long an epoch takes, 0 where nobody knows; to look at pictures takes a third of learning."""
        return self._epoch or (self._step or 0.0) * (self._steps + self._looks / 3)

    def end(self) -> None:
        """Let whoever listens know that no step follows."""
        total = self.epochs * self._steps
        self._progress(self._stage, total, total)

    def _plan(self, done: int) -> None:
        """Take as many epochs as there is time for, so many of which are behind it."""
        deadline, fewest = self._limits.deadline, min(FEWEST_EPOCHS, self._wanted)
        if deadline is None:
            return
        fits = self._fitting(deadline, done)
        if fits < (min(ENOUGH_EPOCHS, self._wanted) if self._follows < FEW_MORE else fewest):
            self._follows = 0.0
            fits = self._fitting(deadline, done)
        if fits < fewest:
            self.ended = "deadline"
        self.epochs = min(self._wanted, max(1, fits))

    def _fitting(self, deadline: float, done: int) -> int:
        """Return how many epochs, of which so many are done, end by the deadline with what follows."""
        left = SPARE * (deadline - time.monotonic()) / max(self.epoch_seconds(), 1e-9)
        return int((left + done) / (1 + self._follows))
