"""Near-duplicates among pictures that share nearly everything, drawn here so that the truth is known.

Three sets of pictures, each without a single near-duplicate, whatever a thumbnail says:

- `camera`: what a fixed camera sees: one textured ground of 640×480 pixels, light that changes by 5 %, noise (σ = 6),
  and in half of the pictures a scratch of 24×6 pixels. Two classes: with and without the scratch.
- `microscope`: stained grains, each picture a random field of its own, all alike in statistics, colour and vignetting.
- `renderings`: products before white, each drawing in four colours. The class is the colour.

Then copies are planted as `trust.py` plants them (re-encoded, resized, mirrored, turned, cropped) and sought again.

    python benchmarks/drawn.py [--only SET ...] [--cache FOLDER] [--work FOLDER] [--results FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import side_by_side
import trust
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from headstart.data import sources

SEED = 0
PICTURES = 160  # of each set
PLANTED = 40  # copies of each kind
QUALITY = 90  # of the originals
RECALL = {"re-encoded or resized": 0.95, "mirrored": 0.95, "turned": 0.95}
PRECISION = 0.98
INKS = {"navy": (25, 30, 90), "red": (150, 25, 35), "green": (30, 110, 60), "sand": (225, 215, 200),
        "slate": (60, 60, 65), "amber": (230, 170, 40)}  # fmt: skip
PAPER = (246, 246, 246)

Drawn = Iterator[tuple[str, Image.Image]]  # class, picture


def camera(generator: np.random.Generator) -> Drawn:
    """Draw one ground again and again."""
    shape = 480, 640
    ground = 120 + sum(
        height * _field(generator, shape, grain) for height, grain in ((25, 40), (12, 8), (6, 2))
    )  # coarse, middling and fine
    for place in range(PICTURES):
        tinted = ground[..., None] * np.array([1.0, 0.97, 0.9]) * generator.uniform(0.95, 1.05)
        frame = tinted + generator.normal(0, 6, tinted.shape)
        down, across = generator.integers(0, shape[0] - 6), generator.integers(0, shape[1] - 24)
        frame[down : down + 6, across : across + 24] += 80 * (place % 2)
        yield ("sound", "scratched")[place % 2], _picture(frame)


def microscope(generator: np.random.Generator) -> Drawn:
    """Draw grains of two sizes, a field of its own for each picture; the class is which of them is denser."""
    rows, columns = np.mgrid[-1:1:384j, -1:1:384j]
    light = 1 - 0.175 * (rows**2 + columns**2)
    for place in range(PICTURES):
        large, small = (np.clip(_field(generator, light.shape, grain), 0, None)[..., None] for grain in (5, 2.5))
        stain = large * np.array([30, 55, 20]) + (1 + place % 2) * small * np.array([10, 25, 12])
        slide = (235 - stain) * light[..., None] + generator.normal(0, 3, stain.shape)
        yield ("sparse", "dense")[place % 2], _picture(slide)


def renderings(generator: np.random.Generator) -> Drawn:
    """Draw silhouettes with patterns, each in four of six colours."""
    for _ in range(PICTURES // 4):
        draw = _product(generator)
        for name in generator.permutation(list(INKS))[:4]:
            yield str(name), draw(INKS[str(name)])


SETS: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "camera": camera, "microscope": microscope, "renderings": renderings,
}  # fmt: skip


def _field(generator: np.random.Generator, shape: tuple[int, int], grain: float) -> np.ndarray:
    field = gaussian_filter(generator.normal(size=shape), grain, mode="wrap")
    return field / field.std()


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _product(generator: np.random.Generator) -> Callable[[tuple[int, int, int]], Image.Image]:
    """Return what draws one product in a colour."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = [generator.normal(0, 0.035) * np.cos(turn * angle + generator.uniform(0, 6.3)) for turn in range(2, 8)]
    radius = 0.32 + np.sum(waves, axis=0)
    spots = [(*generator.uniform(0.25, 0.75, 2), *generator.uniform(0.02, 0.1, 2), *generator.integers(0, 2, 2))
             for _ in range(generator.integers(3, 9))]  # fmt: skip

    def draw(ink: tuple[int, int, int]) -> Image.Image:
        side = 800
        image = Image.new("RGB", (side, side), PAPER)
        pen = ImageDraw.Draw(image)
        outline = side * (0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))
        pen.polygon([tuple(point) for point in outline.tolist()], fill=ink)
        for across, down, width, height, round_, darker in spots:
            fill = tuple(int(0.7 * level) for level in ink) if darker else (244, 240, 225)
            corners = [side * edge for edge in (across - width, down - height, across + width, down + height)]
            (pen.ellipse if round_ else pen.rectangle)(corners, fill=fill)
        return image.resize((side // 2, side // 2), Image.Resampling.LANCZOS)

    return draw


def measure(name: str, work: Path, cache: Path) -> tuple[list[str], trust.Outcome]:
    """Draw a set, plant copies and look for them."""
    folder = side_by_side.fresh(work, name)
    for place, (label, image) in enumerate(SETS[name](np.random.default_rng(SEED))):
        trust.save(image, folder / label / f"{place:03d}.jpg", QUALITY)
    bench = trust.Bench(sources.read(folder), None, {}, cache, side_by_side.fresh(work, "planted"), planted=PLANTED)
    outcome = trust.copies(bench, RECALL, PRECISION)
    return [side_by_side.describe(name, bench.dataset)], outcome


def main() -> int:
    """Measure set by set, print, write the section."""
    parser = argparse.ArgumentParser(description="Near-duplicates among pictures that share nearly everything.")
    parser.add_argument("--only", nargs="+", default=list(SETS), choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("--cache", type=Path, help="features are kept here (default: in a folder that is removed)")
    parser.add_argument("--work", type=Path, help="where pictures go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    missed: list[str] = []
    with side_by_side.workplace(arguments.work) as work:
        for name in arguments.only:
            began, machine = time.perf_counter(), side_by_side.machine()
            about, outcome = measure(name, work, arguments.cache or work / "cache")
            about = [*machine, *about, f"Took: {time.perf_counter() - began:.0f} s"]
            missed += trust.write(f"drawn-{name}", "copies", about, outcome, arguments.results, ["copies"])
    for bound in missed:
        print(f"Bound missed: {bound}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
