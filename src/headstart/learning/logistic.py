"""Problems with folds → the l2 penalty that wins out of fold; and how a fit went, step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from headstart import arrays
from headstart.learning import calibration
from headstart.learning.heads import Listener, Step, ignore
from headstart.learning.modules import loss_and_accuracy
from headstart.learning.problem import Problem, Turn
from headstart.learning.standardised import scores
from headstart.records import Floats, Integers, Progress, silence

ROUGH = 1e-3  # tolerance of heads that only help to decide something; on dogs 8 iterations instead of 17
DEFAULT_L2 = 1.0  # with a prior, where there is too little data to choose
DEFAULT_L2_ALONE = 0.03
WATCHING = 20_000  # rows at most whose loss is told after each iteration; of many classes fewer


@dataclass(frozen=True, slots=True)
class Trial:
    """One l2: the weights of each fold, the out-of-fold logits, and their log-loss at the best temperature."""

    weights: list[NDArray[np.float64]] | None
    logits: Floats
    loss: float


@dataclass(frozen=True, slots=True)
class Selection:
    """What the folds decided.

    Attributes:
        l2: The chosen l2 penalty.
        scores: (l2, calibrated out-of-fold log-loss) of each one tried; empty if there was nothing to choose by.
        rows: The training rows that were held out in some fold.
        logits: (len(rows), K) their out-of-fold logits.
        weights: Of the heads of each fold at that l2, for its standardised rows; None where nothing was fitted.
        tried: Everything of each l2; empty if there was nothing to choose by.
    """

    l2: float
    scores: tuple[tuple[float, float], ...]
    rows: Integers
    logits: Floats
    weights: list[NDArray[np.float64]] | None = field(default=None, repr=False)
    tried: Mapping[float, Trial] = field(default_factory=dict, repr=False)

    def without(self, left_out: NDArray[np.bool_], targets: Integers) -> Selection:
        """Return what these would have decided without some of the rows.

        Args:
            left_out: (len(rows),) True for rows that may decide nothing.
            targets: (len(rows),) the class of each row.
        """
        rows, kept = self.rows[~left_out], ~left_out
        if not self.tried:
            return replace(self, rows=rows, logits=self.logits[kept])
        losses = {l2: calibration.fit_temperature(one.logits[kept], targets[kept])[1] for l2, one in self.tried.items()}
        best = min(losses, key=losses.__getitem__)
        trial = self.tried[best]
        return Selection(best, tuple(losses.items()), rows, trial.logits[kept], trial.weights)


def select_l2(
    problem: Problem,
    l2s: Sequence[float],
    *,
    begin: float | None = None,
    iterations: int = 200,
    progress: Progress = silence,
) -> Selection:
    """Choose the l2 penalty by cross-validation over the problem's folds.

    The score is the out-of-fold log-loss after temperature scaling, since that is how the head will be used. It falls
    and rises once along the l2s, so the search begins in the middle and walks downhill; each fold starts where
    it ended at the neighbouring l2.

    Args:
        problem: With folds.
        l2s: Strongest first.
        begin: Where to begin the search; None: in the middle.
        iterations: Of each fit, at most.
        progress: Hears of every fit.
    """
    numbers = problem.folds
    rows = problem.held_out_rows()
    usual = begin or default_l2(problem.prior_known)
    best = min(range(len(l2s)), key=lambda index: abs(math.log(l2s[index] / usual)))
    if len(numbers) < 2:
        return Selection(l2s[best], (), np.array([], dtype=np.int64), np.zeros((0, problem.classes), np.float32))
    if len(rows) < calibration.FEWEST:  # too few to choose by, enough to say how sure the answers may be
        weights, logits = out_of_fold(problem, l2s[best], iterations=iterations)
        return Selection(l2s[best], (), rows, logits, weights)
    targets = problem.targets[:: problem.views].numpy()[np.argsort(problem.order)][rows]
    tried: dict[int, Trial] = {}

    def score(index: int, neighbour: int | None) -> float:
        if index not in tried:

            def report(place: int) -> None:
                done = (len(tried) * len(numbers)) + place
                progress("Choosing the l2 penalty", done, len(l2s) * len(numbers))

            starts = None if neighbour is None else tried[neighbour].weights
            weights, logits = out_of_fold(problem, l2s[index], iterations=iterations, starts=starts, report=report)
            tried[index] = Trial(weights, logits, calibration.fit_temperature(logits, targets)[1])
        return tried[index].loss

    score(best, None)
    for step in (1, -1):
        while 0 <= best + step < len(l2s) and score(best + step, best) < tried[best].loss:
            best += step
        if problem.large:  # only the best ones are still needed, to begin at
            tried |= {index: replace(one, weights=None) for index, one in tried.items() if index != best}
    progress("Choosing the l2 penalty", len(l2s) * len(numbers), len(l2s) * len(numbers))
    scores = tuple((l2s[index], tried[index].loss) for index in sorted(tried))
    every = {l2s[index]: tried[index] for index in sorted(tried)}
    return Selection(l2s[best], scores, rows, tried[best].logits, tried[best].weights, every)


def default_l2(prior: bool) -> float:
    """Return the l2 penalty to take where nothing chooses it, with or without a prior."""
    return DEFAULT_L2 if prior else DEFAULT_L2_ALONE


def out_of_fold(
    problem: Problem,
    l2: float,
    *,
    iterations: int = 200,
    tolerance: float | None = None,
    starts: Sequence[NDArray[np.float64]] | None = None,
    report: Callable[[int], None] = lambda place: None,
) -> tuple[list[NDArray[np.float64]], Floats]:
    """Return the weights of each fold, and the logits (M, K) of the M `held_out_rows`, which may lie in a file.

    Args:
        problem: With folds.
        l2: Of the penalty.
        iterations: Of each fit, at most.
        tolerance: Of each fit; None: the usual one.
        starts: Where each fold's fit begins; None: at the prior.
        report: Hears the place of each fold when its fit is done.
    """
    weights: list[NDArray[np.float64]] = []
    logits, end = arrays.answers((len(problem.held_out_rows()), problem.classes), np.float32), 0
    begins = [None] * len(problem.folds) if starts is None else starts
    asked = [Turn(fold, l2, begins[place], iterations, tolerance) for place, fold in enumerate(problem.folds)]
    for place, (fitted, said) in enumerate(problem.turns(asked)):
        weights.append(fitted)
        logits[end : end + len(said)] = said
        end += len(said)
        arrays.release(logits)
        report(place)
    return weights, logits


class History:
    """Keeps loss and accuracy along a fit, of the rows learned from and of rows that only watch."""

    def __init__(
        self,
        problem: Problem,
        features: Floats,
        rows: Integers,
        targets: Integers,
        listen: Listener = ignore,
        *,
        start: NDArray[np.float64] | None = None,
    ) -> None:
        """Standardise the watching rows as the problem does.

        Args:
            problem: That is going to be fitted.
            features: (all rows, V, D).
            rows: (M,) rows that watch.
            targets: (M,) their classes.
            listen: Hears of every step.
            start: Where the fit begins; None: at the prior.
        """
        self.steps: list[Step] = []
        self._problem, self._listen = problem, listen
        most = min(WATCHING, max(1, calibration.HELD // problem.classes))
        self._learned, some = arrays.spaced(len(problem.order), most), arrays.spaced(len(rows), most)
        self._watched = problem.rows.apply(arrays.take(features[:, 0], rows[some]))
        self._targets = torch.from_numpy(targets[some])
        self._before = time.monotonic()
        self(problem.start() if start is None else start)

    def __call__(self, weights: NDArray[np.float64]) -> None:
        """Take down where the fit is."""
        single, problem = torch.from_numpy(weights).float(), self._problem
        learned = torch.from_numpy(problem.rows.logits(self._learned, single))
        told = loss_and_accuracy(learned, problem.targets[self._learned * problem.views])
        watched = loss_and_accuracy(scores(self._watched, single), self._targets)
        now = time.monotonic()
        self.steps.append(Step(len(self.steps), *told, *watched, seconds=now - self._before))
        self._before = now
        self._listen(self.steps[-1])
