"""A decoded picture → what can be seen of it at a glance: size, light, sharpness, border, camera, a small likeness.

Nothing here knows what a picture shows. From these figures come the findings on bad pictures and on shortcuts, from
the thumbnails those on copies. They are one vector of numbers, so that it can be kept beside the features.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart import arrays
from headstart.data.images import FORMATS, Picture
from headstart.records import Floats, ImageProperties, Integers

VERSION = "properties/2"  # the digit counts changes of what is computed
SIDE = 32  # of a thumbnail
COLOUR_SIDE = 8  # of the grid of colours: JPEG keeps colour coarsely, and so must a comparison
_PARTS = (len(ImageProperties.FIGURES), SIDE * SIDE, COLOUR_SIDE * COLOUR_SIDE * 2)
DIM = sum(_PARTS)
_WORKING = 256  # longer side, in pixels, of what light and sharpness are measured on
_BORDERLESS = 25  # pixels of the shorter side
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=np.float32)  # Cb, Cr as JPEG


def measure(picture: Picture, size: int) -> Floats:
    """Return the (`DIM`,) image properties: figures, thumbnail and colours of `ImageProperties`, each row by row.

    Args:
        picture: Upright.
        size: Of its file, in bytes.
    """
    image = Image.fromarray(picture.pixels)
    grey = image.convert("L")
    luma = np.asarray(grey, dtype=np.float32)
    likeness = [_means(luma, SIDE).ravel(), _colours(image).ravel()]
    if max(grey.size) > _WORKING:
        grey.thumbnail((_WORKING, _WORKING), Image.Resampling.BOX)
        luma = np.asarray(grey, dtype=np.float32)
    share = np.array(grey.histogram(), dtype=np.float64) / luma.size
    facts = picture.facts
    figures = [
        facts.width,
        facts.height,
        size,
        FORMATS.index(facts.format),
        zlib.crc32(facts.camera.encode("utf-8", "replace")) % 0xFFFFFF + 1 if facts.camera else 0,
        *_light(share),
        _sharpness(luma),
        _entropy(share),
        *_border(picture.pixels),
    ]
    return np.concatenate([np.array(figures, dtype=np.float32), *likeness])


def unpack(vectors: Floats) -> ImageProperties:
    """Return the properties in (N, `DIM`) vectors; thumbnails and colours are views of them."""
    figures, thumbnails, colours = np.split(vectors, np.cumsum(_PARTS)[:-1], axis=1)
    return ImageProperties(
        np.ascontiguousarray(figures),
        thumbnails.reshape(-1, SIDE, SIDE),
        colours.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2),
    )


def select(pictures: ImageProperties, rows: Integers, folder: Path | None) -> ImageProperties:
    """Return the properties of some rows, ascending; where they are many, mapped from a file in a folder."""
    thumbnails, colours = (arrays.select(part, rows, folder) for part in (pictures.thumbnails, pictures.colours))
    return ImageProperties(pictures.figures[rows], thumbnails, colours)


def window(begin: float, width: float, side: int, cells: int) -> Floats:
    """Return (cells, side) weights: each cell is the mean of its part of [begin, begin + width] of a side of pixels.

    Pixels that lie in two cells count in both by their shares: what is mirrored or resized has the same means, which
    resampling by whole pixels (Pillow's box) misses by up to 60 levels at 100 pixels a side.
    """
    edges = (begin + width * np.arange(cells + 1) / cells) * side
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    shares: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _means(values: Floats, cells: int) -> Floats:
    """Return the (cells, cells) means of (H, W) values over equal parts, as `window` weighs them."""
    means: Floats = _row_means(_row_means(values, cells).T, cells).T
    return means


def _row_means(values: Floats, cells: int) -> Floats:
    """Return (cells, W) means of (H, W) values: whole rows are summed, those that two cells share are divided.

    No matrix product: its threads would get in the way of those that decode (forty times slower was seen).
    """
    height = len(values)
    if height < 2 * cells:
        few: Floats = np.einsum("ch,hw->cw", window(0.0, 1.0, height, cells), values)
        return few
    edges = np.arange(cells + 1) * height / cells
    row = np.minimum(edges.astype(np.int64), height - 1)
    shared = values[row] * (edges - row).astype(np.float32)[:, None]
    sums = np.add.reduceat(values, row[:-1], axis=0)
    sums[-1] -= shared[-1]  # the last edge is that of the picture, whose last row is already in its cell
    means: Floats = (sums - shared[:-1] + shared[1:]) * np.float32(cells / height)
    return means


def _colours(image: Image.Image) -> Floats:
    """Return the (`COLOUR_SIDE`, `COLOUR_SIDE`, 2) mean Cb and Cr; linear, so that the mean comes first."""
    small = image.reduce(max(1, min(image.size) // (8 * COLOUR_SIDE)))
    channels = np.asarray(small, dtype=np.float32).transpose(2, 0, 1)
    means = np.stack([_means(channel, COLOUR_SIDE) for channel in channels], axis=2)
    colours: Floats = means @ _CHROMA.T
    return colours


def _light(share: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return what 5 % are darker than, mean, what 5 % are brighter than, and deviation, of a luma histogram (256,)."""
    levels = np.arange(256)
    dark, bright = np.searchsorted(np.cumsum(share), [0.05, 0.95])
    mean = float(share @ levels)
    return float(dark), mean, float(bright), float(np.sqrt(share @ (levels - mean) ** 2))


def _sharpness(luma: Floats) -> float:
    if min(luma.shape) < 3 or (variance := luma.var()) < 1:
        return 0.0
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1]  # further terms in place: each copy would be as large as the picture
    laplacian += luma[1:-1, :-2]
    laplacian += luma[1:-1, 2:]
    laplacian -= 4 * luma[1:-1, 1:-1]
    return float(laplacian.var() / variance)


def _entropy(share: NDArray[np.float64]) -> float:
    steps = share.reshape(64, 4).sum(axis=1)
    steps = steps[steps > 0]
    return float(-(steps * np.log2(steps)).sum())


def _border(pixels: np.ndarray) -> tuple[float, float, float, float, float]:
    """Return mean red, green and blue of the border, the deviation of its luma, and its step to what lies inside.

    All 0 where a ring of one pixel would be more than a border.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < _BORDERLESS:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    thick = max(1, round(0.02 * min(height, width)))
    outer = _ring(pixels, 0, thick)
    inner = _ring(pixels, thick, 2 * thick)
    luma = outer @ _LUMA
    step = abs(float(luma.mean() - (inner @ _LUMA).mean())) if len(inner) else 0.0
    red, green, blue = outer.mean(axis=0)
    return float(red), float(green), float(blue), float(luma.std()), step


def _ring(pixels: np.ndarray, begin: int, end: int) -> Floats:
    """Return the (M, 3) float32 pixels that are from `begin` up to `end` pixels away from the edge."""
    height, width = pixels.shape[:2]
    frame = pixels[begin : height - begin, begin : width - begin]
    thick = end - begin
    if min(frame.shape[:2]) <= 2 * thick:
        return frame.reshape(-1, 3).astype(np.float32)
    sides = [frame[:thick], frame[-thick:], frame[thick:-thick, :thick], frame[thick:-thick, -thick:]]
    return np.concatenate([side.reshape(-1, 3) for side in sides]).astype(np.float32)
