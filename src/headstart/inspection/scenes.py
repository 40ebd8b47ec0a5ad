"""Thumbnails → scenes that many pictures share, and which of them share more than that.

Pictures of a fixed camera, an inspection line or a microscope have one background, and correlate by it alone. Where
more than eight others show the same, that is no evidence any more: what they have in common is taken off, and what is
left of two pictures (noise, a scratch, an animal) must correlate by itself, far more than it does in other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.inspection import similarity, thumbnails
from headstart.inspection.properties import SIDE
from headstart.records import Floats, ImageProperties, Integers

COMPANY = 8  # so many others may show what a picture shows: copies of one photograph are seldom more
SHARED = 0.98  # correlation from which on pictures are company to each other
FRINGE = 0.9  # … and from which on one belongs to a scene that is there: other light, a larger animal
LEFT = 0.4  # least correlation of what is left of copies; noise of σ = 6 in 640×480 pixels, saved at 50: 0.51
_STEADY = 4  # … and so many times (as Fisher's z) what nine in ten pairs of the scene stay below
_OUTLIER = 3  # times the deviation of a quiet picture of the scene: more counts no more, be it ever so bright
_LEVEL = 0.5  # differences of so many levels are what saving leaves
_LOCAL = 3  # pixels over which what is smooth goes
_COMMON = 16  # a direction in which so many pictures differ from the mean is common too: light, shaking
_SAMPLE = 500  # pictures of a scene from which that is learned
_MOST = 20  # pairs a picture that are proposed


@dataclass(frozen=True, slots=True)
class Scene:
    """Pictures that show the same.

    Attributes:
        rows: (M,) which pictures.
        thumbnails: (M, 32, 32) of them, all turned like the first one.
        colours: (8, 8, 2) of the first one.
    """

    rows: Integers
    thumbnails: Floats
    colours: Floats

    @property
    def mean(self) -> Floats:
        """The (32, 32) thumbnail of what they share."""
        mean: Floats = self.thumbnails.mean(axis=0)
        return mean


def find(pictures: ImageProperties, rows: Integers) -> list[Scene]:
    """Return the scenes that more than `COMPANY` + 1 of these rows (M,) of pictures share; no picture is in two."""
    if len(rows) <= COMPANY:
        return []
    normed = thumbnails.normal(pictures.thumbnails[rows])
    coarse = normed.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
    company = similarity.company(thumbnails.normal(coarse).reshape(len(rows), -1), SHARED)
    free, found = company > COMPANY, []
    taken = np.zeros(len(rows), dtype=bool)
    while free.any():
        leader = int(np.where(free, company, -1).argmax())
        own, turned = _of_scene(pictures, rows, normed, leader)
        own, turned = own[~taken[own]], turned[~taken[own]]
        free[leader] = False
        free[own] = False
        if len(own) > COMPANY:
            taken[own] = True
            likeness = _upright(pictures.thumbnails[rows[own]], turned)
            found.append(Scene(rows[own], likeness, pictures.colours[rows[leader]]))
    return found


def alike(scene: Scene) -> Integers:
    """Return (P, 2) rows, first before second, that have more in common than their scene."""
    left = _without_common(scene.thumbnails)
    quiet = _quiet(left)
    left = _normal_without_shared(left[quiet])
    views = [np.ascontiguousarray(view).reshape(len(left), -1) for view in _views(left, scene.mean)]
    least, most = _least(views), _MOST * len(left)
    pairs = [similarity.pairs(views[0], least, most=most, others=view)[0] for view in views]
    result: Integers = np.unique(np.sort(scene.rows[quiet][np.concatenate(pairs)], axis=1), axis=0)
    return result


def _of_scene(pictures: ImageProperties, rows: Integers, normed: Floats, leader: int) -> tuple[Integers, Integers]:
    """Return which pictures show what the leader shows, and in which orientation of it."""
    views = np.stack(thumbnails.orientations(normed[leader : leader + 1])).reshape(8, -1)
    correlation = normed.reshape(len(normed), -1) @ views.T
    own = np.flatnonzero(correlation.max(axis=1) >= FRINGE)
    turned = correlation[own].argmax(axis=1)
    colours = np.concatenate(thumbnails.orientations(pictures.colours[rows[leader]][None]))[turned]
    fits = thumbnails.colours_agree(colours, pictures.colours[rows[own]], thumbnails.WHOLE)
    return own[fits], turned[fits]


def _upright(pictures: Floats, turned: Integers) -> Floats:
    """Return pictures (M, S, S) that are in these orientations (M,) of something, in its own."""
    marks = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    back = [np.argsort(view.ravel()) for view in thumbnails.orientations(marks)]
    flat = pictures.reshape(len(pictures), -1)
    upright: Floats = np.take_along_axis(flat, np.stack(back)[turned], axis=1).reshape(pictures.shape)
    return upright


def _without_common(pictures: Floats) -> Floats:
    """Return what is left of (M, 32, 32) thumbnails of one scene, in levels.

    Light and contrast, the mean of all, and what is smooth (shadows, another lamp) are taken off.
    """
    flat = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    mean = flat.mean(axis=0)
    contrast = np.einsum("pij,ij->p", flat, mean) / np.maximum((mean * mean).sum(), 1e-6)
    return thumbnails.fine(flat / contrast[:, None, None] - mean, _LOCAL)


def _quiet(left: Floats) -> Integers:
    """Return which pictures differ from their scene in places only; of others, cropped or shaken, nothing is told."""
    everywhere = np.median(np.abs(left), axis=(1, 2))
    quiet: Integers = np.flatnonzero(everywhere <= max(_LEVEL, _OUTLIER * float(np.quantile(everywhere, 0.25))))
    return quiet


def _normal_without_shared(left: Floats) -> Floats:
    """Return what is left without what stands out and without directions that many share, with mean 0 and norm 1."""
    limit = _OUTLIER * np.quantile(left.std(axis=(1, 2)), 0.25)
    flat = np.clip(left, -limit, limit).reshape(len(left), -1)
    shared = _shared_directions(flat)
    return thumbnails.normal((flat - (flat @ shared.T) @ shared).reshape(left.shape))


def _views(left: Floats, mean: Floats) -> list[Floats]:
    """Return (M, 32, 32) as they are, and in those orientations in which their scene looks the same."""
    scenes = [thumbnails.normal(view).ravel() for view in thumbnails.orientations(mean[None])]
    return [
        view for view, scene in zip(thumbnails.orientations(left), scenes, strict=True) if scene @ scenes[0] >= FRINGE
    ]


def _shared_directions(left: Floats) -> Floats:
    """Return the (C, D) unit directions along which more than a tenth of the pictures, and `_COMMON`, differ."""
    some = left[np.linspace(0, len(left) - 1, min(len(left), _SAMPLE)).astype(np.int64)]
    some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-6)
    _, sizes, directions = np.linalg.svd(some, full_matrices=False)
    shared: Floats = directions[sizes**2 >= max(_COMMON, 0.1 * len(some))]
    return shared


def _least(views: list[NDArray[np.float32]]) -> float:
    """Return the correlation from which on what is left of two pictures is no chance: far above that of other pairs."""
    rows = np.linspace(0, len(views[0]) - 1, min(len(views[0]), _SAMPLE)).astype(np.int64)
    best = np.max([views[0][rows] @ view[rows].T for view in views], axis=0)
    usual = np.quantile(best[np.triu_indices(len(rows), 1)], 0.9)
    return max(LEFT, float(np.tanh(_STEADY * np.arctanh(min(usual, 0.999)))))
