"""ImageProperties: every figure on drawn pictures whose answer is known."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from headstart.data import images
from headstart.inspection import properties
from headstart.records import ImageProperties


def see(image: Image.Image, file_format: str = "PNG", **options: object) -> ImageProperties:
    """Return the look of a picture that was written to a file and read again."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    data = file.getvalue()
    return properties.unpack(properties.measure(images.decode(data), len(data))[None])


def figures(image: Image.Image, *names: str, **options: object) -> list[float]:
    seen = see(image, **options)
    return [float(seen.figure(name)[0]) for name in names]


def stripes(width: int = 1, size: int = 64, low: int = 0, high: int = 255) -> Image.Image:
    """Draw upright stripes of this width, dark and bright in turn."""
    columns = np.where(np.arange(size) // width % 2, high, low).astype(np.uint8)
    return Image.fromarray(np.tile(columns, (size, 1)))


def framed(colour: tuple[int, int, int], inside: tuple[int, int, int]) -> Image.Image:
    """Draw a picture of 100×100 with a border of 2 pixels."""
    image = Image.new("RGB", (100, 100), colour)
    image.paste(inside, (2, 2, 98, 98))
    return image


def test_width_height_bytes_and_format_are_those_of_the_file():
    file = io.BytesIO()
    Image.new("RGB", (50, 30)).save(file, "PNG")
    wanted = [50, 30, len(file.getvalue()), images.FORMATS.index("PNG")]
    assert figures(Image.new("RGB", (50, 30)), "width", "height", "bytes", "format") == wanted


def test_size_is_that_of_the_file_also_where_a_jpeg_is_decoded_smaller():
    file = io.BytesIO()
    Image.new("RGB", (800, 600)).save(file, "JPEG")
    picture = images.decode(file.getvalue(), side=64)
    assert picture.pixels.shape[1] < 800
    seen = properties.unpack(properties.measure(picture, 1)[None])
    assert (seen.figure("width")[0], seen.figure("height")[0]) == (800, 600)


def test_size_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert figures(Image.new("RGB", (50, 30)), "width", "height", file_format="JPEG", exif=exif) == [30, 50]


def test_cameras_are_told_apart_and_none_is_zero():
    numbers = []
    for make in ("", "Canon", "Canon", "Nikon"):
        exif = Image.Exif()
        if make:
            exif[0x010F] = make
        numbers += figures(Image.new("RGB", (8, 8)), "camera", file_format="JPEG", exif=exif)
    assert numbers[0] == 0
    assert numbers[1] == numbers[2] != numbers[3]
    assert all(0 < number < 2**24 for number in numbers[1:])  # exact in float32


def test_light_of_one_grey():
    assert figures(Image.new("L", (40, 40), 90), "dark", "luma", "bright", "contrast") == [90, 90, 90, 0]


def test_light_of_black_and_white_halves():
    assert figures(stripes(32), "dark", "luma", "bright", "contrast") == [0, 127.5, 255, 127.5]


def test_dark_and_bright_pass_over_a_few_pixels():
    image = Image.new("L", (100, 100), 100)
    image.paste(0, (0, 0, 100, 4))
    image.paste(255, (0, 96, 100, 100))
    assert figures(image, "dark", "bright") == [100, 100]


def test_luma_weighs_the_colours():
    assert figures(Image.new("RGB", (20, 20), (0, 255, 0)), "luma")[0] == pytest.approx(0.587 * 255, abs=1)


def test_sharpness_of_the_finest_stripes_is_sixteen():
    # the Laplacian of +a -a +a … is four times the values: 16 times the variance
    assert figures(stripes(1), "sharpness")[0] == pytest.approx(16, rel=0.01)


def test_sharpness_falls_with_blur_and_not_with_contrast():
    sharp, pale, blurred = (
        figures(image, "sharpness")[0]
        for image in (stripes(8), stripes(8, low=100, high=140), stripes(8).filter(ImageFilter.GaussianBlur(3)))
    )
    assert sharp == pytest.approx(pale, rel=0.01)
    assert blurred < sharp / 10


def test_sharpness_without_contrast_is_zero():
    assert figures(Image.new("L", (40, 40), 90), "sharpness") == [0]


def test_sharpness_is_that_of_the_picture_at_256_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
    small = Image.fromarray(noise).resize((256, 256), Image.Resampling.BOX)
    wanted = figures(small, "sharpness")[0]
    assert figures(Image.fromarray(noise), "sharpness")[0] == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(("levels", "bits"), [(1, 0), (2, 1), (64, 6)])
def test_entropy_counts_the_levels(levels: int, bits: float):
    column = np.repeat(np.arange(levels) * 4, 64 // levels).astype(np.uint8)
    assert figures(Image.fromarray(np.tile(column, (64, 1))), "entropy")[0] == pytest.approx(bits)


def test_border_is_its_colour_and_its_step_inwards():
    names = ("border_red", "border_green", "border_blue", "border_contrast")
    image = framed((200, 20, 60), (0, 0, 0))
    assert figures(image, *names) == pytest.approx([200, 20, 60, 0], abs=1e-2)
    luma = 0.299 * 200 + 0.587 * 20 + 0.114 * 60
    assert figures(image, "border_step")[0] == pytest.approx(luma, abs=0.1)


def test_border_of_an_even_picture_has_no_step():
    assert figures(framed((90, 90, 90), (90, 90, 90)), "border_step") == [0]


def test_border_contrast_of_stripes_is_that_of_the_picture():
    assert figures(stripes(1, 100), "border_contrast")[0] == pytest.approx(127.5, rel=0.02)


def test_thumbnail_is_the_whole_picture_in_grey():
    image = Image.new("L", (320, 64), 10)
    image.paste(250, (160, 0, 320, 64))
    (thumbnail,) = see(image).thumbnails
    assert (thumbnail.shape, thumbnail.dtype) == ((32, 32), np.float32)
    np.testing.assert_allclose(thumbnail[:, :16], 10, atol=1e-3)
    np.testing.assert_allclose(thumbnail[:, 16:], 250, atol=1e-3)


def test_thumbnail_divides_pixels_between_the_cells_that_share_them():
    """100 pixels in 32 cells: means by whole pixels would differ between a picture and its mirror image."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 77), dtype=np.uint8)
    down, across = (properties.window(0.0, 1.0, side, 32) for side in pixels.shape)
    (thumbnail,) = see(Image.fromarray(pixels)).thumbnails
    np.testing.assert_allclose(thumbnail, down @ pixels @ across.T, atol=1e-3)
    (mirrored,) = see(Image.fromarray(pixels[:, ::-1])).thumbnails
    np.testing.assert_allclose(mirrored[:, ::-1], thumbnail, atol=1e-3)


def test_colours_are_those_of_each_part():
    image = Image.new("RGB", (90, 70), (128, 128, 128))
    image.paste((0, 0, 255), (45, 0, 90, 70))
    (colours,) = see(image).colours
    assert colours.shape == (8, 8, 2)
    np.testing.assert_allclose(colours[:, :4], 0, atol=1e-3)
    np.testing.assert_allclose(colours[:, 4:], np.broadcast_to([127.5, -20.7], (8, 4, 2)), atol=0.1)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40), (40, 1)])
def test_the_smallest_pictures_have_looks(size: tuple[int, int]):
    seen = see(Image.new("RGB", size, (10, 20, 30)))
    assert np.isfinite(seen.figures).all()
    assert (seen.figure("width")[0], seen.figure("height")[0]) == size
    assert seen.figure("border_red")[0] == 0  # a ring of one pixel would be no border


def test_a_row_that_could_not_be_read_stays_unknown():
    vectors = np.zeros((2, properties.DIM), dtype=np.float32)
    vectors[0, : len(ImageProperties.FIGURES)] = math.nan
    seen = properties.unpack(vectors)
    assert np.isnan(seen.figures[0]).all()
    assert seen.thumbnails.shape == (2, 32, 32)
