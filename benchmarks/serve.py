"""How many pictures a second `headstart serve` answers, beside its own encoder and beside the usual server in PyTorch.

Measured in rounds, each contender alone on the machine but for `wrk`, which asks over loopback, sends the files of
pictures as forms, and compares every answer with the one that the model gave before:

- `encoder`: `Classifier.embed` of the same files' bytes, in a process of its own: decoded and encoded, no HTTP;
- `headstart`: `headstart serve`, asked by 32 connections at once;
- `usual`: FastAPI around timm's eager network and transform, one picture a request, as tutorials write it.

Then, with `--overload SECONDS`, the server with a short queue is asked by ten times as many connections as may wait;
with `--soak MINUTES` it works on, a broken picture among the good ones, while its memory and open files are watched.

    python benchmarks/serve.py DATA [--quality LEVEL] [--model FOLDER] [--rounds N] [--overload S] [--soak MINUTES]

`wrk` is asked for: apt-get install wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import side_by_side
from side_by_side import Bound, median_ratio, say, spread

import headstart as hs
from headstart.data import sources

LUA = Path(__file__).with_suffix(".lua")
CONNECTIONS, SECONDS = 32, 15
SHARE, TIMES = 0.7, 5.0  # of the encoder's rate at least, and of the usual server's
QUEUE = 64  # under overload
MOST_GROWTH = 0.05  # of memory, from the first tenth of the soak to its end
ENCODER = """
import json, sys, time
import headstart as hs
model, paths = hs.load(sys.argv[1]), [line.partition("\\t")[0] for line in open(sys.argv[2])]
files = [open(path, "rb").read() for path in paths]
model.embed(files[:8])
begun = time.perf_counter()
model.embed(files)
print(json.dumps(len(files) / (time.perf_counter() - begun)))
"""
USUAL = """
import sys
import timm, torch, uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
name, size, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = timm.create_model(name, num_classes=120).eval()
config = timm.data.resolve_model_data_config(model) | {"input_size": (3, size, size)}
transform = timm.data.create_transform(**config, is_training=False)

@app.post("/predict")
def predict(file: UploadFile):
    picture = Image.open(file.file).convert("RGB")
    with torch.inference_mode():
        probabilities = model(transform(picture)[None]).softmax(dim=1)[0]
    best = int(probabilities.argmax())
    return {"class": best, "share": float(probabilities[best])}

uvicorn.run(app, port=port, log_level="warning")
"""


def main() -> int:
    """Measure, print and write the section."""
    arguments = _parse()
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; apt-get install wrk.")
    with side_by_side.workplace(arguments.work) as work:
        model = arguments.model or _trained(arguments, work)
        asked = _asked(arguments, work, model)
        lines = [f"- {line}" for line in side_by_side.machine()]
        bounds = []
        if arguments.rounds:
            more, found = _throughput(arguments, work, model, asked)
            lines, bounds = lines + more, bounds + found
        if arguments.overload:
            more, found = _overload(arguments.overload, work, model)
            lines, bounds = lines + more, bounds + found
        if arguments.soak:
            more, found = _soak(60 * arguments.soak, work, model, asked + 1)
            lines, bounds = lines + more, bounds + found
    kinds = [("serve", arguments.rounds), ("overload", arguments.overload), ("soak", arguments.soak)]
    name = "-".join([kind for kind, wanted in kinds if wanted] + [arguments.data.name])
    return side_by_side.report(name, f"The server: `{arguments.data.name}`", lines, bounds, arguments.results)


def _trained(arguments: argparse.Namespace, work: Path) -> Path:
    say("training the model")
    asked = [str(arguments.data), "--quality", arguments.quality, "--out", str(work / "model"), "--quiet"]
    asked += ["--labels", str(arguments.labels)] if arguments.labels else []
    command = [sys.executable, "-m", "headstart", "train", *asked, "--set", "head.finetune=none"]
    side_by_side.run_child(command, side_by_side.fresh(work, "cache"))
    return work / "model"


def _asked(arguments: argparse.Namespace, work: Path, model: Path) -> int:
    """Write which pictures are asked for, with the answer that is expected of each, and return their number."""
    data = sources.read(arguments.data, labels=arguments.labels)
    rows = np.random.default_rng(0).permutation(len(data))[: arguments.pictures]
    said = hs.load(model).predict_many(data.select(rows))
    lines = [
        f"{data[row].path.resolve()}\t{one.label} {one.probability!r}\n"
        for row, one in zip(rows.tolist(), said, strict=True)
        if one.error is None
    ]
    (work / "pictures.tsv").write_text("".join(lines))
    return len(lines)


def _throughput(arguments: argparse.Namespace, work: Path, model: Path, asked: int) -> tuple[list[str], list[Bound]]:
    network = json.loads((model / "model.json").read_text())["networks"][0]
    name, size = network["name"].partition(".")[0], network["preprocess"]["size"]
    usual = [sys.executable, "-c", USUAL, name, str(size)]
    rates: dict[str, list[float]] = {"encoder": [], "headstart": [], "usual": []}
    waits: dict[str, list[dict[str, float]]] = {"headstart": [], "usual": []}
    for place in range(arguments.rounds):
        say(f"round {place + 1} of {arguments.rounds}")
        command = [sys.executable, "-c", ENCODER, str(model), str(work / "pictures.tsv")]
        rates["encoder"].append(float(side_by_side.run_child(command, work / "none").answer()))
        with _serving(work, model) as (port, _):
            waits["headstart"].append(_wrk(work, port, CONNECTIONS, SECONDS))
        port = 8765
        with _running([*usual, str(port)], work / "usual.log"):
            _reach(port)
            waits["usual"].append(_wrk(work, port, CONNECTIONS, SECONDS, "file"))
        for contender, told in waits.items():
            rates[contender].append(told[-1]["ok"] / told[-1]["seconds"])
    rows = [("encoder", spread(rates["encoder"]), "–", "–")] + [
        (contender, spread(rates[contender]), *(spread([one[p] for one in told], "{:.2f}") for p in ("p50", "p99")))
        for contender, told in waits.items()
    ]
    bad = sum(one["wrong"] + one["lost"] + one["other"] for one in waits["headstart"])
    lines = [
        f"- {asked} pictures of `{arguments.data.name}`, model {arguments.quality} ({name} at {size} px), "
        f"{arguments.rounds} rounds of {SECONDS} s, {CONNECTIONS} connections; median and range. The usual server runs "
        "the first network in float32 and no rules.",
        "",
        *side_by_side.table(("what", "pictures a second", "median seconds", "99th percentile"), rows),
        "",
    ]
    return lines, [
        Bound("headstart / encoder", median_ratio(rates["headstart"], rates["encoder"]), ">=", SHARE),
        Bound("headstart / usual", median_ratio(rates["headstart"], rates["usual"]), ">=", TIMES),
        Bound("wrong, lost or refused for another reason", bad, "<=", 0, "{:.0f}"),
    ]


def _overload(seconds: int, work: Path, model: Path) -> tuple[list[str], list[Bound]]:
    say(f"overload, {seconds} s")
    with _serving(work, model, "--queue", str(QUEUE)) as (port, log):
        capacity = _wrk(work, port, QUEUE, SECONDS)
        before = log.stat().st_size
        told = _wrk(work, port, 10 * QUEUE, seconds)
        with log.open() as file:
            file.seek(before)
            waited = sorted(float(found) for found in re.findall(r"POST /predict 200, (\d+) ms", file.read()))
        after = _wrk(work, port, 4, 5)
    rate, all_asked = capacity["ok"] / capacity["seconds"], (told["ok"] + told["refused"]) / told["seconds"]
    lines = [
        f"- Overload: {10 * QUEUE} connections, each asking again at once, for {seconds} s, where {QUEUE} pictures may "
        f"wait: {all_asked:.0f} requests a second, {all_asked / rate:.1f} times the {rate:.0f} that it can do: "
        f"{told['ok']:.0f} with the right answer, {told['refused']:.0f} told to come again, "
        f"{told['wrong']:.0f} with another's, {told['other'] + told['lost']:.0f} lost. "
        f"Of those accepted the median took {waited[len(waited) // 2] / 1000:.2f} s, "
        f"the 99th percentile {waited[int(0.99 * len(waited))] / 1000:.2f} s. "
        f"Afterwards 4 connections waited {after['p50']:.2f} s (median).",
        "",
    ]
    return lines, [
        Bound("wrong or lost under overload", told["wrong"] + told["other"] + told["lost"], "<=", 0, "{:.0f}"),
        Bound("99th percentile of accepted, s", waited[int(0.99 * len(waited))] / 1000, "<=", 5.0),
    ]


def _soak(seconds: float, work: Path, model: Path, asked: int) -> tuple[list[str], list[Bound]]:
    say(f"soak, {seconds / 60:g} minutes")
    (work / "broken").write_bytes(b"no picture")
    with (work / "pictures.tsv").open("a") as file:
        file.write(f"{work / 'broken'}\tunusable\n")
    watched: list[tuple[float, int]] = []
    with _serving(work, model) as (port, log):
        load = subprocess.Popen(_command(work, port, 8, round(seconds), "pictures"), stdout=subprocess.PIPE, text=True)
        parent = psutil.Process(_pid(port))
        while load.poll() is None:
            time.sleep(5)
            family = [parent, *parent.children(recursive=True)]
            watched.append((sum(one.memory_info().rss for one in family) / 1e6, sum(one.num_fds() for one in family)))
        told = json.loads((load.communicate()[0]).splitlines()[-1])
        size = log.stat().st_size
    tenth = max(1, len(watched) // 10)
    begin, end = (statistics.median(m for m, _ in part) for part in (watched[tenth : 2 * tenth], watched[-tenth:]))
    files = [statistics.median(f for _, f in part) for part in (watched[tenth : 2 * tenth], watched[-tenth:])]
    lines = [
        f"- Soak: {seconds / 60:g} minutes, 8 connections, {told['ok']:.0f} right answers, {told['wrong']:.0f} wrong, "
        f"{told['other'] + told['lost']:.0f} lost; one file of the {asked} in turn is no picture. Memory of all its "
        f"processes {begin:.0f} MB in the second tenth, {end:.0f} MB in the last; open files {files[0]:.0f} and "
        f"{files[1]:.0f}; its log grew to {size / 1e6:.0f} MB.",
        "",
    ]
    return lines, [
        Bound("growth of memory in the soak", end / begin - 1, "<=", MOST_GROWTH, "{:.3f}"),
        Bound("growth of open files in the soak", files[1] - files[0], "<=", 2, "{:.0f}"),
        Bound("wrong or lost in the soak", told["wrong"] + told["other"] + told["lost"], "<=", 0, "{:.0f}"),
    ]


@contextlib.contextmanager
def _serving(work: Path, model: Path, *more: str) -> Iterator[tuple[int, Path]]:
    """Give the port of a server of the model, and its log."""
    log = work / f"serve-{time.monotonic_ns()}.log"
    with _running([sys.executable, "-m", "headstart", "serve", str(model), "--port", "0", "--no-cache", *more], log):
        while not (found := re.search(r"Serving .*:(\d+)\.", log.read_text())):
            time.sleep(0.1)
        yield int(found[1]), log


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def _reach(port: int) -> None:
    import socket

    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)


def _pid(port: int) -> int:
    """Return the process that listens at a port."""
    listening = (one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port)
    return int(next(one.pid for one in listening if one.pid))


def _command(work: Path, port: int, connections: int, seconds: int, field: str) -> list[str]:
    flags = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(LUA)]
    return ["wrk", *flags, f"http://127.0.0.1:{port}", "--", str(work), field]


def _wrk(work: Path, port: int, connections: int, seconds: int, field: str = "pictures") -> dict[str, float]:
    """Return what `wrk` counted."""
    ran = subprocess.run(_command(work, port, connections, seconds, field), capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pictures a second over HTTP.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--labels", type=Path, help="a table of labels beside it")
    parser.add_argument("--quality", default="balanced", help="level of the model (default: balanced)")
    parser.add_argument("--model", type=Path, help="a model that was made of this data before, at that level")
    parser.add_argument("--pictures", type=int, default=300, help="that are asked for in turn (default: 300)")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison (default: 3; 0: leave it out)")
    parser.add_argument("--overload", type=int, default=0, help="seconds under overload (default: 0, not measured)")
    parser.add_argument("--soak", type=float, default=0, help="minutes of steady work (default: 0, not measured)")
    parser.add_argument("--work", type=Path, help="where model and cache go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
