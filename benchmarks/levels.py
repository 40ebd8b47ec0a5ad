"""What each level of quality buys: accuracy on pictures that nobody learned from, against the time that it takes.

Measured, one level after the other, each run in a process of its own on the CPU, offline, with an empty cache:

- `python -m headstart train --quality LEVEL`, imports and saving included, on one table of pictures whose column
  `split` says `train` or `test`; a split that the data brings is kept (`--split-column`), else a fifth of each class
  is drawn, groups and equal bytes together. With `--each N` only so many pictures a class are learned from;
- the figures of the test part as `evaluation.json` tells them, with their intervals;
- `python -m headstart predict` on the test pictures without a cache, twice: what so many more pictures take.

    python benchmarks/levels.py DATA [--labels FILE] [--split-column NAME] [--each N] [--levels L ...] [--budget TIME]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import side_by_side
from side_by_side import MB, Bound, Measured, say

from headstart.data import sources, splits
from headstart.data.sources import Columns
from headstart.inspection import files
from headstart.levels import QUALITIES
from headstart.records import Dataset

SEED = 0
SHARE = 0.2  # of each class that is measured where the data brings no split
FEW = 24  # pictures of the smaller prediction
PYTHON = sys.executable


@dataclass(frozen=True)
class Level:
    """What one level took, and the figures of its test part."""

    quality: str
    training: Measured
    figures: dict[str, tuple[float, float, float]]
    head: str
    rate: float

    def row(self) -> tuple[str, ...]:
        """Return the cells of its line."""
        told = [
            "{:.4f} [{:.4f}, {:.4f}]".format(*self.figures[name]) if name in self.figures else "–"
            for name in ("accuracy", "log_loss", "ece")
        ]
        seconds, peak = f"{self.training.seconds:.1f}", f"{self.training.peak / MB:,.0f}"
        return self.quality, *told, seconds, peak, f"{self.rate:.1f}", self.head


def divided(dataset: Dataset) -> Dataset:
    """Return the dataset with a split: its own, or a fifth of each class as test."""
    if splits.is_given(dataset):
        return replace(dataset, samples=tuple(replace(one, split=one.split or "train") for one in dataset))
    inspection = files.inspect(dataset)
    chosen = inspection.dataset
    held = splits.split(chosen, splits.group_ids(chosen, inspection.digests), SHARE, SEED).validation
    parts = np.where(np.isin(np.arange(len(chosen)), held), "test", "train").tolist()
    return replace(chosen, samples=tuple(replace(s, split=p) for s, p in zip(chosen, parts, strict=True)))


def fewer(dataset: Dataset, each: int | None) -> Dataset:
    """Return the dataset with at most so many pictures of each class outside of the test part."""
    left: dict[str | None, int] = defaultdict(lambda: len(dataset) if each is None else each)
    kept = []
    for row in np.random.default_rng(SEED).permutation(len(dataset)).tolist():
        sample = dataset[row]
        if sample.split != "test":
            left[sample.label] -= 1
            if left[sample.label] < 0:
                continue
        kept.append(row)
    return dataset.select(sorted(kept))


def write(dataset: Dataset, file: Path) -> None:
    """Write the table that every level is given."""
    columns = ["id", "label", "split"] + (["group"] if any(sample.group for sample in dataset) else [])
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for sample in dataset:
            cells = [str(sample.path), sample.label, sample.split, sample.group or ""]
            writer.writerow(cells[: len(columns)])


def measure(quality: str, table: Path, dataset: Dataset, arguments: argparse.Namespace, work: Path) -> Level:
    """Train and predict at one level."""
    model, cache = work / f"model-{quality}", side_by_side.fresh(work, "cache")
    command = [PYTHON, "-m", "headstart", "train", "--labels", str(table), "--images", str(dataset.root)]
    command += ["--out", str(model), "--device", "cpu", "--quiet", "--quality", quality]
    command += ["--budget", arguments.budget] if arguments.budget else []
    training = side_by_side.run_child(command, cache)
    evaluation = json.loads((model / "evaluation.json").read_text(encoding="utf-8"))["test"]["overall"]
    described = json.loads((model / "model.json").read_text(encoding="utf-8"))
    figures = {name: tuple(values) for name, values in evaluation.items() if None not in values}
    level = Level(quality, training, figures, described["training"]["head"], _rate(model, dataset, work))
    say(f"{quality}: {' | '.join(level.row()[1:])}")
    return level


def _rate(model: Path, dataset: Dataset, work: Path) -> float:
    """Return the pictures a second that predictions take, whatever a process needs to start left aside."""
    tested = [str(sample.path) for sample in dataset if sample.split == "test"][:500]
    few = tested[: min(FEW, len(tested) // 2)]
    command = [PYTHON, "-m", "headstart", "predict", str(model), "--no-cache", "--quiet", "--out"]
    seconds = [
        side_by_side.run_child([*command, str(work / f"{len(paths)}.csv"), *paths], work / "cache").seconds
        for paths in (few, tested)
    ]
    return (len(tested) - len(few)) / max(seconds[1] - seconds[0], 1e-9)


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    columns = Columns(split=arguments.split_column) if arguments.split_column else Columns()
    dataset = fewer(divided(sources.read(arguments.data, arguments.labels, columns=columns)), arguments.each)
    name = arguments.name or arguments.data.resolve().name + (f" at {arguments.each} a class" if arguments.each else "")
    about = [*side_by_side.machine(), side_by_side.describe(name, dataset)]
    side_by_side.warm_files(dataset)
    tested = sum(sample.split == "test" for sample in dataset)
    with side_by_side.workplace(arguments.work) as work:
        write(dataset, work / "labels.csv")
        levels = [measure(one, work / "labels.csv", dataset, arguments, work) for one in arguments.levels]
    lines = [f"- {line}" for line in about]
    lines += [
        f"- Measured: {tested:,} pictures of the test part, {len(dataset) - tested:,} others given to learn from; the "
        "model that is measured has not learned from the tenth or fifth that chose and calibrated it where one was "
        "held out. Seconds from an empty cache to the saved model; 95 % intervals in brackets.",
        "",
    ]
    header = ("level", "accuracy", "log-loss", "ECE", "seconds", "peak in MB", "predicted /s", "head")
    lines += side_by_side.table(header, [level.row() for level in levels])
    title, section = f"Levels of quality: `{name}`", f"levels-{name.replace(' ', '-')}"
    return side_by_side.report(section, title, lines, _bounds(levels), arguments.results)


def _bounds(levels: list[Level]) -> list[Bound]:
    seconds = {level.quality: level.training.seconds for level in levels}
    ratio = seconds["balanced"] / seconds["fast"] if {"fast", "balanced"} <= seconds.keys() else None
    return [Bound("balanced / fast, seconds of training", ratio, ">=", 1.8)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy, time and speed of each level of quality.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--labels", type=Path, help="a table of labels beside it")
    parser.add_argument("--split-column", help="of the table: a split to be kept")
    parser.add_argument("--each", type=int, help="pictures of each class to learn from (default: all)")
    parser.add_argument("--levels", nargs="+", choices=QUALITIES, default=list(QUALITIES), help="which (default: all)")
    parser.add_argument("--budget", help="of each training, e.g. 10m (default: none)")
    parser.add_argument("--name", help="of the section (default: that of the folder)")
    parser.add_argument("--work", type=Path, help="where caches and models go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
