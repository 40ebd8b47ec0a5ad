"""Image properties → findings: can the label be told from what is not the content, such as a frame or the camera?

A network takes the easiest way. If all pictures of one class have a black border, it learns the border, and fails on
the first picture without one. So for each property that shows nothing of the content a small decision tree predicts
the labels of held-out pictures from that property alone; whatever it gets right, a network can get right that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.records import ClassNames, Dataset, Finding, Floats, ImageProperties, Integers, found

FEWEST_ROWS = 20  # held out; with fewer, chance looks like a rule
FEWEST_OF_CLASS = 5  # held out; smaller classes are left aside, an F1 of so few says nothing
GAIN_NOTED = 0.10  # share of the pictures told beyond guessing; light alone tells products apart in 0.07 more
GAIN_WARNED = 0.25
F1_OF_CLASS = (
    0.80  # aubergines, dark by nature, are found by their light with 0.71; planted shortcuts with 0.9 and more
)


MOST_ROWS = 50_000  # that are looked at, as many of each class as there can be …
MOST_CLASSES = 1000  # … of so many classes, those of which most is held out
SEED = 0  # of that choice


class _Property(NamedTuple):
    code: str
    name: str  # "… can be told from the {name} alone"
    columns: Callable[[ImageProperties], list[Floats]]
    advice: str


def _size(properties: ImageProperties) -> list[Floats]:
    width, height = properties.figure("width"), properties.figure("height")
    return [width, height, width / height]


def _file_size(properties: ImageProperties) -> list[Floats]:
    size = properties.figure("bytes")
    per_pixel = size / (properties.figure("width") * properties.figure("height"))
    return [np.round(100 * np.log(column)) for column in (size, per_pixel)]  # in steps of 1 %


def _figures(*names: str) -> Callable[[ImageProperties], list[Floats]]:
    # whole levels of luma: a tree looks at every distinct value, and finer ones make it five times slower
    return lambda properties: [np.round(properties.figure(name)) for name in names]


_ALIKE = "or take pictures of this class as the others were taken."
_PROPERTIES = (
    _Property("shortcut-size", "picture size", _size,
              "The network can learn the shape of the picture instead of the thing. Crop all alike, " + _ALIKE),
    _Property("shortcut-file-size", "file size", _file_size,
              "The compression leaves traces that the network can learn instead of the thing. Save all pictures with "
              "the same quality, " + _ALIKE),
    _Property("shortcut-format", "file format", _figures("format"),
              "The network can learn the traces of the format instead of the thing. Save all pictures in the same "
              "format, from the same kind of source, " + _ALIKE),
    _Property("shortcut-camera", "camera", _figures("camera"),
              "The network can learn what the camera does to a picture instead of the thing. Mix the cameras, "
              + _ALIKE),
    _Property("shortcut-light", "light", _figures("dark", "luma", "bright", "contrast"),
              "The network can learn the light instead of the thing, unless the thing itself is so dark or bright. "
              "Vary the light, " + _ALIKE),
    _Property("shortcut-border", "border",
              _figures("border_red", "border_green", "border_blue", "border_contrast", "border_step"),
              "The network can learn the border instead of the thing. Crop it away, " + _ALIKE),
)  # fmt: skip


def inspect(
    dataset: Dataset, properties: ImageProperties, targets: Integers, classes: ClassNames, fold: Integers
) -> list[Finding]:
    """Return the properties that the label can be told from, at most one finding for each.

    A finding says that the labels as a whole can be told, or else that single classes can; it names the classes, the
    one told best first. Of very many pictures or classes some are looked at, and the shares told are of these.

    Args:
        dataset: N pictures; not looked at, all inspections of properties are called alike.
        properties: Of each; rows that could not be read are left aside.
        targets: (N,) positions in `classes`.
        classes: K names.
        fold: (N,) from `splits.folds`; pictures of fold -1 are never held out, they are only learned from.
    """
    usable = np.isfinite(properties.figures).all(axis=1)
    held = np.bincount(targets[usable & (fold >= 0)], minlength=len(classes))
    rows = _some(np.flatnonzero(usable & (held >= FEWEST_OF_CLASS)[targets]), targets, held)
    properties = ImageProperties(properties.figures[rows], properties.thumbnails[:0], properties.colours[:0])
    targets, fold = targets[rows], fold[rows]
    measured = fold >= 0
    if measured.sum() < FEWEST_ROWS:
        return []
    findings = []
    for property_ in _PROPERTIES:
        columns = np.stack(property_.columns(properties), axis=1)
        if np.ptp(columns, axis=0).any():
            answer = _predict(columns, targets, fold)
            findings += _judge(property_, answer[measured], targets[measured], classes)
    return findings


def _some(rows: Integers, targets: Integers, held: Integers) -> Integers:
    """Return (M,) rows, or of very many or of very many classes some: drawn, as many of each class as there can be.

    Args:
        rows: (M,) that may be looked at.
        targets: (N,) classes.
        held: (K,) pictures of each class that are held out.
    """
    rows = rows[np.isin(targets[rows], np.argsort(-held, kind="stable")[:MOST_CLASSES])]
    if len(rows) <= MOST_ROWS:
        return rows
    shuffled = np.random.default_rng(SEED).permutation(rows)
    return np.sort(shuffled[np.argsort(arrays.places(targets[shuffled]), kind="stable")[:MOST_ROWS]])


def _predict(columns: Floats, targets: Integers, fold: Integers) -> Integers:
    """Return (N,) what a tree that learned from the other folds answers for each row; -1 where there is none."""
    from sklearn.tree import DecisionTreeClassifier

    answer = np.full(len(targets), -1, dtype=np.int64)
    for held in np.unique(fold[fold >= 0]):
        measured, learned = fold == held, fold != held
        if learned.any():
            leaves = 4 * len(np.unique(targets))  # a class stands out by a few cuts; more would only learn by heart
            tree = DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=3, random_state=0)
            answer[measured] = tree.fit(columns[learned], targets[learned]).predict(columns[measured])
    return answer


def _judge(property_: _Property, answer: Integers, targets: Integers, classes: ClassNames) -> list[Finding]:
    """Return the finding, if any, on the (M,) answers for the held-out rows."""
    share = np.bincount(targets, minlength=len(classes)) / len(targets)
    told, guessed = float((answer == targets).mean()), float(share.max())
    chance = 3 * np.sqrt(guessed * (1 - guessed) / len(targets))  # three standard errors of guessing
    scores = _f1(answer, targets, len(classes))
    always = 2 * share / (1 + share)  # F1 of whoever answers this class always
    best = np.argsort(-scores, kind="stable")
    alone = [row for row in best if scores[row] > max(F1_OF_CLASS, (1 + always[row]) / 2)]
    if told - guessed >= max(GAIN_NOTED, chance):
        severity: Literal["warning", "note"] = "warning" if alone or told - guessed >= GAIN_WARNED else "note"
        text = (
            f"the label can be told from the {property_.name} alone in {100 * told:.0f} % of the pictures; "
            f"by guessing in {100 * guessed:.0f} %"
        )
        named = alone or best[:5].tolist()
    else:
        severity, text, named = "warning", f"{{n}} [class|classes] can be told from the {property_.name} alone", alone
    names = [f"{classes[row]} (F1 {scores[row]:.2f})" for row in named]
    return found(property_.code, severity, text, names, property_.advice)


def _f1(answer: Integers, targets: Integers, number: int) -> NDArray[np.float64]:
    """Return (K,) F1 of the answers for each class, 0 for those never met."""
    hits = np.bincount(targets[answer == targets], minlength=number)
    both = np.bincount(targets, minlength=number) + np.bincount(answer[answer >= 0], minlength=number)
    scores: NDArray[np.float64] = 2 * hits / np.maximum(both, 1)
    return scores
