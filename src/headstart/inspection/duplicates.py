"""Image properties and features → which pictures are one photograph, and which show the same thing once more.

**Near-duplicates** are one photograph: re-encoded, resized, mirrored, turned by 90°, or cropped by a tenth. Candidates
come from a descriptor of the thumbnail that no mirroring or turning changes and, since cropping changes it, from the
features; thumbnails and colours decide. What many pictures share, a fixed camera's background, is no evidence.

**Same-object pictures** are further photographs of one thing: pictures of one class more alike than 85 in 100 pictures
are to any picture of another class. Whether they matter to a figure is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart import arrays
from headstart.arrays import Rows
from headstart.data.splits import joined, members, settled
from headstart.inspection import blocks, scenes, similarity, thumbnails
from headstart.inspection.properties import SIDE
from headstart.inspection.scenes import Scene
from headstart.packed import values_of
from headstart.records import Dataset, Finding, Floats, ImageProperties, Integers, found

DESCRIBED = 0.97  # correlation of descriptors from which on thumbnails are compared; the least of copies was 0.99
LEAST_ALIKE = 0.5  # features of a cropped picture are at least this alike, with any backbone
FLAT = 1.0  # deviation of a thumbnail, in levels of grey, below which it says nothing
SMALLEST = SIDE  # pixels of the shorter side below which a thumbnail shows no more than any other of its kind

ALIKE_SHARE = 85  # of 100 pictures, how many are less alike to every other class than same-object pictures are
MOST_OF_CLASS = 0.8  # a group of same-object pictures is no larger, so that something is left for other parts
_SAMPLE = 500  # pictures from which similarities to expect are estimated
_MOST = 20  # pairs a picture whose thumbnails are compared, those of the most alike descriptors or features
_LINKS = 30  # pairs a picture that may join groups of same-object pictures
_SCENES = 20  # of which it is asked whether a picture is a part of them, those of the most alike descriptors
_FEW_SCENES = 200  # of which all are asked
_AT_ONCE = 100_000  # pairs of same-object pictures that are looked at together


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Which pictures belong together.

    Attributes:
        near_duplicates: (N,) integers, equal for pictures that are one photograph.
        same_object: (N,) integers, equal for these and for further photographs of one thing.
        alike: The similarity from which on pictures of a class are same-object pictures.
        unlike: The similarity that half of the pictures have to no picture of another class.
        recall: Where an index proposed what to compare, the share of a sample for which it proposed what is most alike;
            None: all pictures were compared with all.
    """

    near_duplicates: Integers
    same_object: Integers
    alike: float
    unlike: float
    recall: float | None = None


def find(
    properties: ImageProperties, features: Floats, targets: Integers, digests: Sequence[str], seed: int = 0
) -> Resemblance:
    """Return which pictures are near-duplicates and same-object pictures.

    Args:
        properties: Of N pictures; those without detail are near-duplicates by their bytes only.
        features: (N, D), in memory or in a file.
        targets: (N,) classes; same-object pictures are of one class, near-duplicates of any.
        digests: (N,) of the files; equal ones are near-duplicates.
        seed: Of the sample from which similarities are estimated.
    """
    vectors = blocks.held(similarity.away(features, arrays.mean(features)))
    alike, unlike, candidate, known = _expected(vectors, targets, seed)
    near, _ = similarity.pairs(vectors, candidate, most=_MOST * len(vectors))
    recall = None if len(vectors) <= blocks.FEW else _share(known, near, len(vectors))
    same = _near_duplicates(properties, near)
    copies = joined(values_of(digests).codes, same)
    together = _same_object(copies, _own_class(vectors, targets, alike), targets)
    return Resemblance(copies, together, alike, unlike, recall)


def findings(dataset: Dataset, resemblance: Resemblance, digests: Sequence[str]) -> list[Finding]:
    """Return what to know of the copies: how many there are, and which carry different labels."""
    sets = [rows for rows in members(resemblance.near_duplicates) if len({digests[row] for row in rows}) > 1]
    apart = [rows for rows in sets if len({dataset[row].label for row in rows}) > 1]
    agreed = [rows for rows in sets if len({dataset[row].label for row in rows}) == 1]
    return [
        *found(
            "near-duplicates",
            "warning",
            f"{sum(map(len, agreed)):,} pictures, in {{n}} [group|groups], look like one photograph each: "
            "re-encoded, resized, mirrored, turned or cropped; a group never stands on both sides of a split",
            [" = ".join(dataset[row].name for row in rows) for rows in agreed],
            "Nothing need be done; remove all but one of each for a smaller dataset.",
        ),
        *found(
            "conflicting-near-duplicates",
            "warning",
            f"{sum(map(len, apart)):,} pictures, in {{n}} [group|groups], look like one photograph each "
            "and carry different labels; they are learned from but measure nothing",
            [" = ".join(f"{dataset[row].name} ({dataset[row].label})" for row in rows) for rows in apart],
            "Look at them before anything is removed: `headstart audit` puts them first in its sheet.",
        ),
        *found(
            "sought-by-index",
            "note",
            "there are too many pictures to compare all with all: an index of features proposed which to compare, and "
            f"proposed for {resemblance.recall or 0:.1%} of a sample the picture that is most alike",
            [] if resemblance.recall is None else [f"{resemblance.recall:.4f}"],
        ),
    ]


def conflicting(copies: Integers, targets: Integers) -> NDArray[np.bool_]:
    """Return (N,) whether a picture is one of several copies that carry different labels."""
    _, member = np.unique(copies, return_inverse=True)
    low, high = np.full(member.max(initial=-1) + 1, np.iinfo(np.int64).max), np.full(member.max(initial=-1) + 1, -1)
    np.minimum.at(low, member, targets)
    np.maximum.at(high, member, targets)
    mixed: NDArray[np.bool_] = (low != high)[member]
    return mixed


def _expected(vectors: Rows, targets: Integers, seed: int) -> tuple[float, float, float, Integers]:
    """Return the similarities of same-object pictures, of unlike pictures, and from which on copies are sought; and
    the pairs (P, 2) of pictures of a sample and what is most alike to each, if it is so alike.

    So many pairs are sought among as there are pictures, whatever the backbone calls alike.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(targets))[:_SAMPLE])
    sample, kept = vectors[rows], 2 * len(rows)  # of all pairs, so many as there are pictures
    highest = np.zeros(0, dtype=np.float32)
    best, others = np.full((2, len(rows)), -1, dtype=np.float32)
    nearest = rows.copy()
    for begin in range(0, len(targets), blocks.FEW):
        block = sample @ vectors[begin : begin + blocks.FEW].T
        own = targets[begin : begin + blocks.FEW]
        inside = np.flatnonzero((rows >= begin) & (rows < begin + len(own)))
        block[inside, rows[inside] - begin] = -1
        nearest = np.where(block.max(axis=1) > best, begin + block.argmax(axis=1), nearest)
        best = np.maximum(best, block.max(axis=1))
        highest = np.concatenate([highest, np.partition(block, -min(kept, block.size), axis=None)[-kept:]])
        highest = np.sort(highest)[-kept:]
        block[targets[rows][:, None] == own] = -1
        others = np.maximum(others, block.max(axis=1))
    candidate = max(LEAST_ALIKE, float(highest[0]))
    unlike, alike = np.percentile(others, [50, ALIKE_SHARE])
    return float(alike), float(unlike), candidate, np.stack([rows, nearest], axis=1)[best >= candidate]


def _share(known: Integers, found: Integers, size: int) -> float:
    """Return the share of known pairs (P, 2) of rows that were found, in either order; 1 if there are none."""
    codes, wanted = (pairs.min(axis=1) * size + pairs.max(axis=1) for pairs in (found, known))
    return float(np.isin(wanted, codes).mean()) if len(known) else 1.0


def _near_duplicates(properties: ImageProperties, near: Integers) -> Integers:
    """Return the pairs that are one photograph; `near` are pairs (P, 2) of alike features, to find cropped ones in."""
    telling = _telling(properties)
    shared = scenes.find(properties, np.flatnonzero(telling))
    alone = telling.copy()
    for scene in shared:
        alone[scene.rows] = False
    rows = np.flatnonzero(alone)
    described = blocks.each(lambda part: thumbnails.descriptors(properties.thumbnails[part]), rows)
    turned = rows[similarity.pairs(described, DESCRIBED, most=_MOST * max(1, len(rows)))[0]]
    cropped = near[alone[near].all(axis=1)]
    pairs = np.concatenate(
        [turned[thumbnails.same(properties, turned)], cropped[thumbnails.within(properties, cropped)]]
    )
    pairs = pairs[~_parts_of_scenes(properties, pairs, shared)]
    inside = (scenes.alike(scene) for scene in shared)
    return np.concatenate([pairs, *(proposed[thumbnails.same(properties, proposed)] for proposed in inside)])


def _parts_of_scenes(properties: ImageProperties, pairs: Integers, shared: Sequence[Scene]) -> NDArray[np.bool_]:
    """Return (P,) whether a picture of a pair is a part of a scene: that it resembles the other is no evidence then."""
    rows = np.unique(pairs)
    if not shared or not len(rows):
        return np.zeros(len(pairs), dtype=bool)
    means = np.stack([scene.mean for scene in shared])
    nothing = np.zeros((len(shared), properties.figures.shape[1]), dtype=np.float32)
    of_scenes = ImageProperties(nothing, means, np.stack([scene.colours for scene in shared]))
    described = thumbnails.descriptors(means)
    few = len(properties) <= blocks.FEW and len(shared) <= _FEW_SCENES
    most = len(shared) if few else min(len(shared), _SCENES)
    step = max(1, _AT_ONCE // max(most, len(shared) // _SCENES))
    parts = rows[blocks.each(lambda part: _is_part(properties.select(part), of_scenes, described, most), rows, step)]
    return np.asarray(np.isin(pairs, parts).any(axis=1))


def _is_part(pictures: ImageProperties, scenes: ImageProperties, described: Floats, most: int) -> NDArray[np.bool_]:
    """Return (R,) whether pictures are parts of one of the `most` scenes with the most alike descriptors."""
    alike = thumbnails.descriptors(pictures.thumbnails) @ described.T
    near = np.argpartition(-alike, most - 1, axis=1)[:, :most]
    nearest, which = np.unique(near, return_inverse=True)
    both = ImageProperties(
        np.concatenate([pictures.figures, scenes.figures[nearest]]),
        np.concatenate([pictures.thumbnails, scenes.thumbnails[nearest]]),
        np.concatenate([pictures.colours, scenes.colours[nearest]]),
    )
    rows = np.arange(len(pictures))
    asked = np.stack([np.repeat(rows, most), len(rows) + which.ravel()], axis=1)
    return np.isin(rows, asked[thumbnails.within(both, asked, roughly=True), 0])


def _own_class(vectors: Rows, targets: Integers, alike: float) -> Integers:
    """Return the pairs of one class that are same-object pictures, the most alike first."""
    found, values = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for rows in map(np.array, members(targets)):
        close, similar = similarity.pairs(blocks.some(vectors, rows), alike, most=_LINKS * len(rows))
        found.append(rows[close])
        values.append(similar)
    pairs = np.concatenate(found)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -np.concatenate(values)))
    result: Integers = pairs[order]
    return result


def _same_object(copies: Integers, pairs: Integers, targets: Integers) -> Integers:
    """Join same-object pictures, the most alike first (single linkage), never past `MOST_OF_CLASS` of their class."""
    called = joined(copies, np.zeros((0, 2), dtype=np.int64))
    size = np.bincount(called, minlength=len(called))
    limit = np.maximum(2, MOST_OF_CLASS * np.bincount(targets))
    for begin in range(0, len(pairs), _AT_ONCE):
        part, called = pairs[begin : begin + _AT_ONCE], settled(called)
        ends, largest = called[part], limit[targets[part[:, 0]]]
        # groups only grow: what is one already, or would be too large, stays so
        fits = (ends[:, 0] != ends[:, 1]) & (size[ends].sum(axis=1) <= largest)
        for (one, other), most in zip(ends[fits].tolist(), largest[fits].tolist(), strict=True):
            first, second = sorted((_called(called, one), _called(called, other)))
            if first != second and size[first] + size[second] <= most:
                called[second] = first
                size[first] += size[second]
    return settled(called)


def _called(called: Integers, row: int) -> int:
    while (first := int(called[row])) != row:
        row = first
    return row


def _telling(properties: ImageProperties) -> NDArray[np.bool_]:
    """Return (N,) whether a thumbnail shows enough to know its picture by."""
    side = np.minimum(properties.figure("width"), properties.figure("height"))
    deviation = blocks.each(lambda part: part.std(axis=(1, 2)), properties.thumbnails)
    telling: NDArray[np.bool_] = (deviation > FLAT) & (side >= SMALLEST)
    return telling
