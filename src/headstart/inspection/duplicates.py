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
from scipy.cluster.hierarchy import DisjointSet

from headstart.data.splits import joined
from headstart.inspection import scenes, similarity, thumbnails
from headstart.inspection.properties import SIDE
from headstart.inspection.scenes import Scene
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


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Which pictures belong together.

    Attributes:
        near_duplicates: (N,) integers, equal for pictures that are one photograph.
        same_object: (N,) integers, equal for these and for further photographs of one thing.
        alike: The similarity from which on pictures of a class are same-object pictures.
        unlike: The similarity that half of the pictures have to no picture of another class.
    """

    near_duplicates: Integers
    same_object: Integers
    alike: float
    unlike: float


def find(
    properties: ImageProperties, features: Floats, targets: Integers, digests: Sequence[str], seed: int = 0
) -> Resemblance:
    """Return which pictures are near-duplicates and same-object pictures.

    Args:
        properties: Of N pictures; those without detail are near-duplicates by their bytes only.
        features: (N, D).
        targets: (N,) classes; same-object pictures are of one class, near-duplicates of any.
        digests: (N,) of the files; equal ones are near-duplicates.
        seed: Of the sample from which similarities are estimated.
    """
    mean = features.mean(axis=0)
    vectors = similarity.directions(features, mean)
    alike, unlike, candidate = _expected(vectors, targets, seed)
    near, _ = similarity.pairs(vectors, candidate, most=_MOST * len(vectors))
    same = _near_duplicates(properties, near)
    copies = joined(np.unique(digests, return_inverse=True)[1], same)
    return Resemblance(copies, _same_object(copies, _own_class(vectors, targets, alike), targets), alike, unlike)


def findings(dataset: Dataset, resemblance: Resemblance, digests: Sequence[str]) -> list[Finding]:
    """Return what to know of the copies: how many there are, and which carry different labels."""
    sets = [rows for rows in members(resemblance.near_duplicates) if len({digests[row] for row in rows}) > 1]
    apart = [rows for rows in sets if len({dataset[row].label for row in rows}) > 1]
    agreed = [rows for rows in sets if rows not in apart]
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
    ]


def members(groups: Integers) -> list[list[int]]:
    """Return the rows of each group of two or more, in the order of their first rows."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return sorted(part.tolist() for part in np.split(order, cuts) if len(part) > 1)


def conflicting(copies: Integers, targets: Integers) -> NDArray[np.bool_]:
    """Return (N,) whether a picture is one of several copies that carry different labels."""
    _, member = np.unique(copies, return_inverse=True)
    low, high = np.full(member.max(initial=-1) + 1, np.iinfo(np.int64).max), np.full(member.max(initial=-1) + 1, -1)
    np.minimum.at(low, member, targets)
    np.maximum.at(high, member, targets)
    mixed: NDArray[np.bool_] = (low != high)[member]
    return mixed


def _expected(vectors: Floats, targets: Integers, seed: int) -> tuple[float, float, float]:
    """Return the similarities of same-object pictures, of unlike pictures, and from which on copies are sought.

    So many pairs are sought among as there are pictures, whatever the backbone calls alike.
    """
    size = len(targets)
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:_SAMPLE])
    best = vectors[rows] @ vectors.T
    best[np.arange(len(rows)), rows] = -1
    kept = min(best.size, 2 * len(rows))  # of all pairs, so many as there are pictures
    candidate = max(LEAST_ALIKE, float(np.partition(best, best.size - kept, axis=None)[best.size - kept]))
    best[targets[rows][:, None] == targets[None]] = -1
    unlike, alike = np.percentile(best.max(axis=1), [50, ALIKE_SHARE])
    return float(alike), float(unlike), candidate


def _near_duplicates(properties: ImageProperties, near: Integers) -> Integers:
    """Return the pairs that are one photograph; `near` are pairs (P, 2) of alike features, to find cropped ones in."""
    telling = _telling(properties)
    shared = scenes.find(properties, np.flatnonzero(telling))
    alone = telling.copy()
    for scene in shared:
        alone[scene.rows] = False
    rows = np.flatnonzero(alone)
    described = thumbnails.descriptors(properties.thumbnails[rows])
    turned = rows[similarity.pairs(described, DESCRIBED, most=_MOST * max(1, len(rows)))[0]]
    cropped = near[alone[near].all(axis=1)]
    pairs = np.concatenate(
        [turned[thumbnails.same(properties, turned)], cropped[thumbnails.within(properties, cropped)]]
    )
    inside = np.concatenate([np.zeros((0, 2), dtype=np.int64), *map(scenes.alike, shared)])
    inside = inside[thumbnails.same(properties, inside)]
    return np.concatenate([pairs[~_parts_of_scenes(properties, pairs, shared)], inside])


def _parts_of_scenes(properties: ImageProperties, pairs: Integers, shared: Sequence[Scene]) -> NDArray[np.bool_]:
    """Return (P,) whether a picture of a pair is a part of a scene: that it resembles the other is no evidence then."""
    rows = np.unique(pairs)
    if not shared or not len(rows):
        return np.zeros(len(pairs), dtype=bool)
    both = ImageProperties(
        np.concatenate([properties.figures[rows], np.zeros((len(shared), properties.figures.shape[1]))]),
        np.concatenate([properties.thumbnails[rows], [scene.mean for scene in shared]]),
        np.concatenate([properties.colours[rows], [scene.colours for scene in shared]]),
    )
    which, scene = np.meshgrid(np.arange(len(rows)), len(rows) + np.arange(len(shared)), indexing="ij")
    asked = np.stack([which.ravel(), scene.ravel()], axis=1)
    parts = rows[np.unique(asked[thumbnails.within(both, asked, roughly=True), 0])]
    return np.asarray(np.isin(pairs, parts).any(axis=1))


def _own_class(vectors: Floats, targets: Integers, alike: float) -> Integers:
    """Return the pairs of one class that are same-object pictures, the most alike first."""
    found, values = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for rows in members(targets):
        close, similar = similarity.pairs(vectors[rows], alike, most=_LINKS * len(rows))
        found.append(np.array(rows)[close])
        values.append(similar)
    pairs = np.concatenate(found)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -np.concatenate(values)))
    result: Integers = pairs[order]
    return result


def _same_object(copies: Integers, pairs: Integers, targets: Integers) -> Integers:
    """Join same-object pictures, the most alike first (single linkage), never past `MOST_OF_CLASS` of their class."""
    groups = DisjointSet(range(len(copies)))
    for rows in members(copies):
        for row in rows[1:]:
            groups.merge(rows[0], row)
    limit = np.maximum(2, MOST_OF_CLASS * np.bincount(targets))
    for first, second in pairs.tolist():
        if not groups.connected(first, second):
            together = groups.subset_size(first) + groups.subset_size(second)
            if together <= limit[targets[first]]:
                groups.merge(first, second)
    result = np.empty(len(copies), dtype=np.int64)
    for group in groups.subsets():
        result[list(group)] = min(group)
    return result


def _telling(properties: ImageProperties) -> NDArray[np.bool_]:
    """Return (N,) whether a thumbnail shows enough to know its picture by."""
    side = np.minimum(properties.figure("width"), properties.figure("height"))
    telling: NDArray[np.bool_] = (properties.thumbnails.std(axis=(1, 2)) > FLAT) & (side >= SMALLEST)
    return telling
