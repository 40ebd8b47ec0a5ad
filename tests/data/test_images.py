"""Bytes → pixels: hostile and unusual pictures, each with its documented outcome or its reason."""

from __future__ import annotations

import gc
import io
import os
import resource
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from timm.data import create_transform

from headstart.data import images
from headstart.errors import ConfigError, PictureError
from headstart.records import Preprocess

GREEN = (10, 200, 30)
PLAIN = Preprocess(64, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
REFUSED = "not one of JPEG, PNG, WEBP, BMP, TIFF, GIF"
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def smooth(width: int = 96, height: int = 64) -> Image.Image:
    """Draw slow waves of a different direction in each channel, so that every turn of it differs."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.stack([np.sin(3 * x + y), np.cos(2 * y - x), np.sin(4 * x * y + y)], axis=-1)
    return Image.fromarray(np.rint(127.5 + 100 * waves).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def stored_turned(upright: Image.Image, orientation: int, kind: str, **options: object) -> bytes:
    """Return a file whose pixels are turned away from upright and whose EXIF says how."""
    turn, exif = TURNS[orientation], Image.Exif()
    exif[0x0112] = orientation
    return encoded(upright if turn is None else upright.transpose(turn), kind, exif=exif, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """Return a PNG written by hand from its raw rows, each led by a filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    see_through = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + header + see_through + body + chunk(b"IEND", b"")


def decoded(data: bytes, **options: object) -> np.ndarray:
    """Return the pixels as signed integers, so that differences do not wrap."""
    return images.decode(data, **options).pixels.astype(int)


def reason(data: bytes) -> str:
    """Return why these bytes are refused."""
    with images.quiet_pillow(), pytest.raises(PictureError) as refused:
        images.decode(data, suffix=".jpg")
    return refused.value.message


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_A1_zero_byte_file_is_refused_as_empty(tmp_path: Path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(PictureError, match=r"^the file is empty$"):
        images.read_bytes(path)


@pytest.mark.parametrize("side", [None, 16])
def test_A2_jpeg_cut_at_sixty_percent_is_refused_as_truncated(side: int | None):
    data = encoded(smooth(512, 384), "JPEG", quality=95)
    with pytest.raises(PictureError, match="truncated"):
        images.decode(data[: len(data) * 6 // 10], side=side)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_A2_other_formats_cut_at_sixty_percent_are_refused_too(kind: str):
    data = encoded(smooth(512, 384), kind)
    assert reason(data[: len(data) * 6 // 10])


def test_A2_pillow_is_never_told_to_accept_truncated_files():
    from PIL import ImageFile

    images.decode(encoded(smooth(), "JPEG"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_A18_jpeg_with_bytes_behind_its_end_is_read():
    data = encoded(smooth(), "JPEG")
    np.testing.assert_array_equal(decoded(data + b"\x00garbage" * 50), decoded(data))


def test_A18_jpeg_without_its_end_marker_counts_as_truncated():
    data = encoded(smooth(), "JPEG")
    assert data.endswith(b"\xff\xd9")
    assert "truncated" in reason(data[:-2])


def test_broken_exif_leaves_the_picture_as_it_is():
    data = encoded(smooth(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    with images.quiet_pillow():
        np.testing.assert_array_equal(decoded(data), decoded(encoded(smooth(), "JPEG")))


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_A5_sixteen_bit_grey_is_divided_by_257_with_a_remark(kind: str):
    values = np.array([[0, 256, 32896, 65535]], dtype=np.uint16)
    picture = images.decode(encoded(Image.fromarray(values), kind))
    assert picture.pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert picture.remarks == ("sixteen-bit",)


def test_A5_sixteen_bit_colour_is_scaled_within_one_level():
    values = np.array([[0, 256, 1000], [32896, 40000, 65535]])
    rows = b"\x00" + struct.pack(">6H", *values.ravel())
    assert np.abs(decoded(png(2, 1, 16, 2, rows))[0] - values / 257).max() <= 1


def test_A6_whole_numbers_of_32_bit_up_to_65535_are_divided_by_257():
    values = np.array([[0, 257, 25700, 65535]], dtype=np.int32)
    picture = images.decode(encoded(Image.fromarray(values), "TIFF"))
    assert picture.pixels[0, :, 2].tolist() == [0, 1, 100, 255]
    assert picture.remarks == ("sixteen-bit",)


@pytest.mark.parametrize(("values", "wanted"), [([0, 0.5, 1], [0, 128, 255]), ([0, 1.4, 254.6], [0, 1, 255])])
def test_A6_fractions_are_scaled_by_their_range(values: list[float], wanted: list[int]):
    picture = images.decode(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    assert picture.pixels[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("value", [-3, 65536])
def test_A6_whole_numbers_out_of_range_are_refused_with_their_range(value: int):
    message = reason(encoded(Image.fromarray(np.array([[7, value]], dtype=np.int32)), "TIFF"))
    assert message.startswith(f"its values go from {min(7, value)} to {max(7, value)}")


@pytest.mark.parametrize("value", [-0.5, 255.5])
def test_A6_fractions_out_of_range_are_refused_with_their_range(value: float):
    message = reason(encoded(Image.fromarray(np.array([[1, value]], dtype=np.float32)), "TIFF"))
    assert message.startswith(f"its values go from {min(1, value):g} to {max(1, value):g}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_A6_values_that_are_no_numbers_are_refused(value: float):
    message = reason(encoded(Image.fromarray(np.array([[1, value]], dtype=np.float32)), "TIFF"))
    assert message == "has values that are not finite numbers"


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_A7_every_orientation_gives_the_same_pixels(kind: str, options: dict[str, object], orientation: int):
    data = stored_turned(smooth(), orientation, kind, **options)
    np.testing.assert_array_equal(decoded(data), np.asarray(smooth()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_A7_every_orientation_gives_the_same_jpeg(orientation: int):
    data = stored_turned(smooth(), orientation, "JPEG", quality=95, subsampling=0)
    assert np.abs(decoded(data) - np.asarray(smooth())).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_A7_every_orientation_survives_decoding_at_a_fraction(orientation: int):
    upright = smooth(768, 512)
    plain = images.load(encoded(upright, "JPEG", quality=95), PLAIN).pixels.astype(int)
    turned = images.load(stored_turned(upright, orientation, "JPEG", quality=95), PLAIN).pixels
    assert np.abs(plain - turned).max() <= 6


@pytest.mark.parametrize(("size", "side"), [((403, 301), 40), ((301, 405), 18), ((400, 304), 40)])
def test_A7_a_jpeg_that_may_be_decoded_at_a_fraction_is_the_same_in_every_orientation(size: tuple[int, int], side: int):
    upright = Image.composite(smooth(*size), Image.new("RGB", size), Image.effect_noise(size, 90).convert("L"))
    preprocess = Preprocess(side, 0.875, "bicubic", (0, 0, 0), (1, 1, 1))
    files = [stored_turned(upright, turn, "JPEG", quality=95, subsampling=0) for turn in TURNS]
    seen = [images.load(data, preprocess).pixels.astype(int) for data in files]
    differences = np.abs(np.array(seen[1:]) - seen[0])
    assert differences.max() <= 3  # what the JPEG itself costs: its blocks lie otherwise in a turned picture
    assert differences.mean() <= 0.4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_A7_an_orientation_that_does_not_exist_changes_nothing(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encoded(smooth(), "PNG", exif=exif)), np.asarray(smooth()))


# --- colour and transparency ------------------------------------------------------------------------------------------


def test_A8_cmyk_jpeg_is_converted():
    cmyk = smooth().convert("CMYK")
    assert np.abs(decoded(encoded(cmyk, "JPEG", quality=95)) - np.asarray(cmyk.convert("RGB"))).max() <= 8


def test_A8_adobe_inverted_cmyk_is_no_negative():
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 0))  # no ink: white paper
    image.paste((255, 255, 0, 0), (8, 0, 16, 16))
    data = encoded(image, "JPEG", quality=95)
    assert data.index(b"Adobe") < 50  # the marker by which Adobe's inverted inks are known; Pillow writes them so
    assert decoded(data)[4, [0, 15]].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_A8_cmyk_tiff_is_converted_exactly():
    cmyk = smooth().convert("CMYK")
    np.testing.assert_array_equal(decoded(encoded(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))


def test_A9_rgba_is_laid_over_the_background():
    pixels = np.array([[[250, 20, 30, 255], [250, 20, 30, 0], [200, 0, 130, 102]]], dtype=np.uint8)
    seen = decoded(encoded(Image.fromarray(pixels), "PNG"), background=GREEN)
    assert seen[0, :2].tolist() == [[250, 20, 30], list(GREEN)]
    np.testing.assert_allclose(seen[0, 2], 0.4 * np.array([200, 0, 130]) + 0.6 * np.array(GREEN), atol=1)


def test_A9_the_background_is_white_unless_told():
    assert decoded(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG")).min() == 255


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_A9_a_transparent_palette_entry_shows_the_background(transparency: int | bytes):
    image = Image.new("P", (2, 1))
    image.putpalette([250, 20, 30, 1, 2, 3])
    image.putpixel((1, 0), 1)
    seen = decoded(encoded(image, "PNG", transparency=transparency), background=GREEN)
    assert seen[0].tolist() == [[250, 20, 30], list(GREEN)]


def test_A9_a_transparent_gif_shows_the_background():
    image = Image.new("P", (2, 1))
    image.putpalette([250, 20, 30, 1, 2, 3])
    image.putpixel((1, 0), 1)
    seen = decoded(encoded(image, "GIF", transparency=1), background=GREEN)
    assert seen[0].tolist() == [[250, 20, 30], list(GREEN)]


def test_A9_grey_with_alpha_is_laid_over_the_background():
    pixels = np.array([[[90, 255], [90, 0]]], dtype=np.uint8)
    seen = decoded(encoded(Image.fromarray(pixels, "LA"), "PNG"), background=GREEN)
    assert seen[0].tolist() == [[90, 90, 90], list(GREEN)]


def test_A9_one_bit_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decoded(encoded(image, "PNG"))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_A9_a_transparent_colour_of_an_rgb_png_shows_the_background():
    image = Image.new("RGB", (2, 1), (250, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    seen = decoded(encoded(image, "PNG", transparency=(1, 2, 3)), background=GREEN)
    assert seen[0].tolist() == [[250, 20, 30], list(GREEN)]


def test_A9_a_transparent_grey_of_an_eight_bit_png_shows_the_background():
    seen = decoded(png(2, 1, 8, 0, b"\x00\x5a\x07", b"\x00\x07"), background=GREEN)
    assert seen[0].tolist() == [[90, 90, 90], list(GREEN)]


def test_A9_a_transparent_grey_of_a_sixteen_bit_png_shows_the_background():
    rows = b"\x00" + struct.pack(">2H", 0x5A5A, 7)
    seen = decoded(png(2, 1, 16, 0, rows, struct.pack(">H", 7)), background=GREEN)
    assert seen[0].tolist() == [[90, 90, 90], list(GREEN)]


def test_A9_transparency_is_laid_over_the_background_of_the_preprocess():
    preprocess = Preprocess(8, 1.0, "bicubic", (0, 0, 0), (1, 1, 1), background=GREEN)
    seen = images.load(encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"), preprocess)
    assert np.unique(seen.pixels.reshape(-1, 3), axis=0).tolist() == [list(GREEN)]


# --- frames, sizes, formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_A10_the_first_of_many_frames_is_used_with_a_remark(kind: str):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ((200, 30, 40), (10, 220, 30), (20, 30, 240))]
    picture = images.decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(picture.pixels.astype(int) - (200, 30, 40)).max() <= 8
    assert picture.remarks == ("many-frames",)


def test_A10_a_single_frame_is_not_remarked_on():
    assert images.decode(encoded(smooth(), "GIF")).remarks == ()


@pytest.mark.parametrize("side", [20000, 12000])
def test_A11_a_bomb_is_refused_from_its_header(side: int):
    data = png(side, side, 1, 0, bytes((side + 7) // 8 + 1) * side)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    message = reason(data)
    assert time.thread_time() - start < 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 20e6
    assert message.startswith("too large: ")
    assert f"{side}×{side}" in message or f"{side * side} pixels" in message


def test_A11_the_bomb_of_the_warning_zone_says_how_large_it_is_and_may_be():
    data = png(12000, 12000, 8, 2, b"")
    assert reason(data) == "too large: 12000×12000 pixels, at most 89,478,485 pixels are decoded"


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
def test_A12_a_sliver_is_refused_with_its_size(size: tuple[int, int]):
    message = reason(encoded(Image.new("RGB", size), "PNG"))
    assert message == f"too narrow: {size[0]}×{size[1]} pixels, one side is more than 50 times the other"


def test_A12_fifty_to_one_is_still_read():
    assert images.load(encoded(Image.new("RGB", (2, 100), GREEN), "PNG"), PLAIN).pixels[32, 32].tolist() == list(GREEN)
    assert reason(encoded(Image.new("RGB", (2, 101)), "PNG")).startswith("too narrow: 2×101 pixels")


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squash"])
def test_A13_a_single_pixel_fills_the_picture(resize: str):
    preprocess = Preprocess(16, 0.875, "bicubic", (0, 0, 0), (1, 1, 1), resize=resize)
    seen = images.load(encoded(Image.new("RGB", (1, 1), GREEN), "PNG"), preprocess).pixels
    assert seen.shape == (16, 16, 3)
    assert (seen == GREEN).all()


FOREIGN = {
    "EPS": encoded(Image.new("RGB", (9, 9)), "EPS"),
    "PDF": encoded(Image.new("RGB", (9, 9)), "PDF"),
    "PSD": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 9, 9, 8, 3) + bytes(14) + bytes(9 * 9 * 3),
    "FITS": b"".join(
        line.ljust(80)
        for line in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 9", b"NAXIS2  = 9", b"END")
    ).ljust(2880)
    + bytes(2880),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "ICO": encoded(Image.new("RGB", (16, 16)), "ICO"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_A14_a_foreign_format_is_refused_and_starts_no_process(kind: str, monkeypatch: pytest.MonkeyPatch):
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    assert reason(FOREIGN[kind]) == REFUSED
    assert started == []


def boxed(brands: bytes) -> bytes:
    """Return the beginning of a file of this family: main brand, version, brands it is compatible with."""
    return struct.pack(">I", len(brands) + 8) + b"ftyp" + brands + bytes(64)


@pytest.mark.parametrize(
    ("data", "kind", "converter"),
    [
        (boxed(b"heic\0\0\0\0mif1heic"), "HEIC", "pillow-heif"),
        (boxed(b"mif1\0\0\0\0mif1heix"), "HEIC", "pillow-heif"),
        (boxed(b"avif\0\0\0\0avifmif1"), "AVIF", "Pillow"),
        (boxed(b"mif1\0\0\0\0mif1avif"), "AVIF", "Pillow"),
        (b"\xff\x0a" + bytes(64), "JPEG XL", "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL", "pillow-jxl-plugin"),
    ],
)
def test_A20_formats_of_telephones_are_named_with_what_converts_them(data: bytes, kind: str, converter: str):
    message = reason(data)
    assert message.startswith(f"is {kind}, which is not read: ")
    assert message.endswith(converter)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PSD", "FITS", "ICO"])
def test_A14_the_foreign_files_are_real_ones(kind: str):
    if kind == "PDF":  # Pillow writes it and does not read it
        assert FOREIGN[kind].startswith(b"%PDF")
        return
    with Image.open(io.BytesIO(FOREIGN[kind])) as image:
        assert image.format == kind


def test_A15_a_png_named_jpg_is_read_with_a_remark():
    picture = images.decode(encoded(smooth(), "PNG"), suffix=".jpg")
    np.testing.assert_array_equal(picture.pixels, np.asarray(smooth()))
    assert picture.remarks == ("wrong-suffix",)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".JPG", "JPEG"), (".jfif", "JPEG"), (".PNG", "PNG"), (".tif", "TIFF"), (".TIFF", "TIFF"), (".webp", "WEBP")]
    + [(".bmp", "BMP"), (".gif", "GIF"), (".jpeg", "MPO")],
)
def test_A16_the_right_suffix_in_any_case_is_not_remarked_on(suffix: str, kind: str):
    assert images.decode(encoded(smooth(), kind), suffix=suffix).remarks == ()


# --- files that are none ----------------------------------------------------------------------------------------------


def test_A21_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, flags: int) -> int:  # the tests may run as root, whom no mode keeps out
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "x.jpg").touch()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PictureError, match=r"^cannot be read: Permission denied$"):
        images.read_bytes(tmp_path / "x.jpg")


@pytest.mark.timeout(10)
def test_A21_a_pipe_is_refused_and_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(PictureError, match=r"^not a regular file$"):
        images.read_bytes(tmp_path / "x.jpg")


@pytest.mark.timeout(10)
def test_A21_a_device_is_refused_and_does_not_hang():
    with pytest.raises(PictureError, match=r"^not a regular file$"):
        images.read_bytes(Path("/dev/zero"))


def test_A21_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.jpg")
        with pytest.raises(PictureError, match=r"^not a regular file$"):
            images.read_bytes(Path("x.jpg"))


def test_A21_a_folder_is_refused_and_leaves_nothing_open(tmp_path: Path):
    (tmp_path / "x.jpg").mkdir()
    gc.collect()  # what others left open
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with pytest.raises(PictureError, match="Is a directory|not a regular file"):
            images.read_bytes(tmp_path / "x.jpg")
    assert len(os.listdir("/dev/fd")) <= before


def test_A22_a_link_to_itself_is_refused(tmp_path: Path):
    (tmp_path / "x.jpg").symlink_to("x.jpg")
    with pytest.raises(PictureError, match="cannot be read: Too many levels of symbolic links"):
        images.read_bytes(tmp_path / "x.jpg")


def test_A24_a_file_that_is_gone_is_refused(tmp_path: Path):
    with pytest.raises(PictureError, match=r"^cannot be read: No such file or directory$"):
        images.read_bytes(tmp_path / "gone.jpg")


# --- the encoder's picture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 200), (150, 420), (131, 131)])
def test_crop_agrees_with_the_transform_of_timm(size: tuple[int, int]):
    transform = create_transform((3, 64, 64), crop_pct=0.875, interpolation="bicubic", is_training=False)
    transform.transforms = transform.transforms[:2]  # what follows only turns pixels into numbers
    wanted = np.asarray(transform(smooth(*size))).astype(int)
    difference = np.abs(images.prepare(np.asarray(smooth(*size)), PLAIN) - wanted)
    assert difference.max() <= 8  # timm rounds the crop to whole pixels of a picture that is already small
    assert difference.mean() <= 2


def framed(width: int = 120, height: int = 60) -> np.ndarray:
    """Draw a black picture whose outermost quarters on the left and right are red and blue."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 4, 0] = pixels[:, -width // 4 :, 2] = 255
    return pixels


def test_letterbox_shows_the_whole_picture_on_the_background():
    preprocess = Preprocess(40, 1.0, "box", (0, 0, 0), (1, 1, 1), resize="letterbox", background=GREEN)
    seen = images.prepare(framed(), preprocess)
    assert (seen[:10] == GREEN).all()
    assert (seen[30:] == GREEN).all()
    np.testing.assert_array_equal(seen[10:30], framed(40, 20))


def test_squash_shows_the_whole_picture():
    preprocess = Preprocess(40, 0.5, "box", (0, 0, 0), (1, 1, 1), resize="squash")
    np.testing.assert_array_equal(images.prepare(framed(), preprocess), framed(40, 40))


def test_crop_shows_the_middle_only():
    preprocess = Preprocess(30, 1.0, "box", (0, 0, 0), (1, 1, 1))
    assert images.prepare(framed(), preprocess).max() == 0


def test_decoding_at_a_fraction_leaves_twice_the_wanted_side():
    data = encoded(smooth(1600, 1200), "JPEG", quality=95)
    height, width, _ = images.decode(data, side=64).pixels.shape
    assert (width, height) == (200, 150)


def test_equal_bytes_have_equal_digests():
    assert images.digest(b"a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


# --- the share that is cut away, and pictures that are no files -------------------------------------------------------


@pytest.mark.parametrize(("size", "crop", "share"), [((400, 300), 1.0, 0.25), ((100, 100), 0.5, 0.75)])
def test_the_share_that_is_cut_away(size: tuple[int, int], crop: float, share: float):
    preprocess = Preprocess(64, crop, "bicubic", (0, 0, 0), (1, 1, 1))
    assert images.cropped_share(*size, preprocess) == pytest.approx(share)
    assert images.cropped_share(*size[::-1], preprocess) == pytest.approx(share)


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
def test_what_is_not_cropped_loses_nothing(resize: str):
    preprocess = Preprocess(64, 0.5, "bicubic", (0, 0, 0), (1, 1, 1), resize=resize)
    assert images.cropped_share(500, 100, preprocess) == 0


def test_a_file_an_image_of_pillow_and_an_array_agree_to_the_bit():
    data = encoded(smooth(), "PNG")
    with Image.open(io.BytesIO(data)) as image:
        seen = [images.decode(data), images.from_pil(image), images.from_array(np.asarray(image))]
    for picture in seen:
        np.testing.assert_array_equal(picture.pixels, np.asarray(smooth()))
        assert picture.remarks == ()
        assert picture.facts[:2] == smooth().size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_of_pillow_is_turned_by_the_orientation_that_it_still_has(orientation: int):
    with Image.open(io.BytesIO(stored_turned(smooth(), orientation, "PNG"))) as image:
        np.testing.assert_array_equal(images.from_pil(image).pixels, np.asarray(smooth()))
        np.testing.assert_array_equal(images.from_pil(ImageOps.exif_transpose(image)).pixels, np.asarray(smooth()))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_a_grey_array_is_grey(shape: tuple[int, ...]):
    grey = np.arange(24, dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(images.from_array(grey).pixels, np.repeat(grey.reshape(4, 6, 1), 3, axis=2))


def test_an_array_with_opacity_is_laid_over_the_background_as_a_file_is():
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    file = images.decode(encoded(Image.fromarray(rgba), "PNG"), background=GREEN)
    np.testing.assert_array_equal(images.from_array(rgba, GREEN).pixels, file.pixels)


def test_a_picture_does_not_change_with_the_array_that_it_came_from():
    array = np.zeros((3, 4, 3), dtype=np.uint8)
    picture = images.from_array(array[:, ::-1])
    array[:] = 255
    assert picture.pixels.max() == 0


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((4, 6, 3)), r"got float64 of shape \(4, 6, 3\)"),
        (np.zeros((3, 4, 6), dtype=np.uint8), r"got uint8 of shape \(3, 4, 6\)"),
        (np.zeros((0, 6, 3), dtype=np.uint8), r"got uint8 of shape \(0, 6, 3\)"),
        ([[1, 2]], "got list"),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused_with_both(array: np.ndarray, got: str):
    with pytest.raises(ConfigError, match=got):
        images.from_array(array)


def test_what_is_no_image_of_pillow_is_refused_with_its_type():
    with pytest.raises(ConfigError, match="got str"):
        images.from_pil("x.jpg")


def test_the_limits_hold_for_arrays_and_images_of_pillow_too():
    with pytest.raises(PictureError, match="too narrow: 1×60 pixels"):
        images.from_array(np.zeros((60, 1), dtype=np.uint8))
    with pytest.raises(PictureError, match="too large: 12000×12000 pixels"):
        images.from_array(np.broadcast_to(np.uint8(0), (12000, 12000)))
    with pytest.raises(PictureError, match="too narrow: 1×60 pixels"):
        images.from_pil(Image.new("L", (1, 60)))
