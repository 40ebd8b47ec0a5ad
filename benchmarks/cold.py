"""How long one picture takes from the shell to the answer, against the imports that a model in PyTorch begins with.

Measured, each in a process of its own, offline, in rounds, files in the page cache:

- `imports`: `python -c "import torch, timm"`: what any program around a model of PyTorch waits for before it begins;
- `command`: `headstart predict MODEL PICTURE`;
- `python`: a script that imports headstart, loads the model and predicts one picture; also the seconds within it;
- `again`: the same command as a user of a cache runs it, whose features of that picture are kept.

The model is `headstart train DATA` at the level asked for; its training is not timed.

    python benchmarks/cold.py DATA [--quality LEVEL] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import side_by_side
from side_by_side import Bound, Measured, median_ratio, say, spread

from headstart.data import sources

SCRIPT = """
import json, sys, time
begun = time.perf_counter()
import headstart as hs
label = hs.load(sys.argv[1]).predict(sys.argv[2]).label
print(json.dumps({"label": label, "seconds": time.perf_counter() - begun, "torch": "torch" in sys.modules}))
"""
SECONDS = 1.5  # from the shell to the answer, on two quiet cores
WITHIN = 1.2  # the same within Python
RATIO = 0.5  # of the imports


def main() -> int:
    """Measure, print and write the section."""
    arguments = _parse()
    data = sources.read(arguments.data, labels=arguments.labels)
    with side_by_side.workplace(arguments.work) as work:
        model, cache = work / "model", side_by_side.fresh(work, "cache")
        say("training the model")
        asked = [str(arguments.data), "--quality", arguments.quality, "--out", str(model), "--quiet"]
        asked += ["--labels", str(arguments.labels)] if arguments.labels else []
        asked += ["--set", "head.finetune=none"]
        side_by_side.run_child([sys.executable, "-m", "headstart", "train", *asked], cache)
        picture = str(data[0].path)
        predict = [sys.executable, "-m", "headstart", "predict", str(model), picture]
        commands = {
            "imports": [sys.executable, "-c", "import torch, timm"],
            "command": [*predict, "--no-cache"],
            "python": [sys.executable, "-c", SCRIPT, str(model), picture],
            "again": predict,
        }
        found: dict[str, list[Measured]] = {name: [] for name in commands}
        for place in range(arguments.rounds + 1):
            say(f"round {place} of {arguments.rounds}")
            for name, command in commands.items():
                measured = side_by_side.run_child(command, cache)
                if place:  # the first round brings all files into memory
                    found[name].append(measured)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    seconds = {name: [one.seconds for one in ran] for name, ran in found.items()}
    answers = [one.answer() for one in found["python"]]
    within = [float(one["seconds"]) for one in answers]
    if any(one["torch"] for one in answers):
        raise RuntimeError("a prediction imported torch, which this benchmark is to rule out")
    rows = [
        (name, spread(seconds[name], "{:.2f}"), f"{max(one.peak for one in ran) / side_by_side.MB:,.0f}")
        for name, ran in found.items()
    ]
    lines = [
        *(f"- {line}" for line in side_by_side.machine()),
        f"- Data: `{arguments.data.name}`, level {arguments.quality}; the files of tensors of the model have "
        f"{size / side_by_side.MB:.0f} MB. {arguments.rounds} rounds, after one that is not counted; median and range.",
        f"- Within `python`, from its first line to the answer: {spread(within, '{:.2f}')} s.",
        "",
        *side_by_side.table(("what", "seconds", "peak in MB"), rows),
    ]
    bounds = [
        Bound("command, seconds", side_by_side.statistics.median(seconds["command"]), "<=", SECONDS),
        Bound("within python, seconds", side_by_side.statistics.median(within), "<=", WITHIN),
        Bound("command / imports", median_ratio(seconds["command"], seconds["imports"]), "<=", RATIO),
    ]
    name, title = f"cold-{arguments.data.name}", f"One picture, cold: `{arguments.data.name}`"
    return side_by_side.report(name, title, lines, bounds, arguments.results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds from the shell to the answer, for one picture.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--labels", type=Path, help="a table of labels beside it")
    parser.add_argument("--quality", default="balanced", help="level of the model (default: balanced)")
    parser.add_argument("--rounds", type=int, default=7, help="that are counted (default: 7)")
    parser.add_argument("--work", type=Path, help="where model and cache go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
