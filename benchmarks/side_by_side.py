"""What the benchmarks share: children that are measured, bounds on ratios, and the file of results.

Each contender runs in a process of its own, so that neither memory nor thread pools of one reach another. Its peak of
memory is `ru_maxrss` from `wait4`: the kernel's own figure, exact and free, of the largest process among the child and
what it waited for. On Linux a child inherits the peak of the process that starts it, so this module imports nothing
heavy, and whoever uses it must not either (numpy is fine, torch is not). POSIX only.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from headstart.errors import HeadstartError
from headstart.records import Dataset

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("headstart", "torch", "timm", "openvino", "numpy", "scipy", "pillow")
MB = 1e6
CHILD = "--child"


@dataclass(frozen=True)
class Measured:
    """What one child took.

    Attributes:
        seconds: Wall time from start to exit.
        peak: Bytes of memory that its largest process held at most.
        output: What it printed on stdout.
    """

    seconds: float
    peak: int
    output: str

    def answer(self) -> dict[str, Any]:
        """Return the JSON object on the last line of the output."""
        answer: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return answer


@dataclass(frozen=True)
class Bound:
    """A figure that must be at least or at most something; `value` None: it could not be measured here."""

    name: str
    value: float | None
    kind: str  # ">=", "<=" or "<"
    limit: float
    form: str = "{:.2f}"

    @property
    def verdict(self) -> str:
        """Say "met", "MISSED" or "not measured"."""
        if self.value is None:
            return "not measured"
        met = {
            ">=": self.value >= self.limit,
            "<=": self.value <= self.limit,
            "<": self.value < self.limit,
        }[self.kind]
        return "met" if met else "MISSED"

    def row(self) -> tuple[str, str, str, str]:
        """Return the cells of its line in the table of bounds."""
        value = "–" if self.value is None else self.form.format(self.value)
        return self.name, value, f"{self.kind} {self.form.format(self.limit)}", self.verdict


def run_child(command: Sequence[str], cache: Path, extra: dict[str, str] | None = None) -> Measured:
    """Run a command to its end, with its own feature cache and without an accelerator, and measure it.

    Raises:
        RuntimeError: It failed; with the end of what it wrote to stderr.
    """
    environment = {**os.environ, "HEADSTART_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "", **(extra or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        # a session of its own, so that an interrupt also ends the workers that the child may have started
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)
        try:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {child.returncode}:\n{err.read()[-3000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        return Measured(seconds, usage.ru_maxrss * unit, out.read())


def run_part(part: str, *given: Any, cache: Path) -> Measured:
    """Run a part of `scale.py` in a fresh process; what is given travels as JSON."""
    command = [sys.executable, str(Path(__file__).with_name("scale.py")), CHILD, part]
    return run_child([*command, *(json.dumps(one, default=str) for one in given)], cache)


@contextlib.contextmanager
def anonymous() -> Iterator[list[int]]:
    """Watch what memory is held besides mapped files; the list that is given holds the most, in bytes. Linux only."""
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


@contextlib.contextmanager
def workplace(parent: Path | None) -> Iterator[Path]:
    """Give a new folder for caches and models, under `parent` or the system's place, and remove it afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="headstart-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh(folder: Path, name: str) -> Path:
    """Return an empty folder of this name, whatever was there before."""
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def warm_files(dataset: Dataset) -> None:
    """Read every picture once, so that the first contender does not pay for the disk."""
    for sample in dataset:
        with contextlib.suppress(OSError):
            sample.path.read_bytes()


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios within each round: a machine that slows down slows both of a pair."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Return the median and, of several values, their range."""
    text = form.format(statistics.median(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))} to {form.format(max(values))})"
    return text


def machine() -> list[str]:
    """Return lines that say on what and when this was measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"Machine: {_processor()}, {cores} cores, {ram:.0f} GiB of RAM, {platform.system()} {platform.machine()}; "
        f"load average when the benchmark began {os.getloadavg()[0]:.2f}",
        f"Versions: Python {platform.python_version()}, {versions}",
    ]


def describe(name: str, dataset: Dataset) -> str:
    """Return a line about the pictures, whose sizes matter to the speed of decoding."""
    step = max(1, len(dataset) // 200)
    sizes = []
    for sample in dataset.samples[::step]:
        with contextlib.suppress(OSError), Image.open(sample.path) as image:
            sizes.append(image.size)
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    return (
        f"Data: `{name}`, {len(dataset):,} labelled pictures in {len(dataset.classes)} classes, "
        f"median size {width:.0f}×{height:.0f}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table that also reads well as plain text."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, *rows)
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def report(name: str, title: str, lines: Sequence[str], bounds: Sequence[Bound], results: Path) -> int:
    """Print a section, put it into the file of results, and return the exit code: 1 if a bound is missed."""
    verdicts = table(("bound", "measured", "limit", "verdict"), [bound.row() for bound in bounds])
    text = "\n".join([f"## {title}", "", *lines, "", *verdicts])
    print(f"\n{text}\n")
    write_section(results, name, text)
    missed = [bound.name for bound in bounds if bound.verdict == "MISSED"]
    for bound in missed:
        print(f"Bound missed: {bound}", file=sys.stderr)
    return 1 if missed else 0


def write_section(file: Path, name: str, text: str) -> None:
    """Replace the section of this name, marked by HTML comments, or add it; the other sections stay."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text}\n{end}"
    old = file.read_text(encoding="utf-8") if file.is_file() else "# Results of the benchmarks\n"
    before, found, rest = old.partition(begin)
    if found and end in rest:
        new = before + section + rest.partition(end)[2]
    elif found:
        raise RuntimeError(f"{file}: {begin!r} is there, but {end!r} is not; mend or remove the file.")
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(new, encoding="utf-8")
    os.replace(temporary, file)


def guarded(main: Callable[[], int]) -> int:
    """Run a benchmark; 2 if a contender failed, with what it said, so that it cannot pass for a missed bound."""
    # unwind on SIGTERM too: end the child, remove the work folder
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return main()
    except (RuntimeError, HeadstartError) as error:
        print(error, file=sys.stderr)
        return 2


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def version(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
