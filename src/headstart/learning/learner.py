"""Labelled features → fitted heads: the one thing that workflows and experiments know of fitting.

A `Learner` is built once, from features, plan and label rows; which rows to learn from, and which stay together, are
arguments. `LogisticLearner` fits to the end by L-BFGS, and folds of the training rows choose its l2 penalty;
`SgdLearner` fits in epochs, and a tenth of the training rows stops it; `tuner` has the one that trains the network
too. In any case some training rows were held out: what is said of them gives the prediction rules. Nobody outside
makes logits of features: a `Fitted` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.config import HeadPlan
from headstart.data import splits
from headstart.encoding.backbone import Backbone
from headstart.encoding.ondemand import OnDemand
from headstart.errors import ConfigError
from headstart.learning import calibration, logistic, prior, sgd
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.prior import LabelRows, Prior
from headstart.records import ClassNames, Finding, Floats, Integers, LabelledFeatures, Progress, found, silence

NOBODY: Integers = np.array([], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What heads say of rows that they had not learned from.

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
        tuned: What the network sees that was trained with the head; None: the head is of the frozen one, whose
            features these are.
    """

    head: Head
    features: LabelledFeatures = field(repr=False)
    best: float
    held: OutOfFold | None = field(default=None, repr=False)
    history: tuple[Step, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    tuned: OnDemand | None = field(default=None, repr=False)

    @property
    def backbone(self) -> Backbone | None:
        """The network that was trained with the head; None: the frozen one."""
        return None if self.tuned is None else self.tuned.encoder.backbone

    def embeddings(self, rows: Integers) -> Floats:
        """Return (N, D): what the backbone sees in each picture; of others than these rows it may hold zeros."""
        values: Floats = self.features.values[:, 0] if self.tuned is None else self.tuned.table(rows)
        return values

    def embed(self, rows: Integers) -> Floats:
        """Return (M, D): what the backbone sees in these pictures."""
        values: Floats = self.embeddings(rows)[rows]
        return values

    def logits(self, rows: Integers) -> Floats:
        """Return (M, K): what the head says of these pictures."""
        return self.head.logits(self.embed(rows))


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
                where its network was trained as well, this one's is too.
        """

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """Return what heads say of rows that they had not learned from.

        Args:
            rows: That are learned from and held out in turn.
            fold: (len(rows),) with whom each is held out; -1: never.
            tolerance: Of the fits; None: the usual one.
        """

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """Return the logits, as a function of features (M, D), of a quick head that knows some classes only.

        Args:
            rows: To learn from, of these classes.
            known: Ascending indices of the classes.
            of: The fit whose network sees them; None: the frozen one.
        """


def build(
    features: LabelledFeatures,
    plan: HeadPlan,
    label_rows: LabelRows,
    seed: int,
    *,
    checkpoints: Path | None = None,
    progress: Progress = silence,
) -> Learner:
    """Return the learner of a plan.

    Args:
        features: To learn from.
        plan: Of the head.
        label_rows: For the prior.
        seed: Of folds, orders and first weights.
        checkpoints: Where epochs keep their state, so that a killed fit goes on; None: nowhere.
        progress: Hears of every fit.
    """
    linear = LogisticLearner(features, plan, label_rows, seed, progress)
    return SgdLearner(linear, checkpoints) if plan.in_epochs else linear


@dataclass(frozen=True, slots=True)
class LogisticLearner:
    """Linear heads by L-BFGS to the end, their l2 penalty chosen by folds of the training rows."""

    features: LabelledFeatures
    plan: HeadPlan
    label_rows: LabelRows
    seed: int
    progress: Progress = silence

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
        fold = splits.folds(self.features.dataset.select(train), groups[train], self.plan.folds, self.seed)
        chosen = self._choose(known, train, fold, begin)
        problem = self._problem(known, train)
        history = logistic.History(problem, self.features.values, watch, self.features.targets[watch], listen)
        head = problem.head(problem.fit(chosen.l2, iterations=self.plan.max_iterations, watch=history))
        held = OutOfFold(train[chosen.rows], fold[chosen.rows], chosen.logits)
        provenance = {
            "head": f"multinomial logistic regression, l2 {chosen.l2:g}",
            "l2": chosen.l2,
            "l2_tried": [list(score) for score in chosen.scores],
            "matched": dict(known.matched),
        }
        remarks = self._remarks(chosen)
        return Fitted(head, self.features, chosen.l2, held, tuple(history.steps), provenance, remarks)

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """See `Learner`. The penalty is of the mean loss: for the same prior variance it grows as rows become fewer."""
        self.progress("Refitting", 0, 1)
        problem = self._problem(self._prior(rows), rows, views=views)
        start = None if begin is None else problem.weights_of(begin.head)
        head = problem.head(problem.fit(best / share, start=start, iterations=self.plan.max_iterations))
        self.progress("Refitting", 1, 1)
        return Fitted(head, self.features, best)

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """See `Learner`."""
        problem = self._problem(self._prior(rows), rows, views=1, fold=fold)
        l2, iterations = logistic.default_l2(problem.prior_known), self.plan.max_iterations

        def report(place: int) -> None:
            self.progress("Fitting what each fold leaves out", place + 1, len(problem.folds))

        _, logits = logistic.out_of_fold(problem, l2, iterations=iterations, tolerance=tolerance, report=report)
        held = problem.held_out_rows()
        return OutOfFold(rows[held], fold[held], logits)

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """See `Learner`."""
        names = ClassNames(self.features.classes[k] for k in known)
        targets = np.searchsorted(known, self.features.targets[rows])
        values = (self.features.values[:, 0] if of is None else of.embeddings(rows))[:, None]
        start = self._start(names, values[rows, 0], targets)
        problem = logistic.Problem(values, rows, targets, start)
        l2 = logistic.default_l2(problem.prior_known)
        return problem.head(problem.fit(l2, tolerance=logistic.ROUGH)).logits

    def _choose(self, known: Prior, train: Integers, fold: Integers, begin: float | None) -> logistic.Selection:
        """Return the penalty that wins out of fold.

        The folds learn from the pictures alone, without their mirror images: half of the time, and on every data set
        tried the same penalty.
        """
        problem = self._problem(known, train, views=1, fold=fold)
        iterations = self.plan.max_iterations
        return logistic.select_l2(problem, self.plan.l2, begin=begin, iterations=iterations, progress=self.progress)

    def _prior(self, rows: Integers) -> Prior:
        return self._start(self.features.classes, self.features.values[rows, 0], self.features.targets[rows])

    def _start(self, names: ClassNames, values: Floats, targets: Integers) -> Prior:
        if self.plan.prior == "none":
            return prior.none(values.shape[1], len(names))
        return prior.match(names, self.label_rows, values, targets)

    def _problem(
        self, known: Prior, rows: Integers, *, views: int | None = None, fold: Integers | None = None
    ) -> logistic.Problem:
        values, targets = self.features.values[:, :views], self.features.targets[rows]
        return logistic.Problem(values, rows, targets, known, balanced=self.plan.class_weight == "balanced", fold=fold)

    def _remarks(self, chosen: logistic.Selection) -> tuple[Finding, ...]:
        held = len(chosen.rows)
        rest = "" if held else ", and neither are there any to calibrate the probabilities by"
        return tuple(
            found(
                "too-few-to-choose",
                "warning",
                f"{held} training picture(s) can be left out in folds, too few to choose the l2 penalty by{rest}",
                [] if chosen.scores else [f"l2 {chosen.l2:g}"],
                f"From {calibration.FEWEST} on it is chosen from the data; a class needs two pictures (or groups) to "
                "leave one out.",
            )
        )


@dataclass(frozen=True, slots=True)
class SgdLearner:
    """Heads with or without hidden layers, in epochs that a watched loss stops; folds and probes are linear heads."""

    linear: LogisticLearner
    checkpoints: Path | None = None

    @property
    def features(self) -> LabelledFeatures:
        """See `Learner`."""
        return self.linear.features

    @property
    def seed(self) -> int:
        """See `Learner`."""
        return self.linear.seed

    def fit(
        self,
        train: Integers,
        watch: Integers,
        groups: Integers,
        *,
        begin: float | None = None,
        listen: Listener = ignore,
    ) -> Fitted:
        """See `Learner`; the watched pictures are those held out.

        Raises:
            ConfigError: There is nothing to watch or too little to learn from, or the fit diverged.
        """
        rows, plan = self._rows(train, watch, groups), self.linear.plan
        fit = self._fit(rows, listen=listen)
        logits = fit.head.logits(self.features.values[rows.watched, 0])
        held = OutOfFold(rows.watched, np.zeros(len(rows.watched), dtype=np.int64), logits)
        layers = " → ".join(str(width) for width in (*plan.hidden, len(self.features.classes)))
        provenance = {
            "head": f"dense {layers}, {plan.optimizer}, epoch {fit.best} of {len(fit.history)} was best",
            "best_epoch": fit.best,
            "epochs": len(fit.history),
            "stopped_early": len(fit.history) < plan.epochs,
            "watched": len(rows.watched),
            "matched": {},
        }
        return Fitted(
            fit.head, self.features, fit.best, held, fit.history, provenance, _remarks(plan, len(rows.watched))
        )

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """See `Learner`; a killed refit goes on like a fit."""
        fit = self._fit(sgd.Rows(rows, NOBODY, NOBODY, until=int(best)), views=views)
        return Fitted(fit.head, self.features, best)

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """See `Learner`."""
        return self.linear.out_of_fold(rows, fold, tolerance=tolerance)

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """See `Learner`."""
        return self.linear.probe(rows, known, of=of)

    def _fit(self, rows: sgd.Rows, *, views: int | None = None, listen: Listener = ignore) -> sgd.SgdFit:
        linear = self.linear
        return sgd.fit(
            linear.features,
            rows,
            linear.plan,
            linear.seed,
            views=views,
            folder=self.checkpoints,
            progress=linear.progress,
            listen=listen,
        )

    def _rows(self, train: Integers, watch: Integers, groups: Integers) -> sgd.Rows:
        if self.linear.plan.watch == "validation":
            if not len(watch):
                raise ConfigError(
                    "head.watch is 'validation', and there are no validation pictures.",
                    "With head.watch=training a tenth of the training part is watched.",
                )
            return sgd.Rows(train, watch, watch)
        held = sgd.watched(self.features, train, groups, self.linear.seed)
        if held.sum() > len(train) - 2:
            raise ConfigError(
                f"{len(train) - held.sum()} picture(s) would be learned from; epochs need two.",
                "Give more training pictures, or leave the recipe and the optimizer away.",
            )
        return sgd.Rows(train[~held], train[held], watch)


def _remarks(plan: HeadPlan, watched: int) -> tuple[Finding, ...]:
    """Return what a person should know of what stopped the epochs and gave the temperature."""
    return (
        *found(
            "watched-validation",
            "warning",
            "the validation pictures decided when to stop and at which temperature, so their figures flatter",
            [f"{watched} pictures"] if plan.watch == "validation" else [],
            "With head.watch=training a tenth of the training part decides instead.",
        ),
        *found(
            "too-few-to-watch",
            "warning",
            f"only {watched} picture(s) can be watched, so the last epoch and the temperature rest on chance"
            if watched
            else "no picture can be watched, so all epochs are run and the probabilities are not calibrated",
            [f"{watched} pictures"] if watched < calibration.FEWEST else [],
            f"{calibration.FEWEST} of some {sgd.WATCHED * calibration.FEWEST} training pictures would be enough.",
        ),
    )
