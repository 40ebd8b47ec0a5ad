"""Thumbnails → scenes that many pictures share, and which of them share more than that.

Pictures of a fixed camera, an inspection line or a microscope have one background, and correlate by it alone. Where
more than eight others show the same, that is no evidence any more: what they have in common is taken off, and what is
left of two pictures (noise, a scratch, an animal) must correlate by itself, far more than it does in other pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart import arrays
from headstart.arrays import Rows
from headstart.inspection import blocks, similarity, thumbnails
from headstart.inspection.blocks import Computed
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
_CELLS, _COARSE = 16, 8  # of a side, on which company is counted, and very many pictures are looked through
_LIKELY = 0.8  # correlation on the coarse ones below which a picture is not looked at for a scene


@dataclass(frozen=True, slots=True)
class Scene:
    """Pictures that show the same.

    Attributes:
        rows: (M,) which pictures.
        thumbnails: (M, 32, 32) of them, all turned like the first one.
        mean: (32, 32) of these: what they share.
        colours: (8, 8, 2) of the first one.
    """

    rows: Integers
    thumbnails: Rows
    mean: Floats
    colours: Floats


def find(pictures: ImageProperties, rows: Integers) -> list[Scene]:
    """Return the scenes that more than `COMPANY` + 1 of these rows (M,) of pictures share; no picture is in two."""
    if len(rows) <= COMPANY:
        return []
    normed = blocks.held(Computed(len(rows), lambda part: thumbnails.normal(pictures.thumbnails[rows[part]])))
    company = similarity.company(Computed(len(rows), lambda part: _reduced(normed[part], _CELLS)), SHARED)
    coarse = None if len(rows) <= blocks.FEW else blocks.each(lambda part: _reduced(part, _COARSE), normed)
    free, found = company > COMPANY, []
    taken, rest, gone = np.zeros(len(rows), dtype=bool), np.arange(len(rows)), 0  # who is in a scene, and who was not
    for leader in np.argsort(-company, kind="stable")[: int(free.sum())].tolist():
        if not free[leader]:
            continue
        if gone > len(rest) // 5:
            left = ~taken[rest]
            rest, coarse, gone = rest[left], None if coarse is None else coarse[left], 0
        likely = rest if coarse is None else rest[_likely(coarse, normed[leader : leader + 1])]
        own, turned = _of_scene(pictures, rows, normed, likely, leader)
        own, turned = own[~taken[own]], turned[~taken[own]]
        free[leader] = False
        free[own] = False
        if len(own) > COMPANY:
            taken[own] = True
            gone += len(own)
            found.append(_scene(pictures, rows[own], turned, pictures.colours[rows[leader]]))
    return found


def alike(scene: Scene) -> Integers:
    """Return (P, 2) rows, first before second, that have more in common than their scene."""
    left = blocks.held(_without_common(blocks.held(scene.thumbnails)))
    quiet = _quiet(left)
    left = blocks.held(_normal_without_shared(blocks.some(left, quiet)))
    views = [blocks.held(view) for view in _views(left, scene.mean)]
    least, most = _least(views), _MOST * len(left)
    pairs = [similarity.pairs(views[0], least, most=most, others=view)[0] for view in views]
    result: Integers = np.unique(np.sort(scene.rows[quiet][np.concatenate(pairs)], axis=1), axis=0)
    return result


def _reduced(normed: Floats, cells: int) -> Floats:
    """Return (M, cells²) the means of (M, 32, 32) over cells, with mean 0 and norm 1."""
    step = SIDE // cells
    coarse = normed.reshape(-1, cells, step, cells, step).mean(axis=(2, 4))
    return thumbnails.normal(coarse).reshape(-1, cells * cells)


def _likely(coarse: Floats, leader: Floats) -> Integers:
    """Return which of (M, `_COARSE`²) pictures may show what the leader (1, 32, 32) shows."""
    vector = _reduced(leader, _COARSE).reshape(1, _COARSE, _COARSE)
    views = np.stack(thumbnails.orientations(vector)).reshape(8, -1)
    return np.flatnonzero((coarse @ views.T).max(axis=1) >= _LIKELY)


def _of_scene(
    pictures: ImageProperties, rows: Integers, normed: Rows, likely: Integers, leader: int
) -> tuple[Integers, Integers]:
    """Return which of the likely pictures show what the leader shows, and in which orientation of it."""
    views = np.stack(thumbnails.orientations(normed[leader : leader + 1])).reshape(8, -1)
    correlation = blocks.each(lambda part: normed[part].reshape(-1, SIDE * SIDE) @ views.T, likely)
    fits = correlation.max(axis=1) >= FRINGE
    own, turned = likely[fits], correlation[fits].argmax(axis=1)
    colours = np.concatenate(thumbnails.orientations(pictures.colours[rows[leader]][None]))
    fits = blocks.each(
        lambda part: thumbnails.colours_agree(
            colours[turned[part]], pictures.colours[rows[own[part]]], thumbnails.WHOLE
        ),
        np.arange(len(own)),
    )
    return own[fits], turned[fits]


def _scene(pictures: ImageProperties, rows: Integers, turned: Integers, colours: Floats) -> Scene:
    upright = Computed(len(rows), lambda part: _upright(pictures.thumbnails[rows[part]], turned[part]))
    return Scene(rows, upright, arrays.mean(upright), colours)


def _upright(pictures: Floats, turned: Integers) -> Floats:
    """Return pictures (M, S, S) that are in these orientations (M,) of something, in its own."""
    marks = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    back = [np.argsort(view.ravel()) for view in thumbnails.orientations(marks)]
    flat = pictures.reshape(len(pictures), -1)
    upright: Floats = np.take_along_axis(flat, np.stack(back)[turned], axis=1).reshape(pictures.shape)
    return upright


def _without_common(pictures: Rows) -> Computed:
    """Return what is left of (M, 32, 32) thumbnails of one scene, in levels.

    Light and contrast, the mean of all, and what is smooth (shadows, another lamp) are taken off.
    """
    flat = Computed(len(pictures), lambda part: _centred(pictures[part]))
    mean = arrays.mean(flat)

    def left(part: slice | Integers) -> Floats:
        own = flat[part]
        contrast = np.einsum("pij,ij->p", own, mean) / np.maximum((mean * mean).sum(), 1e-6)
        return thumbnails.fine(own / contrast[:, None, None] - mean, _LOCAL)

    return Computed(len(pictures), left)


def _centred(pictures: Floats) -> Floats:
    centred: Floats = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return centred


def _quiet(left: Rows) -> Integers:
    """Return which pictures differ from their scene in places only; of others, cropped or shaken, nothing is told."""
    everywhere = blocks.each(lambda part: np.median(np.abs(part), axis=(1, 2)), left)
    quiet: Integers = np.flatnonzero(everywhere <= max(_LEVEL, _OUTLIER * float(np.quantile(everywhere, 0.25))))
    return quiet


def _normal_without_shared(left: Rows) -> Computed:
    """Return what is left without what stands out and without directions that many share, with mean 0 and norm 1."""
    limit = _OUTLIER * np.quantile(blocks.each(lambda part: part.std(axis=(1, 2)), left), 0.25)
    flat = Computed(len(left), lambda part: np.clip(left[part], -limit, limit).reshape(-1, SIDE * SIDE))
    shared = _shared_directions(flat)

    def normal(part: slice | Integers) -> Floats:
        own = flat[part]
        return thumbnails.normal((own - (own @ shared.T) @ shared).reshape(-1, SIDE, SIDE))

    return Computed(len(left), normal)


def _views(left: Rows, mean: Floats) -> list[Computed]:
    """Return (M, 32²) as they are, and in those orientations in which their scene looks the same."""
    scenes = [thumbnails.normal(view).ravel() for view in thumbnails.orientations(mean[None])]
    return [_view(left, number) for number, scene in enumerate(scenes) if scene @ scenes[0] >= FRINGE]


def _view(left: Rows, number: int) -> Computed:
    def turned(part: slice | Integers) -> Floats:
        return np.ascontiguousarray(thumbnails.orientations(left[part])[number]).reshape(-1, SIDE * SIDE)

    return Computed(len(left), turned)


def _shared_directions(left: Rows) -> Floats:
    """Return the (C, D) unit directions along which more than a tenth of the pictures, and `_COMMON`, differ."""
    some = left[arrays.spaced(len(left), _SAMPLE)]
    some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-6)
    _, sizes, directions = np.linalg.svd(some, full_matrices=False)
    shared: Floats = directions[sizes**2 >= max(_COMMON, 0.1 * len(some))]
    return shared


def _least(views: Sequence[Rows]) -> float:
    """Return the correlation from which on what is left of two pictures is no chance: far above that of other pairs."""
    rows = arrays.spaced(len(views[0]), _SAMPLE)
    best = np.max([views[0][rows] @ view[rows].T for view in views], axis=0)
    usual = np.quantile(best[np.triu_indices(len(rows), 1)], 0.9)
    return max(LEFT, float(np.tanh(_STEADY * np.arctanh(min(usual, 0.999)))))
