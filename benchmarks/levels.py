"""What each level of quality buys: accuracy on pictures that nobody learned from, against the time that it takes.

Measured, one level after the other, each run in a process of its own on the CPU, offline, with an empty cache:

- `python -m headstart train --quality LEVEL`, imports and saving included, on one table of pictures whose column
  `split` says `train` or `test`; a split that the data brings is kept (`--split-column`), else a fifth of each class
  is drawn, groups and equal bytes together. With `--each N` only so many pictures a class are learned from;
- `python -m headstart evaluate` of the saved model on the test pictures, which it has not learned from, with intervals;
  without a cache, and on a few of them as well: the difference is what so many more pictures take.

    python benchmarks/levels.py DATA [--labels FILE] [--split-column NAME] [--each N] [--levels L ...] [--budget TIME]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
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
            cells = [
                Path(os.path.relpath(sample.path, dataset.root)).as_posix(),
                sample.label,
                sample.split,
                sample.group or "",
            ]
            writer.writerow(cells[: len(columns)])


def measure(quality: str, tables: dict[str, Path], dataset: Dataset, budget: str | None, work: Path) -> Level:
    """Train at one level, and measure what was saved on the test part."""
    model, cache = work / f"model-{quality}", side_by_side.fresh(work, "cache")
    command = [PYTHON, "-m", "headstart", "train", "--labels", str(tables["all"]), "--images", str(dataset.root)]
    command += ["--out", str(model), "--device", "cpu", "--quiet", "--quality", quality]
    command += ["--budget", budget] if budget else []
    training = side_by_side.run_child(command, cache)
    few, tested = (_evaluate(model, tables[name], dataset, cache) for name in ("few", "test"))
    told = json.loads(tested.output)
    rate = (told["pictures"] - json.loads(few.output)["pictures"]) / max(tested.seconds - few.seconds, 1e-9)
    figures = {name: tuple(values) for name, values in told["overall"].items() if None not in values}
    described = json.loads((model / "model.json").read_text(encoding="utf-8"))
    level = Level(quality, training, figures, described["training"]["head"], rate)
    say(f"{quality}: {' | '.join(level.row()[1:])}")
    return level


def _evaluate(model: Path, table: Path, dataset: Dataset, cache: Path) -> Measured:
    command = [PYTHON, "-m", "headstart", "evaluate", str(model), "--labels", str(table), "--images", str(dataset.root)]
    return side_by_side.run_child([*command, "--no-cache", "--json", "--quiet"], cache)


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
        rows = [row for row, sample in enumerate(dataset) if sample.split == "test"]
        parts = {"all": dataset, "test": dataset.select(rows), "few": dataset.select(rows[:: -(-len(rows) // FEW)])}
        tables = {part: work / f"{part}.csv" for part in parts}
        for part, pictures in parts.items():
            write(pictures, tables[part])
        levels = [measure(one, tables, dataset, arguments.budget, work) for one in arguments.levels]
    lines = [f"- {line}" for line in about]
    lines += [
        f"- Measured: the saved model on {tested:,} pictures of the test part; {len(dataset) - tested:,} others were "
        f"given to learn from; budget of each training: {arguments.budget or 'none'}. Seconds from an empty cache to "
        "the saved model; 95 % intervals in brackets.",
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
