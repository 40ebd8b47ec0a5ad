"""A shop's catalogue gets a new class: what the old model says of it, and what the new one changes.

    python catalogue.py [FOLDER NEW_CLASS]

FOLDER has a folder per class. Without one, the digits that come with scikit-learn are the wares, and 9 is the new one.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import headstart as hs
from headstart.demo import write_digits
from headstart.report.stored import read_previous


def grow(folder: Path, new: str, runs: Path) -> None:
    """Train without the new class, ask about it, train with it, and compare."""
    everything = hs.read(folder)
    without = replace(everything, samples=tuple(one for one in everything if one.label != new))
    arrived = [one.path for one in everything if one.label == new]

    first = hs.train(without)
    hs.save(first, runs / "before")
    said = first.classifier.predict_many(arrived)
    refused = sum(answer.known is False for answer in said)
    print(f"Before: of {len(arrived)} pictures of {new!r}, which it has never seen, {refused} are refused.")

    # what is known of the old pictures is in the cache, so this takes seconds; each stays learned or measured as it was
    second = hs.train(everything, previous=read_previous(runs / "before"))
    hs.save(second, runs / "after")
    print(f"After: {second.evaluation.overall['accuracy']} on {len(second.classifier.classes)} classes.")
    for change in second.changes[:1]:
        print(f"On the old pictures that both measured: {change}")


def main() -> None:
    """Take the folder, or the digits."""
    parser = argparse.ArgumentParser(description="A model that learns a new class.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("new", nargs="?", default="9")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = asked.folder or write_digits(Path(work) / "wares").photos
        grow(folder, asked.new, Path(work) / "runs")


if __name__ == "__main__":
    main()
