"""What a cluster costs that encodes, and how far it goes: `Filling` against `features.extract`; see `scale.py`.

Measured, each run in a process of its own with an empty cache, on the CPU:

- `alone`: this process, all processors;
- `one worker`: `local:1`, all processors; what is more than alone is the start, which is told apart, and the overhead
  (in seconds of processors, too, which other programs disturb less);
- `halved`: `local:2` of which each worker has half of the processors, against `half`, `local:1` on one half;
- the driver: 64 workers that sleep for as long as their pictures take at the measured rate, begun, asked and heard by
  the very crew: how many pictures a second that is, of the 64 times the rate that is possible.

The pictures are JPEG files of 500 × 375 pixels with blurred noise, drawn here; the network is EfficientNet-Lite0 at its
own size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import side_by_side
from side_by_side import Bound, say

WORKERS = 64
BLOCK = 1024
SIZE = (500, 375)
HALF = max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1  # of the processors
WAYS = {"alone": ("", 0), "one worker": ("local:1", 0), "half": ("local:1", HALF), "halved": ("local:2", 0)}


def draw(folder: Path, count: int) -> None:
    """Write so many pictures in two folders, those that are not there yet."""
    import numpy as np
    from PIL import Image

    for number in range(count):
        path = folder / f"class-{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            patches = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(patches).resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)


def encode(where: str, cluster: str, cores: int) -> dict[str, Any]:
    """Encode the pictures of a folder into an empty cache, and return seconds of the start and of the work."""
    if cores:
        os.sched_setaffinity(0, range(cores))
    from headstart.config import EncoderConfig
    from headstart.data import sources
    from headstart.encoding import backbone, features, runtime
    from headstart.inspection import files
    from headstart.scale.filling import Filling

    asked = EncoderConfig(backbone="lite0", device="cpu")
    encoders = runtime.build_all(backbone.load(asked.backbone), runtime.choose(asked))
    dataset = sources.read(where)
    digests, _ = files.fingerprints(dataset)  # and the files are in memory
    wanted: dict[str, Any] = {"views": ("original",), "with_properties": True}
    begun = time.monotonic()
    first: list[float] = []  # when the work began
    spent: list[float] = []  # seconds of processors, when it began and when it ended

    def hear(stage: str, done: int, total: int) -> None:
        begins = stage == "Starting workers" and done == total if cluster else stage == "Encoding" and done > 0
        if begins and not first:
            first.append(time.monotonic())
            spent.append(busy())
        if stage == "Encoding" and done == total and len(spent) == 1:
            spent.append(busy())

    with tempfile.TemporaryDirectory() as cache, Filling(cluster or None, Path(cache)) as fill:
        fill(dataset, digests, encoders, **wanted, progress=hear)
        filled = time.monotonic()
        features.extract(dataset, digests, encoders, **wanted, cache=Path(cache), progress=hear)
        ended = time.monotonic()
    told = {"start": first[0] - begun, "work": ended - first[0], "taking": ended - filled if cluster else 0.0}
    return {"pictures": len(dataset), "processor": spent[1] - spent[0]} | told


def busy() -> float:
    """Return how many seconds of processors this process and its workers have had."""
    inner = psutil.Process().children(recursive=True)
    own = (one for one in inner if (one.cmdline() or [""])[0].startswith("ray::Station"))
    return time.process_time() + sum(sum(one.cpu_times()[:2]) for one in own)


class Sleepers:
    """A team whose workers sleep: each answer comes when its worker has slept for its pictures."""

    def __init__(self, workers: int, rate: float) -> None:
        """Take so many workers, each of so many pictures a second."""
        self.count, self.rate = workers, rate
        self.due: list[tuple[float, Any, Any]] = []

    def total(self) -> float:
        """Return the number of processors."""
        return self.count

    def free(self) -> float:
        """Return as many."""
        return self.count

    def places(self) -> list[Any]:
        """Return a place for each."""
        from headstart.scale.cluster import Place

        return [Place(str(number), "", 1) for number in range(self.count)]

    def hire(self, place: Any) -> Any:
        """Give a worker that sleeps."""
        return Sleeper(place, self)

    def dismiss(self, worker: Any) -> None:
        """Let it go."""

    def shared(self, job: Any) -> Any:
        """Tell nothing."""
        return {}

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        """Wait for the next that wakes, and yield all that are awake."""
        if self.due:
            time.sleep(min(seconds, max(0.0, min(one[0] for one in self.due) - time.monotonic())))
        awake = [one for one in self.due if one[0] <= time.monotonic()]
        self.due = [one for one in self.due if one not in awake]
        yield from ((worker, answer) for _, worker, answer in awake)


class Sleeper:
    """Such a worker. What it is given is pickled, as Ray does; it is unpickled elsewhere."""

    def __init__(self, place: Any, team: Sleepers) -> None:
        """Belong to a team."""
        self.place, self.team = place, team

    def ask(self, question: str, *arguments: Any) -> None:
        """Have an answer ready after a while."""
        import pickle

        from headstart.scale.hand import Answer

        answer: Any = {"ping": "here", "begin": {}}.get(question)
        seconds = 0.0
        if question == "do":
            block = arguments[0]
            pickle.dumps(block)
            answer, seconds = Answer(block.number, len(block.dataset), {}, (), ()), len(block.dataset) / self.team.rate
        self.team.due.append((time.monotonic() + seconds, self, answer))


def drive(workers: int, rate: float, blocks: int = 8) -> float:
    """Return which share of what so many workers can do a driver gets out of them."""
    from headstart.data.listings import Listing
    from headstart.records import silence
    from headstart.scale.crew import Crew
    from headstart.scale.hand import Block

    names = Listing.named([f"/shared/photos/class-{number % 97}/{number:09d}.jpg" for number in range(BLOCK)])
    digests = ["00" * 32] * BLOCK
    given = (Block.of(number, names.dataset(), digests) for number in range(workers * blocks))
    crew = Crew(Sleepers(workers, rate), None, {}, silence)  # type: ignore[arg-type]
    begun = time.monotonic()
    done = sum(one.value for one in crew.work(given))
    return done / (time.monotonic() - begun) / (workers * rate)


def measure(arguments: argparse.Namespace) -> int:
    """Measure, print, write the section."""
    about = side_by_side.machine()
    with side_by_side.workplace(arguments.work) as work:
        draw(work / "photos", arguments.pictures)
        runs: dict[str, dict[str, float]] = {}
        for name, given in WAYS.items():
            told = side_by_side.run_part("encode", work / "photos", *given, cache=work / "cache").answer()
            runs[name] = told | {"rate": told["pictures"] / told["work"]}
            say(f"{name}: {runs[name]['rate']:.0f} pictures a second")
    rate = runs["alone"]["rate"]
    parts = ("start", "work", "processor", "taking")
    rows = [(name, f"{one['rate']:.0f}", *(f"{one[part]:.1f}" for part in parts)) for name, one in runs.items()]
    lines = [
        *(f"- {line}" for line in about),
        f"- Measured: {arguments.pictures:,} drawn JPEG files of {SIZE[0]}×{SIZE[1]} pixels, Lite0 at its own size, "
        f"into an empty cache. `half`: one worker with {HALF} core(s); `halved`: two such workers. Seconds; `start` is "
        "of the cluster and its workers, `processor` that of who gives out work and of workers, `taking` what it takes "
        "to read everything from the cache afterwards.",
        f"- The driver gave out blocks of {BLOCK} names to {WORKERS} workers that sleep for as long as their pictures "
        f"take at {rate:.0f} a second.",
        "",
        *side_by_side.table(("run", "pictures/s", *parts), rows),
    ]
    alone, one = runs["alone"], runs["one worker"]
    bounds = [
        Bound("overhead of one worker", one["work"] / alone["work"] - 1, "<=", 0.05, "{:+.3f}"),
        Bound("the same of the processor", one["processor"] / alone["processor"] - 1, "<=", 0.05, "{:+.3f}"),
    ]
    bounds += [
        Bound("two workers / one, each on half of the cores", runs["halved"]["rate"] / runs["half"]["rate"], ">=", 1.8),
        Bound(f"driver of {WORKERS} workers, of what they can", drive(WORKERS, rate), ">=", 0.9),
    ]
    return side_by_side.report("scale-ray", "A cluster that encodes", lines, bounds, arguments.results)


CHILDREN = {"encode": encode}
