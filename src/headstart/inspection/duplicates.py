"""Thumbnails and features → which pictures are the same photograph, and which show the same thing once more.

**Copies** are one photograph: re-encoded, resized, mirrored, turned by 90°, or cropped by a tenth. Candidates come from
a descriptor of the thumbnail that no mirroring or turning changes (symmetrised magnitudes of its cosine transform,
after the perceptual hash of Zauner 2010) and, since cropping changes it, from the features. Each candidate is then
looked at: the thumbnails must correlate, as they are or one within a window of the other, also in what is fine.

**Same-object pictures** are further photographs of one thing: pictures of one class more alike than 85 in 100 pictures
are to any picture of another class. Whether they matter to a figure is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from headstart.data.splits import joined
from headstart.inspection import similarity
from headstart.inspection.properties import SIDE
from headstart.records import Dataset, Finding, Floats, ImageProperties, Integers, Pixels, found

# Measured on 120 pictures of dogs and 120 of grocery, each re-encoded, resized by a third to 1.5, mirrored or turned:
# the smallest correlation was 0.988, of what is finer than a quarter of a thumbnail 0.967, of descriptors 0.997. Pairs
# of dogs that are not one photograph stay below; scans of digits do not, hence the second bound.
SAME, SAME_FINE = 0.98, 0.965
SAME_DESCRIPTOR = 0.97
# Cropped by 10 % anywhere: 99 in 100 correlate by 0.965 or more within the best window, finely by 0.905.
CROPPED, CROPPED_FINE = 0.955, 0.9
CROPPED_DESCRIPTOR = 0.75  # the least of 240 cropped pictures was 0.80
CROPPED_PLAIN = 0.2  # correlation without any window; the least of 240 was 0.27
LEAST_ALIKE = 0.5  # features of a cropped picture are at least this alike, with any backbone
FLAT = 3.0  # deviation of a thumbnail, in levels of grey, below which it says nothing
SMALLEST = SIDE  # pixels of the shorter side below which a thumbnail shows no more than any other of its kind

ALIKE_SHARE = (
    85  # of 100 pictures, how many are less alike to every other class than same-object pictures are to each other
)
MOST_OF_CLASS = (
    0.8  # a group of same-object pictures is no larger, so that something of each class is left for other parts
)
_SAMPLE = 500  # pictures from which similarities to expect are estimated
_FREQUENCIES = 8
_CELLS = 12  # a window of a thumbnail is compared in 12×12 cells


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
    """Return which pictures are copies and same-object pictures.

    Args:
        properties: Of N pictures; those without detail are copies by their bytes only.
        features: (N, D).
        targets: (N,) classes; same-object pictures are of one class, copies of any.
        digests: (N,) of the files; equal ones are copies.
        seed: Of the sample from which similarities are estimated.
    """
    mean = features.mean(axis=0)
    vectors = similarity.directions(features, mean)
    alike, unlike, candidate = _expected(vectors, targets, seed)
    close, values = similarity.pairs(vectors, min(alike, candidate))
    own = _own_class(close, values, targets, alike)
    near = close[values >= candidate]
    thumbnails, telling = properties.thumbnails, _telling(properties)
    turned = _turned_copies(thumbnails, np.flatnonzero(telling))
    same = np.concatenate([turned, _cropped_copies(thumbnails, near[telling[near].all(axis=1)])])
    copies = joined(np.unique(digests, return_inverse=True)[1], same)
    return Resemblance(copies, _same_object(copies, own, targets), alike, unlike)


def findings(dataset: Dataset, resemblance: Resemblance, digests: Sequence[str]) -> list[Finding]:
    """Return what to know of the copies: how many there are, and which carry different labels."""
    sets = [rows for rows in members(resemblance.near_duplicates) if len({digests[row] for row in rows}) > 1]
    named = [" = ".join(f"{dataset[row].name}" for row in rows) for rows in sets]
    apart = [rows for rows in sets if len({dataset[row].label for row in rows}) > 1]
    return [
        *found(
            "near-duplicates",
            "warning",
            f"{{n}} group(s), {sum(map(len, sets))} pictures in all, look like one photograph re-encoded, resized, "
            "mirrored, turned or cropped; a group never stands on both sides of a split",
            named,
            "Nothing need be done; remove all but one of each for a smaller dataset.",
        ),
        *found(
            "conflicting-near-duplicates",
            "warning",
            "{n} group(s) of near-duplicates carry different labels; they are learned from but measure nothing",
            [" = ".join(f"{dataset[row].name} ({dataset[row].label})" for row in rows) for rows in apart],
            "Look at them: `headstart audit` puts them first in its sheet.",
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


def _own_class(close: Integers, values: Floats, targets: Integers, alike: float) -> Integers:
    """Return the pairs of one class that are same-object pictures, the most alike first; at most thirty a picture."""
    fits = (values >= alike) & (targets[close[:, 0]] == targets[close[:, 1]])
    order = np.lexsort((close[fits][:, 1], close[fits][:, 0], -values[fits]))
    result: Integers = close[fits][order][: 30 * len(targets)]
    return result


def _same_object(copies: Integers, pairs: Integers, targets: Integers) -> Integers:
    """Join same-object pictures from the most alike pair on (single linkage), never past `MOST_OF_CLASS` of their class."""
    parent = copies.copy()
    sizes = np.bincount(copies, minlength=len(copies))
    limit = np.maximum(2, MOST_OF_CLASS * np.bincount(targets))

    def top(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for first, second in pairs.tolist():
        one, other = top(first), top(second)
        if one != other and sizes[one] + sizes[other] <= limit[targets[first]]:
            parent[max(one, other)] = min(one, other)
            sizes[min(one, other)] += sizes[max(one, other)]
    return np.array([top(row) for row in range(len(parent))], dtype=np.int64)


def _telling(properties: ImageProperties) -> NDArray[np.bool_]:
    """Return (N,) whether a thumbnail shows enough to know its picture by."""
    side = np.minimum(properties.figure("width"), properties.figure("height"))
    telling: NDArray[np.bool_] = (properties.thumbnails.std(axis=(1, 2)) > FLAT) & (side >= SMALLEST)
    return telling


def _turned_copies(thumbnails: Pixels, rows: Integers) -> Integers:
    """Return the pairs of rows whose thumbnails are the same, as they are, mirrored or turned."""
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    close, _ = similarity.pairs(_descriptors(thumbnails[rows]), SAME_DESCRIPTOR)
    close = rows[close]
    first, second = thumbnails[close[:, 0]].astype(np.float32), thumbnails[close[:, 1]].astype(np.float32)
    same = np.zeros(len(close), dtype=bool)
    for turned in _orientations(second):
        alike = _correlation(_normal(first), _normal(turned)) >= SAME
        same |= alike & (_correlation(_normal(_fine(first, 9)), _normal(_fine(turned, 9))) >= SAME_FINE)
    return close[same]


def _cropped_copies(thumbnails: Pixels, close: Integers) -> Integers:
    """Return the pairs of which one is found within a window of the other, perhaps mirrored."""
    described = _descriptors(thumbnails)
    close = close[np.einsum("pd,pd->p", described[close[:, 0]], described[close[:, 1]]) >= CROPPED_DESCRIPTOR]
    kept = np.zeros(len(close), dtype=bool)
    for begin in range(0, len(close), 256):
        first, second = (thumbnails[close[begin : begin + 256, side]].astype(np.float32) for side in (0, 1))
        plain = _correlation(_normal(first), _normal(second))
        mirrored = _correlation(_normal(first), _normal(second[:, :, ::-1]))
        second = np.where((mirrored > plain)[:, None, None], second[:, :, ::-1], second)
        hopeful = np.flatnonzero(np.maximum(plain, mirrored) >= CROPPED_PLAIN)
        first, second = first[hopeful], second[hopeful]
        kept[begin + hopeful] = _is_within(first, second) | _is_within(second, first)
    return close[kept]


def _descriptors(thumbnails: Pixels) -> Floats:
    """Return (N, 64) unit vectors that are the same for all eight orientations of a thumbnail.

    Mirroring changes the sign of some coefficients of the cosine transform, turning exchanges rows and columns: sums
    and absolute differences of the magnitudes at (u, v) and (v, u) feel neither.
    """
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    size = np.abs(dctn(values, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES])
    other = size.transpose(0, 2, 1)
    upper, strict = np.triu_indices(_FREQUENCIES), np.triu_indices(_FREQUENCIES, 1)
    parts = [(size + other)[:, upper[0], upper[1]], np.abs(size - other)[:, strict[0], strict[1]]]
    vectors = np.concatenate(parts, axis=1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _orientations(thumbnails: Floats) -> list[Floats]:
    turned = [np.rot90(thumbnails, quarter, (1, 2)) for quarter in range(4)]
    return [*turned, *(view[:, :, ::-1] for view in turned)]


def _normal(pictures: NDArray[np.generic]) -> Floats:
    """Return pictures (N, H, W) with mean 0 and norm 1, so that products are correlations."""
    values = pictures.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=(1, 2), keepdims=True), 1e-6)
    return values


def _correlation(one: Floats, other: Floats) -> Floats:
    product: Floats = np.einsum("pij,pij->p", one, other)
    return product


def _fine(pictures: NDArray[np.floating], side: int) -> Floats:
    """Return what is left of pictures (N, H, W) without their local mean over side × side pixels."""
    values = pictures.astype(np.float32, copy=False)
    fine: Floats = values - uniform_filter(values, size=(1, side, side), mode="nearest")
    return fine


def _window(begin: float, width: float, side: int) -> Floats:
    """Return (cells, side) weights: each cell is the mean of its part of [begin, begin + width] of the side."""
    edges = (begin + width * np.arange(_CELLS + 1) / _CELLS) * side
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    shares: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _is_within(wholes: Floats, parts: Floats) -> NDArray[np.bool_]:
    """Return (P,) whether a part is what one window of its whole shows.

    Windows keep 100, 95 or 90 % of the width, and as much of the height or not, in steps of a fortieth.
    """
    shown = [(step / 40, keep / 40) for keep in (40, 38, 36) for step in range(41 - keep)]
    windows = np.stack([_window(begin, width, wholes.shape[1]) for begin, width in shown])  # (W, cells, side)
    number = len(windows)
    flat = windows.reshape(number * _CELLS, -1)
    seen = (flat @ wholes @ flat.T).reshape(-1, number, _CELLS, number, _CELLS)
    small = windows[0] @ parts @ windows[0].T
    product = np.einsum("piajb,pab->pij", seen, _normal(small), optimize=True)
    total, square = seen.sum(axis=(2, 4)), np.einsum("piajb,piajb->pij", seen, seen)
    correlation = product / np.sqrt(np.maximum(square - total**2 / _CELLS**2, 1e-3))
    place = correlation.reshape(len(parts), number * number).argmax(axis=1)
    each, (down, across) = np.arange(len(parts)), np.unravel_index(place, (number, number))
    best = seen[each, down, :, across, :]
    fine = _correlation(_normal(_fine(best, 3)), _normal(_fine(small, 3)))
    found: NDArray[np.bool_] = (correlation[each, down, across] >= CROPPED) & (fine >= CROPPED_FINE)
    return found
