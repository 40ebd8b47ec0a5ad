"""Records → matplotlib figures; nobody else draws. No global state: figures are made without pyplot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from headstart.experiments.leakage import LeakageReport
from headstart.experiments.learning_curve import LearningCurve
from headstart.learning.heads import Step
from headstart.metrics import BINS, wilson
from headstart.records import Evaluation, Pixels

BLUE, ORANGE, GREY, RED = "#2563eb", "#ea7317", "#94a3b8", "#c02626"
MOST_CLASSES = 30  # up to here a confusion matrix can be read; beyond, the worst pairs say more
MOST_ROWS = 40  # of a bar chart


def training_curves(history: Sequence[Step], part: str, unit: str, best: int | None = None) -> Figure:
    """Return accuracy and loss along the fit, the last values in the titles.

    Args:
        history: Of the fit.
        part: The name of the part that measures.
        unit: What a step is.
        best: The step whose weights were kept, if not the last.
    """
    figure = _figure(11, 4.2)
    axes = figure.subplots(1, 2)
    steps = [step.number for step in history]
    for axis, name, form in ((axes[0], "accuracy", "{:.1%}"), (axes[1], "loss", "{:.3f}")):
        learned = [getattr(step, f"train_{name}") for step in history]
        seen = [getattr(step, f"validation_{name}") for step in history]
        axis.plot(steps, learned, color=BLUE, label="training", linewidth=2)
        axis.plot(steps, seen, color=ORANGE, label=part, linewidth=2)
        if best is not None:
            axis.axvline(best, color=GREY, linestyle="--", linewidth=1, label=f"{unit} {best}: kept")
        last = f"training {form.format(learned[-1])}, {part} {form.format(seen[-1])}"
        axis.set_title(f"{name.capitalize()}: {last}", fontsize=11, loc="left")
        axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axis)
        axis.legend(frameon=False)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[1].set_ylabel("cross-entropy before temperature scaling, nats")
    axes[1].set_ylim(bottom=0)
    return figure


def confusion(evaluation: Evaluation) -> Figure:
    """Return the confusion matrix, or with more than 30 classes the pairs that are confused most."""
    if len(evaluation.classes) > MOST_CLASSES:
        return _worst_pairs(evaluation)
    size = len(evaluation.classes)
    side = max(4.5, 0.42 * size + 2)
    figure = _figure(side + 1, side)
    axis = figure.subplots()
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(counts > 0):
        axis.text(
            j,
            i,
            str(counts[i, j]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[i, j] > 0.55 else "black",
        )
    labels = [_short(name) for name in evaluation.classes]
    axis.set_xticks(range(size), labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(size), labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("given label")
    axis.set_title(f"Confusion: pictures per cell ({evaluation.pictures} in all)", fontsize=11, loc="left")
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """Return accuracy against confidence: on the diagonal a probability means what it says."""
    figure = _figure(5.6, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    confidence, right, count = (np.array(column) for column in zip(*evaluation.reliability, strict=True))
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    limits = np.array([wilson(share, int(number)) for share, number in zip(right, count, strict=True)])
    spread = np.abs(limits.T - right)
    top.errorbar(confidence, right, yerr=spread, fmt="o-", color=BLUE, capsize=3, label="this model")
    top.set_ylabel("share that is right")
    top.set_ylim(-0.02, 1.05)
    top.set_title(f"Reliability: expected calibration error {evaluation.overall['ece']}", fontsize=11, loc="left")
    top.legend(frameon=False, loc="upper left")
    bottom.bar((np.ceil(confidence * BINS) - 0.5) / BINS, count, width=0.9 / BINS, color=BLUE)
    bottom.set_xlabel("probability of the predicted class")
    bottom.set_ylabel("pictures")
    bottom.set_xlim(0, 1.02)
    for axis in (top, bottom):
        _tidy(axis)
    return figure


def risk_coverage(evaluation: Evaluation) -> Figure:
    """Return the share of wrong answers against the share that is answered, the least probable answers withheld."""
    figure = _figure(5.6, 4.2)
    axis = figure.subplots()
    answered, wrong = (np.array(column) for column in zip(*evaluation.risk_coverage, strict=True))
    axis.plot(answered, wrong, color=BLUE, linewidth=2)
    axis.set_xlabel("share of pictures that are answered, the surest first")
    axis.set_ylabel("share of wrong answers among them")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlim(0, 1.02)
    axis.set_ylim(bottom=0)
    axis.set_title("Withholding the least probable answers", fontsize=11, loc="left")
    _tidy(axis)
    return figure


def similarity(leakage: LeakageReport) -> Figure:
    """Return accuracy by how alike the nearest learned picture is; bars are as wide as the share of the pictures."""
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    begin = 0.0
    for band, colour in zip(leakage.bands, (ORANGE, GREY, BLUE), strict=False):
        value, low, high = band.accuracy
        middle = begin + band.share / 2
        axis.bar(middle, value, width=0.98 * band.share, color=colour, alpha=0.75)
        axis.errorbar(middle, value, yerr=[[value - low], [high - value]], color="black", capsize=4)
        axis.text(
            middle, 0.03, f"{band.name}\n{band.low:.2f} … {band.high:.2f}\n{band.pictures} pictures",
            ha="center", fontsize=8, rotation=0 if band.share > 0.15 else 90,
        )  # fmt: skip
        begin += band.share
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("share of the measured pictures, by similarity to the nearest learned one")
    axis.set_ylabel("accuracy, 95 % interval")
    axis.set_title("Pictures like those learned from, and unlike them", fontsize=11, loc="left")
    _tidy(axis)
    return figure


def learning_curve(curve: LearningCurve) -> Figure:
    """Return accuracy against training pictures per class, and where twice as many would lead."""
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    counts = np.array([point.pictures_per_class for point in curve.points])
    values = np.array([point.accuracy for point in curve.points])
    spread = np.abs(values[:, 1:] - values[:, :1]).T
    axis.errorbar(counts, values[:, 0], yerr=spread, fmt="o", color=BLUE, capsize=3, label="measured")
    grid = np.geomspace(counts[0], 2 * counts[-1], 60)
    axis.plot(grid, [curve.at(count) for count in grid], color=GREY, linestyle="--", label="law")
    value, low, high = curve.doubled
    axis.errorbar(
        2 * counts[-1], value, yerr=[[value - low], [high - value]], fmt="D", color=ORANGE, capsize=3,
        label="expected from twice as many",
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks([*counts, 2 * counts[-1]], [f"{count:.3g}" for count in (*counts, 2 * counts[-1])])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("training pictures per class")
    axis.set_ylabel("accuracy, 95 % interval")
    gain = [100 * number for number in curve.gain]
    axis.set_title(f"Twice as many: {gain[0]:+.1f} points [{gain[1]:+.1f}, {gain[2]:+.1f}]", fontsize=11, loc="left")
    axis.legend(frameon=False, loc="lower right")
    _tidy(axis)
    return figure


def per_class(evaluation: Evaluation) -> Figure:
    """Return each class's recall with its interval, worst first; of many classes the worst forty."""
    ranked = sorted(evaluation.per_class.items(), key=lambda item: (item[1]["recall"].value, item[0]))
    shown = ranked[:MOST_ROWS]
    figure = _figure(8, 1.4 + 0.26 * len(shown))
    axis = figure.subplots()
    rows = np.arange(len(shown))
    recall = [figures["recall"] for _, figures in shown]
    value = np.array([r.value for r in recall])
    spread = np.array([[r.value - r.low for r in recall], [r.high - r.value for r in recall]])
    axis.errorbar(value, rows, xerr=spread, fmt="o", color=BLUE, ecolor=GREY, capsize=2)
    support = dict(zip(evaluation.classes, evaluation.support.tolist(), strict=True))
    axis.set_yticks(rows, [f"{_short(name)}  ({support[name]})" for name, _ in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.axvline(evaluation.overall["accuracy"].value, color=ORANGE, linewidth=1)
    left_out = f", the lowest {len(shown)} of {len(ranked)}" if len(ranked) > len(shown) else ""
    axis.set_title(f"Right per class with 95 % interval (pictures){left_out}", fontsize=11, loc="left")
    axis.set_xlabel("recall; the line is the accuracy over all")
    _tidy(axis)
    return figure


def grid(pictures: Sequence[Pixels], titles: Sequence[str], heading: str, columns: int = 5) -> Figure:
    """Return pictures in a grid, each under its title."""
    rows = max(1, math.ceil(len(pictures) / columns))
    figure = _figure(2.3 * columns, 2.55 * rows + 0.5)
    for axis in (cells := figure.subplots(rows, columns, squeeze=False)).flat:
        axis.axis("off")
    for axis, picture, title in zip(cells.flat, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(_short(title, 26), fontsize=9)
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    return figure


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write figures as `<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)


def _worst_pairs(evaluation: Evaluation) -> Figure:
    pairs = evaluation.confused[:MOST_ROWS]
    figure = _figure(9, 1.4 + 0.26 * max(len(pairs), 3))
    axis = figure.subplots()
    support = dict(zip(evaluation.classes, evaluation.support.tolist(), strict=True))
    rows = np.arange(len(pairs))
    axis.barh(rows, [count for *_, count in pairs], color=RED, height=0.7)
    for row, (given, _, count) in enumerate(pairs):
        axis.text(count, row, f" {count} of {support[given]}", va="center", fontsize=8)
    axis.set_yticks(rows, [f"{_short(given)}  taken for  {_short(taken)}" for given, taken, _ in pairs], fontsize=8)
    axis.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(x=0.12)
    wrong = int(evaluation.confusion.sum() - np.trace(evaluation.confusion))
    axis.set_title(
        f"Most confused pairs, of {wrong} wrong among {evaluation.pictures} pictures", fontsize=11, loc="left"
    )
    axis.set_xlabel("pictures")
    _tidy(axis)
    return figure


class _Figure(Figure):
    """A figure that draws a box for a letter its fonts lack, without a warning for each."""

    def draw(self, renderer: RendererBase) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            super().draw(renderer)


def _figure(width: float, height: float) -> Figure:
    figure = _Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)


def _short(name: str, most: int = 32) -> str:
    """Return a name that fits and that matplotlib does not take for a formula."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return (plain if len(plain) <= most else plain[: most - 1] + "…").replace("$", r"\$")
