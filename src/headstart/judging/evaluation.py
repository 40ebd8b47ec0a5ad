"""Predictions with known labels → an `Evaluation`: figures with intervals, the confusion, the reliability.

It sees probabilities and labels only; how the classifier came about does not matter here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart import metrics
from headstart.data import splits
from headstart.errors import DataError
from headstart.model.classifier import Classifier
from headstart.records import Dataset, Evaluation, Predictions, Progress, silence

MOST_PAIRS = 100


def evaluate(
    classifier: Classifier, dataset: Dataset, *, cache: Path | None = None, progress: Progress = silence
) -> Evaluation:
    """Predict a labelled dataset and measure.

    Raises:
        DataError: A label is none of the model's classes (both lists are shown), or no picture can be used.
    """
    return measure(predict_labelled(classifier, dataset, cache=cache, progress=progress))


def predict_labelled(
    classifier: Classifier, dataset: Dataset, *, cache: Path | None = None, progress: Progress = silence
) -> Predictions:
    """Return the predictions of a labelled dataset, with its groups, which the intervals need.

    Raises:
        DataError: A label is none of the model's classes; found out before any picture is encoded.
    """
    classifier.classes.encode(dataset.labels)
    table = classifier.extract(dataset, cache=cache, progress=progress).table
    said = classifier.judge(dataset, table.values[:, 0], table.failures)
    return replace(said, groups=splits.group_ids(dataset, table.digests))


def measure(predictions: Predictions, seed: int = 0) -> Evaluation:
    """Return the figures of predictions whose truth is known.

    Raises:
        DataError: There is no truth, or no usable picture.
    """
    if predictions.truth is None:
        raise DataError("These pictures have no labels, so nothing can be measured.")
    usable = np.array([row for row in range(len(predictions)) if row not in predictions.errors], dtype=np.int64)
    if not len(usable):
        raise DataError(f"None of the {len(predictions)} pictures can be used, so nothing can be measured.")
    classes = predictions.classes
    truth = classes.encode(predictions.truth[row] for row in usable)
    probabilities = predictions.probabilities[usable]
    groups = None if predictions.groups is None else predictions.groups[usable]
    confusion = metrics.confusion(probabilities, truth)
    per_class = metrics.class_intervals(probabilities, truth, groups, seed=seed)
    off = confusion * (1 - np.eye(len(classes), dtype=np.int64))
    worst = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(cell), len(classes)) for cell in worst]
    return Evaluation(
        pictures=len(usable),
        classes=classes,
        overall=metrics.overall_intervals(probabilities, truth, groups, seed=seed),
        per_class={classes[k]: figures for k, figures in per_class.items()},
        support=confusion.sum(axis=1),
        confusion=confusion,
        confused=tuple((classes[i], classes[j], int(off[i, j])) for i, j in pairs if off[i, j]),
        reliability=metrics.reliability(probabilities, truth),
        failures=len(predictions.errors),
    )
