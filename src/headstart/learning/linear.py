"""Labelled features → linear heads by L-BFGS to the end, their l2 penalty chosen by folds of the training rows."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.data import splits
from headstart.learning import calibration, logistic, prior
from headstart.learning.heads import Head, Listener, ignore
from headstart.learning.learner import NOBODY, Fitted, InTurn, OutOfFold
from headstart.learning.prior import LabelRows, Prior
from headstart.learning.problem import Problem
from headstart.learning.spread import Spread
from headstart.plans import HeadPlan
from headstart.records import (
    ClassNames,
    Finding,
    Floats,
    Integers,
    LabelledFeatures,
    Progress,
    found,
    numbered,
    silence,
)

MANY = 100_000  # training rows beyond which not all of them choose the penalty
CHOSEN_BY = 25_000  # of these so many do, or four for each class
APART = 25_000  # … and so many others, held out once, calibrate


@dataclass(frozen=True, slots=True)
class LogisticLearner:
    """Linear heads by L-BFGS to the end, their l2 penalty chosen by folds of the training rows."""

    features: LabelledFeatures
    plan: HeadPlan
    label_rows: LabelRows
    seed: int
    progress: Progress = silence
    spread: Spread | None = None  # has other machines compute for problems of many rows

    def fit(
        self,
        train: Integers,
        watch: Integers,
        groups: Integers,
        *,
        begin: float | None = None,
        listen: Listener = ignore,
    ) -> Fitted:
        """See `Learner`."""
        known = self._prior(train)
        few, apart = self._divided(train, groups)
        share, fold = len(few) / len(train), self._folds(few, groups)
        problem = self._problem(known, few, views=1, fold=fold)
        chosen = self._select(problem, None if begin is None else begin / share)
        if not len(apart):
            held = OutOfFold(few[chosen.rows], fold[chosen.rows], chosen.logits)
            return self._fitted(known, train, watch, chosen, held, listen)
        start = None if chosen.weights is None else problem.head(np.mean(chosen.weights, axis=0))
        scores = tuple((l2 * share, loss) for l2, loss in chosen.scores)
        chosen = replace(chosen, l2=chosen.l2 * share, scores=scores)
        fitted = self._fitted(known, np.setdiff1d(train, apart), watch, chosen, None, listen, start)
        held = OutOfFold(apart, np.zeros_like(apart), fitted.logits(apart))
        return replace(fitted, held=held, left_out=apart)

    def _divided(self, train: Integers, groups: Integers) -> tuple[Integers, Integers]:
        """Return rows whose folds choose the penalty, and rows held out once that calibrate: all, and none.

        Of very many a part chooses, and another part, not learned from, is enough to calibrate by.
        """
        if len(train) <= MANY:
            return train, NOBODY
        classes = len(self.features.classes)
        counts = max(CHOSEN_BY, 4 * classes), min(APART, calibration.HELD // classes)
        few, apart = _drawn(train, groups, self.features.targets, self.seed, counts)
        # groups may be as large as folds
        return (few, apart) if 2 * (len(few) + len(apart)) < len(train) else (train, NOBODY)

    def _folds(self, rows: Integers, groups: Integers) -> Integers:
        return splits.folds(self.features.dataset.select(rows), groups[rows], self.plan.folds, self.seed)

    def in_turn(
        self, rows: Integers, watch: Integers, fold: Integers, groups: Integers, *, listen: Listener = ignore
    ) -> InTurn:
        """See `Learner`. The folds that choose the l2 penalty are those that measure, so most of the work is done once.

        What is measured was not chosen by itself: the penalty and the calibration of a fold's head come from what the
        other folds' heads say of the other rows (Tibshirani and Tibshirani 2009 tell what it costs to forget that).
        """
        known = self._prior(rows)
        problem = self._problem(known, rows, views=1, fold=fold)
        chosen = self._select(problem)
        held = OutOfFold(rows[chosen.rows], fold[chosen.rows], chosen.logits)
        last = self._last(known, problem, rows, chosen, held)
        turns: dict[int, Fitted] = {}
        for place, number in enumerate(problem.folds):
            learned, own = rows[fold != number], held.fold == number
            fewer = chosen.without(own, self.features.targets[held.rows])
            others = OutOfFold(held.rows[~own], held.fold[~own], fewer.logits)
            if not turns:
                turns[number] = self._fitted(self._prior(learned), learned, rows[fold == number], fewer, others, listen)
            else:
                begun = None if fewer.weights is None else problem.head(fewer.weights[place])
                turns[number] = Fitted(self._refitted(learned, fewer.l2, begun), self.features, fewer.l2, others)
            self.progress("Fitting what each fold leaves out", place + 1, len(problem.folds))
        return InTurn(last, turns)

    def _last(
        self, known: Prior, problem: Problem, rows: Integers, chosen: logistic.Selection, held: OutOfFold
    ) -> Fitted:
        """Fit the head of all rows, from the mean of the folds' heads on, which saves steps; nothing watches."""
        begun = None if chosen.weights is None else problem.head(np.mean(chosen.weights, axis=0))
        head = self._refitted(rows, chosen.l2, begun)
        return Fitted(head, self.features, chosen.l2, held, (), _told(known, chosen), self._remarks(chosen))

    def _fitted(
        self,
        known: Prior,
        rows: Integers,
        watch: Integers,
        chosen: logistic.Selection,
        held: OutOfFold | None,
        listen: Listener = ignore,
        begin: Head | None = None,
    ) -> Fitted:
        """Fit a head on rows with the penalty that was chosen, from the prior or a head on."""
        problem = self._problem(known, rows)
        start = None if begin is None else problem.weights_of(begin)
        values, targets = self.features.values, self.features.targets[watch]
        history = logistic.History(problem, values, watch, targets, listen, start=start)
        weights = problem.fit(chosen.l2, start=start, iterations=self.plan.max_iterations, watch=history)
        head = problem.head(weights)
        steps, remarks = tuple(history.steps), self._remarks(chosen)
        return Fitted(head, self.features, chosen.l2, held, steps, _told(known, chosen), remarks)

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """See `Learner`. The penalty is of the mean loss: for the same prior variance it grows as rows become fewer."""
        steps = itertools.count(1)
        about = 0 if begin is None else len(begin.history)  # as many steps as the fit before took, most often fewer

        def watch(_: object) -> None:
            """Tell how far it is."""
            done = next(steps)
            self.progress("Refitting", done, max(about, done + 1))

        self.progress("Refitting", 0, 1)
        head = self._refitted(rows, best / share, None if begin is None else begin.head, views, watch)
        self.progress("Refitting", 1, 1)
        return Fitted(head, self.features, best)

    def _refitted(
        self,
        rows: Integers,
        l2: float,
        begin: Head | None,
        views: int | None = None,
        watch: Callable[[object], None] | None = None,
    ) -> Head:
        problem = self._problem(self._prior(rows), rows, views=views)
        start = None if begin is None else problem.weights_of(begin)
        return problem.head(problem.fit(l2, start=start, iterations=self.plan.max_iterations, watch=watch))

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """See `Learner`."""
        problem = self._problem(self._prior(rows), rows, views=1, fold=fold, held=sys.maxsize)
        l2, iterations = logistic.default_l2(problem.prior_known), self.plan.max_iterations

        def report(place: int) -> None:
            self.progress("Fitting what each fold leaves out", place + 1, len(problem.folds))

        _, logits = logistic.out_of_fold(problem, l2, iterations=iterations, tolerance=tolerance, report=report)
        held = problem.held_out_rows()
        return OutOfFold(rows[held], fold[held], logits)

    def foreign(self, rows: Integers, known: Integers | None = None, *, of: Fitted | None = None) -> LabelRows:
        """See `Learner`."""
        if of is not None and of.tuned is not None:
            return prior.NO_LABELS
        classes = self.features.classes
        known = np.arange(len(classes)) if known is None else known
        targets = np.searchsorted(known, self.features.targets[rows])
        names = ClassNames(classes[k] for k in known)
        return prior.foreign(names, self.label_rows, self.features.values[:, 0], targets, rows)

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """See `Learner`."""
        names = ClassNames(self.features.classes[k] for k in known)
        targets = np.searchsorted(known, self.features.targets[rows])
        values = (self.features.values[:, 0] if of is None else of.embeddings(rows))[:, None]
        start = self._start(names, values[:, 0], targets, rows)
        problem = Problem.of(values, rows, targets, start)
        l2 = logistic.default_l2(problem.prior_known)
        return problem.head(problem.fit(l2, tolerance=logistic.ROUGH)).logits

    def _select(self, problem: Problem, begin: float | None = None) -> logistic.Selection:
        """Return the penalty that wins out of fold.

        The folds learn from the pictures alone, without their mirror images: half of the time, and on every data set
        tried the same penalty.
        """
        iterations = self.plan.max_iterations
        return logistic.select_l2(problem, self.plan.l2, begin=begin, iterations=iterations, progress=self.progress)

    def _prior(self, rows: Integers) -> Prior:
        return self._start(self.features.classes, self.features.values[:, 0], self.features.targets[rows], rows)

    def _start(self, names: ClassNames, values: Floats, targets: Integers, rows: Integers) -> Prior:
        if self.plan.prior == "none":
            return prior.none(values.shape[1], len(names))
        return prior.match(names, self.label_rows, values, targets, rows)

    def _problem(
        self,
        known: Prior,
        rows: Integers,
        *,
        views: int | None = None,
        fold: Integers | None = None,
        held: int | None = None,
    ) -> Problem:
        values, targets = self.features.values[:, :views], self.features.targets[rows]
        balanced = self.plan.class_weight == "balanced"
        problem = Problem.of(values, rows, targets, known, balanced=balanced, fold=fold, held=held)
        return problem if self.spread is None else self.spread(problem)

    def _remarks(self, chosen: logistic.Selection) -> tuple[Finding, ...]:
        held = len(chosen.rows)
        rest = "" if held else ", and neither are there any to calibrate the probabilities by"
        return tuple(
            found(
                "too-few-to-choose",
                "warning",
                numbered(
                    "{n} training [picture|pictures] can be left out in folds, too few to choose the l2 penalty by",
                    held,
                )
                + rest,
                [] if chosen.scores else [f"l2 {chosen.l2:g}"],
                f"From {calibration.FEWEST} on it is chosen from the data; a class needs two pictures (or groups) to "
                "leave one out.",
            )
        )


def _drawn(
    rows: Integers, groups: Integers, targets: Integers, seed: int, counts: tuple[int, int]
) -> tuple[Integers, Integers]:
    """Return at least so many of the rows for each count, while there are any, by whole groups, no group twice.

    A class that is not among the first keeps a group that is among neither.
    """
    known, member = np.unique(groups[rows], return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(known))[member]  # of each row's group in a random order
    few, rest = _cut(np.argsort(place, kind="stable"), place, counts[0])
    first = rest[np.unique(targets[rows[rest]], return_index=True)[1]]  # of each class
    kept = first[~np.isin(targets[rows[first]], targets[rows[few]])]
    apart, _ = _cut(rest[~np.isin(place[rest], place[kept])], place, counts[1])
    return np.sort(rows[few]), np.sort(rows[apart])


def _cut(order: Integers, place: Integers, count: int) -> list[Integers]:
    """Return what stands up to the end of the group with which so many are full, and what stands behind."""
    full = place[order[min(count, len(order)) - 1]] if len(order) else 0
    return np.split(order, [np.searchsorted(place[order], full, side="right")])


def _told(known: Prior, chosen: logistic.Selection) -> dict[str, Any]:
    """Return what a classifier carries of how its head was fitted."""
    return {
        "head": f"multinomial logistic regression, l2 {chosen.l2:g}",
        "l2": chosen.l2,
        "l2_tried": [list(score) for score in chosen.scores],
        "matched": dict(known.matched),
    }
