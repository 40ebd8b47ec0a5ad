"""Accuracy against seconds of training for every section of `levels.py`: a table of all data sets and a plot.

Reads `levels.jsonl` beside the file of results, draws `levels.png` there, one panel a data set, and puts both into the
section `levels`. It measures nothing. Lines join levels; peers stand alone.

    python benchmarks/levels_plot.py [--results FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import side_by_side
from levels import FIGURES, FILE, interval

from headstart.levels import QUALITIES

PICTURE = "levels.png"
WIDTH, HEIGHT = 3.6, 3.4  # of a panel, in inches
COLUMNS = 2
TICKS = (3, 10, 30, 100, 300, 1000, 3000, 10000)
COLOURS = {"levels": "#1f5fa8", "timm + scikit-learn": "#b3541e", "fastai": "#3b7d3b"}
HEADER = ("data", "level", "accuracy", "log-loss", "ECE", "seconds", "predicted /s", "AUROC, near unknown")


def draw(sections: list[dict[str, Any]], file: Path) -> None:
    """Draw a panel for each section."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(sections) // COLUMNS)
    columns = min(COLUMNS, len(sections))
    size = (WIDTH * columns, HEIGHT * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in grid.flat[len(sections) :]:
        panel.remove()
    for panel, section in zip(grid.flat, sections, strict=False):
        _panel(panel, section)
    figure.supxlabel("seconds of training", fontsize=10)
    figure.supylabel("accuracy on the test part, 95 % interval", fontsize=10)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _panel(panel: Any, section: dict[str, Any]) -> None:
    """Draw one data set."""
    levels = [row for row in section["rows"] if row["name"] in QUALITIES]
    others = [row for row in section["rows"] if row["name"] not in QUALITIES]
    for rows, line in ((levels, "-"), *(([row], "") for row in others)):
        if rows:
            _points(panel, rows, line)
    panel.set_title(
        f"{section['name']}\n{section['classes']} classes, {section['learned']:,} to learn from", fontsize=9
    )
    seconds = [row["seconds"] for row in section["rows"]]
    panel.set_xscale("log")
    panel.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
    panel.set_xticks([], minor=True)
    panel.set_xlim(min(seconds) / 2, max(seconds) * 3)
    panel.margins(y=0.15)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)


def _points(panel: Any, rows: list[dict[str, Any]], line: str) -> None:
    """Draw levels with the line that joins them, or one peer."""
    known = rows[0]["name"].split(",")[0]
    colour = COLOURS.get(known, COLOURS["levels"])
    seconds, found = [row["seconds"] for row in rows], [row["figures"]["accuracy"] for row in rows]
    values = [value for value, _, _ in found]
    ends = [[value - low for value, low, _ in found], [high - value for value, _, high in found]]
    panel.errorbar(seconds, values, ends, fmt=f"o{line}", color=colour, capsize=3, markersize=4, linewidth=1)
    for place, (row, across, (_, low, high)) in enumerate(zip(rows, seconds, found, strict=True)):
        # below and above in turn: names of levels that take nearly as long would lie upon each other
        end, offset, side = (high, 3, "bottom") if place % 2 else (low, -3, "top")
        panel.annotate(
            row["name"], (across, end), (0, offset), textcoords="offset points", color=colour, fontsize=7.5,
            horizontalalignment="center", verticalalignment=side,
        )  # fmt: skip


def table(sections: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of all data sets."""
    rows = []
    for section in sections:
        for row in section["rows"]:
            told = [interval(row["figures"].get(name)) for name in FIGURES]
            rate = "–" if row["rate"] is None else f"{row['rate']:.1f}"
            area = interval(row["unknown"]["area"] if row["unknown"] else None)
            rows.append((section["name"], row["name"], *told, f"{row['seconds']:.1f}", rate, area))
    return side_by_side.table(HEADER, rows)


def main() -> int:
    """Draw, print and write."""
    parser = argparse.ArgumentParser(description="One table and a plot of all sections of levels.py.")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    results = parser.parse_args().results
    file = results.with_name(FILE)
    if not file.is_file():
        raise RuntimeError(f"{file} is not there; `python benchmarks/levels.py DATA` writes it.")
    sections = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    draw(sections, results.with_name(PICTURE))
    text = "\n".join([
        "## Levels of quality and peers on all data sets",
        "",
        "The figures of the sections `Levels of quality`, each measured in one run; how is said there.",
        "",
        f"![Accuracy against seconds of training, a panel a data set]({PICTURE})",
        "",
        *table(sections),
    ])  # fmt: skip
    print(f"\n{text}\n")
    side_by_side.write_section(results, "levels", text)
    return 0


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
