"""Whether `headstart predict` takes more memory or time a picture when there are ten times as many.

Measured, each run in a process of its own, on the CPU, without the cache of features:

- `headstart predict MODEL PICTURES --out FILE --format table --no-cache` on few pictures, and on many;
- the same on few with as many processes as there are cores (`--workers`);
- `features`: `features.extract` of the few into an empty cache, digests included, from the list of paths to all
  features: what `train` would take for them;
- `ready`: the model's compiled network alone, fed with prepared 8-bit pictures from memory, as in `features.py`: what
  reading, decoding and writing may cost at most.

The pictures are files of FOLDER under as many names as are asked for. Each is a copy with its number behind the end of
the picture, so that no two have the same bytes: equal pictures would be encoded once a block. The model is
EfficientNet-Lite0 at 224 px with a head of random weights: neither memory nor time depends on what it says. The clock
runs from the start of the program to its end, imports, loading and compiling included.

    python benchmarks/predict_scale.py FOLDER [--few N] [--many N] [--format FORMAT] [--work FOLDER]

The defaults take a quarter of an hour on two cores. 100,000 pictures of 15 kB are 1.5 GB of copies.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path

import side_by_side
from side_by_side import MB, Bound, Measured, say

from headstart.data import listings

CLASSES = 120
SIZE = 224
DISTINCT = 1000  # pictures of the folder that are copied
HELD = 500  # prepared pictures that `ready` keeps in memory and goes round
CHILD = "--child"


# ---- in the child -------------------------------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """Write a classifier whose head was learned from nothing."""
    import numpy as np

    from headstart.config import EncoderConfig
    from headstart.encoding import backbone, runtime
    from headstart.learning.heads import Head
    from headstart.learning.rules import PredictionRules
    from headstart.model import artifact
    from headstart.model.classifier import Classifier
    from headstart.records import ClassNames

    asked = EncoderConfig(backbone=f"lite0@{SIZE}", device="cpu")
    networks = backbone.load(asked.backbone)
    weight = np.random.default_rng(0).normal(0, 0.05, (CLASSES, networks.dim))
    head = Head.of_linear(weight, np.zeros(CLASSES))
    names = ClassNames(f"class-{number:03d}" for number in range(CLASSES))
    encoders = runtime.build_all(networks, runtime.choose(asked))
    artifact.save(Classifier(networks, encoders, head, PredictionRules(), names), folder)


def ready(model: Path, folder: Path, count: int) -> None:
    """Feed the compiled network from memory, and print how many pictures a second that is."""
    from headstart.data import images
    from headstart.encoding import runtime
    from headstart.model import artifact

    encoder = artifact.load_classifier(model).encoders[0]
    paths = [one.path for one in itertools.islice(listings.of([folder]), HELD)]
    held = [images.load(images.read_bytes(path), encoder.preprocess).pixels for path in paths]
    encoder, _ = runtime.verified(encoder, held[:8])
    start = time.perf_counter()
    for _ in encoder.encode(itertools.islice(itertools.cycle(held), count)):
        pass
    plan = f"{encoder.version} {encoder.plan.precision}"
    print(json.dumps({"rate": count / (time.perf_counter() - start), "engine": plan}))


def extract(model: Path, folder: Path, cache: Path) -> None:
    """Compute features as a training does, into an empty cache, and print how many pictures a second that is."""
    from headstart.encoding import features
    from headstart.inspection import files
    from headstart.model import artifact

    encoders = artifact.load_classifier(model).encoders
    dataset = listings.of([folder]).dataset()
    start = time.perf_counter()
    digests, _ = files.fingerprints(dataset)
    table = features.extract(dataset, digests, encoders, cache=cache).table
    print(json.dumps({"rate": table.encoded / (time.perf_counter() - start)}))


# ---- in the parent ------------------------------------------------------------------------------------------------


def copies(source: Path, folder: Path, count: int) -> int:
    """Write so many pictures of different bytes, a thousand a folder, and return of how many they are copies."""
    paths = [one.path for one in itertools.islice(listings.of([source]), DISTINCT)]
    for number, path in zip(range(count), itertools.cycle(paths), strict=False):
        place = folder / f"{number // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07d}{path.suffix}").write_bytes(path.read_bytes() + number.to_bytes(4, "big"))
    return min(count, len(paths))


def child(*arguments: object, cache: Path) -> Measured:
    """Run a part of this file in a fresh process."""
    return side_by_side.run_child([sys.executable, str(Path(__file__).resolve()), CHILD, *map(str, arguments)], cache)


def predict(model: Path, pictures: Path, work: Path, arguments: argparse.Namespace, workers: int = 1) -> Measured:
    """Predict a folder as it is typed."""
    out = work / f"answers.{arguments.format}"
    command = ["predict", model, pictures, "--out", out, "--format", arguments.format, "--no-cache", "--quiet"]
    command += ["--workers", workers] if workers > 1 else []
    measured = side_by_side.run_child([sys.executable, "-m", "headstart", *map(str, command)], work / "cache")
    say(f"{pictures.name}, {workers} process(es): {measured.seconds:.1f} s, {measured.peak / MB:,.0f} MB")
    return measured


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    about, cores = side_by_side.machine(), len(os.sched_getaffinity(0))
    with side_by_side.workplace(arguments.work) as work:
        counts = {"few": arguments.few, "many": arguments.many}
        distinct = [copies(arguments.folder, work / name, count) for name, count in counts.items()]
        child("model", work / "model", cache=work / "cache")
        predict(work / "model", work / "few", work, arguments)  # so that the first one does not pay for the disk
        runs = {name: predict(work / "model", work / name, work, arguments) for name in counts}
        raw = child("ready", work / "model", work / "many", min(arguments.many, 5000), cache=work / "cache").answer()
        trained = child("features", work / "model", work / "few", cache=side_by_side.fresh(work, "cache")).answer()
        beside = predict(work / "model", work / "few", work, arguments, cores)
    rate = {name: counts[name] / runs[name].seconds for name in counts}
    growth = (runs["many"].peak - runs["few"].peak) / MB
    rows = [
        (f"predict, {name}", f"{counts[name]:,}", f"{run.seconds:.1f}", f"{rate[name]:.1f}", f"{run.peak / MB:,.0f}")
        for name, run in runs.items()
    ]
    speed = arguments.few / beside.seconds
    rows.append(
        (f"predict, few, --workers {cores}", f"{arguments.few:,}", f"{beside.seconds:.1f}", f"{speed:.1f}", "–")
    )
    rows.append(("features.extract, few, into an empty cache", "–", "–", f"{trained['rate']:.1f}", "–"))
    rows.append(("the network on prepared pictures", "–", "–", f"{raw['rate']:.1f}", "–"))
    bounds = [
        Bound("growth of the peak, many against few", growth, "<=", 100, "{:.0f} MB"),
        Bound("pictures/s, many / features.extract", rate["many"] / trained["rate"], ">=", 0.9),
    ]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: `headstart predict --format {arguments.format} --no-cache --out`, Lite0 at {SIZE} px with "
        f"{CLASSES} classes on {raw['engine']}, from the start of the program to its end, each run in a fresh process.",
        f"- The pictures are copies of {max(distinct):,} of `{arguments.folder.resolve().name}`, each with a number "
        "behind its end, so that no two have the same bytes and each is decoded and encoded.",
        "",
        *side_by_side.table(("run", "pictures", "seconds", "pictures/s", "peak memory in MB"), rows),
    ]
    return side_by_side.report("predict_scale", "Prediction of many pictures", lines, bounds, arguments.results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory and speed of predicting ten times as many pictures.")
    parser.add_argument("folder", type=Path, help="pictures of any kind, in folders or not")
    parser.add_argument("--few", type=int, default=10_000, help="pictures (default: %(default)s)")
    parser.add_argument("--many", type=int, default=100_000, help="pictures (default: %(default)s)")
    parser.add_argument("--format", default="table", help="of `headstart predict` (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where copies and answers go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    if not 1 <= arguments.few <= arguments.many:
        parser.error("--few must be at least 1, and at most --many")
    return arguments


if __name__ == "__main__":
    if sys.argv[1:3] == [CHILD, "model"]:
        make_model(Path(sys.argv[3]))
    elif sys.argv[1:3] == [CHILD, "features"]:
        extract(Path(sys.argv[3]), Path(sys.argv[4]), Path(os.environ["HEADSTART_CACHE"]))
    elif sys.argv[1:3] == [CHILD, "ready"]:
        ready(Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(side_by_side.guarded(main))
