"""A picture's bytes and size → whether decoding it is affordable: memory, scans, directories, time.

Nothing is decoded here. A file of some kilobytes may ask for gigabytes or for minutes. What can be told beforehand is
refused beforehand, by the same rule on every machine; what cannot is watched while Pillow reads. All threads of a
process share one room of memory, so that large pictures are decoded one after the other. Figures are of Pillow 13.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headstart.errors import PictureError

MOST_PIXELS = 89_478_485  # Pillow's own warning bound, here an error
MOST_ASPECT = 50
GROUPS = Path("/sys/fs/cgroup")  # where Linux tells what a container may have
MOST_BYTES = 1 << 29
MOST_WEBP_BYTES = 1 << 26  # up to 60 ns each, and libwebp cannot be stopped
MOST_MEMORY = 1 << 30  # bytes that all pictures being decoded may take at once
MOST_KEPT = 1 << 24  # pixels of a decoded picture that waits for its turn, where its reader says what side it needs
MOST_SECONDS = 4.5  # of the processor, checked whenever Pillow reads from the file
MOST_SCANS = 50  # of a JPEG: cameras and libjpeg write up to 10 (18 of CMYK), libtiff refuses more than 100
MOST_SEGMENTS = 20_000  # of a JPEG; a segment holds 64 kB, so that even profiles need a handful
MOST_TAGS = 4096  # of a TIFF directory
MOST_VALUES = 1 << 18  # of these tags: two for each strip or tile, and 89 million pixels make 1,400 tiles of 256×256

# bytes a pixel: Pillow's 4, ours 3, and what the format's decoder holds beside them
_COST = {"": 8, "JPEG": 8, "PNG": 8, "BMP": 8, "GIF": 8, "TIFF": 12, "WEBP": 20}
_COST_OF_ANOTHER = 24
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_LONE = (b"\x01", b"\xd8")  # markers without a length
_TIFF = (b"II\x2a\x00", b"MM\x00\x2a", b"MM\x2a\x00", b"II\x00\x2a", b"MM\x00\x2b", b"II\x2b\x00")
_TIFF_BYTES = (1, 2, 7)  # types of tags whose values stay bytes and cost nothing each
_SCAN = b"\xff\xda"


class Room:
    """Bytes that are lent to the threads of this process; who asks for more than is left waits."""

    def __init__(self, size: int) -> None:
        """Start with nothing lent."""
        self.size = size
        self.reset()

    def reset(self) -> None:
        """Forget what was lent."""
        self._lent, self._changed = 0, threading.Condition()

    @contextmanager
    def lend(self, wanted: int) -> Iterator[None]:
        """Hold that many bytes, all there are at most. A thread that enters it twice would wait for itself."""
        wanted, held = min(wanted, self.size), 0
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._lent + wanted <= self.size)
                self._lent, held = self._lent + wanted, wanted
            yield
        finally:
            with self._changed:
                self._lent -= held
                self._changed.notify_all()


ROOM = Room(MOST_MEMORY)
if hasattr(os, "register_at_fork"):  # what other threads held when a process forked is not given back in the child
    os.register_at_fork(after_in_child=ROOM.reset)


class WatchedFile(io.BytesIO):
    """A file in memory that refuses to be read once its reader has worked too long; parsers come here often."""

    def __init__(self, data: bytes) -> None:
        """Start the clock, that of this thread: waiting, and the work of others, do not count."""
        super().__init__(data)
        self._reads = 0
        self._end = time.thread_time() + MOST_SECONDS

    def check_time(self) -> None:
        """Raise a `PictureError` if the time is over."""
        if time.thread_time() > self._end:
            raise PictureError(f"takes too long to decode: more than {MOST_SECONDS:g} seconds of the processor")

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on, if there is time left; the clock costs as much as a small read, so few of these ask for it."""
        self._reads += 1
        if size is None or not 0 <= size < 4096 or self._reads % 64 == 0:
            self.check_time()
        return super().read(size)


def check_size(width: int, height: int) -> None:
    """Raise a `PictureError` if there are too many pixels, or one side is far longer than the other."""
    if width * height > MOST_PIXELS:
        raise PictureError(f"too large: {width}×{height} pixels, at most {MOST_PIXELS:,} pixels are decoded")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise PictureError(f"too narrow: {width}×{height} pixels, one side is more than {MOST_ASPECT} times the other")


def check_file(data: bytes) -> None:
    """Raise a `PictureError` if this file, by its structure, would keep a decoder busy for too long."""
    if len(data) > MOST_BYTES:
        raise PictureError(f"too large: {len(data):,} bytes, at most {MOST_BYTES:,} are decoded")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(_TIFF):
        _check_tiff(data)
    elif data.startswith(b"RIFF") and len(data) > MOST_WEBP_BYTES:
        raise PictureError(f"too large: {len(data):,} bytes of WebP, at most {MOST_WEBP_BYTES:,} are decoded")


def weigh(kind: str, pixels: int, *, size: int = 0, coefficients: int = 0) -> int:
    """Return how many bytes decoding takes at its peak.

    Args:
        kind: The format, as Pillow calls it; "" if the pixels are in memory already.
        pixels: That are decoded, e.g. the fewer of a JPEG at a fraction of its size.
        size: Of the file in bytes.
        coefficients: Of a JPEG of several scans, which all wait in memory for the last scan.

    Raises:
        PictureError: It is more than is lent to one picture.
    """
    each = _COST.get(kind, _COST_OF_ANOTHER)
    wanted = max(each * pixels, each // 2 * pixels + 2 * coefficients) + size * (2 if kind == "WEBP" else 1)
    if wanted > MOST_MEMORY:
        raise PictureError(
            f"too large: its {pixels:,} pixels of {kind} need {wanted / 1e9:.2f} GB to decode, "
            f"at most {MOST_MEMORY / 1e9:.2f} GB are lent to a picture"
        )
    return wanted


def reduction(width: int, height: int, side: int | None) -> int:
    """Return the whole number by which a picture is averaged down so that few enough pixels wait for their turn."""
    most = 1 if side is None else max(1, min(width, height) // side)
    return next((step for step in range(1, most) if (width // step) * (height // step) <= MOST_KEPT), most)


def has_many_scans(data: bytes) -> bool:
    """Return whether a JPEG may come in several scans; pictures within it, a thumbnail say, count too."""
    return data.find(_SCAN, data.find(_SCAN) + 2) >= 0


def _check_jpeg(data: bytes) -> None:
    """Count the scans of the first picture, without those of thumbnails and of what follows its end."""
    if data.count(_SCAN) <= MOST_SCANS:
        return
    position, scans, segments = 2, 0, 0
    while (marker := _MARKER.search(data, position)) and marker[1] != b"\xd9":
        position = marker.end()
        if marker[1] not in _LONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        scans, segments = scans + (marker[1] == b"\xda"), segments + 1
        if scans > MOST_SCANS or segments > MOST_SEGMENTS:
            what = f"{MOST_SCANS} scans" if scans > MOST_SCANS else f"{MOST_SEGMENTS:,} segments"
            raise PictureError(f"takes too long to decode: a JPEG of more than {what}")


def _check_tiff(data: bytes) -> None:
    """Count tags and values of the first directory, the only one that is read."""
    values, strips, compression = 0, 1, 1
    for tag, kind, count, value in _tags(data):
        values += 0 if kind in _TIFF_BYTES else count
        if tag in (273, 324):  # where the strips, or tiles, begin
            strips = count
        elif tag == 259:
            compression = value
    if values > MOST_VALUES:
        raise PictureError(
            f"takes too long to decode: {values:,} values of TIFF tags, at most {MOST_VALUES:,} are read"
        )
    # JPEG in TIFF: 7 has a stream in each strip, the older 6 a single one
    scans = MOST_SCANS * (strips if compression == 7 else 1)
    if compression in (6, 7) and data.count(_SCAN) > scans:
        raise PictureError(f"takes too long to decode: a TIFF of more than {scans:,} scans of JPEG")


def _tags(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values, and the two bytes where a single short value lies, of the first directory."""
    order, big = "<" if data[:2] == b"II" else ">", data[2] == 43  # as Pillow tells them
    offset, number, entry = ("Q", "Q", "HHQH6x") if big else ("I", "H", "HHIH2x")
    try:
        (start,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        (tags,) = struct.unpack_from(order + number, data, start)
        if tags > MOST_TAGS:
            raise PictureError(f"takes too long to decode: {tags:,} TIFF tags, at most {MOST_TAGS:,} are read")
        first, step = start + struct.calcsize(number), struct.calcsize(order + entry)
        for index in range(tags):
            yield struct.unpack_from(order + entry, data, first + index * step)
    except (struct.error, OverflowError):  # cut off: Pillow says so
        return


def available_cores() -> int:
    """Return how many processors this process may use; where a container has a share of them, what that amounts to."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _share_of_cores())))


def _share_of_cores() -> float:
    """Return how much of processors the control group of a container leaves; inf where that is not told."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of version 2, and of 1
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((GROUPS / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf
