"""How many pictures a second become features: Headstart against the loop one would write with timm.

Measured, each contender in a process of its own, all on the CPU, interleaved in rounds:

- `timm`: timm's model with the same weights, timm's own evaluation transform, Pillow, a DataLoader (batches of 32, two
  workers), eager float32, `torch.inference_mode`;
- `tuned`: the same loop by an expert: channels_last, and bf16 autocast where Headstart uses bf16 too;
- `headstart`: `features.extract` with one view into an empty cache, with the SHA-256 of every file before it, which
  Headstart always takes, and all that it writes to disk;
- `ready`: Headstart's compiled network alone, fed with prepared 8-bit pictures from memory.

Why this is fair: all read the same files, which lie in the page cache by then, at the same size with the same weights,
and that their features agree is measured and shown. The clock of every contender runs from having the list of paths to
having all features; imports and building the PyTorch model count for none. Comparing and compiling the engine, which
only Headstart does, counts for Headstart: ratios with and without it are shown, and the bounds apply to the one with
it. Only against `ready`, which is about the steady rate, it is left out on both sides. Contenders may take different
numbers of pictures, as the slow ones would take hours: each takes the first so many of the same shuffled list.

    python benchmarks/features.py DATA [--pictures N] [--slow-pictures N] [--tuned-pictures N] [--repeats R]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
from side_by_side import Bound, median_ratio, say, spread

from headstart.data import sources
from headstart.records import Dataset, Sample

BACKBONE = "tf_efficientnet_lite2"
SIZE = 260
BATCH = 32
WORKERS = 2
MOST = 10_000  # pictures for headstart, unless told otherwise
HELD = 1000  # prepared pictures that `ready` keeps in memory and goes round
COMPARED = 16  # pictures whose features are compared between contenders
CHILD = "--contender"


@dataclass(frozen=True)
class Contender:
    """Who is measured, on how many pictures, and what it is called in the table."""

    name: str
    pictures: int
    title: str


def measure(name: str, paths: Sequence[Path], work: Path) -> dict[str, Any]:
    """Run one contender in a fresh process with an empty cache, and return what it answers, with `rate` added.

    The answer has `pictures`, `seconds` (paths to features), `preparation` (seconds of it that went into comparing and
    compiling the engine), `dim`, `engine` and `features`, a file with the first vectors.
    """
    cache = side_by_side.fresh(work, "cache")
    job = work / "job.json"
    features = work / f"{name}.npy"
    job.write_text(json.dumps({"name": name, "paths": [str(path) for path in paths], "features": str(features)}))
    answer = side_by_side.run_child([sys.executable, str(Path(__file__).resolve()), CHILD, str(job)], cache).answer()
    return {**answer, "rate": answer["pictures"] / answer["seconds"]}


def shuffled(dataset: Dataset) -> list[Path]:
    """Return the paths in an order that is always the same and mixes the classes: its beginnings are fair samples."""
    paths = [sample.path for sample in dataset]
    random.Random(0).shuffle(paths)  # noqa: S311  # nothing secret about it
    return paths


# ---- in the child -------------------------------------------------------------------------------------------------


class Pictures:
    """The dataset of the loop: a path → a normalised tensor, opened with Pillow."""

    def __init__(self, paths: Sequence[str], transform: Any) -> None:
        """Keep both."""
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return (3, S, S) float32."""
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def _loop(paths: list[str], *, tuned: bool) -> dict[str, Any]:
    """The loop with timm; `tuned` is what an expert would add to it."""
    import timm
    import torch

    backbone, plan = _load()
    module = backbone.networks[0].module
    config = timm.data.resolve_data_config({}, model=module)
    _check_size(config["input_size"][-1])
    layout = torch.channels_last if tuned else torch.contiguous_format
    bf16 = tuned and plan.precision == "bf16"
    module = module.to(memory_format=layout).eval()
    start = time.perf_counter()
    dataset = Pictures(paths, timm.data.create_transform(**config, is_training=False))
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)
    found = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for batch in loader:
            found.append(module(batch.to(memory_format=layout)).float())
    values = torch.cat(found).numpy()
    seconds = time.perf_counter() - start
    engine = f"torch eager{' channels_last' if tuned else ''} {'bf16' if bf16 else 'f32'}"
    return {"seconds": seconds, "preparation": 0.0, "engine": engine, "values": values}


def _headstart(paths: list[str]) -> dict[str, Any]:
    """Headstart as its `train` calls it, with one view."""
    from headstart.encoding import features, runtime
    from headstart.inspection import files

    backbone, plan = _load()
    encoder = runtime.build(backbone.networks[0], plan)
    _check_size(encoder.preprocess.size)
    preparation = 0.0
    verified = runtime.verified

    def timed(*arguments: Any) -> Any:
        nonlocal preparation
        start = time.perf_counter()
        result = verified(*arguments)
        preparation += time.perf_counter() - start
        return result

    runtime.verified = timed  # the only place where it compares and compiles
    start = time.perf_counter()
    dataset = Dataset(Path(), tuple(Sample(Path(path), path) for path in paths))
    digests, _ = files.fingerprints(dataset)
    extraction = features.extract(dataset, digests, [encoder], cache=Path(os.environ["HEADSTART_CACHE"]))
    seconds = time.perf_counter() - start
    table = extraction.table
    if table.failures:
        raise SystemExit(f"{len(table.failures)} pictures cannot be used, first: {next(iter(table.failures.values()))}")
    if preparation == 0 or table.encoded < len(set(digests)):
        raise SystemExit("the engine was not prepared, or the cache was not empty: nothing to compare")
    return {
        "seconds": seconds,
        "preparation": preparation,
        "engine": _engine(extraction.encoders[0]),
        "values": table.values[:, 0],
    }


def _ready(paths: list[str]) -> dict[str, Any]:
    """Headstart's compiled network, fed from memory: what decoding, hashing and writing may cost at most."""
    from headstart.data import images
    from headstart.encoding import runtime

    backbone, plan = _load()
    encoder = runtime.build(backbone.networks[0], plan)
    _check_size(encoder.preprocess.size)
    held = [images.load(images.read_bytes(Path(path)), encoder.preprocess).pixels for path in paths[:HELD]]
    encoder, _ = runtime.verified(encoder, held[:8])
    start = time.perf_counter()
    values = np.stack(list(encoder.encode(itertools.islice(itertools.cycle(held), len(paths)))))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "preparation": 0.0, "engine": _engine(encoder), "values": values}


def _load() -> tuple[Any, Any]:
    """Return the backbone and the engine that Headstart chooses on this processor."""
    from headstart.config import EncoderConfig
    from headstart.encoding import backbone, runtime

    return backbone.load(BACKBONE), runtime.choose(EncoderConfig(backbone=BACKBONE, device="cpu"))


def _engine(encoder: Any) -> str:
    return f"{encoder.version} {encoder.plan.precision}"


def _check_size(size: int) -> None:
    """Stop if a contender would look at pictures of another size than the others."""
    if size != SIZE:
        raise SystemExit(f"the pictures would be {size} pixels wide instead of {SIZE}")


def contend(job: dict[str, Any]) -> None:
    """Be one contender, and print what it took."""
    paths = job["paths"]
    match job["name"]:
        case "timm":
            answer = _loop(paths, tuned=False)
        case "tuned":
            answer = _loop(paths, tuned=True)
        case "headstart":
            answer = _headstart(paths)
        case "ready":
            answer = _ready(paths)
        case other:
            raise SystemExit(f"no contender is called {other!r}")
    values = answer.pop("values")
    np.save(job["features"], values[:COMPARED])
    answer |= {"pictures": len(values), "dim": values.shape[1], "features": job["features"]}
    print(json.dumps(answer))


# ---- in the parent ------------------------------------------------------------------------------------------------


def agreement(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the smallest cosine between two contenders' features of the same pictures."""
    a, b = np.load(one["features"]), np.load(other["features"])
    rows = min(len(a), len(b))
    a, b = a[:rows], b[:rows]
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def rounds(contenders: Sequence[Contender], paths: Sequence[Path], repeats: int, work: Path) -> dict[str, list[Any]]:
    """Measure everybody once in each round; every other round goes backwards, so that nobody is always the first."""
    answers: dict[str, list[Any]] = {contender.name: [] for contender in contenders}
    for number in range(repeats):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            answer = measure(contender.name, paths[: contender.pictures], work)
            answers[contender.name].append(answer)
            say(f"round {number + 1}/{repeats}: {contender.name:9} {answer['rate']:7.1f} pictures/s")
    return answers


def steady(answer: dict[str, Any]) -> float:
    """Return pictures a second without comparing and compiling the engine."""
    return float(answer["pictures"] / (answer["seconds"] - answer["preparation"]))


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    dataset = sources.read(arguments.data)
    about = [*side_by_side.machine(), side_by_side.describe(arguments.data.resolve().name, dataset)]
    paths = shuffled(dataset)
    most = min(len(paths), arguments.pictures)
    contenders = [
        Contender("timm", min(len(paths), arguments.slow_pictures), "loop with timm, eager float32"),
        Contender("tuned", min(len(paths), arguments.tuned_pictures), "the same loop, tuned"),
        Contender("headstart", most, "headstart, into an empty cache"),
        Contender("ready", most, "headstart's network on prepared pictures"),
    ]
    side_by_side.warm_files(dataset)
    with side_by_side.workplace(arguments.work) as work:
        answers = rounds(contenders, paths, arguments.repeats, work)
        cosine = {name: agreement(answers[name][-1], answers["headstart"][-1]) for name in answers}
    rate = {name: [answer["rate"] for answer in found] for name, found in answers.items()}
    pure = [steady(answer) for answer in answers["headstart"]]
    bounds = [
        Bound("headstart / timm's loop, preparation included", median_ratio(rate["headstart"], rate["timm"]), ">=", 12),
        Bound("headstart / tuned loop, preparation included", median_ratio(rate["headstart"], rate["tuned"]), ">=", 3),
        Bound("headstart / ready tensors, without preparation", median_ratio(pure, rate["ready"]), ">=", 0.75),
    ]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: `{BACKBONE}` at {SIZE} px, one view, on the CPU; from the list of paths to all features, without "
        "imports and building the model. Every contender in a fresh process, the files in the page cache, "
        f"{arguments.repeats} interleaved round(s): medians, with the range in parentheses; ratios are medians of the "
        "ratios within a round.",
        "- The contenders take different numbers of pictures (the first ones of one shuffled list), so that the slow "
        "ones end within minutes.",
        f"- Preparation: comparing the engine with PyTorch and compiling it, once a run, "
        f"{spread([answer['preparation'] for answer in answers['headstart']])} s. Without it headstart is "
        f"{median_ratio(pure, rate['timm']):.1f} times as fast as timm's loop and "
        f"{median_ratio(pure, rate['tuned']):.1f} times as fast as the tuned one.",
        f"- `cosine`: the smallest between a contender's features and headstart's, over "
        f"{min(COMPARED, *(c.pictures for c in contenders))} pictures: they do the same work.",
        "",
        *_figures(contenders, answers, pure, cosine),
    ]
    return side_by_side.report("features", "From pictures to features", lines, bounds, arguments.results)


def _figures(
    contenders: Sequence[Contender], answers: dict[str, list[Any]], pure: list[float], cosine: dict[str, float]
) -> list[str]:
    rows = []
    for contender in contenders:
        found = answers[contender.name]
        seconds = statistics.median(answer["seconds"] for answer in found)
        speed = spread([answer["rate"] for answer in found])
        shared = (f"{found[-1]['engine']}", f"{contender.pictures:,}")
        rows.append((contender.title, *shared, f"{seconds:.1f}", speed, f"{cosine[contender.name]:.4f}"))
        if contender.name == "headstart":
            seconds = statistics.median(answer["seconds"] - answer["preparation"] for answer in found)
            rows.append(("– without preparation", *shared, f"{seconds:.1f}", spread(pure), "–"))
    return side_by_side.table(("contender", "engine", "pictures", "seconds", "pictures/s", "cosine"), rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pictures per second from folder to features, side by side.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--pictures", type=int, default=MOST, help="for headstart, at most (default: %(default)s)")
    parser.add_argument("--slow-pictures", type=int, default=400, help="for timm's loop (default: %(default)s)")
    parser.add_argument("--tuned-pictures", type=int, default=1200, help="for the tuned loop (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where caches go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    for name in ("pictures", "slow_pictures", "tuned_pictures", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        contend(json.loads(Path(sys.argv[2]).read_text()))
    else:
        sys.exit(side_by_side.guarded(main))
