"""Widths and heights of pictures → how much of them the centre crop cuts away. Of files only headers are read, and of
few of them, so that it can be said before any work.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from headstart.data import images
from headstart.records import Place, Preprocess

SAMPLE = 200  # the median of so many is within a few percent of that of all
FAR = 16  # of these that are no files of this machine
LARGE = 0.25  # of a picture, cut away because it is no square: as much as of a photograph of 4:3


class Cropped(NamedTuple):
    """What a crop cuts away of some pictures, as medians of shares of their area.

    Attributes:
        share: In all, in [0, 1).
        by_shape: What a whole square would lose less: cut away because a picture is no square.
        pictures: How many were looked at.
    """

    share: float
    by_shape: float
    pictures: int

    def __str__(self) -> str:
        """Return it as a clause, with what to do where the shape of the pictures costs much."""
        advice = "; --resize letterbox keeps the whole picture" if self.by_shape > LARGE else ""
        return f"the crop cuts away {self.share:.0%} of a picture (median of {self.pictures}){advice}"


def cropped(sizes: Iterable[tuple[int, int]], preprocess: Preprocess) -> Cropped | None:
    """Return what is cut away of pictures of these widths and heights; None where nothing is cropped or known."""
    sizes = list(sizes)
    if preprocess.resize != "crop" or not sizes:
        return None
    shares = [images.cropped_share(width, height, preprocess) for width, height in sizes]
    shapes = [1 - min(size) / max(size) for size in sizes]
    return Cropped(float(np.median(shares)), float(np.median(shapes)), len(sizes))


def sample(paths: Sequence[Place], seed: int = 0) -> list[tuple[int, int]]:
    """Return widths and heights of at most `SAMPLE` of these files, drawn at random; none of what is no picture.

    Of what lies elsewhere only few are drawn: each header is a request.
    """
    rows = np.random.default_rng(seed).permutation(len(paths))[:SAMPLE]
    far = [row for row in rows if not isinstance(paths[row], Path)][FAR:]
    rows = np.setdiff1d(rows, far) if far else rows
    with images.quiet_pillow():
        sizes = [_size(paths[row]) for row in rows]
    return [size for size in sizes if size is not None]


def _size(path: Place) -> tuple[int, int] | None:
    if isinstance(path, Path) and not path.is_file():  # a pipe would never end
        return None
    try:
        file = path if isinstance(path, Path) else io.BytesIO(images.read_bytes(path))
        with Image.open(file, formats=images.FORMATS) as image:
            return image.size
    except Exception:  # whatever is wrong with it, whoever decodes it will say so
        return None
