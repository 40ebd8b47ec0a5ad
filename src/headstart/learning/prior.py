"""Class names × the backbone's own label names → the rows of its pre-trained classifier that a head starts from.

A network pre-trained on labels that include the user's classes already knows much of the answer. On the 120 dog breeds
(72 pictures a class, Lite2) a penalty that pulls towards these rows instead of towards zero took a held-out accuracy of
0.831 to 0.854; with five pictures a class the effect is larger. It is also the moment to say that the figures flatter
the backbone: it may have seen these very pictures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart import arrays
from headstart.records import ClassNames, Floats, Integers

SEEN = 1000  # pictures of a class that are asked what is meant by its name
SCORED = 1 << 24  # scores of labels that are computed at once
MEANT = 0.2  # of a class's pictures, for which a label comes first: then it may be the class by another name


@dataclass(frozen=True, slots=True)
class LabelRows:
    """The classifier that a backbone was pre-trained with.

    Attributes:
        labels: L names, each with its synonyms after commas.
        weights: (L, D); (0, D) of a backbone whose classifier is not known.
        offsets: (L,).
    """

    labels: tuple[str, ...]
    weights: Floats = field(repr=False)
    offsets: Floats = field(repr=False)


NO_LABELS = LabelRows((), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Prior:
    """Where the head starts and what it is pulled towards.

    Attributes:
        weights: (D, K) float32; zero columns for classes without a match.
        bias: (K,) float32.
        matched: Class → the backbone's label for it.
        ambiguous: Class → how many labels have its name; the pictures decided which is meant.
    """

    weights: Floats
    bias: Floats
    matched: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, int] = field(default_factory=dict)


def none(features: int, classes: int) -> Prior:
    """Return the prior that knows nothing: zeros."""
    return Prior(np.zeros((features, classes), np.float32), np.zeros(classes, np.float32))


def candidates(classes: ClassNames, labels: Sequence[str]) -> dict[str, list[int]]:
    """Return class → rows of the pre-trained classifier that have one of its names.

    Compared are whole lemmas, without regard to letter case, spaces, hyphens and underscores. Of a nested class
    (`birds/robin`) the last part may match too.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, lemmas in enumerate(labels):
        for lemma in lemmas.split(","):
            if row not in rows[_normal(lemma)]:
                rows[_normal(lemma)].append(row)
    found = {name: rows.get(_normal(name)) or rows.get(_normal(name.rsplit("/", 1)[-1])) for name in classes}
    return {name: hits for name, hits in found.items() if hits}


def match(classes: ClassNames, known: LabelRows, features: Floats, targets: Integers, rows: Integers) -> Prior:
    """Return the prior of these classes.

    Where several labels have the class's name (`cardigan` is a corgi and a garment), the one is taken whose row scores
    highest on that class's training pictures.

    Args:
        classes: K names.
        known: The classifier that is asked.
        features: (all rows, D).
        targets: (N,) classes of the training pictures.
        rows: (N,) which these are.
    """
    prior = none(features.shape[1], len(classes))
    if not len(known.weights):
        return prior
    for name, named in candidates(classes, known.labels).items():
        k = classes.index(name)
        row = named[0]
        if len(named) > 1:
            own = arrays.take(features, rows[targets == k][:SEEN])
            row = named[int(np.argmax((own @ known.weights[named].T + known.offsets[named]).mean(axis=0)))]
            prior.ambiguous[name] = len(named)
        prior.weights[:, k], prior.bias[k] = known.weights[row], known.offsets[row]
        prior.matched[name] = known.labels[row]
    return prior


def foreign(classes: ClassNames, known: LabelRows, features: Floats, targets: Integers, rows: Integers) -> LabelRows:
    """Return the part of a pre-trained classifier whose labels stand for none of these classes.

    A class stands for the labels that have its name; one that no label is named like, for those that are the first of
    at least a fifth of its pictures.

    Args:
        classes: K names.
        known: The classifier.
        features: (all rows, D).
        targets: (N,) classes of the training pictures.
        rows: (N,) which these are.
    """
    if not len(known.weights):
        return NO_LABELS
    named = candidates(classes, known.labels)
    own = {row for its in named.values() for row in its}
    asked = np.flatnonzero(arrays.places(targets) < SEEN)
    asked = asked[np.array([name not in named for name in classes], dtype=bool)[targets[asked]]]
    first = np.zeros(len(asked), dtype=np.int64)
    for part in arrays.parts(len(asked), min(arrays.BLOCK, max(1, SCORED // len(known.weights)))):
        values = arrays.take(features, rows[asked[part]])
        first[part] = (values @ known.weights.T + known.offsets).argmax(axis=1)
    pairs, votes = np.unique(targets[asked] * len(known.weights) + first, return_counts=True)
    whose, label = np.divmod(pairs, len(known.weights))
    own.update(label[votes >= MEANT * np.bincount(targets[asked])[whose]].tolist())
    rest = [row for row in range(len(known.weights)) if row not in own]
    return LabelRows(tuple(known.labels[row] for row in rest), known.weights[rest], known.offsets[rest])


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
