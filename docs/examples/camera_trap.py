"""A biologist's camera traps: pictures of one place resemble each other, so whole places must be held out.

    python camera_trap.py [TABLE]

TABLE has the columns `path`, `label` and `group` (the camera, the place, the animal: whatever must not be on both
sides). Without one, scenes are drawn: each camera has a background of its own, and one species lives there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas
from PIL import Image, ImageDraw

import headstart as hs

SPECIES = ("shrew", "vole")
CAMERAS, EACH, SIDE = 12, 12, 96


def draw(folder: Path) -> pandas.DataFrame:
    """Draw what cameras saw; which species is told by the shape, and nearly as often by the place."""
    rows = []
    for camera in range(CAMERAS):
        place = np.random.default_rng(camera)
        colour, noise = place.integers(40, 180, 3), place.normal(0, 12, (SIDE, SIDE, 1))
        for number in range(EACH):
            seen = np.random.default_rng([camera, number])
            species = (camera + (seen.random() < 0.1)) % 2  # nine of ten are of the species that lives there
            pixels = np.clip(colour + noise + seen.normal(0, 6, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels)
            left, top = seen.integers(8, 40, 2).tolist()
            box = (left, top, left + (27, 30)[species], top + (30, 27)[species])
            ImageDraw.Draw(image).ellipse(box, fill=tuple((colour + 25).tolist()))
            path = folder / f"camera{camera:02d}-{number:02d}.jpg"
            image.save(path)
            rows.append({"path": str(path), "label": SPECIES[species], "group": f"camera {camera}"})
    return pandas.DataFrame(rows)


def report(table: pandas.DataFrame) -> None:
    """Train with places held out whole, and without, and say what the difference is."""
    honest = hs.train(table)
    careless = hs.train(table.drop(columns="group"))
    print(f"At places that it has never seen: right on {honest.evaluation.overall['accuracy']}")
    print(f"As if every picture were of a new place: {careless.evaluation.overall['accuracy']}")
    for finding in honest.findings:
        print(f"{finding.severity}: {finding.message}")


def main() -> None:
    """Read the table, or draw one."""
    parser = argparse.ArgumentParser(description="Pictures of camera traps, with places held out whole.")
    parser.add_argument("table", type=Path, nargs="?")
    table = parser.parse_args().table
    if table is not None:
        report(pandas.read_csv(table))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(draw(Path(folder)))


if __name__ == "__main__":
    main()
