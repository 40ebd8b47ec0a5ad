"""Labelled features → heads with or without hidden layers, fitted in epochs that a tenth of the training rows stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.errors import ConfigError
from headstart.learning import calibration, sgd
from headstart.learning.heads import Listener, ignore
from headstart.learning.learner import NOBODY, Fitted, InTurn, OutOfFold
from headstart.learning.linear import LogisticLearner
from headstart.learning.prior import LabelRows
from headstart.plans import HeadPlan
from headstart.records import Finding, Floats, Integers, LabelledFeatures, found, numbered


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
        """See `Learner`; the watched pictures are those held out, of very many some.

        Raises:
            ConfigError: There is nothing to watch or too little to learn from, or the fit diverged.
        """
        rows, plan = self._rows(train, watch, groups), self.linear.plan
        fit = self._fit(rows, listen=listen)
        layers = " → ".join(str(width) for width in (*plan.hidden, len(self.features.classes)))
        provenance = {
            "head": f"dense {layers}, {plan.optimizer}, epoch {fit.best} of {len(fit.history)} was best",
            "best_epoch": fit.best,
            "epochs": len(fit.history),
            "stopped_early": len(fit.history) < plan.epochs,
            "watched": len(rows.watched),
            "matched": {},
        }
        remarks = _remarks(plan, len(rows.watched))
        fitted = Fitted(fit.head, self.features, fit.best, None, fit.history, provenance, remarks)
        some = rows.watched[calibration.chosen(len(rows.watched), len(self.features.classes))]
        return replace(fitted, held=OutOfFold(some, np.zeros_like(some), fitted.logits(some)))

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """See `Learner`; a killed refit goes on like a fit."""
        fit = self._fit(sgd.Rows(rows, NOBODY, NOBODY, until=int(best)), views=views)
        return Fitted(fit.head, self.features, best)

    def in_turn(
        self, rows: Integers, watch: Integers, fold: Integers, groups: Integers, *, listen: Listener = ignore
    ) -> InTurn:
        """See `Learner`."""
        turns: dict[int, Fitted] = {}
        for number in np.unique(fold[fold >= 0]).tolist():
            heard = ignore if turns else listen
            turns[number] = self.fit(rows[fold != number], rows[fold == number], groups, listen=heard)
        return InTurn(self.fit(rows, watch, groups), turns)

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """See `Learner`."""
        return self.linear.out_of_fold(rows, fold, tolerance=tolerance)

    def foreign(self, rows: Integers, known: Integers | None = None, *, of: Fitted | None = None) -> LabelRows:
        """See `Learner`."""
        return self.linear.foreign(rows, known, of=of)

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
                numbered(
                    "{n} [picture|pictures] would be learned from; epochs need two.", len(train) - int(held.sum())
                ),
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
            numbered(
                "only {n} [picture|pictures] can be watched, so the last epoch and the temperature rest on chance",
                watched,
            )
            if watched
            else "no picture can be watched, so all epochs are run and the probabilities are not calibrated",
            [f"{watched} pictures"] if watched < calibration.FEWEST else [],
            f"{calibration.FEWEST} of some {sgd.WATCHED * calibration.FEWEST} training pictures would be enough.",
        ),
    )
