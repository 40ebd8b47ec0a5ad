"""The learner that trains a network too: a linear head first, then both, and what is better by proof.

The fine-tuned network stands beside the frozen ones, and the logits of the two heads are averaged: they err in other
places, so that together they are better than either, and the gain is plain on few pictures.

Some rows are watched: they stop the epochs, give the temperature, and tell in pairs whether the two together are better
than the frozen networks, whose head has learned from the same others. Only then they are kept. They are a part of the
training rows, or the validation part where the data brings that beside a test part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.encoding import runtime, sizes
from headstart.encoding.backbone import Backbone
from headstart.encoding.ondemand import OnDemand
from headstart.learning import calibration, finetune, heads, proof, sgd
from headstart.learning.augment import Augmentation
from headstart.learning.clock import Limits
from headstart.learning.heads import Head, Listener, ignore
from headstart.learning.learner import NOBODY, Fitted, InTurn, OutOfFold
from headstart.learning.linear import LogisticLearner
from headstart.learning.prior import LabelRows
from headstart.learning.proof import Proof
from headstart.learning.task import Rows, Task, Tuned
from headstart.plans import EncoderPlan, FineTunePlan
from headstart.records import Finding, Floats, Integers, LabelledFeatures, found

FEWEST_WATCHED = 400  # pictures by which two networks are compared: a tenth of the training part where it has enough,
MOST_WATCHED = 3  # else more of it, up to one of so many parts

_ENDED = {
    "": "",
    "stop": "; it was stopped",
    "deadline": "; there was no time for more",
    "diverged": "; the loss was no longer a number, a smaller finetune.learning_rate may help",
}


class Fit(Protocol):
    """Who trains networks: `finetune.fit`, or somebody who has others do it."""

    def __call__(self, task: Task, head: Head, rows: Rows, *, listen: Listener = ignore) -> Tuned:
        """Return what `finetune.fit` does."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is trained, and how.

    Attributes:
        backbone: Where it starts, the first of the networks that gave the features, or all; it is left as it is.
        encoder: By which plan features are computed, of the fine-tuned networks too.
        plan: Rates and epochs.
        views: Of each picture, whose mean features predictions are made of.
        limits: When to end.
        elsewhere: Who trains; None: this process.
    """

    backbone: Backbone
    encoder: EncoderPlan
    plan: FineTunePlan
    views: tuple[str, ...] = ("original",)
    limits: Limits = field(default_factory=Limits)
    elsewhere: Fit | None = None

    def shared_by(self, fits: int) -> Tuning:
        """Return the same, with the time that is left for the first of so many fits."""
        deadline = self.limits.deadline
        if deadline is None:
            return self
        now = time.monotonic()
        return replace(self, limits=replace(self.limits, deadline=now + (deadline - now) / fits))


@dataclass(frozen=True, slots=True)
class FineTuneLearner:
    """A linear head, or one beside that of a network that was trained, where the two together prove better; folds and
    experiments are linear heads on frozen features.
    """

    linear: LogisticLearner
    tuning: Tuning
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
        """See `Learner`; `best` is the l2 penalty of the linear head, with which the training of networks begins.

        Raises:
            DataError: A picture can no longer be used, or has changed since it was first read.
        """
        frozen = self.linear.fit(train, watch, groups, begin=begin)
        learnable = sum(part != "test" for part in self.features.dataset.packed.splits)
        if self.tuning.plan.watch == "validation":
            return self._tuned(frozen, train, watch, groups, learnable, listen)
        return self._tuned(frozen, *self._divided(train, groups), groups, learnable, listen)

    def in_turn(
        self, rows: Integers, watch: Integers, fold: Integers, groups: Integers, *, listen: Listener = ignore
    ) -> InTurn:
        """See `Learner`; the time that is left is shared by all fits."""
        frozen = self.linear.in_turn(rows, watch, fold, groups)
        turns: dict[int, Fitted] = {}
        for number, one in frozen.turns.items():
            heard = ignore if turns else listen
            own = replace(self, tuning=self.tuning.shared_by(len(frozen.turns) - len(turns) + 1))
            learned, watched = self._divided(rows[fold != number], groups)
            turns[number] = own._tuned(one, learned, watched, groups, 0, heard)
        return InTurn(self._tuned(frozen.last, *self._divided(rows, groups), groups, 0), turns)

    def refit(
        self, rows: Integers, best: float, *, share: float = 1.0, views: int | None = None, begin: Fitted | None = None
    ) -> Fitted:
        """See `Learner`; a network that was stopped, or had no time, is the one that it would have followed."""
        if begin is None or begin.tuned is None:
            return self.linear.refit(rows, best, share=share, views=views, begin=begin)
        start, begun = self._heads(rows, best, share)
        until = Rows(rows, NOBODY, begin.tuned.of, until=begin.tuned.epochs)
        tuned = (self.tuning.elsewhere or finetune.fit)(self._task(), begun.head, until)
        return begin if tuned.ended else self._together(start, tuned)

    def out_of_fold(self, rows: Integers, fold: Integers, *, tolerance: float | None = None) -> OutOfFold:
        """See `Learner`."""
        return self.linear.out_of_fold(rows, fold, tolerance=tolerance)

    def foreign(self, rows: Integers, known: Integers | None = None, *, of: Fitted | None = None) -> LabelRows:
        """See `Learner`."""
        return self.linear.foreign(rows, known, of=of)

    def probe(self, rows: Integers, known: Integers, *, of: Fitted | None = None) -> Callable[[Floats], Floats]:
        """See `Learner`; rows of the pre-trained classifier belong to the frozen network alone."""
        if of is None or of.tuned is None:
            return self.linear.probe(rows, known)
        empty = self.features.values[:0, 0, :]
        return replace(self.linear, label_rows=LabelRows((), empty, empty[:, 0])).probe(rows, known, of=of)

    def _divided(self, train: Integers, groups: Integers) -> tuple[Integers, Integers]:
        """Return which training rows the networks learn from, and which are watched."""
        parts = min(max(len(train) // FEWEST_WATCHED, MOST_WATCHED), sgd.WATCHED)
        held = sgd.watched(self.features, train, groups, self.seed, parts)
        return train[~held], train[held]

    def _tuned(
        self,
        frozen: Fitted,
        learned: Integers,
        watched: Integers,
        groups: Integers,
        follows: int,
        listen: Listener = ignore,
    ) -> Fitted:
        """Return what training the networks from a frozen fit's penalty on gives, or the frozen fit.

        Args:
            frozen: Has learned from the training rows.
            learned: Those of them that the networks learn from.
            watched: Pictures that neither side of the comparison has learned from.
            groups: (N,) rows of one group stay together.
            follows: Pictures of a refit at most, for which there must be time too.
            listen: Hears the figures of each epoch.
        """
        if not proof.enough(groups[watched]):
            return _stays(frozen, _too_few(len(watched)), {"pictures": len(watched)})
        start, begin = self._heads(learned, frozen.best)
        beside = start.logits(watched)
        rows = Rows(learned, watched, self.tuning.plan.epochs, beside, follows=follows / max(1, len(learned)))
        tuned = (self.tuning.elsewhere or finetune.fit)(self._task(), begin.head, rows, listen=listen)
        compared = proof.prove(beside, tuned.logits, self.features.targets[watched], groups[watched], self.seed)
        return self._better(frozen, start, tuned, watched, compared)

    def _heads(self, rows: Integers, l2: float, share: float = 1.0) -> tuple[Fitted, Fitted]:
        """Return the head on all frozen features, and the one from which the training of the networks begins."""
        start, alone = self.linear.refit(rows, l2, share=share), self._alone()
        return start, start if alone is self.linear else alone.refit(rows, l2, share=share)

    def _alone(self) -> LogisticLearner:
        """Return the learner of heads on the features of those networks alone that are trained."""
        width, known = self.tuning.backbone.dim, self.tuning.backbone
        if width == self.features.values.shape[2]:
            return self.linear
        features = replace(self.features, values=self.features.values[:, :, :width])
        return replace(self.linear, features=features, label_rows=LabelRows(known.labels, known.rows, known.offsets))

    def _task(self) -> Task:
        tuning = self.tuning
        networks = tuning.backbone.networks
        asked = tuple(network.preprocess for network in networks)
        shown = tuple(replace(network.preprocess, size=sizes.trained_on(network)) for network in networks)
        seen = Augmentation(self._alone().features, asked, shown, tuning.plan.flip, self.seed)
        return Task(
            seen,
            tuning.backbone,
            tuning.plan,
            tuning.encoder.device,
            self.linear.plan.class_weight == "balanced",
            self.checkpoints,
            tuning.limits,
            self.linear.progress,
        )

    def _together(self, start: Fitted, tuned: Tuned) -> Fitted:
        """Return the network that was trained beside the frozen ones, with the mean of the logits of both heads."""
        seen = OnDemand(
            self.features.dataset,
            self.features.digests,
            runtime.build_all(tuned.backbone, self.tuning.encoder),
            beside=self.features.values[:, 0],
            views=self.tuning.views,
            epochs=tuned.best,
            of=tuned.epochs,
            progress=self.linear.progress,
        )
        return Fitted(heads.averaged(tuned.head, start.head, finetune.SHARE), self.features, start.best, tuned=seen)

    def _better(self, frozen: Fitted, start: Fitted, tuned: Tuned, watched: Integers, compared: Proof | None) -> Fitted:
        """Return what is fitted: the fine-tuned network beside the frozen ones if it has won, else these alone.

        Args:
            frozen: Has learned from the training rows.
            start: The same kind, has learned from what the tuned one has.
            tuned: What proves itself.
            watched: On these rows.
            compared: The proof; None: too few.
        """
        done = len(tuned.history) - 1
        figures = {
            "epochs": done,
            "planned": self.tuning.plan.epochs,
            "best_epoch": tuned.best,
            "watched_losses": [round(step.watched_loss, 6) for step in tuned.history],
            "ended": tuned.ended,
            **(compared.to_dict() if compared is not None else {}),
        }
        after = f"after epoch {tuned.best} of {done}{_ENDED[tuned.ended]}"
        if compared is None or not compared.won or not tuned.best:
            why = f"{compared}, {after}" if done else f"no epoch came to its end{_ENDED[tuned.ended]}"
            return _stays(frozen, why, figures)
        fitted = self._together(start, tuned)
        some = watched[calibration.chosen(len(watched), len(self.features.classes))]
        provenance = {
            **frozen.provenance,
            "head": f"the mean of two linear ones: of the frozen networks, l2 {frozen.best:g}, and of the one trained "
            f"with its head, epoch {tuned.best} of {done}",
            "best_epoch": tuned.best,
            "watched": 0 if self.tuning.plan.watch == "validation" else len(watched),
            "finetune": {"kept": True, **figures},
        }
        told = Finding(
            "fine-tuned",
            "note",
            f"a trained network beside the frozen gave {compared}, {after}, on {compared.pictures} "
            f"{self.tuning.plan.watch} pictures that neither had learned from; it is kept",
            (f"{done} epochs",),
        )
        flattering = found(
            "watched-validation",
            "note",
            "the validation pictures decided when to stop and at which temperature, so their figures flatter; those "
            "of the test part do not",
            [f"{len(watched)} pictures"] if self.tuning.plan.watch == "validation" else [],
        )
        held = OutOfFold(some, np.zeros_like(some), fitted.logits(some))
        found_out = (told, *flattering)
        return replace(fitted, held=held, history=tuned.history, provenance=provenance, findings=found_out)


def _stays(frozen: Fitted, why: str, figures: dict[str, Any]) -> Fitted:
    """Return the frozen network's fit, with what is to be known of the other."""
    told = Finding(
        "not-fine-tuned",
        "note",
        f"a trained network beside the frozen did not prove better, so it is left out: {why}",
        (f"{figures.get('epochs', 0)} epochs",),
    )
    provenance = {**frozen.provenance, "finetune": {"kept": False, "why": why, **figures}}
    return replace(frozen, provenance=provenance, findings=(*frozen.findings, told))


def _too_few(pictures: int) -> str:
    return (
        f"{pictures} pictures can be left out to compare the two; "
        f"{calibration.FEWEST} of {proof.FEWEST_GROUPS} groups are needed"
    )
