"""Features and labels → a head with or without hidden layers, by stochastic gradient descent in epochs.

Each epoch learns from every row once, in a new order, and of each picture from the original or its mirror image, drawn
anew. The epochs end early when the watched loss no longer falls, and the best weights are what is kept (Prechelt 1998).

Pooled features are all there is, so batch normalisation stands behind the global average pooling. A network that has it
before computes the same function: at position p of channel c, batch normalisation with the statistics m, s and the
weights g, b is y[p, c] = (x[p, c] - m[c]) g[c] / s[c] + b[c], affine with coefficients that do not depend on p, and the
mean over p of an affine function is the function of the mean. What differs is how it is learned: behind the pooling, m
and s are of the pooled values, which vary less than single positions do; the features then leave it with a deviation of
one instead of a smaller one, which acts like a larger first layer and a larger step for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart import arrays
from headstart.data import splits
from headstart.errors import ConfigError
from headstart.learning import calibration
from headstart.learning.checkpoint import Checkpoint
from headstart.learning.heads import Head, Listener, Shape, Step, ignore
from headstart.learning.modules import HeadModule, measured
from headstart.plans import HeadPlan
from headstart.records import Floats, Integers, LabelledFeatures, Progress, silence

SAVE_EVERY = 5.0  # seconds between two checkpoints
STAGE = "Training the head"
WATCHED = 10  # one in so many training pictures is watched where epochs are stopped


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows a fit uses, and what for.

    Attributes:
        learned: Learned from.
        watched: Their loss stops the epochs; without any, all epochs run.
        shown: Measured after each epoch for people to look at; they decide nothing.
        until: The epoch after which to end, whatever the plan says; its schedule stays. None: the plan's last.
    """

    learned: Integers
    watched: Integers
    shown: Integers
    until: int | None = None


@dataclass(frozen=True, slots=True)
class SgdFit:
    """What a fit gives.

    Attributes:
        head: With the weights of the best epoch; without watched rows, of the last.
        history: One step an epoch.
        best: The number of that epoch, from 1.
    """

    head: Head
    history: tuple[Step, ...]
    best: int


def fit(
    features: LabelledFeatures,
    rows: Rows,
    plan: HeadPlan,
    seed: int,
    *,
    views: int | None = None,
    folder: Path | None = None,
    progress: Progress = silence,
    listen: Listener = ignore,
) -> SgdFit:
    """Fit a head.

    Args:
        features: Each epoch draws one of the views of each row. The first view watches and is shown.
        rows: Which of the N are for what.
        plan: Shape of the head, optimizer, and when to stop.
        seed: Of the first weights, orders, views and dropout; the same seed gives the same weights to the bit, also
            when the fit was killed and went on.
        views: Of each picture, the first few; None: all.
        folder: Where its state is kept every few seconds; None: nowhere.
        progress: Hears of every epoch.
        listen: Hears each epoch's figures; of a fit that goes on, those of the earlier epochs once more.
    """
    values = features.values[:, :views]
    identity = {"plan": asdict(plan), "seed": seed, "classes": len(features.classes), "until": rows.until}
    decide = {"learned": rows.learned, "watched": rows.watched, "shown": rows.shown}
    checkpoint = Checkpoint(folder, identity, decide | {"features": values, "targets": features.targets})
    run = _Run(values, features.targets, len(features.classes), rows, plan, seed)
    if (kept := checkpoint.load()) is not None:
        run.restore(*kept)
        for step in run.history:
            listen(step)
    saved = time.monotonic()
    with _one_thread():
        while not run.finished():
            progress(STAGE, len(run.history), plan.epochs)
            run.epoch()
            listen(run.history[-1])
            if time.monotonic() - saved >= SAVE_EVERY:
                checkpoint.save(*run.state())
                saved = time.monotonic()
    progress(STAGE, plan.epochs, plan.epochs)
    checkpoint.remove()
    return run.result()


def watched(
    features: LabelledFeatures, train: Integers, groups: Integers, seed: int, parts: int = WATCHED
) -> NDArray[np.bool_]:
    """Return (len(train),) which training rows are watched while others are learned from, groups kept whole.

    Args:
        features: Whose rows they are.
        train: The training rows.
        groups: (N,) rows of one group stay together.
        seed: Of the choice.
        parts: One of so many is watched.
    """
    fold = splits.folds(features.dataset.select(train), groups[train], parts, seed)
    sizes = np.bincount(fold[fold >= 0], minlength=parts)
    held: NDArray[np.bool_] = fold == np.argmin(np.abs(sizes - len(fold) / parts))  # a large group fills a fold
    return held


class _Run:
    """A fit under way: everything that changes from epoch to epoch."""

    def __init__(
        self, features: Floats, targets: Integers, classes: int, rows: Rows, plan: HeadPlan, seed: int
    ) -> None:
        self.features, self.targets = features, torch.from_numpy(targets)  # the former may lie in a file, as float16
        self.learned, self.watched, self.shown = map(torch.from_numpy, (rows.learned, rows.watched, rows.shown))
        self.plan, self.seed, self.last = plan, seed, rows.until or plan.epochs
        self.weights = class_weights(self.targets[self.learned], classes) if plan.class_weight == "balanced" else None
        dim = features.shape[2]
        with _seeded(seed, 0):
            self.head = HeadModule(Shape(dim, classes, tuple(plan.hidden), plan.dropout, plan.batch_norm))
            for layer in self.head:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        self.optimizer = _optimizer(self.head, plan)
        self.schedule = _schedule(self.optimizer, plan)
        self.history: list[Step] = []
        self.best = {name: value.clone() for name, value in self.head.state_dict().items()}
        self.best_epoch, self.best_loss = 0, float("inf")

    def finished(self) -> bool:
        """Return whether all epochs are over, or the watched loss has not fallen for too long."""
        done = len(self.history)
        return done >= self.last or (len(self.watched) > 0 and done - self.best_epoch >= self.plan.patience)

    def epoch(self) -> None:
        """Learn from every row once, and measure.

        Raises:
            ConfigError: The loss is no longer a number.
        """
        begun, number = time.monotonic(), len(self.history) + 1
        rate = self.optimizer.param_groups[0]["lr"]
        self.head.train()
        with _seeded(self.seed, number):
            order = self.learned[torch.randperm(len(self.learned))]
            views = torch.randint(self.features.shape[1], (len(order),))
            for part in _batches(len(order), self.plan.batch):
                self.optimizer.zero_grad()
                drawn = arrays.take(self.features, (order[part].numpy(), views[part].numpy()))
                loss = self._loss(self.head(torch.from_numpy(drawn)), self.targets[order[part]])
                torch.autograd.backward(loss)
                self.optimizer.step()
        watched = self._watched_loss()
        step = Step(number, *self._measure(self.learned), *self._measure(self.shown), watched, rate)
        losses = (step.train_loss, *([watched] if len(self.watched) else []))
        if wrong := [loss for loss in losses if not math.isfinite(loss)]:
            raise ConfigError(
                f"After epoch {number} the loss is {wrong[0]}: the fit has diverged.",
                f"Lower head.learning_rate, which is {self.plan.learning_rate:g}.",
            )
        self.history.append(replace(step, seconds=time.monotonic() - begun))
        if not len(self.watched) or watched < self.best_loss - self.plan.min_delta:
            self.best_epoch, self.best_loss = number, watched
            self.best = {name: value.clone() for name, value in self.head.state_dict().items()}
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(watched if len(self.watched) else step.train_loss)
        elif self.schedule is not None:
            self.schedule.step()

    def result(self) -> SgdFit:
        """Return the head with its best weights."""
        self.head.load_state_dict(self.best)
        return SgdFit(self.head.numbers(), tuple(self.history), self.best_epoch)

    def state(self) -> tuple[dict[str, Tensor], Any]:
        """Return what `restore` takes: tensors by name, and plain values."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"head/{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for number, values in optimizer["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items() if value is not None}
        return tensors, {
            "history": [astuple(step) for step in self.history],
            "best": [self.best_epoch, self.best_loss],
            "groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict() if self.schedule is not None else {},
        }

    def restore(self, tensors: dict[str, Tensor], told: Any) -> None:
        """Go back to where `state` was called."""
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            kind, _, inner = name.partition("/")
            parts[kind][inner] = value
        self.head.load_state_dict(parts["head"])
        self.best = parts["best"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, inner = name.partition("/")
            state.setdefault(int(number), {})[inner] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": told["groups"]})
        if self.schedule is not None:
            self.schedule.load_state_dict(told["schedule"])
        self.history = [Step(*step) for step in told["history"]]
        self.best_epoch, self.best_loss = told["best"]

    @torch.no_grad()
    def _watched_loss(self) -> float:
        """Return the watched loss after temperature scaling, as the head will be used; of a few rows as it is.

        Without it the epochs end when the head becomes too sure of itself, although it still becomes better.
        """
        if len(self.watched) < calibration.FEWEST:
            return self._measure(self.watched)[0]
        head, some = self.head.eval(), self.watched.numpy()
        some = some[calibration.chosen(len(some), head.shape.classes)]
        scores = torch.cat([head(torch.from_numpy(block)) for _, block in arrays.blocks(self.features[:, 0], some)])
        if not torch.isfinite(scores).all():
            return math.nan
        return calibration.fit_temperature(scores.numpy(), self.targets[some].numpy())[1]

    def _loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(scores, targets, reduction="none")
        return each.mean() if self.weights is None else (each * self.weights[targets]).mean()

    @torch.no_grad()
    def _measure(self, rows: Tensor) -> tuple[float, float]:
        head = self.head.eval()
        some, targets = rows.numpy(), self.targets[rows].numpy()
        return measured(lambda block: head(torch.from_numpy(block)), self.features[:, 0], some, targets)


def _batches(rows: int, size: int) -> Iterator[slice]:
    """Yield the batches of an epoch; a single row left over joins the last one, as it has no batch statistics."""
    begins = list(range(0, rows, size))
    if len(begins) > 1 and rows - begins[-1] == 1:
        begins.pop()
    for begin, end in zip(begins, [*begins[1:], rows], strict=True):
        yield slice(begin, end)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Return a weight for each class with which all classes count as much; their mean over the rows is 1."""
    counts = torch.bincount(targets, minlength=classes).clamp_min(1)
    present = int((torch.bincount(targets, minlength=classes) > 0).sum())
    return len(targets) / (present * counts)


def _optimizer(head: HeadModule, plan: HeadPlan) -> torch.optim.Optimizer:
    weights, rate, decay = head.parameters(), plan.learning_rate, plan.weight_decay
    if plan.optimizer == "sgd":
        return torch.optim.SGD(weights, rate, momentum=plan.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, rate, weight_decay=decay, fused=True)


def _schedule(optimizer: torch.optim.Optimizer, plan: HeadPlan) -> Any:
    schedules = torch.optim.lr_scheduler
    if plan.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=plan.epochs)
    if plan.schedule == "step":
        return schedules.StepLR(optimizer, step_size=max(1, -(-plan.epochs // 3)), gamma=0.1)
    if plan.schedule == "plateau":
        patience, least = max(0, plan.patience // 2 - 1), plan.min_delta
        return schedules.ReduceLROnPlateau(
            optimizer, factor=0.1, patience=patience, threshold=least, threshold_mode="abs"
        )
    return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch work on one core: batches this small gain next to nothing from a second one (measured: 0.5 s an epoch
    instead of 0.6), lose tenfold when somebody else wants it, and the weights do not depend on how many there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[None]:
    """Draw from a generator of this epoch alone, so that a fit goes on from any epoch as if it had never stopped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
        yield
