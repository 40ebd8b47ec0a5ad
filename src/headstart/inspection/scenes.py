"""Thumbnails → scenes that many pictures share, and which of them share more than that.

Pictures of a fixed camera, an inspection line or a microscope have one background, and correlate by it alone. Where
more than eight others show the same, that is no evidence any more: what they have in common is taken off, and what is
left of two pictures (noise, a scratch, an animal) must correlate by itself, far more than it does in other pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
_TOGETHER, _AHEAD = 32, 4096  # pictures for which is asked who is likely, at once, and among how many they are found
_BLOCK = 4096  # pictures of which that is asked in one product
_LEFT_OVER = 0.8  # share of those that were asked: if fewer are in no scene yet, no others are asked any more


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
    free, found = company > COMPANY, []
    taken, likely = np.zeros(len(rows), dtype=bool), _Likely(normed)
    leaders = np.argsort(-company, kind="stable")[: int(free.sum())]
    for place, leader in enumerate(leaders.tolist()):
        if not free[leader]:
            continue
        own, turned = _of_scene(pictures, rows, normed, likely.of(leader, leaders[place:], free, taken), leader)
        own, turned = own[~taken[own]], turned[~taken[own]]
        free[leader] = False
        free[own] = False
        if len(own) > COMPANY:
            taken[own] = True
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


class _Likely:
    """Who may show what another picture shows: of few all, of very many those that are alike in coarse cells.

    To ask for one picture takes as long as to read the cells of all, and for several hardly longer; so it is asked for
    some that follow, too, of which none may show what another of them shows.
    """

    def __init__(self, normed: Rows) -> None:
        """Take (N, 32, 32) thumbnails; nobody is in a scene yet."""
        self._few, self._rest = len(normed) <= blocks.FEW, np.arange(len(normed))
        cells = blocks.each(lambda part: _reduced(part, _COARSE), normed)
        self._coarse = np.ascontiguousarray(cells.T)  # (`_COARSE`², M) of the rest
        self._known: dict[int, Integers] = {}

    def of(self, leader: int, following: Integers, free: NDArray[np.bool_], taken: NDArray[np.bool_]) -> Integers:
        """Return who may show what the leader shows; some may be taken (N,).

        Args:
            leader: Of whom it is asked.
            following: The leader, and of whom it may be asked later on.
            free: (N,) … if they are free by then.
            taken: (N,) who is in a scene already.
        """
        if self._few or leader not in self._known:
            left = ~taken[self._rest]
            if left.mean() < _LEFT_OVER:
                self._rest, self._coarse = self._rest[left], self._coarse[:, left]
        if self._few:
            return self._rest
        if leader not in self._known:
            self._known = {one: likely for one, likely in self._known.items() if free[one]}
            ahead = [one for one in following[:_AHEAD].tolist() if free[one] and one not in self._known]
            self._known |= self._ask(self._unlike(np.array(ahead)))
        return self._known.pop(leader)

    def _unlike(self, leaders: Integers) -> Integers:
        """Return the first of some leaders (L,), and after it those that may show nothing of what those before do."""
        views, left = self._views(leaders), np.arange(len(leaders))
        chosen: list[int] = []
        while len(left) and len(chosen) < _TOGETHER:
            chosen.append(left[0])
            left = left[(views[:, left[0]] @ views[0, left].T).max(axis=0) < _LIKELY]
        return leaders[chosen]

    def _ask(self, leaders: Integers) -> dict[int, Integers]:
        """Return for some leaders (L,) of the rest who of it may show what each shows."""
        views = self._views(leaders).reshape(-1, _COARSE**2)
        shown, who = [], []
        for part in arrays.parts(len(self._rest), _BLOCK):
            alike = (views @ self._coarse[:, part]).reshape(8, len(leaders), -1).max(axis=0)
            leader, row = np.nonzero(alike >= _LIKELY)
            shown.append(leader)
            who.append(self._rest[part][row])
        leader, row = np.concatenate(shown), np.concatenate(who)
        return {one: row[leader == number] for number, one in enumerate(leaders.tolist())}

    def _views(self, leaders: Integers) -> Floats:
        """Return (8, L, `_COARSE`²) cells of some leaders of the rest, in each orientation."""
        cells = self._coarse[:, np.searchsorted(self._rest, leaders)].T.reshape(-1, _COARSE, _COARSE)
        return np.stack(thumbnails.orientations(cells)).reshape(8, len(leaders), -1)


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
