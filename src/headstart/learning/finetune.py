"""Pictures and a fitted linear head → a network that was trained with it: one visible loop over epochs of pictures.

At step 0 the network says what the frozen one says with its head. What is kept is the mean of the weights over the
last steps (Polyak and Juditsky 1992), of the epoch with the smallest watched loss; the statistics of batch
normalisation stay those of the pre-training. Whether any of it is better than the frozen network, `proof` says.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from headstart.encoding import reading, stages
from headstart.encoding.backbone import Backbone
from headstart.encoding.ondemand import no_longer
from headstart.learning import modules, proof, rates
from headstart.learning.augment import Augmentation
from headstart.learning.checkpoint import Checkpoint
from headstart.learning.clock import Clock, Ended, Limits
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.modules import loss_and_accuracy
from headstart.learning.sgd import class_weights
from headstart.plans import FineTunePlan
from headstart.records import Floats, Integers, Progress, silence

SHARE = 0.6  # of the trained network's logits in a mean with others; smoothed labels make them smaller
CLIPPED = 1.0  # the largest norm of a gradient


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


def fit(task: Task, head: Head, rows: Rows, *, listen: Listener = ignore) -> Tuned:
    """Train a network with its head.

    Args:
        task: What and how.
        head: Linear, fitted to the features of the backbone; it is left as it is.
        rows: Which.
        listen: Hears each epoch's figures; of a fit that goes on, those of the earlier epochs once more.

    Raises:
        DataError: A picture can no longer be used, or has changed since it was first read.
        StorageError: The state cannot be kept.
    """
    run, checkpoint = _Run(task, head, rows), _checkpoint(task, head, rows)
    kept = checkpoint.load()
    if kept is not None:
        run.restore(*kept)
    else:
        run.begin()
    for step in run.history:
        listen(step)
    while run.goes_on():
        if run.epoch():
            listen(run.history[-1])
            checkpoint.save(*run.state())
    run.clock.end()
    if run.clock.ended != "stop":  # who stopped it may want it to go on another time
        checkpoint.remove()
    return run.result()


def _checkpoint(task: Task, head: Head, rows: Rows) -> Checkpoint:
    seen = task.augmentation
    identity = {
        "plan": asdict(task.plan),
        "networks": [network.digest for network in task.backbone.networks],
        "preprocess": [asdict(preprocess) for preprocess in (*seen.preprocesses, *seen.shown)],
        "mirror": seen.mirror,
        "seed": seen.seed,
        "device": task.device,
        "balanced": task.balanced,
        "epochs": [rows.epochs, rows.until],
        "pictures": list(seen.features.digests),
    }
    arrays: dict[str, Any] = {"learned": rows.learned, "watched": rows.watched, "targets": seen.features.targets}
    arrays |= {} if rows.beside is None else {"beside": rows.beside}
    return Checkpoint(task.checkpoints, {"kind": "finetune"} | identity, arrays | dict(head.tensors))


class _Model(nn.Module):
    """Normalised pictures, for each network its own, → (B, K) logits."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(network.module) for network in backbone.networks)
        self.head = modules.of(head).linear

    def forward(self, pictures: list[Tensor]) -> Tensor:
        seen = [network(values) for network, values in zip(self.networks, pictures, strict=True)]
        scores: Tensor = self.head(torch.cat(seen, dim=1))
        return scores


class _Run:
    """A fine-tuning under way: everything that changes from step to step."""

    def __init__(self, task: Task, head: Head, rows: Rows) -> None:
        self.task, self.rows, self.features = task, rows, task.augmentation.features
        self.epochs = rows.epochs
        self.per_epoch = -(-len(rows.learned) // task.plan.batch)
        self.clock = Clock(
            task.limits,
            task.progress,
            epochs=rows.until or rows.epochs,
            steps=self.per_epoch,
            looks=len(rows.watched) / task.plan.batch,
            follows=rows.follows,
        )
        model = _Model(task.backbone, head).to(memory_format=torch.channels_last)
        self.model = model.to(task.device).requires_grad_(True)
        rates.leave(self.model.networks, task.plan.stages)
        # half an epoch is averaged over, so that each epoch's mean is nearly its own
        averaging: Any = get_ema_multi_avg_fn(max(0.0, 1 - 2 / self.per_epoch))  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=averaging).requires_grad_(False)
        self.average.n_averaged.fill_(1)  # it begins where the model does
        self.optimizer = torch.optim.AdamW(
            rates.groups(self.model.head, self.model.networks, task.plan), task.plan.learning_rate
        )
        self.scales = [
            tuple(255 * torch.tensor(values, device=task.device).view(1, 3, 1, 1) for values in (one.mean, one.std))
            for one in task.augmentation.preprocesses
        ]
        targets = torch.from_numpy(self.features.targets)
        counted = class_weights(targets[rows.learned], len(self.features.classes)) if task.balanced else None
        self.weights = None if counted is None else counted.float().to(task.device)
        self.history: list[Step] = []
        self.logits: list[Floats] = []
        self.best_epoch, self.best_loss, self.best = 0, math.inf, self._averaged()

    def begin(self) -> None:
        """Measure where it starts."""
        learned = self.rows.learned
        weights = (weight.detach().cpu() for weight in self.model.head.parameters())
        scores = nn.functional.linear(torch.from_numpy(self.features.values[learned, 0]), *weights)
        self._measure(0, *loss_and_accuracy(scores, torch.from_numpy(self.features.targets[learned])), 0.0)

    def goes_on(self) -> bool:
        """Return whether another epoch is to be begun."""
        done = len(self.history) - 1
        if self.clock.ended or done >= self.clock.epochs:
            return False
        if len(self.rows.watched) and done - self.best_epoch >= self.task.plan.patience:
            return False
        self.clock.before(done + 1)
        return not self.clock.ended

    def epoch(self) -> bool:
        """Learn from every row once, and measure; return whether it came to its end."""
        begun, number = time.monotonic(), len(self.history)
        planning = not self.rows.until
        order = np.random.default_rng([self.task.augmentation.seed, number]).permutation(self.rows.learned)
        losses, right = 0.0, 0
        self._set_training()
        with closing(self._batches(order, number)) as batches:
            for place, (rows, pictures) in enumerate(batches):
                scores, targets = self._step((number - 1) * self.per_epoch + place, rows, pictures, number)
                losses += float(nn.functional.cross_entropy(scores, targets, reduction="sum"))
                right += int((scores.argmax(dim=1) == targets).sum())
                self.clock.tick((number - 1) * self.per_epoch + place + 1, planning=planning)
                if self.clock.ended:
                    return False
        if not math.isfinite(losses):
            self.clock.ended = "diverged"
            return False
        self._measure(number, losses / len(order), right / len(order), begun)
        self.clock.after(number, time.monotonic() - begun, planning=planning)
        self.epochs = self.clock.epochs if planning else self.epochs
        return True

    def result(self) -> Tuned:
        """Return network and head with their best weights."""
        networks = []
        for number, network in enumerate(self.task.backbone.networks):
            module = copy.deepcopy(network.module)
            module.load_state_dict(_under(f"networks.{number}.", self.best))
            networks.append(stages.retrained(network, module))
        weight, bias = (_under("head.", self.best)[name].cpu().numpy() for name in ("weight", "bias"))
        return Tuned(
            Backbone(tuple(networks)),
            Head.of_linear(weight, bias),
            self.best_epoch,
            self.epochs,
            tuple(self.history),
            tuple(self.logits),
            self.clock.ended,
        )

    def state(self) -> tuple[dict[str, Tensor], Any]:
        """Return what `restore` takes: tensors by name, and plain values."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best}
        tensors = {f"{part}/{name}": value.cpu() for part, state in parts.items() for name, value in state.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value.cpu() for name, value in values.items()}
        tensors |= {f"logits/{number}": torch.from_numpy(value) for number, value in enumerate(self.logits)}
        told = {
            "history": [astuple(step) for step in self.history],
            "best": [self.best_epoch, self.best_loss],
            "epochs": [self.epochs, self.clock.epochs],
        }
        return {name: value.contiguous() for name, value in tensors.items()}, told

    def restore(self, tensors: dict[str, Tensor], told: Any) -> None:
        """Go back to where `state` was called."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, inner = name.partition("/")
            parts.setdefault(part, {})[inner] = value
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        self.best = parts["best"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, inner = name.partition("/")
            state.setdefault(int(number), {})[inner] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.logits = [parts["logits"][str(number)].numpy() for number in range(len(told["history"]))]
        self.history = [Step(*step) for step in told["history"]]
        self.best_epoch, self.best_loss = told["best"]
        self.epochs, self.clock.epochs = told["epochs"]

    def _step(self, number: int, rows: list[int], pictures: list[Tensor], epoch: int) -> tuple[Tensor, Tensor]:
        """Take one step, and return what was said of its pictures, and their classes."""
        plan, seen = self.task.plan, self.task.augmentation
        pace = rates.pace(number, self.per_epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * pace
        targets = torch.from_numpy(self.features.targets[rows]).to(self.task.device)
        scores = self._scores(self.model, [seen.light(batch, rows, epoch) for batch in pictures])
        smoothing = plan.label_smoothing
        loss = nn.functional.cross_entropy(scores, targets, weight=self.weights, label_smoothing=smoothing)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPED)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return scores.detach(), targets

    def _scores(self, model: nn.Module, pictures: list[Tensor]) -> Tensor:
        """Return (B, K) float32 logits of pictures, for each network (B, 3, S, S) uint8."""
        values = [
            ((batch.float() - mean) / std).contiguous(memory_format=torch.channels_last)
            for batch, (mean, std) in zip(pictures, self.scales, strict=True)
        ]
        # on a CPU the way back is slower in bf16 than in float32
        with torch.autocast(self.task.device, torch.bfloat16, enabled=self.task.device == "cuda"):
            scores: Tensor = model(values)
        return scores.float()

    def _batches(self, rows: Integers, epoch: int | None) -> Generator[tuple[list[int], list[Tensor]]]:
        """Yield rows and their pictures, for each network (B, 3, S, S) uint8 on the device, read ahead by threads."""
        seen, networks = self.task.augmentation, len(self.task.backbone.networks)
        wanted = ([row] for row in rows.tolist())
        with closing(reading.ahead(lambda row: seen.load(row, epoch), wanted, networks)) as source:
            while batch := list(islice(source, self.task.plan.batch)):
                if lost := [self.features.dataset[row].name for (row,), one in batch if one.problem]:
                    raise no_longer(lost)
                pictures = [
                    torch.from_numpy(np.stack([one.pixels[network] for _, one in batch])).permute(0, 3, 1, 2)
                    for network in range(networks)
                ]
                yield [row for (row,), _ in batch], [one.to(self.task.device, non_blocking=True) for one in pictures]

    def _measure(self, number: int, loss: float, accuracy: float, begun: float) -> None:
        """Note how an epoch went, and keep its weights if they are the best."""
        watched = math.nan
        if len(self.rows.watched):
            self.logits.append(self._watched())
            watched = proof.watched_loss(self.logits[-1], self.features.targets[self.rows.watched])
        else:
            self.logits.append(np.empty((0, len(self.features.classes)), dtype=np.float32))
        if not len(self.rows.watched) or watched < self.best_loss:
            self.best_epoch, self.best_loss, self.best = number, watched, self._averaged()
        last = max(0, number * self.per_epoch - 1)
        rate = self.task.plan.learning_rate * rates.pace(last, self.per_epoch, self.epochs)
        seconds = time.monotonic() - begun if number else 0.0
        self.history.append(Step(number, loss, accuracy, math.nan, math.nan, watched, rate, seconds))

    @torch.inference_mode()
    def _watched(self) -> Floats:
        """Return (W, K) what is said of the watched rows, by the averaged weights."""
        model = self.average.module.eval()
        with closing(self._batches(self.rows.watched, None)) as batches:
            scores = [self._scores(model, pictures).cpu() for _, pictures in batches]
        logits: Floats = torch.cat(scores).numpy()
        if self.rows.beside is not None:
            logits = np.float32(SHARE) * logits + np.float32(1 - SHARE) * self.rows.beside
        return logits

    def _set_training(self) -> None:
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _averaged(self) -> dict[str, Tensor]:
        state = self.average.module.state_dict()
        return {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()
        }


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
