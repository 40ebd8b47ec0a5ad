"""ImageProperties → findings: pictures that are too dark, too bright, blurry, empty, or of another shape than the rest.

Nothing is left out on these grounds: a person decides. The limits were set on 10,764 photographs of dogs and groceries
and on spoiled copies of 1,500 of them; in brackets, what they find of either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart.records import Dataset, Finding, Floats, ImageProperties, found

PLAIN_CONTRAST = 4  # levels of luma; below: nearly one colour (none of the photographs, all faded to 3 % contrast)
DARK_BRIGHT = 60  # 95 % of the pixels are darker (none; all at a fifth of their brightness, 89 % at a quarter)
BRIGHT_DARK = 165  # 95 % of the pixels are brighter (1 in 10,764; all faded to white by 70 %) …
BRIGHT_CONTRAST = 40  # … and pale, as a drawing on white paper is not
BLURRED_SHARPNESS = 0.02  # below (1 in 2,000; 99.5 % of those blurred by a Gaussian of 2 px at 224 px, all by 3 px)
JUDGED_SIDE = 100  # pixels; the sharpness of smaller pictures says nothing
LONG = 3  # times the shorter side; a centre crop then leaves out two thirds (none) …
LONG_BESIDE_OTHERS = 2  # … and times as long as the median picture, for in a set of panoramas it is the rule
SMALL_AREA = 1 / 10  # of the median area, a third of the side (none)


def inspect(dataset: Dataset, properties: ImageProperties, size: int) -> list[Finding]:
    """Return what is wrong with single pictures, the worst first; a picture of one colour is called nothing else.

    Args:
        dataset: N pictures.
        properties: Of each; those that could not be read are passed over.
        size: S, the side in pixels that the backbone sees.
    """
    figure = {name: properties.figure(name) for name in ImageProperties.FIGURES}  # comparisons with NaN are False
    contrast, shorter = figure["contrast"], np.minimum(figure["width"], figure["height"])
    plain = contrast < PLAIN_CONTRAST
    dark = ~plain & (figure["bright"] < DARK_BRIGHT)
    bright = ~plain & (figure["dark"] > BRIGHT_DARK) & (contrast < BRIGHT_CONTRAST)
    blurry = ~plain & (figure["sharpness"] < BLURRED_SHARPNESS) & (shorter >= JUDGED_SIDE)
    oddness = _oddness(figure["width"], figure["height"])

    def names(chosen: NDArray[np.bool_], badness: Floats) -> list[str]:
        rows = np.flatnonzero(chosen)
        return [dataset[row].name for row in rows[np.argsort(badness[rows], kind="stable")]]

    def severity(chosen: NDArray[np.bool_]) -> Literal["warning", "note"]:
        return "note" if 2 * chosen.sum() > len(properties) else "warning"  # what most pictures are is their nature

    return [
        *found("plain-pictures", "warning",
               "{n} [picture is|pictures are] nearly of one colour and [shows|show] nothing", names(plain, contrast),
               "Look at them, and remove those that show nothing."),
        *found("dark-pictures", severity(dark), "{n} [picture is|pictures are] very dark",
               names(dark, figure["bright"]),
               "Look at them. Brighten or remove what nobody could recognise; keep those that are like the pictures "
               "to come."),
        *found("bright-pictures", severity(bright), "{n} [picture is|pictures are] washed out, nearly white",
               names(bright, -figure["dark"]),
               "Look at them. Remove what nobody could recognise; keep those that are like the pictures to come."),
        *found("blurry-pictures", severity(blurry), "{n} [picture is|pictures are] blurry",
               names(blurry, figure["sharpness"]),
               "Look at them. Remove what nobody could recognise; keep those that are like the pictures to come."),
        *found("odd-sizes", "warning",
               "{n} [picture is|pictures are] much longer than wide, or much smaller, than the others",
               names(oddness > 1, -oddness),
               "Cut out the thing by hand, replace them by larger pictures, or remove them."),
        *found("small-pictures", "note",
               f"{{n}} [picture has|pictures have] a side below the {size} pixels that the network was trained on",
               names(shorter < size, shorter),
               "Use the original pictures if these are reduced copies, or a smaller pictures.size."),
    ]  # fmt: skip


def _oddness(width: Floats, height: Floats) -> Floats:
    """Return (N,) how far each picture is beyond the limits of shape and area: over 1 is odd, NaN unreadable."""
    length, area = np.maximum(width, height) / np.minimum(width, height), width * height
    known = np.isfinite(area)
    if not known.any():
        return area
    longest = max(LONG, LONG_BESIDE_OTHERS * float(np.median(length[known])))
    oddness: Floats = np.maximum(length / longest, SMALL_AREA * np.median(area[known]) / area)
    return oddness
