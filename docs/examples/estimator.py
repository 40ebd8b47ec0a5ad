"""Headstart as an estimator of scikit-learn: pictures are paths, so that cross-validation and grids of settings work.

    from estimator import HeadstartClassifier
    from sklearn.model_selection import GroupKFold, cross_val_score

    cross_val_score(HeadstartClassifier(), paths, labels, groups=groups, cv=GroupKFold(5))

What a network says of a picture is kept in the cache, so that the second fold takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import pandas
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

import headstart as hs

Paths = Sequence[str | PathLike[str]]


class HeadstartClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of pictures, given as their paths.

    Attributes:
        classes_: (K,) the labels, sorted, of the type that they came in.
        result_: What `headstart.train` gave: figures with intervals, findings, the plan.
    """

    classes_: NDArray[Any]
    result_: hs.TrainingResult

    def __init__(self, quality: Literal["fast", "balanced", "best"] = "balanced", *, seed: int = 0) -> None:
        """Take settings.

        Args:
            quality: How much work an answer is worth.
            seed: Of every random choice.
        """
        self.quality = quality
        self.seed = seed

    def fit(self, X: Paths, y: ArrayLike) -> HeadstartClassifier:  # noqa: N803  # scikit-learn's names
        """Learn from all pictures.

        Args:
            X: (N,) paths.
            y: (N,) labels.

        Raises:
            ValueError: As many labels as paths were expected.
            headstart.HeadstartError: The pictures or labels cannot be learned from.
        """
        labels = np.asarray(y)
        if labels.shape != (len(X),):
            raise ValueError(f"{len(X)} paths and labels of shape {labels.shape}; one label a path was expected.")
        self.classes_ = np.unique(labels)
        frame = pandas.DataFrame({"path": [str(path) for path in X], "label": labels.astype(str)})
        self.result_ = hs.train(frame, hs.TrainConfig(quality=self.quality, seed=self.seed))
        return self

    def predict_proba(self, X: Paths) -> NDArray[np.float64]:  # noqa: N803
        """Return (N, K) probabilities in the order of `classes_`.

        Raises:
            ValueError: A picture cannot be used; all such are named.
        """
        check_is_fitted(self)
        said = self.result_.classifier.predict_many([str(path) for path in X])
        if said.errors:
            raise ValueError("; ".join(f"{said.names[row]}: {reason}" for row, reason in said.errors.items()))
        return np.asarray(said.probabilities)[:, [said.classes.index(str(label)) for label in self.classes_]]

    def predict(self, X: Paths) -> NDArray[Any]:  # noqa: N803
        """Return (N,) labels."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]
