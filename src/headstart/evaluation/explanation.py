"""A classifier and pictures → why it answers as it does: where the evidence lies, what speaks for the class that comes
next, and which of the pictures that it learned from are most like each.

It explains what the model did, not what is in the picture: heat where nothing of the thing is to be seen is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from headstart import arrays
from headstart.data import pictures as forms
from headstart.data.pictures import InMemory, Pictures
from headstart.encoding import cache as caches
from headstart.encoding import features
from headstart.encoding.cache import CacheChoice
from headstart.inspection import similarity
from headstart.model import attribution
from headstart.model.classifier import Classifier
from headstart.predictions import Prediction
from headstart.records import Floats, Integers, Learned, Pixels, Place, Progress, Sample, silence

NEAREST, BATCH = 3, 8
GRID = 16  # rows and columns of a heat map among plain values


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A picture learned from.

    Attributes:
        sample: Its name, label, and where it is thought to lie.
        digest: SHA-256 of its bytes.
        alike: Cosine of the features once the mean of those learned from is taken off, in [-1, 1].
    """

    sample: Sample
    digest: str
    alike: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a picture got its answer.

    Attributes:
        prediction: The answer.
        picture: (S, S, 3) uint8, the picture as the network sees it, of several the one that sees most; None on error.
        heat: (S, S) float32 in [0, 1], where the evidence for the answer lies; see `attribution.heat_maps`.
        rival: The class that comes next; None on error.
        rival_heat: (S, S) the same of what speaks for the rival rather than for the answer.
        nearest: Pictures learned from that are most like it, most alike first.
        compared: Of how many pictures learned from the features were at hand to look for them.
    """

    prediction: Prediction
    picture: Pixels | None = field(default=None, repr=False)
    heat: Floats | None = field(default=None, repr=False)
    rival: str | None = None
    rival_heat: Floats | None = field(default=None, repr=False)
    nearest: tuple[Neighbour, ...] = ()
    compared: int = 0

    def __str__(self) -> str:
        """Return e.g. `a.jpg: fox 89.7%, then wolf 5.2%; most alike: fox (0.54), dog (0.37)`."""
        said = self.prediction
        if said.error is not None:
            return f"{said.path}: {said.error}"
        (label, share), (rival, second), *_ = said.top
        alike = ", ".join(f"{one.sample.label} ({one.alike:.2f})" for one in self.nearest)
        return f"{said.path}: {label} {share:.1%}, then {rival} {second:.1%}" + (
            f"; most alike: {alike}" if alike else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values: heat maps as means over a grid of 16 × 16, and no pixels."""
        return self.prediction.to_dict() | {
            "heat": _grid(self.heat),
            "rival": self.rival,
            "rival_heat": _grid(self.rival_heat),
            "nearest": [
                {"path": one.sample.name, "label": one.sample.label, "sha256": one.digest, "similarity": one.alike}
                for one in self.nearest
            ],
            "compared": self.compared,
        }


def explain(
    classifier: Classifier,
    pictures: Pictures,
    learned: Learned | Known | None = None,
    *,
    cache: CacheChoice = None,
    progress: Progress = silence,
) -> list[Explanation]:
    """Return why each picture gets its answer, in their order; one that cannot be used keeps its place.

    Args:
        classifier: That answers.
        pictures: As `Classifier.predict_many` takes them.
        learned: What it learned from, or what `recalled` gave of that, which saves looking it up each time; None: that
            is not known, and nothing is most alike.
        cache: Where the features of these lie. None of them is read or encoded again.
        progress: Hears of every picture.

    Raises:
        ConfigError: Something is no picture, or one of the networks gives no heat map.
        PictureError: A picture changed while it was looked at.
    """
    dataset, memory = forms.gather(pictures)
    # before the explained pictures, which may be among them, are kept too
    known = learned if isinstance(learned, Known) else recalled(classifier, learned, cache)
    table = classifier.extract(dataset, cache=cache, progress=progress, memory=memory).table
    values, names = table.values[:, 0], dataset.names
    said = classifier.predict_features(values, names, failures=table.failures)
    nearest, compared = _nearest(known, values), 0 if known is None else len(known.rows)
    explained = [Explanation(one, nearest=near, compared=compared) for one, near in zip(said, nearest, strict=True)]
    usable = [row for row in range(len(dataset)) if row not in said.errors]
    for begin in range(0, len(usable), BATCH):
        rows = usable[begin : begin + BATCH]
        sources = [memory.get(row, dataset[row].path) for row in rows]
        for row, more in zip(rows, _looked(classifier, sources, [said[row] for row in rows]), strict=True):
            explained[row] = replace(explained[row], **more)
        progress("Explaining", begin + len(rows), len(usable))
    return explained


def _looked(
    classifier: Classifier, sources: Sequence[Place | InMemory], said: Sequence[Prediction]
) -> Iterator[dict[str, Any]]:
    """Yield of each picture what it looks like to the network, its heat maps and its rival."""
    backbone, index = classifier.backbone, {name: k for k, name in enumerate(classifier.classes)}
    seen = attribution.prepared(backbone, sources)
    answers, rivals = ([index[one.top[place][0]] for one in said] for place in (0, 1))
    scores = [attribution.for_class(answers), attribution.rather_than(rivals, answers)]
    maps = attribution.heat_maps(backbone, classifier.head, classifier.views, seen, scores)
    for picture, heat, against, rival in zip(seen[attribution.widest(backbone)], *maps, rivals, strict=True):
        yield {"picture": picture, "heat": heat, "rival": classifier.classes[rival], "rival_heat": against}


class Known(NamedTuple):
    """What was learned from, the M rows of it whose features are at hand, these, and which columns of all they are."""

    learned: Learned
    rows: Integers
    values: Floats
    columns: slice


def recalled(classifier: Classifier, learned: Learned | None, cache: CacheChoice) -> Known | None:
    """Return the features of what was learned from that the cache holds; None where there are none."""
    folder = caches.resolve(cache)
    if learned is None or folder is None:
        return None
    encoders, width, views = classifier.encoders, classifier.backbone.dim, classifier.views
    # a network that was trained with its head leaves no features; it stands before those that leave some
    found = (  # one after the other: no more is held than the best so far and the next
        features.kept(learned.dataset, learned.digests, encoders[begin:], views=views, cache=folder)
        for begin in range(len(encoders))
    )
    rows, held = max(found, key=lambda one: len(one[0]))
    columns = slice(width - held.shape[2], width)
    return Known(learned, rows, features.mean(held, folder)[:, 0], columns) if len(rows) else None


def _nearest(known: Known | None, values: Floats) -> list[tuple[Neighbour, ...]]:
    """Return of each picture those learned from that are most like it."""
    if known is None:
        return [()] * len(values)
    learned, rows, held, columns = known
    center = arrays.mean(held)
    queries = similarity.directions(values[:, columns], center)
    best, alike = similarity.most_like(queries, similarity.away(held, center), min(NEAREST, len(rows)))

    def neighbour(row: int, value: float) -> Neighbour:
        """Return what there is to tell of a row."""
        return Neighbour(learned.dataset[row], learned.digests[row], round(value, 4))

    return [
        tuple(neighbour(int(rows[place]), float(value)) for place, value in zip(*both, strict=True))
        for both in zip(best, alike, strict=True)
    ]


def _grid(heat: Floats | None) -> list[list[float]] | None:
    """Return the means of a heat map over a grid, rounded."""
    if heat is None:
        return None
    rows = [part.mean(axis=0) for part in np.array_split(heat, GRID)]
    return [[round(float(cell.mean()), 3) for cell in np.array_split(row, GRID)] for row in rows]
