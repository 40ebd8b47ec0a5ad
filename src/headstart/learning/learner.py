"""Labelled features → fitted heads: the one thing that workflows and experiments know of fitting.

A `Learner` is built once, from features, plan and label rows; which rows to learn from, and which stay together, are
arguments. However it fits, some training rows are held out: what is said of them gives the prediction rules. Nobody
outside makes logits of features: a `Fitted` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headstart import arrays
from headstart.encoding.ondemand import OnDemand
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.prior import LabelRows
from headstart.records import Finding, Floats, Integers, LabelledFeatures

NOBODY: Integers = np.array([], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What heads say of rows that they had not learned from; a fit keeps some of very many, see `calibration.chosen`.

    Attributes:
        rows: (M,) rows of the features.
        fold: (M,) rows of one number were held out together.
        logits: (M, K).
    """

    rows: Integers
    fold: Integers
    logits: Floats


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head that was fitted, and how that went.

    Attributes:
        head: (B, D) → (B, K).
        features: What it was fitted on some rows of.
        best: The l2 penalty, or the number of epochs, with which other rows are fitted the same way.
        held: Training rows that heads of the same kind had not learned from; of a refit none.
        history: Loss and accuracy along the fit.
        provenance: `head`, one line, and the figures that decided.
        findings: What a person should know of it.
        tuned: What the networks see that were trained, and beside it what the frozen ones see; None: the head is of
            these alone, whose features these are.
        left_out: Training rows that the head has not learned from: of very many, some only calibrate.
    """

    head: Head
    features: LabelledFeatures = field(repr=False)
    best: float
    held: OutOfFold | None = field(default=None, repr=False)
    history: tuple[Step, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    tuned: OnDemand | None = field(default=None, repr=False)
    left_out: Integers = field(default_factory=lambda: NOBODY, repr=False)

    def learned(self, train: Integers) -> Integers:
        """Return those of its training rows that the head has learned from."""
        return np.setdiff1d(train, self.left_out) if len(self.left_out) else train

    def embeddings(self, rows: Integers) -> Floats:
        """Return (N, D): what the backbone sees in each picture; of others than these rows it may hold zeros."""
        values: Floats = self.features.values[:, 0] if self.tuned is None else self.tuned.table(rows)
        return values

    def embed(self, rows: Integers) -> Floats:
        """Return (M, D): what the backbone sees in these pictures."""
        return arrays.take(self.embeddings(rows), rows)

    def logits(self, rows: Integers) -> Floats:
        """Return (M, K): what the head says of these pictures."""
        logits: Floats = np.empty((len(rows), self.head.shape.classes), dtype=np.float32)
        for part, said in self._said(rows):
            logits[part] = said
        return logits

    def answers(self, rows: Integers) -> Integers:
        """Return (M,): the class that the head takes each of these pictures for."""
        classes = np.empty(len(rows), dtype=np.int64)
        for part, said in self._said(rows):
            classes[part] = said.argmax(axis=1)
        return classes

    def _said(self, rows: Integers) -> Iterator[tuple[slice, Floats]]:
        """Yield logits of these pictures, block by block, with their places."""
        return ((part, self.head.logits(values)) for part, values in arrays.blocks(self.embeddings(rows), rows))


@dataclass(frozen=True, slots=True)
class InTurn:
    """A fit on all rows, and one without each fold, chosen and calibrated without it.

    Attributes:
        last: Learned from all rows.
        turns: Fold → what had not learned from it. Ascending.
    """

    last: Fitted
    turns: Mapping[int, Fitted]


class Learner(Protocol):
    """A way to fit heads on rows of labelled features."""

    @property
    def features(self) -> LabelledFeatures:
        """What rows are rows of."""

    @property
    def seed(self) -> int:
        """Of every random choice."""

    def fit(
        self,
        train: Integers,
        watch: Integers,
        groups: Integers,
        *,
        begin: float | None = None,
        listen: Listener = ignore,
    ) -> Fitted:
        """Choose what is to be chosen within the training rows, and fit a head on them.

        Args:
            train: Rows to learn from.
            watch: Rows that are measured along the fit and decide nothing, unless the plan says that they do.
            groups: (N,) rows of one group stay together wherever training rows are divided.
            begin: The `best` at which the search begins; it does not decide where it ends.
            listen: Hears the figures of each step.
        """

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """Fit a head on these rows the way that was found best on others.

        Args:
            rows: To learn from.
            best: Of a `Fitted`.
            share: How many rows these are for each row that `best` was found on, in (0, 1].
            views: Of each picture, the first few; None: all.
            begin: A fit that has learned from some of these rows, to save steps; it does not decide where they end, but
                where its networks were trained as well, these are too.
        """

    def in_turn(
        self, rows: Integers, watch: Integers, fold: Integers, groups: Integers, *, listen: Listener = ignore
    ) -> InTurn:
        """Fit on all rows, and once more without each fold, so that every row can be measured.

        Args:
            rows: To learn from.
            watch: Rows that may be measured along the last fit and decide nothing.
            fold: (len(rows),) with whom each is held out; -1: never. Rows of a group are in one fold.
            groups: (N,) as in `fit`.
            listen: Hears the figures of each step of the first fold's fit.
        """

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """Return what heads say of rows that they had not learned from.

        Args:
            rows: That are learned from and held out in turn.
            fold: (len(rows),) with whom each is held out; -1: never.
            tolerance: Of the fits; None: the usual one.
        """

    def foreign(self, rows: Integers, known: Integers | None = None, *, of: Fitted | None = None) -> LabelRows:
        """Return what the backbone's own classifier knows beside some classes; nothing of networks trained further.

        Args:
            rows: Of these classes, which may show that a label of another name means a class.
            known: Ascending indices of the classes; None: all.
            of: The fit whose networks see the pictures; None: the frozen ones.
        """

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """Return the logits, as a function of features (M, D), of a quick head that knows some classes only.

        Args:
            rows: To learn from, of these classes.
            known: Ascending indices of the classes.
            of: The fit whose networks see them; None: the frozen ones.
        """
