"""Standardised rows with labels → a linear head at one penalty: multinomial logistic regression by L-BFGS.

The objective, with features z standardised by the training rows' mean and deviation, is

    mean over rows of  weight · cross-entropy(z V + c, label)  +  l2 / 2 · ‖V - V₀‖²

where V₀ is the prior in the standardised space (scikit-learn's `LogisticRegression` is the case V₀ = 0 with
C = 1 / (rows · l2)); the bias is not penalised. The problem is convex, so V is where it ends, not where it
starts; starting at the prior or at the neighbouring l2 saves steps.

The sum over rows is taken in blocks, always the same ones, and in double precision between them: rows that do not fit
in memory are read, standardised and let go block by block. Blocks are summed to stretches, and stretches to the whole:
other machines may sum some of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from headstart import arrays
from headstart.learning import calibration
from headstart.learning.heads import Head
from headstart.learning.prior import Prior
from headstart.learning.standardised import Standardised, scores
from headstart.records import Floats, Integers
from headstart.storage import storage_errors

TOLERANCE = 1e-5  # relative decrease of the objective at which L-BFGS stops; ten times less changed no digit reported
MEMORY, FEW, MANY_WEIGHTS = 10, 4, 1 << 22  # steps that L-BFGS remembers; of a head of so many weights fewer
STRETCH = 1 << 15  # rows that are summed by themselves
VALUES, KNOWN = "values.npy", "problem.safetensors"  # the files of one that is written


class Sums(NamedTuple):
    """Sums over some rows.

    Attributes:
        loss: Of the weighted cross-entropy.
        gradient: (D + 1, K) float64, of it by the weights.
        total: Of the rows' weights.
    """

    loss: float
    gradient: Tensor
    total: float


class Turn(NamedTuple):
    """A fit that leaves a fold out; see `Problem.fit`."""

    fold: int
    l2: float
    start: NDArray[np.float64] | None
    iterations: int
    tolerance: float | None


class Helpers(Protocol):
    """Who computes on other machines what a problem asks for; arguments and answers as the problem's own."""

    @property
    def there(self) -> bool:
        """Whether anybody is."""

    def sums(self, weights: Tensor, leave_out: int | None) -> Iterator[Sums]:
        """Yield the sums over each stretch, in order."""

    def turns(self, asked: Sequence[Turn]) -> Iterator[tuple[NDArray[np.float64], Floats]]:
        """Yield what each turn gives, in order."""


@dataclass(frozen=True)
class Problem:
    """Standardised rows with labels, ready to be fitted at any l2, leaving out any one fold.

    Attributes:
        rows: (N, V, D), sorted by fold within stretches: leaving one out is few slices and copies nothing.
        order: (N,) where each stood among the rows that were named.
        fold: (N,) its fold, -1 for rows that are never held out.
        targets: (N · V,) the class of each view.
        weights: (N · V,) what each counts; None: all the same.
        prior: (D + 1, K) standardised weights, the bias in the last row: what they are pulled towards.
        held: How many numbers the logits of rows held out may be; of more rows evenly spaced ones have them.
        helpers: Who computes for it; None: this process does.
    """

    rows: Standardised
    order: Integers
    fold: Integers
    targets: Tensor
    weights: Tensor | None
    prior: Tensor
    held: int = calibration.HELD
    helpers: Helpers | None = None

    @classmethod
    def of(
        cls,
        features: Floats,
        rows: Integers,
        targets: Integers,
        prior: Prior,
        *,
        balanced: bool = False,
        fold: Integers | None = None,
        held: int | None = None,
    ) -> Problem:
        """Standardise rows.

        Args:
            features: (all rows, V, D); each view of a row counts as a picture of its own.
            rows: (N,) which of them to learn from.
            targets: (N,) their classes.
            prior: What the weights are pulled towards.
            balanced: Weigh each class as much as any other.
            fold: (N,) the fold of each row, -1 for rows that are never held out.
            held: See the attribute; None: `calibration.HELD`.
        """
        fold = np.full(len(rows), -1) if fold is None else fold
        order = np.lexsort((fold, np.arange(len(rows)) // arrays.NEAR))
        known = Standardised.of(features, rows[order])
        views = torch.from_numpy(targets[order]).repeat_interleave(features.shape[1])
        weights = _row_weights(views, prior.bias.size) if balanced else None
        start = torch.from_numpy(prior.weights).double()
        bias = torch.from_numpy(prior.bias).double() + known.mean.double() @ start
        pulled = torch.cat([start * known.deviation.double()[:, None], bias[None]])
        return cls(known, order, fold[order], views, weights, pulled, calibration.HELD if held is None else held)

    def fit(
        self,
        l2: float,
        *,
        start: NDArray[np.float64] | None = None,
        leave_out: int | None = None,
        iterations: int = 200,
        tolerance: float | None = None,
        watch: Callable[[NDArray[np.float64]], None] | None = None,
    ) -> NDArray[np.float64]:
        """Return the (D + 1, K) standardised weights, the bias in the last row.

        Args:
            l2: Of the penalty, > 0.
            start: Where to begin; None: at the prior.
            leave_out: A fold not to learn from.
            iterations: At most.
            tolerance: Relative decrease of the objective at which to stop; None: `TOLERANCE`.
            watch: Is shown the weights after each iteration.
        """
        begin = self.start() if start is None else start
        shape = begin.shape

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            """Return loss and gradient as scipy knows them."""
            loss, gradient = self._objective(torch.from_numpy(flat.reshape(shape)), l2, leave_out)
            return loss, gradient.numpy().ravel()

        # scipy's BLAS threads spin between calls and take the cores from torch's: alone, half as fast again
        with threadpool_limits(1, user_api="blas"):
            found = minimize(
                objective,
                begin.ravel(),
                jac=True,
                method="L-BFGS-B",
                callback=None if watch is None else lambda flat: watch(flat.reshape(shape)),
                options={
                    "maxiter": iterations,
                    "ftol": TOLERANCE if tolerance is None else tolerance,
                    "gtol": 1e-8,
                    "maxcor": FEW if self.large else MEMORY,
                },
            )
        weights: NDArray[np.float64] = found.x.reshape(shape)
        return weights

    def start(self) -> NDArray[np.float64]:
        """Return the prior as weights."""
        return self.prior.numpy().copy()

    @property
    def views(self) -> int:
        """How many of each row there are."""
        views: int = self.rows.features.shape[1]
        return views

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.prior.shape[1]

    @property
    def stretches(self) -> list[slice]:
        """Rows whose sum is taken by itself: always the same ones, wherever that is."""
        return list(arrays.parts(len(self.order), STRETCH))

    @property
    def large(self) -> bool:
        """Whether weights are so many that few copies of them can be held."""
        return self.prior.numel() > MANY_WEIGHTS

    @property
    def folds(self) -> list[int]:
        """The numbers of the folds that rows are held out in."""
        return sorted(set(self.fold.tolist()) - {-1})

    @property
    def prior_known(self) -> bool:
        """Whether the prior says something of most classes; else a strong pull would mostly be towards zero."""
        return bool((self.prior[:-1] != 0).any(dim=0).float().mean() >= 0.5)

    def held_out_rows(self) -> Integers:
        """Return where the rows that some fold holds out stand among the rows, fold by fold; of very many some."""
        parts = [self.order[self._held_out(fold)] for fold in self.folds]
        return np.concatenate([np.array([], dtype=np.int64), *parts])

    def held_out_logits(self, fold: int, weights: NDArray[np.float64]) -> Floats:
        """Return (M, K): what (D + 1, K) weights say of the first view of the rows that a fold holds out."""
        return self.rows.logits(self._held_out(fold), torch.from_numpy(weights).float())

    def _held_out(self, fold: int) -> Integers:
        own = np.flatnonzero(self.fold == fold)
        most = max(1, self.held // (self.classes * len(self.folds)))
        return own[arrays.spaced(len(own), most)]

    def head(self, weights: NDArray[np.float64]) -> Head:
        """Return the head for features as they are: the standardisation moves into its weights."""
        slope = torch.from_numpy(weights[:-1]) / self.rows.deviation.double()[:, None]
        bias = torch.from_numpy(weights[-1]) - self.rows.mean.double() @ slope
        return Head.of_linear(slope.T.numpy(), bias.numpy())

    def weights_of(self, head: Head) -> NDArray[np.float64]:
        """Return a linear head for features as they are as standardised weights: what `head` gives, backwards."""
        slope = torch.from_numpy(head.weight).double().T
        bias = torch.from_numpy(head.bias).double() + self.rows.mean.double() @ slope
        return torch.cat([slope * self.rows.deviation.double()[:, None], bias[None]]).numpy()

    def turn(self, asked: Turn) -> tuple[NDArray[np.float64], Floats]:
        """Return the weights of a fit that leaves a fold out, and what they say of the rows that it holds out."""
        weights = self.fit(asked.l2, start=asked.start, leave_out=asked.fold, iterations=asked.iterations,
                           tolerance=asked.tolerance)  # fmt: skip
        return weights, self.held_out_logits(asked.fold, weights)

    def turns(self, asked: Sequence[Turn]) -> Iterator[tuple[NDArray[np.float64], Floats]]:
        """Yield what each turn gives."""
        if self.helpers is None or not self.helpers.there:
            return map(self.turn, asked)
        return self.helpers.turns(asked)

    def sums(self, stretch: slice, weights: Tensor, leave_out: int | None) -> Sums:
        """Return the sums over a stretch, without a fold.

        Args:
            stretch: One of `stretches`.
            weights: (D + 1, K) float32.
            leave_out: A fold; None: nothing is left out.
        """
        loss, total = torch.zeros((), dtype=torch.float64), 0.0
        gradient = torch.zeros(weights.shape, dtype=torch.float64)
        for block in self._blocks(stretch, leave_out):
            rows, part = self.rows.block(block), slice(block.start * self.views, block.stop * self.views)
            targets = self.targets[part]
            own = torch.arange(len(targets))
            likely = torch.log_softmax(scores(rows, weights), dim=1)
            each = likely[own, targets].double()
            error = likely.exp_()  # becomes softmax - onehot, the gradient of the cross-entropy by the logits
            error[own, targets] -= 1
            if self.weights is not None:
                each = each * self.weights[part]
                error *= self.weights[part][:, None]
            total += len(targets) if self.weights is None else float(self.weights[part].double().sum())
            loss -= each.sum()
            gradient[:-1] += rows.T @ error
            gradient[-1] += error.sum(dim=0)
        return Sums(float(loss), gradient, total)

    def _objective(self, weights: Tensor, l2: float, leave_out: int | None) -> tuple[float, Tensor]:
        single = weights.float()
        if self.helpers is not None and len(self.stretches) > 1 and self.helpers.there:
            every = self.helpers.sums(single, leave_out)
        else:
            every = (self.sums(one, single, leave_out) for one in self.stretches)
        loss, slope, total = next(every)
        for one in every:
            loss, slope, total = loss + one.loss, slope.add_(one.gradient), total + one.total
        slope.div_(total)
        pull = weights[:-1] - self.prior[:-1]
        slope[:-1] += l2 * pull
        return loss / total + 0.5 * l2 * float(pull.square().sum()), slope

    def _blocks(self, stretch: slice, leave_out: int | None) -> list[slice]:
        """Return slices of a stretch of at most `arrays.BLOCK` rows, without those of a fold."""
        fold = self.fold[stretch]
        ends = stretch.start + np.flatnonzero(np.diff(fold == leave_out)) + 1
        runs = pairwise([stretch.start, *ends.tolist(), stretch.start + len(fold)])
        kept = [(begin, end) for begin, end in runs if end > begin and self.fold[begin] != leave_out]
        return [slice(b, min(b + arrays.BLOCK, end)) for begin, end in kept for b in range(begin, end, arrays.BLOCK)]

    def write(self, folder: Path) -> None:
        """Write everything into a folder, for `read`.

        Raises:
            StorageError: There is no room.
        """
        rows = self.rows
        with storage_errors(folder, "Make room, or name another folder with HEADSTART_CACHE."):
            shape = (len(rows.rows), *rows.features.shape[1:])
            values = np.lib.format.open_memmap(folder / VALUES, "w+", rows.features.dtype, shape)
            with open(folder / VALUES, "r+b") as file:
                arrays.reserve(file.fileno(), os.fstat(file.fileno()).st_size)
            for part, block in arrays.blocks(rows.features, rows.rows):
                values[part] = block
            values.flush()
            known = {"targets": self.targets, "prior": self.prior, "mean": rows.mean, "deviation": rows.deviation}
            known |= {"order": torch.from_numpy(self.order), "fold": torch.from_numpy(self.fold)}
            known |= {} if self.weights is None else {"weights": self.weights}
            save_file(known | {"held": torch.tensor([self.held])}, folder / KNOWN)

    @classmethod
    def read(cls, folder: Path) -> Problem:
        """Return what was written into a folder; its features are read when they are asked for.

        Raises:
            OSError: It is not there.
        """
        values = np.lib.format.open_memmap(folder / VALUES, "r")
        known = load_file(folder / KNOWN)
        rows = Standardised(values, np.arange(len(values)), known["mean"], known["deviation"]).resident()
        order, fold = known["order"].numpy(), known["fold"].numpy()
        return cls(rows, order, fold, known["targets"], known.get("weights"), known["prior"], int(known["held"]))


def _row_weights(targets: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(targets, minlength=classes).clamp_min(1)
    weights = (1.0 / counts)[targets]
    return weights / weights.mean()
