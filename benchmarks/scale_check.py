"""The look at features and properties of a million pictures; see `scale.py`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
from side_by_side import MB, Bound, anonymous, say

from headstart.inspection.properties import COLOUR_SIDE, SIDE
from headstart.records import ClassNames, Dataset, ImageProperties, Sample

DIM = 1280  # of a feature vector, in float16
BLOCK = 25_000  # pictures that are drawn at once
COPIES = 100  # one picture in so many is another one, saved once more
LATENT = 64  # dimensions that the features of pictures really have


# ---- what is looked at ---------------------------------------------------------------------------------------------


def draw(folder: Path, pictures: int, classes: int) -> None:
    """Write features, properties, labels and which picture each one is a copy of."""
    generator = np.random.default_rng(0)
    targets = generator.permutation(np.arange(pictures) % classes)
    original = np.arange(pictures)
    copies = generator.choice(pictures, pictures // COPIES, replace=False)
    original[copies] = generator.permutation(np.setdiff1d(original, copies))[: len(copies)]
    targets[copies] = targets[original[copies]]
    np.save(folder / "targets.npy", targets)
    np.save(folder / "original.npy", original)
    world = np.random.default_rng(1)
    centres, mixing = world.normal(size=(classes, LATENT)), world.normal(size=(LATENT, DIM)) / LATENT**0.5
    spectrum = 1 / (1 + np.hypot(*np.meshgrid(np.arange(SIDE), np.arange(SIDE))))  # of photographs: 1 / frequency
    parts = {
        "features": _mapped(folder / "features.npy", (pictures, 1, DIM), np.float16),
        "figures": _mapped(folder / "figures.npy", (pictures, len(ImageProperties.FIGURES))),
        "thumbnails": _mapped(folder / "thumbnails.npy", (pictures, SIDE, SIDE)),
        "colours": _mapped(folder / "colours.npy", (pictures, COLOUR_SIDE, COLOUR_SIDE, 2)),
    }
    for begin in range(0, pictures, BLOCK):
        rows = np.arange(begin, min(pictures, begin + BLOCK))
        own = np.random.default_rng([2, begin])
        latent = centres[targets[rows]] + 0.8 * own.normal(size=(len(rows), LATENT))
        noise = 0.2 * own.normal(size=(len(rows), DIM)).astype(np.float32)
        parts["features"][rows, 0] = np.maximum(0, (latent @ mixing).astype(np.float32) + noise)
        parts["thumbnails"][rows] = _fields(own, len(rows), SIDE, 60 * SIDE / 2 * spectrum / 4, 120)
        for channel in range(2):
            parts["colours"][rows, :, :, channel] = _fields(own, len(rows), COLOUR_SIDE, 12 * spectrum[:8, :8], 0)
        parts["figures"][rows] = own.integers(50, 200, (len(rows), len(ImageProperties.FIGURES)))
        parts["figures"][rows, :2] = own.choice([480, 640, 800], (len(rows), 2))
    for begin in range(0, len(copies), BLOCK):
        rows = np.sort(copies[begin : begin + BLOCK])
        for name, noise in (("features", 0.05), ("thumbnails", 1.0), ("colours", 0.5)):
            values = parts[name][original[rows]].astype(np.float32)
            parts[name][rows] = values + noise * generator.normal(size=values.shape).astype(np.float32)


def _mapped(file: Path, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    return np.lib.format.open_memmap(file, "w+", kind, shape)


def _fields(generator: np.random.Generator, number: int, side: int, spectrum: np.ndarray, mean: float) -> np.ndarray:
    """Return (number, side, side) smooth random pictures of this mean."""
    waves = np.cos(np.pi * np.outer(np.arange(side) + 0.5, np.arange(side)) / side) * (2 / side) ** 0.5
    waves[:, 0] /= 2**0.5
    drawn = generator.normal(size=(number, side, side)).astype(np.float32) * spectrum.astype(np.float32)
    drawn[:, 0, 0] = 0
    return mean + waves.astype(np.float32) @ drawn @ waves.T.astype(np.float32)


# ---- in the child --------------------------------------------------------------------------------------------------


def look(where: str) -> dict[str, Any]:
    """Look at features and properties as `headstart check` does, and return what took how long, and what was found."""
    from headstart.inspection import duplicates, quality, shortcuts

    folder = Path(where)
    held = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", "figures", "thumbnails")}
    properties = ImageProperties(held["figures"], held["thumbnails"], np.load(folder / "colours.npy", mmap_mode="r"))
    targets, original = np.load(folder / "targets.npy"), np.load(folder / "original.npy")
    classes = ClassNames(f"class-{number:05d}" for number in range(int(targets.max()) + 1))
    samples = (Sample(Path(f"{row}.jpg"), f"{row}.jpg", classes[k]) for row, k in enumerate(targets.tolist()))
    dataset, digests = Dataset(Path(), tuple(samples)), tuple(f"{row:064x}" for row in range(len(targets)))
    fold = np.arange(len(targets)) % 5
    answer: dict[str, float] = {}
    with anonymous() as peak:
        for name, work in {
            "copies and same objects": lambda: duplicates.find(properties, held["features"][:, 0], targets, digests),
            "bad pictures": lambda: quality.inspect(dataset, properties, 224),
            "shortcuts": lambda: shortcuts.inspect(dataset, properties, targets, classes, fold),
        }.items():
            begin = time.perf_counter()
            found = work()
            answer[name] = time.perf_counter() - begin
            say(f"{name}: {answer[name]:.1f} s")
            if isinstance(found, duplicates.Resemblance):
                groups, recall = found.near_duplicates, found.recall
    copies = np.flatnonzero(original != np.arange(len(original)))
    joined = len(groups) - len(np.unique(groups))
    right = groups[copies] == groups[original[copies]]
    told = {"recall": float(right.mean()), "joined": joined, "planted": len(copies), "of the index": recall}
    return {"seconds": answer, "anonymous": peak[0], **told}


# ---- in the parent -------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> int:
    """Measure the look at features and properties, print, write the section."""
    about = side_by_side.machine()
    with side_by_side.workplace(arguments.work) as work:
        draw(work, arguments.pictures, arguments.classes)
        say(f"{arguments.pictures:,} pictures are drawn")
        run = side_by_side.run_part("check", work, cache=work / "cache")
    answer = run.answer()
    rows = [(name, f"{seconds:,.0f}") for name, seconds in answer["seconds"].items()]
    bounds = [
        Bound("minutes in all", run.seconds / 60, "<=", 30, "{:.1f}"),
        Bound("memory besides mapped files", answer["anonymous"] / MB, "<=", 6000, "{:,.0f} MB"),
        Bound("planted copies that were found", answer["recall"], ">=", 0.99, "{:.4f}"),
    ]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: copies, same-object pictures, bad pictures and shortcuts of {arguments.pictures:,} pictures in "
        f"{arguments.classes:,} classes: features (N, 1, {DIM}) in float16 and properties in float32, drawn at random, "
        "in mapped files.",
        f"- {answer['planted']:,} pictures are another one with noise, as saving once more leaves it; "
        f"{answer['joined']:,} were joined to another. "
        + (
            "All were compared with all."
            if answer["of the index"] is None
            else f"The index proposed the most alike features for {answer['of the index']:.4f} of a sample."
        ),
        f"- The largest process held {run.peak / MB:,.0f} MB with pages of mapped files, which the system takes back.",
        "",
        *side_by_side.table(("looked for", "seconds"), rows),
    ]
    return side_by_side.report("scale-check", "A look at a million pictures", lines, bounds, arguments.results)


CHILDREN = {"check": look}
