"""A file's bytes → an upright RGB picture of the backbone's size; every hostile picture ends here, with a reason.

The rules, the same in training, prediction and whatever is served later:

- upright by EXIF orientation; the first frame of many; transparency over the background of `Preprocess`;
- 16-bit grey and 32-bit integers in [0, 65535] are divided by 257; floating-point pictures in [0, 1] are multiplied
  by 255, those in [0, 255] taken as they are; any other range is refused, for any guess would be wrong for somebody;
- more than 89 million pixels, or a side more than 50 times the other, is refused from the header, before decoding;
- only JPEG, PNG, WebP, BMP, TIFF and GIF are opened, whatever the file is called.

The result is 8-bit; normalisation happens inside the encoder, where it costs nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from headstart.errors import PictureError
from headstart.records import Pixels, Preprocess

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG also opens MPO, whose first frame is a JPEG
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MOST_PIXELS = 89_478_485  # Pillow's own warning bound, here an error
MOST_ASPECT = 50
MOST_BYTES = 1 << 30
DECODER = f"pillow-{PIL.__version__}/1"  # the digit counts changes of the rules above

_FORMAT_OF_SUFFIX = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF"}
_TURN = {  # EXIF orientation → what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
_RESAMPLING = {name.lower(): value for name, value in Image.Resampling.__members__.items()}


class Facts(NamedTuple):
    """What a file says of its picture: width and height in pixels (upright), its format, and the camera EXIF names."""

    width: int
    height: int
    format: str
    camera: str


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, upright; a JPEG may be smaller than its file says, see `decode`.
        remarks: What was noteworthy, from "many-frames", "sixteen-bit", "wrong-suffix".
        facts: What the file says of it.
    """

    pixels: Pixels
    remarks: tuple[str, ...]
    facts: Facts


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        PictureError: The file is missing, empty, not readable, or no regular file (a pipe would never end).
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not hang
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PictureError("not a regular file")
            if (size := os.fstat(descriptor).st_size) > MOST_BYTES:
                raise PictureError(f"too large: {size:,} bytes, at most {MOST_BYTES:,} are read")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise PictureError("the file is empty")
    return data


def digest(data: bytes) -> str:
    """Return the SHA-256 of the bytes in hexadecimal, by which equal files are known."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about single pictures off the terminal; what matters in them is an error or a remark here.

    Entered once around a whole run, in the thread that starts it: warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode(
    data: bytes, *, suffix: str = "", background: tuple[int, int, int] = (255, 255, 255), side: int | None = None
) -> Picture:
    """Return the upright RGB picture in these bytes.

    Args:
        data: The whole file.
        suffix: The file's suffix, to remark on one that belongs to another format.
        background: What shows through transparent parts.
        side: If given, a JPEG may be decoded at a fraction of its size that still leaves both sides at least twice
            this many pixels (DCT scaling, several times faster on camera files).

    Raises:
        PictureError: With the reason, e.g. "truncated" or "not one of JPEG, PNG, …".
    """
    remarks: list[str] = []
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.size
            _check_size(*size)
            if getattr(image, "n_frames", 1) > 1:
                remarks.append("many-frames")
            if suffix and _FORMAT_OF_SUFFIX.get(suffix.lower(), "JPEG") != str(image.format).replace("MPO", "JPEG"):
                remarks.append("wrong-suffix")
            if side is not None and image.format == "JPEG":
                image.draft(None, (2 * side, 2 * side))
            _scale_transparency(image, data)
            image.load()
            rgb, deep = _to_rgb(image, background)
            if deep:
                remarks.append("sixteen-bit")
            orientation, camera = _exif(image)
            upright = rgb if orientation not in _TURN else rgb.transpose(_TURN[orientation])
            width, height = size[::-1] if orientation in _SIDEWAYS else size
            facts = Facts(width, height, str(image.format).replace("MPO", "JPEG"), camera)
            return Picture(np.asarray(upright), tuple(remarks), facts)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"not one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"too large: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise PictureError("needs too much memory to decode") from error
    except Exception as error:  # hostile bytes: Pillow's plugins raise whatever their parsing trips over
        raise PictureError(f"cannot be decoded: {error or type(error).__name__}") from error


def prepare(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Return the (S, S, 3) uint8 picture that the encoder gets: one resampling, no oversized intermediate."""
    size, (height, width) = preprocess.size, pixels.shape[:2]
    image = Image.fromarray(pixels)
    method = _RESAMPLING[preprocess.interpolation]
    if preprocess.resize == "crop":
        side = min(height, width) * preprocess.crop
        left, top = (width - side) / 2, (height - side) / 2
        return np.asarray(image.resize((size, size), method, box=(left, top, left + side, top + side)))
    if preprocess.resize == "squash":
        return np.asarray(image.resize((size, size), method))
    scale = size / max(height, width)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size), preprocess.background)
    canvas.paste(image.resize(inner, method), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return np.asarray(canvas)


def load(data: bytes, preprocess: Preprocess, *, suffix: str = "") -> Picture:
    """Return the picture in these bytes, prepared for the encoder: `decode`, then `prepare`.

    Raises:
        PictureError: See `decode`.
    """
    picture = decode(data, suffix=suffix, background=preprocess.background, side=preprocess.size)
    return picture._replace(pixels=prepare(picture.pixels, preprocess))


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise PictureError(f"too large: {width}×{height} pixels, at most {MOST_PIXELS:,} pixels are decoded")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise PictureError(f"too narrow: {width}×{height} pixels, one side is more than {MOST_ASPECT} times the other")


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """Bring the transparent grey of a PNG of 2 or 4 bits to the 0…255 that Pillow brings its pixels to."""
    if image.format == "PNG" and image.mode == "L" and isinstance(image.info.get("transparency"), int):
        depth = data[24]  # the ninth byte of the header chunk
        image.info["transparency"] *= {2: 85, 4: 17}.get(depth, 1)


def _exif(image: Image.Image) -> tuple[int, str]:
    """Return orientation (1: upright) and camera (make and model, "" if unknown) as EXIF has them."""
    try:
        exif = image.getexif()
        camera = " ".join(str(exif[tag]).strip("\0 ") for tag in (0x010F, 0x0110) if tag in exif)
        return int(exif.get(0x0112, 1)), camera
    except Exception:  # a broken EXIF block says nothing, and the pixels are fine
        return 1, ""


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """Return the picture as RGB, and whether it had more than eight bits a channel."""
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(image)
        rgb = np.repeat(_eight_bit(values)[..., None], 3, axis=2)
        if isinstance(clear := image.info.get("transparency"), int):  # one grey stands for "nothing here"
            rgb[values == clear] = background
        return Image.fromarray(rgb), True
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(flat, rgba).convert("RGB"), False
    return image.convert("RGB"), False


def _eight_bit(values: np.ndarray) -> Pixels:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PictureError("has values that are not finite numbers")
    if values.dtype.kind == "f" and low >= 0 and high <= 255:
        scaled = values * (255.0 if high <= 1 else 1.0)
    elif values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        scaled = values / 257.0
    else:
        raise PictureError(
            f"its values go from {low:g} to {high:g}; expected: whole numbers in 0…65535, fractions in 0…1 or 0…255"
        )
    return np.rint(scaled).astype(np.uint8)
