"""A picture → a part of it, perhaps mirrored, in a slightly other light: one more view to learn from.

What is drawn for a crop that is kept depends on the content of the picture and the number of the crop alone, so that it
is a view like any other in the cache.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

from headstart.data import images
from headstart.records import Pixels, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "crop-"
UNMIRRORED = "-unmirrored"
LEAST_AREA = 0.5  # share of the picture that is left to see
MOST_SLANT = math.log(4 / 3)  # of the logarithm of the aspect ratio
JITTER = 0.2  # of brightness, contrast and saturation
TRIES = 10  # for a part that fits into the picture


def names(count: int, *, mirror: bool) -> tuple[str, ...]:
    """Return the views that are the first few crops of a picture; without `mirror` none of them is mirrored."""
    return tuple(f"{PREFIX}{number}{'' if mirror else UNMIRRORED}" for number in range(1, count + 1))


def is_crop(view: str) -> bool:
    """Return whether a view is one of these, and not of the whole picture."""
    return view.startswith(PREFIX)


def shown(pixels: Pixels, preprocess: Preprocess, view: str, digest: str) -> Pixels:
    """Return (S, S, 3): a crop of a picture, the same part and light for each network.

    Args:
        pixels: (H, W, 3) the whole picture.
        preprocess: What the network takes.
        view: From `names`.
        digest: SHA-256 of the picture's content, in hexadecimal digits.
    """
    drawn_by = [int(digest, 16), int(view.removeprefix(PREFIX).removesuffix(UNMIRRORED))]
    seen = augmented(pixels, preprocess, not view.endswith(UNMIRRORED), np.random.default_rng([*drawn_by, 0]))
    torch: Any = importlib.import_module("torch")  # and torchvision below: whoever wants no crops needs neither
    channels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)
    return np.ascontiguousarray(lit(channels, np.random.default_rng([*drawn_by, 1])).permute(1, 2, 0).numpy())


def lit(picture: Tensor, drawn: Generator) -> Tensor:
    """Return a (3, S, S) uint8 picture in another light."""
    functional: Any = importlib.import_module("torchvision.transforms.v2.functional")
    brightness, contrast, saturation = drawn.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    picture = functional.adjust_contrast(functional.adjust_brightness(picture, brightness), contrast)
    changed: Tensor = functional.adjust_saturation(picture, saturation)
    return changed


def augmented(pixels: Pixels, preprocess: Preprocess, mirror: bool, drawn: Generator) -> Pixels:
    """Return (S, S, 3): a part of a picture, as large as the network takes it, perhaps mirrored.

    Args:
        pixels: (H, W, 3) the whole picture.
        preprocess: What the network takes; where it shows the whole picture, parts have its aspect ratio.
        mirror: Whether every other picture is mirrored.
        drawn: Draws.
    """
    left, top, width, height = part(pixels.shape[1], pixels.shape[0], preprocess.resize == "crop", drawn)
    whole = replace(preprocess, resize="squash" if preprocess.resize == "crop" else preprocess.resize)
    shown = images.prepare(np.ascontiguousarray(pixels[top : top + height, left : left + width]), whole)
    mirrored = bool(drawn.integers(2)) and mirror
    return np.ascontiguousarray(shown[:, ::-1]) if mirrored else shown


def part(width: int, height: int, square: bool, drawn: Generator) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of a random part of a picture, as torchvision's RandomResizedCrop draws it.

    That one draws from the generator of the process, which threads that read ahead would share.

    Args:
        width: Of the picture.
        height: Of the picture.
        square: Whether parts are about square, or about of the picture's aspect ratio.
        drawn: Draws.
    """
    for _ in range(TRIES):
        area = width * height * drawn.uniform(LEAST_AREA, 1)
        ratio = math.exp(drawn.uniform(-MOST_SLANT, MOST_SLANT)) * (1 if square else width / height)
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = drawn.integers(width - across + 1), drawn.integers(height - down + 1)
            return int(left), int(top), across, down
    side = min(width, height)
    across, down = (side, side) if square else (width, height)  # no part of a very long picture is half of its area
    return (width - across) // 2, (height - down) // 2, across, down
