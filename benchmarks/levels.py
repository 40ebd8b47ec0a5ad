"""What each level of quality buys: accuracy on pictures that nobody learned from, against the time that it takes.

Measured, one after the other, each run in a process of its own on the CPU, offline, with an empty cache:

- `python -m headstart train --quality LEVEL`, imports and saving included, on one table of pictures whose column
  `split` says `train` or `test`; a split that the data brings is kept (`--split-column`), else a fifth of each class
  is drawn, groups and equal bytes together. With `--each N` only so many pictures a class are learned from;
- `python -m headstart evaluate` of the saved model on the test pictures, which it has not learned from, with intervals;
  without a cache, and on a few of them as well: the difference is what so many more pictures take;
- with `--leave-out N`: another training at each level, with what the cache has by then, on all but so many classes, and
  how well its model tells their pictures from those of its own test part (`unknown.py`);
- with `--peers`: the contenders of `peers.py` on the same table, imports included, measured by the same code on the
  same test pictures; the speed of their prediction is measured within their process. They see pictures at the size of
  the network's training, as their users would, which is less than that of `balanced`; the weights are the same.

The figures also go into `levels.jsonl` beside the file of results, a line for each section, of which `levels_plot.py`
makes one table and a plot.

    python benchmarks/levels.py DATA [--labels FILE] [--split-column NAME] [--each N] [--levels L ...] [--budget TIME]
                                     [--leave-out N] [--peers PEER ...] [--peer-epochs N] [--name NAME]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import features
import numpy as np
import peers
import side_by_side
import unknown
from side_by_side import MB, Bound, Measured, say

from headstart import metrics
from headstart.data import sources, splits
from headstart.data.sources import Columns
from headstart.inspection import files
from headstart.levels import QUALITIES
from headstart.records import Dataset

SEED = 0
SHARE = 0.2  # of each class that is measured where the data brings no split
FEW = 24  # pictures of the smaller prediction
MANY = 200  # of the larger one, or else all pictures are predicted
NOISE = 0.5  # seconds by which two equal runs may differ: no speed is told of less
PEERS = ("timm-sklearn", "fastai")
FIGURES = ("accuracy", "log_loss", "ece")
FILE = "levels.jsonl"  # beside the results
PYTHON = sys.executable


@dataclass(frozen=True)
class Level:
    """What one level, or one peer, took, and the figures of its test part.

    Attributes:
        name: Of the level or the peer.
        seconds: From nothing to the saved model; of a peer, to its predictions.
        peak: Bytes of memory.
        figures: Name → value and the ends of its interval.
        rate: Pictures predicted a second.
        head: What was learned.
        unknown: How it tells classes left out of training, where that was asked.
    """

    name: str
    seconds: float
    peak: int | None
    figures: dict[str, tuple[float, float, float]]
    rate: float | None
    head: str
    unknown: unknown.Refusals | None = None

    def row(self) -> tuple[str, ...]:
        """Return the cells of its line."""
        area = self.unknown.area if self.unknown else None
        told = [interval(self.figures.get(name)) for name in FIGURES]
        peak = "–" if self.peak is None else f"{self.peak / MB:,.0f}"
        rate = "–" if self.rate is None else f"{self.rate:.1f}"
        return self.name, *told, f"{self.seconds:.1f}", peak, rate, interval(area), self.head


def interval(figure: tuple[float, float, float] | None) -> str:
    """Return a figure with its interval."""
    return "–" if figure is None else "{:.4f} [{:.4f}, {:.4f}]".format(*figure)


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


@dataclass(frozen=True)
class Bench:
    """What is given to everybody.

    Attributes:
        dataset: All pictures, each `train` or `test`.
        work: For tables, caches and models.
        budget: Of each training.
        left_out: Classes of which one more training at each level learns nothing.
    """

    dataset: Dataset
    work: Path
    budget: str | None
    left_out: frozenset[str]

    def table(self, name: str) -> Path:
        """Return the file of a table."""
        return self.work / f"{name}.csv"

    def write_tables(self) -> None:
        """Write all pictures, the test part, what is predicted for speed, and what goes with classes left out."""
        tested = self.rows("test")
        parts = {
            "all": self.rows(None),
            "test": tested,
            "few": tested[:: -(-len(tested) // FEW)],
            "many": tested if len(tested) >= MANY else self.rows(None),
        }
        if self.left_out:
            away = [row for row in self.rows(None) if self.dataset[row].label in self.left_out]
            near = {name: sorted({*parts[name]} - {*away}) for name in ("all", "test")}
            parts |= {"near-all": near["all"], "near-test": near["test"], "near-away": away}
        for name, rows in parts.items():
            write(self.dataset.select(rows), self.table(name))

    def rows(self, part: str | None) -> list[int]:
        """Return the rows of a part, or all."""
        return [row for row, sample in enumerate(self.dataset) if part in (None, sample.split)]

    def train(self, quality: str, table: str, model: Path, cache: Path) -> Measured:
        """Train at one level on a table."""
        more = ["--budget", self.budget] if self.budget else []
        command = [PYTHON, "-m", "headstart", "train", *self._pictures(table), "--quality", quality, "--device", "cpu"]
        return side_by_side.run_child([*command, "--out", str(model), *more], cache)

    def evaluate(self, model: Path, table: str, cache: Path) -> Measured:
        """Measure a saved model on a table, without what the cache holds."""
        command = [PYTHON, "-m", "headstart", "evaluate", str(model), *self._pictures(table), "--no-cache", "--json"]
        return side_by_side.run_child(command, cache)

    def _pictures(self, table: str) -> list[str]:
        return ["--labels", str(self.table(table)), "--images", str(self.dataset.root), "--quiet"]


def measure(quality: str, bench: Bench) -> Level:
    """Train at one level, and measure what was saved on the test part."""
    model, cache = bench.work / f"model-{quality}", side_by_side.fresh(bench.work, "cache")
    training = bench.train(quality, "all", model, cache)
    few, tested = (bench.evaluate(model, table, cache) for table in ("few", "test"))
    many = tested if len(bench.rows("test")) >= MANY else bench.evaluate(model, "many", cache)
    pictures = [json.loads(run.output)["pictures"] for run in (few, many)]
    longer = many.seconds - few.seconds
    rate = (pictures[1] - pictures[0]) / longer if longer > NOISE else None
    told = json.loads(tested.output)["overall"]
    figures = {name: tuple(told[name]) for name in FIGURES if None not in told[name]}
    head = json.loads((model / "model.json").read_text(encoding="utf-8"))["training"]["head"]
    apart = _near(quality, bench, cache) if bench.left_out else None
    return Level(quality, training.seconds, training.peak, figures, rate, head, apart)


def _near(quality: str, bench: Bench, cache: Path) -> unknown.Refusals:
    """Train once more without some classes, and judge their pictures."""
    model = bench.work / f"near-{quality}"
    bench.train(quality, "near-all", model, cache)
    return unknown.judge(model, bench.dataset.root, bench.table("near-test"), bench.table("near-away"), cache)


def measure_peer(peer: str, bench: Bench, exam: peers.Exam, *, epochs: int, batch: int) -> Level:
    """Run a peer on the same table, and measure its probabilities of the test part."""
    table, root = bench.table("all"), bench.dataset.root
    if peer == "fastai":
        _, result = peers.fastai(table, root, exam, bench.work, epochs=epochs, batch=batch)
        head = f"trained with the network; epochs after the frozen one: {epochs}"
    else:
        result, head = peers.linear(table, root, exam, bench.work), "LogisticRegression(max_iter=1000)"
    found = metrics.overall_intervals(result.probabilities, exam.targets, exam.groups)
    figures = {name: tuple(found[name]) for name in FIGURES}
    return Level(result.title, result.seconds, result.peak, figures, result.rate, head)


def examined(bench: Bench) -> peers.Exam:
    """Return the test part, with the groups that `evaluate` draws together."""
    tested = bench.dataset.select(bench.rows("test"))
    digests, _ = files.fingerprints(tested)
    with bench.table("test").open(newline="", encoding="utf-8") as stream:
        names = tuple(row["id"] for row in csv.DictReader(stream))
    classes = bench.dataset.classes
    return peers.Exam(names, classes, classes.encode(tested.labels), splits.group_ids(tested, digests))


def main() -> int:
    """Measure, print, write the section and its figures."""
    arguments = _parse()
    columns = Columns(split=arguments.split_column) if arguments.split_column else Columns()
    dataset = fewer(divided(sources.read(arguments.data, arguments.labels, columns=columns)), arguments.each)
    name = arguments.name or arguments.data.resolve().name + (f" at {arguments.each} a class" if arguments.each else "")
    about = [*side_by_side.machine(), side_by_side.describe(name, dataset)]
    if "fastai" in arguments.peers:
        peers.require_fastai()
    side_by_side.warm_files(dataset)
    away = frozenset(unknown.left_out(dataset.classes, arguments.leave_out))
    with side_by_side.workplace(arguments.work) as work:
        levels = _measured(Bench(dataset, work, arguments.budget, away), arguments)
    tested = sum(sample.split == "test" for sample in dataset)
    lines = [*(f"- {line}" for line in about), *_remarks(dataset, tested, levels, arguments), "", *_table(levels)]
    section = "levels-" + re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")
    figures = {"section": section, "name": name, "classes": len(dataset.classes), "learned": len(dataset) - tested}
    rows = [asdict(level) for level in levels]
    keep(arguments.results.with_name(FILE), {**figures, "tested": tested, "rows": rows})
    return side_by_side.report(section, f"Levels of quality: `{name}`", lines, _bounds(levels), arguments.results)


def _measured(bench: Bench, arguments: argparse.Namespace) -> list[Level]:
    """Measure the levels, then the peers."""
    bench.write_tables()
    peers.warm_libraries(bench.work, with_fastai="fastai" in arguments.peers)
    levels = []
    exam = examined(bench) if arguments.peers else None
    for name in (*arguments.levels, *arguments.peers):
        if exam is None or name in arguments.levels:
            levels.append(measure(name, bench))
        else:
            epochs, batch = arguments.peer_epochs, arguments.peer_batch
            levels.append(measure_peer(name, bench, exam, epochs=epochs, batch=batch))
        say(" | ".join(levels[-1].row()))
    return levels


def keep(file: Path, figures: dict[str, object]) -> None:
    """Put a section's figures into the file that holds one line of JSON for each; the other lines stay."""
    old = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    others = [line for line in old if json.loads(line)["section"] != figures["section"]]
    file.write_text("\n".join([*others, json.dumps(figures)]) + "\n", encoding="utf-8")


def _remarks(dataset: Dataset, tested: int, levels: list[Level], arguments: argparse.Namespace) -> list[str]:
    lines = [
        f"- Measured: the saved model on {tested:,} pictures of the test part; {len(dataset) - tested:,} others were "
        f"given to learn from; budget of each training: {arguments.budget or 'none'}. Seconds from an empty cache to "
        "the saved model; 95 % intervals in brackets."
    ]
    if tested < MANY:
        lines.append(f"- Speed of prediction on all {len(dataset):,} pictures, as there are few in the test part.")
    if arguments.peers:
        lines.append(
            f"- The peers have the weights of `{features.BACKBONE}` at {features.SIZE} px, and learned from the same "
            "pictures; their seconds end with the predictions of the test part. scikit-learn "
            f"{side_by_side.version('scikit-learn')}; fastai {side_by_side.version('fastai')}: `fine_tune` with "
            f"`aug_transforms()`, batches of {arguments.peer_batch}, without validation passes."
        )
    if judged := [level.unknown for level in levels if level.unknown]:
        lines.append(
            f"- AUROC: {judged[0].own:,} pictures of the test part against {judged[0].foreign:,} of "
            f"{arguments.leave_out} random classes, the same for every level, of which one more training learned "
            "nothing; its time is not in the seconds. The interval draws whole classes. Refused at the model's "
            "threshold: " + "; ".join(_refused(level) for level in levels if level.unknown) + "."
        )
    return lines


def _refused(level: Level) -> str:
    assert level.unknown is not None  # noqa: S101  # who asks has looked
    return f"{level.name} {level.unknown.refused:.3f} of these, {level.unknown.wrongly} of its own"


def _table(levels: list[Level]) -> list[str]:
    figures = "accuracy", "log-loss", "ECE", "seconds", "peak in MB", "predicted /s", "AUROC, near unknown", "head"
    table = [("level", *figures), *(level.row() for level in levels)]
    if all(level.unknown is None for level in levels):
        table = [(*row[:-2], row[-1]) for row in table]
    return side_by_side.table(table[0], table[1:])


def _bounds(levels: list[Level]) -> list[Bound]:
    seconds = {level.name: level.seconds for level in levels}
    ratio = seconds["balanced"] / seconds["fast"] if {"fast", "balanced"} <= seconds.keys() else None
    bounds = [Bound("balanced / fast, seconds of training", ratio, ">=", 1.8)]
    for level in levels:
        if level.name == "best" and level.unknown:
            bounds.append(Bound("AUROC of near unknown classes, best", level.unknown.area.value, ">=", 0.93, "{:.3f}"))
    return bounds


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy, time and speed of each level of quality.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--labels", type=Path, help="a table of labels beside it")
    parser.add_argument("--split-column", help="of the table: a split to be kept")
    parser.add_argument("--each", type=int, help="pictures of each class to learn from (default: all)")
    parser.add_argument("--levels", nargs="+", choices=QUALITIES, default=list(QUALITIES), help="which (default: all)")
    parser.add_argument("--leave-out", type=int, default=0, help="classes of another training, as near unknown ones")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], help="who else (default: nobody)")
    parser.add_argument("--peer-epochs", type=int, default=4, help="of fastai, after its frozen one (default: 4)")
    parser.add_argument("--peer-batch", type=int, default=16, help="of fastai (default: 16)")
    parser.add_argument("--budget", help="of each training, e.g. 10m (default: none)")
    parser.add_argument("--name", help="of the section (default: that of the folder)")
    parser.add_argument("--work", type=Path, help="where caches and models go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    for name in ("each", "peer_epochs", "peer_batch"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.leave_out < 0:
        parser.error("--leave-out must not be negative")
    return arguments


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
