"""What is said of pictures, and how good that is: predictions, evaluations, intervals; frozen, numpy only.

Letters used in shapes: N images, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.packed import Texts, Values
from headstart.records import ClassNames, Displayable, Finding, Integers, counted


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return e.g. `0.854 [0.838, 0.870]`."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Prediction(Displayable):
    """What the model says of one picture.

    Attributes:
        path: The picture's name as it was asked for.
        status: "ok", or "error" if the picture could not be used.
        label: The most probable class; None on error.
        probability: Of that class, calibrated, in [0, 1]; None on error.
        top: The best five classes with their probabilities, best first.
        error: Why the picture could not be used; None if it could.
        set: Classes of which one is the true one at the rate that the model was asked for, most probable first; empty
            on error, in a model without such a rule, and where `known` is False: of a picture that looks like none of
            the classes no set can be promised to hold the true one.
        known: False if the picture looks like none of the classes, so that `label` is the best of wrong answers; None
            on error and in a model that refuses nothing.
        p_value: In (0, 1), the share of the model's own kind of pictures that look as strange or stranger; None
            where `known` is.
    """

    path: str
    status: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    set: tuple[str, ...] = ()
    known: bool | None = None
    p_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values; the error only if there is one."""
        plain: dict[str, Any] = {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "set": list(self.set),
            "known": self.known,
            "p_value": self.p_value,
            "status": self.status,
        }
        return plain if self.error is None else plain | {"error": self.error}


@dataclass(frozen=True, slots=True)
class Predictions(Displayable, Sequence[Prediction]):
    """Calibrated probabilities of many pictures, in the order they were asked for.

    Attributes:
        names: N names.
        classes: K class names.
        probabilities: (N, K) float64, rows sum to 1; NaN in rows of pictures that could not be used.
        errors: Row → why its picture could not be used.
        targets: The given label of each picture where there is one, else None.
        groups: N integers; rows of one group are not independent of each other. None: every row is its own group.
        digests: N SHA-256 of the files, as `images.digest` gives them. None: it was not asked which files these are.
        sets: (N, K) whether a class is in the picture's set; of refused pictures too, so that the share of sets that
            hold the true class can be measured. None in a model without such a rule.
        p_value: (N,) see `Prediction`; NaN in rows of pictures that could not be used.
        known: (N,) False for pictures that look like none of the classes, and in rows that could not be used.
        findings: What was noticed of single pictures that were used all the same, e.g. that they have several frames.
    """

    names: Sequence[str]
    classes: ClassNames
    probabilities: NDArray[np.float64]
    errors: Mapping[int, str] = field(default_factory=dict)
    targets: Sequence[str | None] | None = None
    groups: Integers | None = None
    digests: Sequence[str] | None = None
    sets: NDArray[np.bool_] | None = None
    p_value: NDArray[np.float64] | None = None
    known: NDArray[np.bool_] | None = None
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.names)

    def grouped(self) -> Integers:
        """Return (N,) `groups`, or where there are none each row as its own."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def __repr__(self) -> str:
        """Return e.g. `Predictions(372 pictures, 10 classes, 2 could not be used)`."""
        errors = f", {len(self.errors)} could not be used" if self.errors else ""
        return f"Predictions({counted(len(self), len(self.classes))}{errors})"

    def __getitem__(self, index: int) -> Prediction:  # type: ignore[override]  # rows only, no slices
        """Return what is said of one picture."""
        index = range(len(self))[index]
        if index in self.errors:
            return Prediction(self.names[index], "error", error=self.errors[index])
        row = self.probabilities[index]
        order = np.argsort(-row, kind="stable")
        top = tuple((self.classes[k], float(row[k])) for k in order[:5])
        known = None if self.known is None else bool(self.known[index])
        said = () if self.sets is None or known is False else np.flatnonzero(self.sets[index, order])
        return Prediction(
            self.names[index],
            "ok",
            *top[0],
            top,
            set=tuple(self.classes[order[place]] for place in said),
            known=known,
            p_value=None if self.p_value is None else float(self.p_value[index]),
        )


def joined(parts: Sequence[Predictions], folder: Path | None = None) -> Predictions:
    """Return predictions of one kind of model, one after the other; `folder` as of `arrays.answers`."""

    def rows(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else arrays.together(values, folder)

    if len(parts) == 1:
        return parts[0]
    first, begins = parts[0], np.cumsum([0, *(len(part) for part in parts)])
    return dataclasses.replace(
        first,
        names=Texts.of(name for part in parts for name in part.names),
        probabilities=rows("probabilities"),
        errors={
            int(begin) + row: why
            for begin, part in zip(begins, parts, strict=False)
            for row, why in part.errors.items()
        },
        targets=None if first.targets is None else Values.of(label for part in parts for label in part.targets or ()),
        findings=tuple(finding for part in parts for finding in part.findings),
        **{name: rows(name) for name in ("groups", "sets", "p_value", "known")},
    )


@dataclass(frozen=True, slots=True)
class Evaluation(Displayable):
    """How good predictions are, every figure with a 95 % interval.

    Attributes:
        pictures: How many pictures were measured.
        classes: K class names.
        overall: Figure → interval: accuracy, top5_accuracy, log_loss, macro_f1, brier, ece; of a model that makes sets
            also coverage (share whose set holds the given label) and set_size (mean number of classes); of one that
            says "none of these" refused (share of these pictures refused); aurc (area under `risk_coverage`).
        per_class: Class → figure → interval, for classes that occur.
        support: (K,) pictures of each class.
        cells: (C, 3) given label, prediction and number of pictures of the pairs of classes that occur, in their order.
        confused: The most confused pairs (given, predicted, count), worst first.
        reliability: Per confidence bin: (mean confidence, accuracy, count); empty bins left out.
        risk_coverage: (share answered, share of wrong answers among them), the least probable answers withheld first.
        failures: How many pictures could not be used and are in no figure.
    """

    pictures: int
    classes: ClassNames
    overall: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, Interval]]
    support: Integers
    cells: Integers
    confused: tuple[tuple[str, str, int], ...]
    reliability: tuple[tuple[float, float, int], ...]
    risk_coverage: tuple[tuple[float, float], ...] = ()
    failures: int = 0

    @property
    def confusion(self) -> Integers:
        """The (K, K) counts; rows are the given labels, columns the predictions. For very many classes see `cells`."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        given, predicted, pictures = self.cells.T
        counts[given, predicted] = pictures
        return counts

    def __repr__(self) -> str:
        """Return e.g. `Evaluation(372 pictures, 10 classes, accuracy 0.901 [0.868, 0.930])`."""
        accuracy = f", accuracy {self.overall['accuracy']}" if "accuracy" in self.overall else ""
        return f"Evaluation({counted(self.pictures, len(self.classes))}{accuracy})"
