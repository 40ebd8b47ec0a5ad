"""Pictures and a fitted linear head → a network that was trained with it: one visible loop over epochs of pictures.

At step 0 the network says what the frozen one says with its head. What is kept is the mean of the weights over the
last steps (Polyak and Juditsky 1992), of the epoch with the smallest watched loss; the statistics of batch
normalisation stay those of the pre-training. Whether any of it is better than the frozen network, `proof` says.

Several processes that are asked the same go through it side by side: each reads its share
of every batch, gradients are added up, and the result is that of one process up to rounding. The first one decides
when to end, keeps the state and is listened to.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, astuple, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from headstart.encoding import reading, stages
from headstart.encoding.backbone import Backbone
from headstart.encoding.ondemand import no_longer
from headstart.learning import modules, proof, rates
from headstart.learning.checkpoint import Checkpoint
from headstart.learning.clock import Clock
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.modules import measured
from headstart.learning.sgd import class_weights
from headstart.learning.task import Rows, Task, Tuned
from headstart.learning.together import ALONE, Together
from headstart.records import Floats, Integers

SHARE = 0.6  # of the trained network's logits in a mean with others; smoothed labels make them smaller
CLIPPED = 1.0  # the largest norm of a gradient


def fit(
    task: Task,
    head: Head,
    rows: Rows,
    *,
    listen: Listener = ignore,
    start: tuple[float, float] | None = None,
    together: Together = ALONE,
) -> Tuned:
    """Train a network with its head.

    Args:
        task: What and how.
        head: Linear, fitted to the features of the backbone; it is left as it is.
        rows: Which.
        listen: Hears each epoch's figures; of a fit that goes on, those of the earlier epochs once more.
        start: What `began` says, for whoever has no features; None: they are asked.
        together: Who trains with this process, and is asked the same.

    Raises:
        DataError: A picture can no longer be used, or has changed since it was first read.
        StorageError: The state cannot be kept.
    """
    run = _Run(task, head, rows, together)
    checkpoint = _checkpoint(task if together.is_first else replace(task, checkpoints=None), head, rows)
    kept = together.handed(checkpoint.load())
    if kept is not None:
        run.restore(*kept)
    else:
        run.begin(*(start or began(task, head, rows)))
    for step in run.history:
        listen(step)
    while run.goes_on():
        if run.epoch():
            checkpoint.save(*run.state())
            listen(run.history[-1])  # what is told of is kept, whatever who hears it does
    run.clock.end()
    if run.clock.ended != "stop":  # who stopped it may want it to go on another time
        checkpoint.remove()
    return run.result()


def began(task: Task, head: Head, rows: Rows) -> tuple[float, float]:
    """Return loss and accuracy of the head on the rows that will be learned from."""
    known = task.augmentation.features
    return measured(
        lambda values: torch.from_numpy(head.logits(values)),
        known.values[:, 0],
        rows.learned,
        known.targets[rows.learned],
    )


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

    def __init__(self, task: Task, head: Head, rows: Rows, together: Together) -> None:
        self.task, self.rows, self.features = task, rows, task.augmentation.features
        self.together = together
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

    def begin(self, loss: float, accuracy: float) -> None:
        """Measure where it starts, of which loss and accuracy on what is learned from are known."""
        self._measure(0, loss, accuracy, 0.0)

    def goes_on(self) -> bool:
        """Return whether another epoch is to be begun."""
        done = len(self.history) - 1
        if self.clock.ended or done >= self.clock.epochs:
            return False
        if len(self.rows.watched) and done - self.best_epoch >= self.task.plan.patience:
            return False
        self.clock.before(done + 1)
        self._agree()
        return not self.clock.ended

    def epoch(self) -> bool:
        """Learn from every row once, and measure; return whether it came to its end."""
        begun, number = time.monotonic(), len(self.history)
        planning = not self.rows.until
        order = np.random.default_rng([self.task.augmentation.seed, number]).permutation(self.rows.learned)
        seen = torch.zeros(2, dtype=torch.float64)  # losses, and how many were right
        self._set_training()
        with closing(self._batches(order, number)) as batches:
            for place, (batch, own, pictures) in enumerate(batches):
                step = (number - 1) * self.per_epoch + place
                scores, targets = self._step(step, order[batch], order[own], pictures, number)
                seen[0] += float(nn.functional.cross_entropy(scores, targets, reduction="sum"))
                seen[1] += int((scores.argmax(dim=1) == targets).sum())
                self.clock.tick(step + 1, planning=planning)
                self._agree()
                if self.clock.ended:
                    return False
        self.together.add_up(seen)
        losses, right = seen.tolist()
        if not math.isfinite(losses):
            self.clock.ended = "diverged"
            return False
        self._measure(number, losses / len(order), right / len(order), begun)
        self.clock.after(number, time.monotonic() - begun, planning=planning)
        self._agree()
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

    def _agree(self) -> None:
        """Have all processes end when the first one does."""
        self.clock.ended, self.clock.epochs = self.together.told([self.clock.ended, self.clock.epochs])

    def _step(
        self, number: int, batch: Integers, own: Integers, pictures: list[Tensor], epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Take one step on a batch, and return what was said of those of its rows that this process has, and their
        classes.
        """
        plan, seen = self.task.plan, self.task.augmentation
        pace = rates.pace(number, self.per_epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * pace
        targets = torch.from_numpy(self.features.targets[own]).to(self.task.device)
        scores = self._scores(self.model, [seen.light(one, own.tolist(), epoch) for one in pictures])
        how: dict[str, Any] = {"weight": self.weights, "label_smoothing": plan.label_smoothing, "reduction": "sum"}
        # the mean over the whole batch, of which the other processes have the rest of the sum
        loss = nn.functional.cross_entropy(scores, targets, **how) / self._weight(batch)
        self.optimizer.zero_grad()
        if len(own):
            torch.autograd.backward(loss)
        self.together.add_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPED)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return scores.detach(), targets

    def _weight(self, batch: Integers) -> float:
        """Return what the rows of a batch weigh together."""
        targets = torch.from_numpy(self.features.targets[batch])
        return len(batch) if self.weights is None else float(self.weights[targets.to(self.task.device)].sum())

    def _scores(self, model: nn.Module, pictures: list[Tensor]) -> Tensor:
        """Return (B, K) float32 logits of pictures, for each network (B, 3, S, S) uint8; without any, of none."""
        if not pictures:
            return torch.empty(0, len(self.features.classes), device=self.task.device)
        values = [
            ((batch.float() - mean) / std).contiguous(memory_format=torch.channels_last)
            for batch, (mean, std) in zip(pictures, self.scales, strict=True)
        ]
        # on a CPU the way back is slower in bf16 than in float32
        with torch.autocast(self.task.device, torch.bfloat16, enabled=self.task.device == "cuda"):
            scores: Tensor = model(values)
        return scores.float()

    def _batches(self, rows: Integers, epoch: int | None) -> Generator[tuple[slice, slice, list[Tensor]]]:
        """Yield which of the rows are a batch, which of those are this process's, and pictures of the latter.

        The pictures are for each network (B, 3, S, S) uint8 on the device, read ahead by threads; none where it has no
        row of the batch.
        """
        seen, size = self.task.augmentation, self.task.plan.batch
        parts = [slice(begin, min(begin + size, len(rows))) for begin in range(0, len(rows), size)]
        shares = [self.together.share(part.start, part.stop) for part in parts]
        wanted = ([row] for own in shares for row in rows[own].tolist())
        networks = len(self.task.backbone.networks)
        with closing(reading.ahead(lambda row: seen.load(row, epoch), wanted, networks)) as source:
            for part, own in zip(parts, shares, strict=True):
                batch = list(islice(source, len(rows[own])))
                if lost := [self.features.dataset[row].name for (row,), one in batch if one.problem]:
                    raise no_longer(lost)
                pictures = [
                    torch.from_numpy(np.stack([one.pixels[network] for _, one in batch])).permute(0, 3, 1, 2)
                    for network in range(networks if batch else 0)
                ]
                yield part, own, [one.to(self.task.device, non_blocking=True) for one in pictures]

    def _measure(self, number: int, loss: float, accuracy: float, begun: float) -> None:
        """Note how an epoch went, and keep its weights if they are the best."""
        watched = math.nan
        if len(self.rows.watched):
            self.logits.append(self._watched())
            watched = proof.watched_loss(self.logits[-1], self.features.targets[self.rows.watched])
            watched = self.together.told(watched)  # other processors may round it otherwise
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
        scores = torch.zeros(len(self.rows.watched), len(self.features.classes))
        with closing(self._batches(self.rows.watched, None)) as batches:
            for _, own, pictures in batches:
                scores[own] = self._scores(model, pictures).cpu()
        self.together.add_up(scores)
        logits: Floats = scores.numpy()
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
