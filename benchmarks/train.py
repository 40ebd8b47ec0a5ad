"""What a whole `headstart train` takes: time, memory, and how fast the command line answers.

Measured, each in a process of its own, interleaved in rounds:

- `python -m headstart train DATA`, imports and saving included, with an empty cache (cold), then again with the cache
  that it filled (warm);
- the plain loop with timm of `features.py` on a few pictures, extrapolated to *one* pass over all of them. That favours
  the loop: it looks at 260 pixels where the default of `train` is 320, learns nothing, and its imports and its model do
  not count;
- the peak of memory of the cold run on all pictures and on a subset with equally many of each class. What may grow with
  the number of pictures are their features; the rest must not;
- `python -m headstart --help` and `import headstart`, beside an interpreter that does nothing, and whether they import
  torch.

The files lie in the page cache before anything is measured. Memory is what the kernel counted for the largest process;
Headstart is one process.

    python benchmarks/train.py DATA [--pictures N] [--slow-pictures N] [--subset N] [--repeats R]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import features
import side_by_side
from side_by_side import MB, Bound, Measured, median_ratio, say, spread

from headstart.config import TrainConfig
from headstart.data import sources
from headstart.records import Dataset, Sample

HEAVY = ("torch", "timm", "openvino", "sklearn", "scipy", "matplotlib", "numpy")
STARTS = 5  # of the interpreter, of which the median counts
PYTHON = sys.executable

HELP = """import contextlib, io, runpy, sys
sys.argv = ["headstart", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    runpy.run_module("headstart", run_name="__main__", alter_sys=True)"""


@dataclass(frozen=True)
class Source:
    """A dataset and how the command line is told of it."""

    dataset: Dataset
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """How a short command starts: its wall times, and the heavy packages that it imported."""

    title: str
    seconds: list[float]
    loaded: list[str]


@dataclass
class Rounds:
    """What was measured, one entry a round."""

    cold: list[Measured] = field(default_factory=list)
    warm: list[Measured] = field(default_factory=list)
    small: list[Measured] = field(default_factory=list)  # the subset, cold
    small_warm: list[Measured] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)  # of the loop, pictures/s
    dim: int = 0


def balanced(dataset: Dataset, most: int) -> Dataset:
    """Return the first pictures of each class in turn, until there are so many."""
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for row, sample in enumerate(dataset):
        by_class[sample.label].append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_class.values()))
    rows = itertools.islice((row for row in turns if row is not None), most)
    return dataset.select(sorted(rows))


def subset(data: Path, dataset: Dataset, most: int, file: Path) -> Source:
    """Write a table of labels for a balanced part of the pictures."""
    chosen = balanced(dataset, most)
    root = data / "train" if dataset.layout == "kaggle" else data
    columns = ["id", "label"]
    columns += ["split"] if any(sample.split for sample in chosen) else []
    columns += ["group"] if any(sample.group for sample in chosen) else []
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for sample in chosen:
            writer.writerow([_cell(sample, column, root) for column in columns])
    return Source(chosen, ("--labels", str(file), "--images", str(root)))


def _cell(sample: Sample, column: str, root: Path) -> str:
    if column == "id":
        return Path(os.path.relpath(sample.path, root)).as_posix()
    return str(getattr(sample, column) or "")


def train(source: Source, out: Path, cache: Path) -> Measured:
    """Run the command, on the CPU as its contender does, with this cache."""
    return side_by_side.run_child(
        [PYTHON, "-m", "headstart", "train", *source.arguments, "--out", str(out), "--device", "cpu"], cache
    )


def rounds(whole: Source, small: Source | None, arguments: argparse.Namespace, work: Path) -> Rounds:
    """Measure loop, cold, warm and the subset in turn."""
    result = Rounds()
    paths = features.shuffled(whole.dataset)[: arguments.slow_pictures]
    for number in range(arguments.repeats):
        told = f"round {number + 1}/{arguments.repeats}:"
        answer = features.measure("timm", paths, work)
        result.rate.append(answer["rate"])
        result.dim = answer["dim"]
        say(f"{told} loop with timm {answer['rate']:.1f} pictures/s")
        cache, models = side_by_side.fresh(work, "cache"), side_by_side.fresh(work, "models")
        for kind in ("cold", "warm"):
            measured = train(whole, models / kind, cache)
            getattr(result, kind).append(measured)
            say(f"{told} {kind} {measured.seconds:.1f} s, {measured.peak / MB:,.0f} MB")
        cache = side_by_side.fresh(work, "cache")
        for kind in ("small", "small_warm") if small is not None else ():
            measured = train(small, models / kind, cache)
            getattr(result, kind).append(measured)
            say(f"{told} {kind} {measured.seconds:.1f} s, {measured.peak / MB:,.0f} MB")
    return result


def start_up(work: Path) -> list[Start]:
    """Measure how fast the short commands start, in turn, and what they import."""
    commands = {
        "`python -c pass`": ([PYTHON, "-c", "pass"], ""),
        "`import headstart`": ([PYTHON, "-c", "import headstart"], "import headstart"),
        "`headstart --help`": ([PYTHON, "-m", "headstart", "--help"], HELP),
    }
    cache = side_by_side.fresh(work, "cache")
    # first what is imported, which also leaves the compiled modules behind that any installation has
    loaded = {
        title: side_by_side.run_child([PYTHON, "-c", _then_tell(code)], cache).answer()["loaded"]
        for title, (_, code) in commands.items()
    }
    seconds: dict[str, list[float]] = {title: [] for title in commands}
    for _ in range(STARTS):
        for title, (command, _) in commands.items():
            seconds[title].append(side_by_side.run_child(command, cache).seconds)
    return [Start(title, seconds[title], loaded[title]) for title in commands]


def _then_tell(code: str) -> str:
    """Return a program that runs some code and then prints which heavy packages that imported."""
    return f"{code}\nimport json, sys\nprint(json.dumps(dict(loaded=[n for n in {HEAVY!r} if n in sys.modules])))"


def growth(whole: list[Measured], small: list[Measured]) -> float:
    """Return by how many bytes the peak on all pictures is above that on the subset."""
    return statistics.median(a.peak - b.peak for a, b in zip(whole, small, strict=True))


def feature_bytes(rows: int, dim: int) -> int:
    """Return the size of the features of so many pictures, all views, in float32."""
    views = 2 if TrainConfig().pictures.mirror is True else 1
    return rows * views * dim * 4


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    dataset = sources.read(arguments.data)
    name = arguments.data.resolve().name
    about = [*side_by_side.machine(), side_by_side.describe(name, dataset)]
    side_by_side.warm_files(dataset)
    with side_by_side.workplace(arguments.work) as work:
        whole = Source(dataset, (str(arguments.data),))
        if arguments.pictures is not None and arguments.pictures < len(dataset):
            whole = subset(arguments.data, dataset, arguments.pictures, work / "whole.csv")
            about.append(f"Of these, {len(whole.dataset):,} were used, balanced over the classes")
        small = None
        if arguments.subset < len(whole.dataset):
            small = subset(arguments.data, whole.dataset, arguments.subset, work / "small.csv")
        starts = start_up(work)
        found = rounds(whole, small, arguments, work)
    lines = [*(f"- {line}" for line in about), *_remarks(arguments, whole, small, found), ""]
    lines += _figures(whole, small, found)
    lines += ["", *_start_figures(starts)]
    bounds = _bounds(whole, small, found, starts)
    return side_by_side.report("train", "Training, from start to saved model", lines, bounds, arguments.results)


def _pass_seconds(whole: Source, found: Rounds) -> list[float]:
    return [len(whole.dataset) / rate for rate in found.rate]


def _bounds(whole: Source, small: Source | None, found: Rounds, starts: list[Start]) -> list[Bound]:
    cold, warm = [run.seconds for run in found.cold], [run.seconds for run in found.warm]
    share = "{:.1%}"
    beyond = None
    if small is not None:
        due = feature_bytes(len(whole.dataset) - len(small.dataset), found.dim)
        beyond = (growth(found.cold, found.small) - due) / MB
    peak = max(run.peak for run in found.cold) / MB
    return [
        Bound("cold / one pass of timm's loop", median_ratio(cold, _pass_seconds(whole, found)), "<=", 0.30, share),
        Bound("warm / cold", median_ratio(warm, cold), "<=", 0.25, share),
        Bound("peak memory, cold", peak, "<", 2500, "{:,.0f} MB"),
        Bound("growth of the peak beyond the features", beyond, "<=", 200, "{:,.0f} MB"),
        *(
            Bound(f"torch imported by {start.title}", float("torch" in start.loaded), "<=", 0, "{:.0f}")
            for start in starts[1:]
        ),
    ]


def _remarks(arguments: argparse.Namespace, whole: Source, small: Source | None, found: Rounds) -> list[str]:
    lines = [
        "- Measured: `python -m headstart train` with its defaults on the CPU, imports and saving included, every run "
        f"in a fresh process, the files in the page cache, {arguments.repeats} round(s): medians, with the range in "
        "parentheses (peak of the bound: the largest); ratios are medians of the ratios within a round.",
        f"- One pass of timm's loop is extrapolated: {min(len(whole.dataset), arguments.slow_pictures):,} pictures at "
        f"{spread(found.rate)} a second, hence {len(whole.dataset):,} pictures; at {features.SIZE} px, no imports, "
        "where `train` looks at 320 px.",
    ]
    if small is None:
        lines.append(
            f"- Growth of memory: not measured, since there are no more than {arguments.subset:,} pictures (--subset)."
        )
    else:
        rows = len(whole.dataset) - len(small.dataset)
        cold, warm = growth(found.cold, found.small) / MB, growth(found.warm, found.small_warm) / MB
        lines.append(
            f"- Growth of memory: the peak of the cold run is {cold:+,.0f} MB against that on the subset; the features "
            f"of the {rows:,} additional pictures have {feature_bytes(rows, found.dim) / MB:,.0f} MB. Compiling the "
            f"engine makes a peak of its own, which can hide growth; the warm runs have none: there it is {warm:+,.0f} "
            "MB."
        )
    return lines


def _figures(whole: Source, small: Source | None, found: Rounds) -> list[str]:
    total = f"{len(whole.dataset):,}"
    rows = [
        ("one pass of timm's loop, extrapolated", total, spread(_pass_seconds(whole, found)), "–"),
        ("train, cold", total, *_run(found.cold)),
        ("train, warm", total, *_run(found.warm)),
    ]
    if small is not None:
        part = f"{len(small.dataset):,}"
        rows.append(("train, cold, subset", part, *_run(found.small)))
        rows.append(("train, warm, subset", part, *_run(found.small_warm)))
    return side_by_side.table(("run", "pictures", "seconds", "peak memory in MB"), rows)


def _run(runs: list[Measured]) -> tuple[str, str]:
    return spread([run.seconds for run in runs]), spread([run.peak / MB for run in runs], "{:,.0f}")


def _start_figures(starts: list[Start]) -> list[str]:
    rows = [(start.title, spread(start.seconds, "{:.2f}"), ", ".join(start.loaded) or "none") for start in starts]
    return side_by_side.table(("command", "seconds", f"imported of {', '.join(HEAVY)}"), rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of `headstart train`, cold and warm.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--pictures", type=int, help="at most, balanced over the classes (default: all)")
    parser.add_argument("--slow-pictures", type=int, default=400, help="for timm's loop (default: %(default)s)")
    parser.add_argument("--subset", type=int, default=2000, help="pictures of the smaller run (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where caches and models go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    for name in ("pictures", "slow_pictures", "subset", "repeats"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
