"""A file's bytes → an upright RGB picture of the backbone's size; every hostile picture ends here, with a reason.

The rules, the same in training, prediction and whatever is served later:

- upright by EXIF orientation; the first frame of many; transparency over the background of `Preprocess`;
- 16-bit grey and 32-bit integers in [0, 65535] are divided by 257; floating-point pictures in [0, 1] are multiplied
  by 255, those in [0, 255] taken as they are; any other range is refused, for any guess would be wrong for somebody;
- what would take too much memory or time is refused before decoding, where it can be told: see `limits`;
- only JPEG, PNG, WebP, BMP, TIFF and GIF are opened, whatever the file is called.

The result is 8-bit; normalisation happens inside the encoder, where it costs nothing.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

from headstart import storage
from headstart.data import arrows, limits, stores
from headstart.errors import ConfigError, PictureError, StorageError
from headstart.records import Locator, Pixels, Place, Preprocess

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG also opens MPO, whose first frame is a JPEG
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
DECODER = f"pillow-{PIL.__version__}/2"  # the digit counts changes of the rules above
WHITE = (255, 255, 255)

_FORMAT_OF_SUFFIX = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF"}
# EXIF orientation → the way that stored rows and columns run in the upright picture
_DIRECTIONS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose stored rows are columns
_RESAMPLING = {name.lower(): value for name, value in Image.Resampling.__members__.items()}
_BAND = 1 << 20  # pixels that are converted at once: whole pictures would take up to twice the memory
_MOST_EXIF = 1 << 24  # bytes; a JPEG cannot hold more than 64 kB in one segment
_FOREIGN = {
    "AVIF": "decoding it can take minutes and cannot be stopped. Convert it to JPEG or PNG, e.g. with Pillow",
    "HEIC": "Pillow has no decoder for it. Convert it to JPEG or PNG, e.g. with the package pillow-heif",
    "JPEG XL": "Pillow has no decoder for it. Convert it to JPEG or PNG, e.g. with the package pillow-jxl-plugin",
}


class Facts(NamedTuple):
    """What a file says of its picture: width and height in pixels (upright), its format, and the camera EXIF names.

    The format of what came from no file is "".
    """

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


def read_bytes(path: Place) -> bytes:
    """Return the bytes of a regular file, or of whatever else a picture lies in.

    Raises:
        PictureError: The file is missing, empty, too large, not readable, or no regular file (a pipe would never end).
        StorageError: Nothing has been had for a while of the store that it lies on.
    """
    return fetch(path)[0]


def fetch(path: Place) -> tuple[bytes, Place]:
    """Return the same, and where it lies: of an object of a store with size and mark as it was read."""
    if isinstance(path, Path):
        return _read_file(path), path
    if path.kind == "cell":
        return arrows.cell(path, limits.MOST_BYTES), path
    if stores.is_uri(path.base):
        return stores.fetch(path, limits.MOST_BYTES)
    return _read_member(path), path


def _read_member(member: Locator) -> bytes:
    """Return the bytes of a member of a tar of this machine."""
    if not 0 < member.size <= limits.MOST_BYTES:
        raise PictureError("is empty" if not member.size else f"is larger than {limits.MOST_BYTES:,} bytes")
    try:
        with stores.Ranges(Path(member.base)) as tar:
            tar.seek(member.number)
            data = tar.read(member.size)
    except (OSError, StorageError) as error:
        raise PictureError(f"cannot be read: {getattr(error, 'strerror', '') or error}") from error
    if len(data) != member.size or member.mark not in (0, tar.mark):
        raise PictureError(f"{member.base} is not the file any more whose members were looked up")
    return data


def _read_file(path: Path) -> bytes:
    try:
        data = storage.read_regular(path, limits.MOST_BYTES)
    except StorageError as error:
        raise PictureError(error.message.removeprefix(f"{path} is ")) from error
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
    data: bytes, *, suffix: str = "", background: tuple[int, int, int] = WHITE, side: int | None = None
) -> Picture:
    """Return the upright RGB picture in these bytes.

    Args:
        data: The whole file.
        suffix: The file's suffix, to remark on one that belongs to another format.
        background: What shows through transparent parts.
        side: If given, a JPEG may be decoded at a fraction of its size that still leaves both sides at least twice
            this many pixels (DCT scaling, several times faster on camera files), and a picture of more than 16
            million pixels is averaged down to fewer, though never to less than this on either side.

    Raises:
        PictureError: With the reason, e.g. "truncated" or "not one of JPEG, PNG, …".
    """
    with _reasons(data):
        limits.check_file(data)
        file = limits.WatchedFile(data)
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            limits.check_size(width, height)
            kind = _format(image)
            fraction, step = _scaling(kind, width, height, side)
            if fraction > 1:
                image.draft(None, (width // fraction, height // fraction))
            waiting = len(image.getbands()) * width * height if kind == "JPEG" and limits.has_many_scans(data) else 0
            _tame(image)
            weight = limits.weigh(kind, image.width * image.height, size=len(data), coefficients=waiting)
            with limits.ROOM.lend(weight):
                picture = _finish(image, (width, height), background, step, file.check_time)
    if belies(suffix, kind):
        return picture._replace(remarks=(*picture.remarks, "wrong-suffix"))
    return picture


def alike(facts: Facts, side: int, other: int) -> bool:
    """Return whether a file's picture comes out the same to the bit when it is decoded for either of two sides."""
    width, height, kind, _ = facts
    return _scaling(kind, width, height, side) == _scaling(kind, width, height, other)


def belies(suffix: str, kind: str) -> bool:
    """Return whether a file's suffix, e.g. `.jpg`, belongs to another format than its content, e.g. `PNG`."""
    return bool(suffix) and _FORMAT_OF_SUFFIX.get(suffix.lower(), "JPEG") != kind


def from_pil(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Picture:
    """Return the upright RGB picture in an image of Pillow: its current frame, by the rules of `decode`.

    An orientation that its EXIF still names is heeded, as it is in a file; `PIL.ImageOps.exif_transpose` removes it.

    Raises:
        ConfigError: It is no image of Pillow.
        PictureError: With the reason, e.g. "too large".
    """
    if not isinstance(image, Image.Image):
        raise ConfigError(f"Expected an image of Pillow; got {type(image).__name__}.")
    with _reasons():
        limits.check_size(*image.size)
        pixels = image.width * image.height
        waiting = len(image.getbands()) * pixels if "progressive" in image.info else 0
        with limits.ROOM.lend(limits.weigh(_format(image), pixels, coefficients=waiting)):
            return _finish(image, image.size, background)


def from_array(array: np.ndarray, background: tuple[int, int, int] = WHITE) -> Picture:
    """Return the upright RGB picture in an array, by the rules of `decode`; nothing later writes to the array.

    Args:
        array: uint8, (H, W) or (H, W, 1): grey, (H, W, 3): RGB, (H, W, 4): RGB and opacity.
        background: What shows through transparent parts.

    Raises:
        ConfigError: It has another type or shape.
        PictureError: It is too large or too narrow.
    """
    channels = array.shape[2:] if isinstance(array, np.ndarray) and array.ndim in (2, 3) and array.size else None
    if channels not in ((), (1,), (3,), (4,)) or array.dtype != np.uint8:
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ConfigError(
            f"Expected a picture as uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); got {got}.",
            "Fractions in 0…1 become uint8 by (255 * array).round().astype('uint8'); channels come last, as RGB.",
        )
    limits.check_size(array.shape[1], array.shape[0])
    return from_pil(Image.fromarray(array[..., 0] if channels == (1,) else array), background)


def prepare(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Return the (S, S, 3) uint8 picture that the encoder gets: one resampling, no oversized intermediate."""
    with limits.ROOM.lend(4 * pixels.size // 3):
        return _resize(Image.fromarray(pixels), preprocess)


def cropped_share(width: int, height: int, preprocess: Preprocess) -> float:
    """Return the share of an upright picture's area, in [0, 1), that is cut away before the encoder sees it.

    >>> crop = Preprocess(224, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> cropped_share(400, 300, crop), cropped_share(300, 400, crop), cropped_share(300, 300, crop)
    (0.25, 0.25, 0.0)
    """
    if preprocess.resize != "crop":
        return 0.0
    return 1 - (min(width, height) * preprocess.crop) ** 2 / (width * height)


def load(data: bytes, preprocess: Preprocess, *, suffix: str = "") -> Picture:
    """Return the picture in these bytes, prepared for the encoder: `decode`, then `prepare`.

    Raises:
        PictureError: See `decode`.
    """
    picture = decode(data, suffix=suffix, background=preprocess.background, side=preprocess.size)
    return picture._replace(pixels=prepare(picture.pixels, preprocess))


@contextmanager
def _reasons(data: bytes = b"") -> Iterator[None]:
    """Turn whatever goes wrong into a `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_foreign(data) or f"not one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"too large: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise PictureError("needs too much memory to decode") from error
    except Exception as error:  # hostile bytes: Pillow's plugins raise whatever their parsing trips over
        raise PictureError(f"cannot be decoded: {error or type(error).__name__}") from error


def _foreign(data: bytes) -> str:
    """Return what to do about a file of a format that is well known and not read; "" if it is none."""
    kind, brands = "", data[8 : int.from_bytes(data[:4], "big")][:256] if data[4:8] == b"ftyp" else b""
    if b"avif" in brands or b"avis" in brands:
        kind = "AVIF"
    elif brands.startswith((b"hei", b"hev", b"mif1", b"msf1")):
        kind = "HEIC"
    elif data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        kind = "JPEG XL"
    return f"is {kind}, which is not read: {_FOREIGN[kind]}" if kind else ""


def _format(image: Image.Image) -> str:
    """Return the format of the file that an image of Pillow came from; "" if it came from none."""
    return (image.format or "").replace("MPO", "JPEG")


def _scaling(kind: str, width: int, height: int, side: int | None) -> tuple[int, int]:
    """Return by which whole numbers a picture is made smaller: while a JPEG is decoded, and by averaging afterwards.

    A JPEG's divides both sides: else the last blocks, on another side in each orientation, would shift the picture.
    """
    most = min(width, height) // (2 * side) if side and kind == "JPEG" else 1
    fraction = next(f for f in (8, 4, 2, 1) if f == 1 or (f <= most and width % f == height % f == 0))
    return fraction, limits.reduction(width // fraction, height // fraction, side)


def _resize(image: Image.Image, preprocess: Preprocess) -> Pixels:
    size, method = preprocess.size, _RESAMPLING[preprocess.interpolation]
    width, height = image.size
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


def _finish(
    image: Image.Image,
    size: tuple[int, int],
    background: tuple[int, int, int],
    step: int = 1,
    check_time: Callable[[], None] = lambda: None,
) -> Picture:
    """Return the upright RGB picture of an image that is open; `size` is that of the file, width first."""
    remarks = ["many-frames"] if getattr(image, "is_animated", False) else []  # n_frames would walk through all
    image.load()
    to_rgb, deep = _to_rgb(image, background)
    if deep:
        remarks.append("sixteen-bit")
    orientation, camera = _exif(image)
    pixels, stored, corner = _canvas(*image.size, orientation, step)
    for top, band in _bands(image, corner, stored.shape[:2], step):
        check_time()
        part = to_rgb(band)
        stored[top : top + part.height // step] = np.asarray(part if step == 1 else part.reduce(step))
    width, height = size[::-1] if orientation in _SIDEWAYS else size
    return Picture(pixels, tuple(remarks), Facts(width, height, _format(image), camera))


def _canvas(width: int, height: int, orientation: int, step: int) -> tuple[Pixels, Pixels, tuple[int, int]]:
    """Return the array of an upright picture, the same as the file stores it, and the corner that is stored first.

    What a reduction leaves over is cut off on both sides of the upright picture, the same in every orientation.
    """
    rows, columns, sideways = height // step, width // step, orientation in _SIDEWAYS
    down, right = _DIRECTIONS.get(orientation, (1, 1))
    pixels = np.empty((columns, rows, 3) if sideways else (rows, columns, 3), dtype=np.uint8)
    stored = (pixels.swapaxes(0, 1) if sideways else pixels)[::down, ::right]
    left, top = ((rest + (way < 0)) // 2 for rest, way in ((width % step, right), (height % step, down)))
    return pixels, stored, (left, top)


def _bands(
    image: Image.Image, corner: tuple[int, int], shape: tuple[int, ...], step: int = 1
) -> Iterator[tuple[int, Image.Image]]:
    """Yield bands of a picture from top to bottom, each with its first row of `shape`, which counts in steps."""
    (left, top), (rows, columns) = corner, shape
    height = max(1, _BAND // (columns * step * step))
    if height >= rows and image.size == (columns, rows):
        yield 0, image
        return
    for first in range(0, rows, height):
        last = min(first + height, rows)
        yield first, image.crop((left, top + first * step, left + columns * step, top + last * step))


def _tame(image: ImageFile.ImageFile) -> None:
    """Change what Pillow has read of a file so that loading it is correct and cheap."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int):
        # the transparent grey of 2 or 4 bits, brought to the 0…255 that Pillow brings the pixels to
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]), 1)
    if image.format == "TIFF":
        for directory in (0x8769, 0x8825, 0xA005):  # Pillow would unpack every value of these
            image.getexif().pop(directory, None)


def _exif(image: Image.Image) -> tuple[int, str]:
    """Return orientation (1: upright) and camera (make and model, "" if unknown) as EXIF has them."""
    if len(image.info.get("exif", b"")) > _MOST_EXIF:
        return 1, ""
    try:
        exif = image.getexif()
        camera = " ".join(str(exif[tag]).strip("\0 ") for tag in (0x010F, 0x0110) if tag in exif)
        return int(exif.get(0x0112, 1)), camera
    except Exception:  # a broken EXIF block says nothing, and the pixels are fine
        return 1, ""


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> tuple[Callable[[Image.Image], Image.Image], bool]:
    """Return what turns bands of the picture into RGB, and whether it has more than eight bits a channel."""
    if image.mode == "F" or image.mode.startswith("I"):
        return partial(_flatten_deep, to_grey=_to_grey(image), background=background), True
    if image.has_transparency_data:
        return partial(_flatten, background=background), False
    return (lambda band: band if band.mode == "RGB" else band.convert("RGB")), False


def _flatten(band: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    rgba = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")


def _flatten_deep(
    band: Image.Image, to_grey: Callable[[np.ndarray], Pixels], background: tuple[int, int, int]
) -> Image.Image:
    values = np.asarray(band)
    rgb = np.repeat(to_grey(values)[..., None], 3, axis=2)
    if isinstance(clear := band.info.get("transparency"), int):  # one grey stands for "nothing here"
        rgb[values == clear] = background
    return Image.fromarray(rgb)


def _to_grey(image: Image.Image) -> Callable[[np.ndarray], Pixels]:
    """Return what brings the values of a picture, by the range that all of them have, to 0…255."""
    bands = (np.asarray(band) for _, band in _bands(image, (0, 0), image.size[::-1]))
    extremes: list[Any] = [extreme for values in bands for extreme in (values.min(), values.max())]
    low, high = np.min(extremes), np.max(extremes)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PictureError("has values that are not finite numbers")
    if image.mode == "F" and low >= 0 and high <= 255:
        scale = 255.0 if high <= 1 else 1.0
        return lambda values: np.rint(values * scale).astype(np.uint8)
    if image.mode != "F" and low >= 0 and high <= 65535:
        table = np.rint(np.arange(65536) / 257.0).astype(np.uint8)
        return lambda values: table[values]
    raise PictureError(
        f"its values go from {low:g} to {high:g}; expected: whole numbers in 0…65535, fractions in 0…1 or 0…255"
    )
