"""What decoding may cost: files of few bytes that ask for much memory or time, and the room that threads share."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import PEAK
from PIL import Image

from headstart.data import images, limits
from headstart.errors import PictureError
from headstart.records import Preprocess

MEMORY = f"""{PEAK}
from headstart.data import images
small, *large = [open(path, "rb").read() for path in sys.argv[1:]]
images.decode(small)
before = peak()
for data in large:
    images.decode(data)
    print(peak() - before)
"""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reason(data: bytes) -> str:
    """Return why these bytes are refused, which must be at once."""
    start = time.thread_time()
    with images.quiet_pillow(), pytest.raises(PictureError) as refused:
        images.decode(data)
    assert time.thread_time() - start < 1
    return refused.value.message


def progressive(scans: int, middle: bytes = b"") -> bytes:
    """Return a JPEG that has its last scan again and again, with something else before it."""
    data = encoded(Image.new("RGB", (64, 48), (200, 30, 40)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + middle + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + b"\xff\xd9"


def tiff(directories: int = 1, strips: int = 1, values: int = 0) -> bytes:
    """Return a TIFF of 8×8 pixels by hand: many directories, or a first one of many strips or of many values."""
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, strips, 0)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 64)] + [(700, 12, values, 8)] * bool(values)
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    size = 2 + len(body) + 4
    places = [8 + size * index for index in range(1, directories)]
    chain = b"".join(struct.pack("<H", len(tags)) + body + struct.pack("<I", place) for place in (*places, 0))
    return b"II\x2a\x00" + struct.pack("<I", 8) + chain + bytes(8 * values)


def webp_header(side: int) -> bytes:
    """Return the beginning of a lossless WebP of side × side pixels."""
    pixels = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(64)
    chunk = b"VP8L" + struct.pack("<I", len(pixels)) + pixels + bytes(len(pixels) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


# --- memory -----------------------------------------------------------------------------------------------------------


def test_A17_a_webp_of_some_bytes_that_needs_gigabytes_is_refused_with_what_it_needs():
    message = reason(webp_header(9000))
    assert message == (
        "too large: its 81,000,000 pixels of WEBP need 1.62 GB to decode, at most 1.07 GB are lent to a picture"
    )


def test_A17_decoding_takes_no_more_than_was_said(tmp_path: Path):
    (tmp_path / "small").write_bytes(encoded(Image.new("RGB", (8, 8)), "WEBP"))
    (tmp_path / "tiff").write_bytes(encoded(Image.new("I", (4000, 4000)), "TIFF", compression="tiff_adobe_deflate"))
    (tmp_path / "webp").write_bytes(encoded(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True, method=0))
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in ("small", "tiff", "webp"))]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(grown[0]) <= limits.weigh("TIFF", 4000 * 4000)
    assert int(grown[1]) <= limits.weigh("WEBP", 4000 * 4000)


@pytest.mark.parametrize("wait", [images.decode, lambda data: images.from_pil(Image.open(io.BytesIO(data)))])
def test_A17_pictures_wait_until_there_is_room(wait: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "ROOM", limits.Room(1_000_000))
    data = encoded(Image.new("RGB", (40, 40)), "PNG")
    with ThreadPoolExecutor(1) as pool:
        with limits.ROOM.lend(999_999):
            waiting = pool.submit(wait, data)
            time.sleep(0.05)
            assert not waiting.done()
        assert waiting.result(timeout=60).pixels.shape == (40, 40, 3)


def test_A17_a_room_lends_no_more_than_it_has_and_takes_back_after_errors():
    room, inside, seen = limits.Room(100), [], []
    lock = threading.Lock()

    def use(wanted: int) -> None:
        with room.lend(wanted):
            with lock:
                inside.append(wanted)
                seen.append(sum(inside))
            time.sleep(0.001)
            with lock:
                inside.remove(wanted)
            raise ZeroDivisionError

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(use, wanted) for wanted in [60, 30, 100, 10, 45, 55] * 8]
    assert all(isinstance(future.exception(), ZeroDivisionError) for future in done)
    assert 60 < max(seen) <= 100
    with room.lend(100):
        pass  # all of it is there again


def test_A17_a_broken_picture_gives_back_what_it_was_lent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "ROOM", limits.Room(10_000_000))
    broken = encoded(Image.effect_noise((900, 900), 50), "PNG")[:50_000]
    for _ in range(3):
        assert "truncated" in reason(broken)
    with limits.ROOM.lend(10_000_000):
        pass


@pytest.mark.parametrize("size", [(203, 151), (151, 203)])
def test_A17_giants_are_averaged_down_alike_in_every_orientation(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "MOST_KEPT", 5_000)
    stored = Image.effect_noise(size, 90).convert("RGB")
    upright = {}
    for orientation, turn in enumerate([None, *Image.Transpose], start=1):
        exif = Image.Exif()
        exif[0x0112] = {2: 2, 3: 4, 4: 6, 5: 3, 6: 8, 7: 5, 8: 7}.get(orientation, 1)
        turned = stored if turn is None else stored.transpose(turn)
        upright[orientation] = images.decode(encoded(turned, "PNG", exif=exif), side=20)
    assert min(upright[1].pixels.shape[:2]) == 151 // 3
    assert upright[1].facts[:2] == size
    for picture in upright.values():
        np.testing.assert_array_equal(picture.pixels, upright[1].pixels)


def test_A17_preparing_a_large_picture_waits_for_its_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "ROOM", limits.Room(1000))  # less than the picture: it gets all there is
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    assert images.prepare(pixels, Preprocess(8, 1.0, "bicubic", (0, 0, 0), (1, 1, 1))).shape == (8, 8, 3)


# --- time -------------------------------------------------------------------------------------------------------------


def test_A19_a_jpeg_of_endless_scans_is_refused():
    assert reason(progressive(24_000)) == "takes too long to decode: a JPEG of more than 50 scans"


@pytest.mark.parametrize("data", [progressive(50), progressive(10, b"\xff\xfe\x00\xfa" + b"\xff\xda" * 124)])
def test_A19_a_jpeg_of_many_scans_or_of_a_thumbnail_that_looks_like_them_is_read(data: bytes):
    assert images.decode(data).pixels.shape == (48, 64, 3)


def test_A19_what_follows_the_end_of_a_jpeg_is_not_counted():
    assert images.decode(progressive(10) + progressive(60)).pixels.shape == (48, 64, 3)


def test_A19_of_a_tiff_of_endless_directories_only_the_first_is_read():
    data, start = tiff(directories=40_000), time.thread_time()
    assert images.decode(data).remarks == ("many-frames",)
    assert time.thread_time() - start < 1


def test_A19_a_tiff_of_endless_values_is_refused():
    assert reason(tiff(strips=1_000_000)).startswith("takes too long to decode: 1,000,008 values of TIFF tags")
    assert "values of TIFF tags, at most 262,144" in reason(tiff(values=300_000))


@pytest.mark.parametrize("order", ["<", ">"])
def test_A19_a_tiff_of_endless_tags_is_refused(order: str):
    head = (b"II\x2a\x00" if order == "<" else b"MM\x00\x2a") + struct.pack(order + "IH", 8, 60_000)
    assert reason(head + bytes(12 * 60_000)) == "takes too long to decode: 60,000 TIFF tags, at most 4,096 are read"


def test_A19_a_tiff_of_jpeg_with_endless_scans_is_refused():
    data = encoded(Image.new("RGB", (64, 64)), "TIFF", compression="jpeg")
    assert images.decode(data).pixels.shape == (64, 64, 3)
    assert "scans of JPEG" in reason(data + b"\xff\xda" * 1000)


def test_A19_a_file_that_is_parsed_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MOST_SECONDS", 0.05)
    whole = encoded(Image.new("L", (8, 8)), "PNG")
    chunk = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    message = reason(whole[:33] + chunk * 300_000 + whole[33:])
    assert message == "takes too long to decode: more than 0.05 seconds of the processor"


def test_A19_a_large_webp_file_is_refused_by_its_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MOST_WEBP_BYTES", 50)
    assert "bytes of WebP, at most 50" in reason(encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True) + bytes(99))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu.max": "what"}, 8),
        ({}, 8),
    ],
)
def test_the_share_of_a_container_counts(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(limits, "GROUPS", tmp_path)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert limits.available_cores() == cores
