"""Thumbnails and colours of two pictures → whether they are one photograph, and which pictures to compare at all.

One photograph re-encoded, resized, mirrored, turned by 90° or cropped by a tenth. Its thumbnails must correlate, also
in what is fine; they may differ nowhere more than all copies do; and their colours must agree up to saturation and a
cast over the whole picture. What many pictures of a dataset share is another room's question (`scenes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from headstart.inspection import blocks
from headstart.inspection.properties import COLOUR_SIDE, SIDE, window
from headstart.records import Floats, ImageProperties, Integers


@dataclass(frozen=True, slots=True)
class Bounds:
    """How alike two thumbnails of one photograph are.

    Attributes:
        all: The least correlation.
        fine: The least correlation of what is finer than the local mean.
        apart: The largest difference anywhere once light and contrast are fitted, in deviations of the thumbnail.
        contrast: By which factor light and contrast may have been changed.
        colour: The largest difference of colours anywhere, in levels of Cb and Cr.
        vivid: … or, if that is more, in deviations of the colours: windows fit edges between vivid colours badly.
        saturation: By which factor all colours may have been changed.
        cast: By how much the colour of the whole may have been changed, in levels.
    """

    all: float
    fine: float
    apart: float
    contrast: float
    colour: float
    vivid: float
    saturation: float
    cast: float


# Measured on 290 photographs of dogs, groceries and objects and on 160 drawn pictures, each re-encoded, resized by a
# half to 1.5, mirrored and turned: the least correlations were 0.9969 and 0.994, the largest differences 0.38 and 3.2.
WHOLE = Bounds(0.994, 0.985, 0.5, 1.3, 8.0, 0.1, 1.6, 12.0)
# Cropped by 10 % anywhere, within the best window: 0.991, 0.978, 0.44, a contrast of 1.08, 12.6.
PART = Bounds(0.988, 0.975, 0.5, 1.12, 14.0, 0.7, 1.0, 0.0)
ROUGHLY = 0.95  # correlation within a window before its place is refined; the least of 470 was 0.956
DESCRIBED = 0.7  # correlation of descriptors of a cropped picture; the least of 470 was 0.76, of drawn patches 0.73
PLAIN = 0.2  # correlation without any window; the least of 240 was 0.27

_FREQUENCIES = 8
_CELLS, _COLOUR_CELLS = 12, 4  # a window is compared in 12×12 cells, its colours in 4×4
_LOCAL, _LOCAL_CELLS = 9, 3  # pixels, or cells, over which a local mean goes
_BLOCK, _PART_BLOCK = 1024, 128  # pairs that a core compares at once: some 40 MB
# Windows keep 100, 95 or 90 % of a side, in steps of a fortieth; then their ends move by up to a fortieth.
_SHOWN = [(step / 40, keep / 40) for keep in (40, 38, 36) for step in range(41 - keep)]
_MOVES = np.arange(-4, 5) / 160


def descriptors(thumbnails: Floats) -> Floats:
    """Return (N, 64) unit vectors that are the same for all eight orientations of a thumbnail.

    Mirroring changes the sign of some coefficients of the cosine transform, turning exchanges rows and columns: sums
    and absolute differences of the magnitudes at (u, v) and (v, u) feel neither (after the perceptual hash of Zauner
    2010).
    """
    values = thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
    size = np.abs(dctn(values, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES])
    other = size.transpose(0, 2, 1)
    upper, strict = np.triu_indices(_FREQUENCIES), np.triu_indices(_FREQUENCIES, 1)
    parts = [(size + other)[:, upper[0], upper[1]], np.abs(size - other)[:, strict[0], strict[1]]]
    vectors = np.concatenate(parts, axis=1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def orientations(pictures: Floats) -> list[Floats]:
    """Return pictures (N, S, S, …) turned by 0, 90, 180 and 270°, and the mirror images of these."""
    turned = [np.rot90(pictures, quarter, (1, 2)) for quarter in range(4)]
    return [*turned, *(view[:, :, ::-1] for view in turned)]


def normal(pictures: NDArray[np.floating]) -> Floats:
    """Return pictures (N, H, W) with mean 0 and norm 1, so that products are correlations."""
    values = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    values /= np.maximum(np.sqrt(np.einsum("nij,nij->n", values, values)), 1e-6)[:, None, None]  # no second copy
    result: Floats = values.astype(np.float32, copy=False)
    return result


def fine(pictures: NDArray[np.floating], side: int = _LOCAL) -> Floats:
    """Return what is left of pictures (N, H, W) without their local mean over side × side pixels."""
    left: Floats = pictures - uniform_filter(pictures, size=(1, side, side), mode="nearest")
    return left


def colours_agree(one: Floats, other: Floats, bounds: Bounds) -> NDArray[np.bool_]:
    """Return (P,) whether colours (P, h, w, 2) are the same up to saturation and a cast over the whole picture."""
    centre, wanted = one.mean(axis=(1, 2), keepdims=True), other.mean(axis=(1, 2), keepdims=True)
    spread, aim = one - centre, other - wanted
    share = (spread * aim).sum(axis=(1, 2, 3)) / np.maximum((spread * spread).sum(axis=(1, 2, 3)), 1e-3)
    share = np.clip(share, 1 / bounds.saturation, bounds.saturation)[:, None, None, None]
    cast = wanted - share * centre
    cast *= np.minimum(1, bounds.cast / np.maximum(np.linalg.norm(cast, axis=3, keepdims=True), 1e-6))
    apart = np.minimum(_farthest(other - share * one - cast), _farthest(other - one))
    deviation = np.sqrt((spread * spread).sum(axis=3).mean(axis=(1, 2)))
    agree: NDArray[np.bool_] = apart <= np.maximum(bounds.colour, bounds.vivid * deviation)
    return agree


def same(pictures: ImageProperties, pairs: Integers) -> NDArray[np.bool_]:
    """Return (P,) whether pairs of rows (P, 2) are one photograph as it is, mirrored or turned."""
    return blocks.by_all_cores(lambda some: _same(pictures, some), pairs, _BLOCK, bool)


def within(pictures: ImageProperties, pairs: Integers, *, roughly: bool = False) -> NDArray[np.bool_]:
    """Return (P,) whether of pairs of rows (P, 2) one is what a window of the other shows, perhaps mirrored.

    Args:
        pictures: To compare.
        pairs: Rows of them.
        roughly: Whether it is enough that they have most in common, as two parts of one scene have.
    """
    return blocks.by_all_cores(lambda some: _either_within(pictures, some, roughly), pairs, _PART_BLOCK, bool)


def _same(pictures: ImageProperties, pairs: Integers) -> NDArray[np.bool_]:
    one, other = (pictures.thumbnails[pairs[:, side]] for side in (0, 1))
    normed = normal(one)
    correlations = np.stack([_product(normed, turned) for turned in orientations(normal(other))])
    which = correlations.argmax(axis=0)
    result: NDArray[np.bool_] = correlations.max(axis=0) >= WHOLE.all
    for number in np.unique(which[result]):
        rows = np.flatnonzero(result & (which == number))
        turned = orientations(other[rows])[number]
        colours = orientations(pictures.colours[pairs[rows, 1]])[number]
        result[rows] = _differ_nowhere(one[rows], turned, WHOLE, _LOCAL) & colours_agree(
            pictures.colours[pairs[rows, 0]], colours, WHOLE
        )
    return result


def _differ_nowhere(one: Floats, other: Floats, bounds: Bounds, local: int) -> NDArray[np.bool_]:
    """Return (P,) whether thumbnails that correlate also do so finely, in contrast and in every place."""
    flat, aim = (values - values.mean(axis=(1, 2), keepdims=True) for values in (one, other))
    contrast = _product(flat, aim) / np.maximum(_product(flat, flat), 1e-6)
    apart = np.abs(aim - contrast[:, None, None] * flat).max(axis=(1, 2)) / np.maximum(aim.std(axis=(1, 2)), 1e-6)
    alike = _product(normal(fine(one, local)), normal(fine(other, local))) >= bounds.fine
    nowhere: NDArray[np.bool_] = (
        alike & (apart <= bounds.apart) & (contrast >= 1 / bounds.contrast) & (contrast <= bounds.contrast)
    )
    return nowhere


def _either_within(pictures: ImageProperties, pairs: Integers, roughly: bool) -> NDArray[np.bool_]:
    one, other = (pictures.thumbnails[pairs[:, side]] for side in (0, 1))
    colours, others = (pictures.colours[pairs[:, side]] for side in (0, 1))
    described = _described(one, other)
    plain, mirrored = _product(normal(one), normal(other)), _product(normal(one), normal(other[:, :, ::-1]))
    turn = mirrored > plain
    other = np.where(turn[:, None, None], other[:, :, ::-1], other)
    others = np.where(turn[:, None, None, None], others[:, :, ::-1], others)
    result = (np.maximum(plain, mirrored) >= PLAIN) & (described >= DESCRIBED)
    rows = np.flatnonzero(result)
    one, other, colours, others = one[rows], other[rows], colours[rows], others[rows]
    sides = (one, other, colours, others), (other, one, others, colours)
    first, second = (_is_within(*pair, roughly=roughly) for pair in sides)
    result[rows] = first | second
    return result


def _described(one: Floats, other: Floats) -> Floats:
    products: Floats = np.einsum("pd,pd->p", descriptors(one), descriptors(other))
    return products


def _is_within(
    wholes: Floats, parts: Floats, colours: Floats, part_colours: Floats, *, roughly: bool
) -> NDArray[np.bool_]:
    """Return (P,) whether a part (32, 32) is what one window of its whole (32, 32) shows."""
    whole = window(0.0, 1.0, SIDE, _CELLS)
    small = np.asarray(whole @ parts @ whole.T, dtype=np.float32)
    down, across, correlation = _place(wholes, small)
    result: NDArray[np.bool_] = correlation >= ROUGHLY
    if roughly:
        return result
    rows = np.flatnonzero(result)
    small, rough = small[rows], (down[rows], across[rows])
    place = _refined(wholes[rows], small, *rough)
    seen = np.einsum(
        "pai,pij,pbj->pab", _moved(SIDE)[rough[0], place[0]], wholes[rows], _moved(SIDE)[rough[1], place[1]]
    )
    shown = np.einsum(
        "pai,pijc,pbj->pabc",
        _moved(COLOUR_SIDE)[rough[0], place[0]],
        colours[rows],
        _moved(COLOUR_SIDE)[rough[1], place[1]],
    )
    grid = window(0.0, 1.0, COLOUR_SIDE, _COLOUR_CELLS)
    own = np.einsum("ai,pijc,bj->pabc", grid, part_colours[rows], grid)
    result[rows] = (
        (_product(normal(seen), normal(small)) >= PART.all)
        & _differ_nowhere(seen, small, PART, _LOCAL_CELLS)
        & colours_agree(shown, own, PART)
    )
    return result


def _place(wholes: Floats, small: Floats) -> tuple[Integers, Integers, Floats]:
    """Return (P,) which window of its height and width shows a part (cells, cells) best, and their correlation."""
    windows = np.concatenate([window(begin, width, SIDE, _CELLS) for begin, width in _SHOWN])
    number = len(_SHOWN)
    seen = (windows @ wholes @ windows.T).reshape(-1, number, _CELLS, number, _CELLS)
    product = np.einsum("piajb,pab->pij", seen, normal(small), optimize=True)
    total, square = seen.sum(axis=(2, 4)), np.einsum("piajb,piajb->pij", seen, seen)
    correlation = product / np.sqrt(np.maximum(square - total**2 / _CELLS**2, 1e-3))
    flat = correlation.reshape(len(small), number * number)
    down, across = np.unravel_index(flat.argmax(axis=1), (number, number))
    return down, across, flat.max(axis=1)


def _refined(wholes: Floats, small: Floats, down: Integers, across: Integers) -> tuple[Integers, Integers]:
    """Return (P,) how the ends of windows must move in height and width for the best correlation, by turns."""
    moved = _moved(SIDE)
    rows = columns = np.full(len(wholes), moved.shape[1] // 2)
    for _ in range(2):
        half = np.einsum("pij,pbj->pib", wholes, moved[across, columns])
        rows = _best(np.einsum("pvai,pib->pvab", moved[down], half, optimize=True), small)
        half = np.einsum("pai,pij->paj", moved[down, rows], wholes)
        columns = _best(np.einsum("paj,pvbj->pvab", half, moved[across], optimize=True), small)
    return rows, columns


def _best(seen: Floats, small: Floats) -> Integers:
    """Return (P,) which of (P, V, cells, cells) correlates most with its part (P, cells, cells)."""
    flat = seen - seen.mean(axis=(2, 3), keepdims=True)
    size = np.sqrt((flat * flat).sum(axis=(2, 3)))
    best: Integers = (np.einsum("pvab,pab->pv", flat, normal(small)) / np.maximum(size, 1e-3)).argmax(axis=1)
    return best


@lru_cache(maxsize=2)
def _moved(side: int) -> Floats:
    """Return (windows, moves, cells, side) weights of each window, its begin and end moved; the middle one is not."""
    cells = _CELLS if side == SIDE else _COLOUR_CELLS
    ends = [(begin + one, begin + width + other) for begin, width in _SHOWN for one in _MOVES for other in _MOVES]
    weights = [window(max(0.0, low), min(1.0, high) - max(0.0, low), side, cells) for low, high in ends]
    return np.stack(weights).reshape(len(_SHOWN), len(_MOVES) ** 2, cells, side)


def _farthest(colours: Floats) -> Floats:
    farthest: Floats = np.linalg.norm(colours, axis=3).max(axis=(1, 2))
    return farthest


def _product(one: Floats, other: Floats) -> Floats:
    product: Floats = np.einsum("pij,pij->p", one, other)
    return product
