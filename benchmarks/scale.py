"""Whether a million pictures can be worked with.

Sections, each run by its name:

- `check`: the look at features and properties that `headstart check` takes once both are computed.

Features and properties are drawn, not computed, and lie in files that are mapped into memory, as they do in a training
of that size. Each section runs in a process of its own.

    python benchmarks/scale.py check [--pictures N] [--classes N] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import side_by_side
from side_by_side import MB, Bound, say

from headstart.inspection.properties import COLOUR_SIDE, SIDE
from headstart.packed import Digests
from headstart.records import ClassNames, Dataset, ImageProperties, Sample
from headstart.samples import Samples

CHILD = "--child"
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


def look(folder: Path) -> None:
    """Look at features and properties as `headstart check` does, and print what took how long, and what was found."""
    from headstart.inspection import duplicates, quality, shortcuts

    held = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", "figures", "thumbnails")}
    properties = ImageProperties(held["figures"], held["thumbnails"], np.load(folder / "colours.npy", mmap_mode="r"))
    targets, original = np.load(folder / "targets.npy"), np.load(folder / "original.npy")
    classes = ClassNames(f"class-{number:05d}" for number in range(int(targets.max()) + 1))
    samples = (Sample(Path(f"{row}.jpg"), f"{row}.jpg", classes[k]) for row, k in enumerate(targets.tolist()))
    dataset = Dataset(Path(), Samples.of(samples))
    digests = Digests.of(f"{row:064x}" for row in range(len(targets)))
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
    print(json.dumps({"seconds": answer, "anonymous": peak[0], **told}))


@contextlib.contextmanager
def anonymous() -> Iterator[list[int]]:
    """Watch what memory is held besides mapped files; the list that is given holds the most, in bytes."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], *(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


# ---- in the parent -------------------------------------------------------------------------------------------------


def check(arguments: argparse.Namespace) -> int:
    """Measure the look at features and properties, print, write the section."""
    about = side_by_side.machine()
    with side_by_side.workplace(arguments.work) as work:
        draw(work, arguments.pictures, arguments.classes)
        say(f"{arguments.pictures:,} pictures are drawn")
        run = side_by_side.run_child(child("check", work), work / "cache")
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


def child(section: str, *given: object) -> list[str]:
    """Return the command that runs a section's part in a fresh process."""
    return [sys.executable, str(Path(__file__).resolve()), CHILD, section, *map(str, given)]


SECTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"check": check}
CHILDREN: dict[str, Callable[[Path], None]] = {"check": look}


def main() -> int:
    """Run a section."""
    arguments = _parse()
    return SECTIONS[arguments.section](arguments)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whether a million pictures can be worked with.")
    parser.add_argument("section", choices=list(SECTIONS))
    parser.add_argument("--pictures", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where files go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        CHILDREN[sys.argv[2]](Path(sys.argv[3]))
    else:
        sys.exit(side_by_side.guarded(main))
