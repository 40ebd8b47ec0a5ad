"""Predictions with known labels → an `Evaluation`: figures with intervals, the confusion, the reliability.

It sees probabilities and labels only; how the classifier came about does not matter here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart import metrics
from headstart.data import splits
from headstart.encoding.cache import DEFAULT, CacheChoice
from headstart.errors import DataError
from headstart.inspection import files
from headstart.model.classifier import Classifier
from headstart.packed import values_of
from headstart.predictions import Evaluation, Interval, Predictions
from headstart.records import Dataset, Finding, Integers, Progress, found, silence

MOST_PAIRS = 100
RESAMPLES = 1000
ROUNDS = 200  # of these, for the figures that are not means


def evaluate(
    classifier: Classifier, dataset: Dataset, *, cache: CacheChoice = DEFAULT, progress: Progress = silence
) -> Evaluation:
    """Predict a labelled dataset and measure.

    Args:
        classifier: Of any model.
        dataset: From `read`.
        cache: A folder for features; `DEFAULT`: the default cache folder; None: keep nothing.
        progress: Hears of every picture.

    Raises:
        DataError: A label is none of the model's classes (both lists are shown), or no picture can be used.
    """
    return measure(predict_labelled(classifier, dataset, cache=cache, progress=progress))


def predict_labelled(
    classifier: Classifier, dataset: Dataset, *, cache: CacheChoice = None, progress: Progress = silence
) -> Predictions:
    """Return the predictions of a labelled dataset, with its groups, which the intervals need, and its digests.

    Raises:
        DataError: A label is none of the model's classes; found out before any picture is encoded.
    """
    classifier.classes.encode(dataset.labels)
    table = classifier.extract(dataset, cache=cache, progress=progress).table
    said = classifier.predict_features(
        table.values[:, 0],
        dataset.names,
        targets=dataset.labels,
        failures=table.failures,
        findings=files.remarks(table.observations),
    )
    return replace(said, groups=splits.group_ids(dataset, table.digests), digests=table.digests)


def measure(predictions: Predictions, seed: int = 0, folder: Path | None = None) -> Evaluation:
    """Return the figures of predictions whose targets are known; `folder` as of `arrays.answers`.

    Raises:
        DataError: There are no targets, or no usable picture.
    """
    if predictions.targets is None:
        raise DataError("These pictures have no labels, so nothing can be measured.")
    usable = np.setdiff1d(np.arange(len(predictions)), list(predictions.errors))
    if not len(usable):
        raise DataError(f"None of the {len(predictions)} pictures can be used, so nothing can be measured.")
    classes = predictions.classes
    targets = classes.encode(values_of(predictions.targets).select(usable))
    answers = metrics.look(predictions.probabilities, targets, usable)
    groups = None if predictions.groups is None else predictions.groups[usable]
    cells = metrics.confusion(answers)
    off = cells[cells[:, 0] != cells[:, 1]]
    worst = off[np.argsort(-off[:, 2], kind="stable")[:MOST_PAIRS]]
    per_class = metrics.by_class(answers, groups, RESAMPLES, seed, folder)
    return Evaluation(
        pictures=len(usable),
        classes=classes,
        overall=metrics.overall(answers, groups, RESAMPLES, seed)
        | _beyond_the_label(predictions, usable, answers, groups, seed),
        per_class={classes[k]: figures for k, figures in per_class.items()},
        support=np.bincount(targets, minlength=len(classes)),
        cells=cells,
        confused=tuple((classes[i], classes[j], count) for i, j, count in worst.tolist()),
        reliability=metrics.reliability(answers),
        risk_coverage=metrics.risk_coverage(answers.confidence, answers.right > 0),
        failures=len(predictions.errors),
    )


def findings(evaluation: Evaluation) -> list[Finding]:
    """Return what to know of the figures: whether they show that anything was learned.

    Guessing each class as often as the model says it, whatever the picture, would be right at a rate that the counts
    alone give (the chance of Cohen's kappa, 1960): 1 / K for K equal classes, the share of the largest class where only
    that one is ever said.
    """
    accuracy, pictures = evaluation.overall["accuracy"], evaluation.pictures
    _, predicted, count = evaluation.cells.T
    said = np.bincount(predicted, weights=count, minlength=len(evaluation.classes)) / pictures
    chance = float(said @ (evaluation.support / pictures))
    return found(
        "no-better-than-chance",
        "warning",
        f"the accuracy is {accuracy} on {pictures} pictures, and guessing would be right {chance:.3f} of the time: "
        "nothing shows that the classes can be told from the pictures",
        [f"accuracy {accuracy.value:.3f}"] if accuracy.low <= chance else [],
        "Look whether the labels belong to the pictures; if they do, measure on more pictures.",
    )


def _beyond_the_label(
    predictions: Predictions, rows: Integers, answers: metrics.Answers, groups: Integers | None, seed: int
) -> dict[str, Interval]:
    """Return the figures of withheld answers, of sets and of refusals."""
    confidence, right = answers.confidence, answers.right > 0
    areas = [metrics.aurc(confidence, right, weights) for weights in metrics.resample(len(rows), groups, ROUNDS, seed)]
    figures = {"aurc": metrics.spread(metrics.aurc(confidence, right), np.concatenate(areas))}
    if predictions.sets is not None:
        size = predictions.sets.sum(axis=1)[rows]
        figures["coverage"] = metrics.share_interval(predictions.sets[rows, answers.targets], groups)
        figures["set_size"] = metrics.spread(float(size.mean()), metrics.drawn_means(size, groups, ROUNDS, seed))
    if predictions.known is not None:
        figures["refused"] = metrics.share_interval(~predictions.known[rows], groups)
    return figures
