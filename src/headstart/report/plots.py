"""The plain values of `summary` → matplotlib figures; nobody else draws. As what is drawn is what `evaluation.json`,
`trust.json` and `history.csv` hold, a run can be drawn again from its folder. No global state: no pyplot.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from headstart.metrics import BINS, wilson
from headstart.predictions import Interval
from headstart.records import Pixels

Drawing = Callable[[], Figure]
Figures = Mapping[str, Any]  # what `summary.of_evaluation` gives

# One colour means one thing in every plot: pictures that were learned from, the parts that measure, right and wrong
# answers; what was not measured but serves to compare is grey. The hues are told apart by colour-blind people too.
COLOURS = {
    "training": "#2563eb",
    "validation": "#ea7317",
    "test": "#7c3aed",
    "right": "#15803d",
    "wrong": "#c02626",
    "reference": "#8292a8",
}
MOST_CLASSES = 30  # up to here a confusion matrix can be read; beyond, the worst pairs say more
MOST_ROWS = 40  # of a bar chart


def training_curves(
    history: Sequence[Mapping[str, float | None]],
    part: str,
    unit: str,
    best: int | None = None,
    *,
    stacked: bool = False,
) -> Figure:
    """Return accuracy and loss along the fit, the last values in the titles.

    Args:
        history: Of the fit, from `summary.of_history`.
        part: The name of the part that measures.
        unit: What a step is.
        best: The step whose weights were kept, if not the last.
        stacked: Whether one stands above the other, for a narrow page.
    """
    figure = empty(5.6, 6.4) if stacked else empty(11, 4.2)
    axes = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    steps = [row["step"] for row in history]
    for axis, name, form in ((axes[0], "accuracy", "{:.1%}"), (axes[1], "loss", "{:.3f}")):
        last: list[str] = []
        for label, key, colour in (
            ("training", f"train_{name}", "training"),
            (part, f"validation_{name}", part),
            ("left out of training, calibrated", f"watched_{name}", "validation"),
        ):
            values = _numbers([row.get(key) for row in history])
            if np.isfinite(values).any() and not (key.startswith("watched") and len(last) > 1):
                axis.plot(steps, values, color=COLOURS[colour], label=label, linewidth=2, marker=_dots(len(steps)))
                last.append(f"{label} {form.format(values[-1])}")
        if best is not None:
            axis.axvline(best, color=COLOURS["reference"], linestyle="--", linewidth=1, label=f"{unit} {best}: kept")
        _title(axis, f"{name.capitalize()}: {', '.join(last)}")
        if not stacked or axis is axes[1]:
            axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axis)
        axis.legend(frameon=False)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[1].set_ylabel("cross-entropy before calibration, nats")
    axes[1].set_ylim(bottom=0)
    return figure


def confusion(figures: Figures) -> Figure:
    """Return the confusion matrix, or with more than 30 classes the pairs that are confused most."""
    if len(_classes(figures)) > MOST_CLASSES:  # of 10,000 classes the matrix would take a gigabyte
        return _worst_pairs(figures)
    classes, counts = _counts(figures)
    size = len(classes)
    side = max(4.5, 0.42 * size + 2)
    figure = empty(side + 1, side)
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(size, dtype=bool)
    for hidden, colours in ((~right, "Greens"), (right, "Reds")):
        axis.imshow(np.ma.masked_array(shares, hidden), cmap=colours, vmin=0, vmax=1.2)
    for i, j in np.argwhere(counts > 0):
        colour = "white" if shares[i, j] > 0.65 else "black"
        axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=colour)
    labels = [short(name) for name in classes]
    axis.set_xticks(range(size), labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(size), labels)
    axis.set_xlabel("predicted label")
    axis.set_ylabel("given label")
    _title(axis, f"Confusion matrix: pictures per cell ({figures['pictures']} in all)")
    return figure


def reliability(figures: Figures, part: str = "validation") -> Figure:
    """Return accuracy against confidence: on the diagonal a probability means what it says."""
    figure = empty(5.6, 5.8)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    bins = figures["reliability"]
    confidence, right = (_numbers([one[name] for one in bins]) for name in ("confidence", "accuracy"))
    count = [one["pictures"] for one in bins]
    reference = COLOURS["reference"]
    top.plot([0, 1], [0, 1], color=reference, linestyle="--", linewidth=1, label="perfectly calibrated")
    limits = np.array([wilson(share, int(number)) for share, number in zip(right, count, strict=True)])
    spread = np.abs(limits.T - right)
    top.errorbar(confidence, right, yerr=spread, fmt="o-", color=COLOURS[part], capsize=3, label="this model")
    top.set_ylabel("accuracy")
    top.set_ylim(-0.02, 1.05)
    error = Interval(*_numbers(figures["overall"]["ece"]))
    _title(top, f"Reliability: expected calibration error {error}")
    top.legend(frameon=False, loc="upper left")
    bottom.bar((np.ceil(confidence * BINS) - 0.5) / BINS, count, width=0.9 / BINS, color=COLOURS[part])
    bottom.set_xlabel("confidence: probability of the predicted class")
    bottom.set_ylabel("pictures")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.set_xlim(0, 1.02)
    for axis in (top, bottom):
        _tidy(axis)
    return figure


def risk_coverage(figures: Figures) -> Figure:
    """Return the share of wrong answers against the share that is answered, the least probable answers withheld."""
    figure = empty(5.6, 4.2)
    axis = figure.subplots()
    answered, wrong = (_numbers([point[name] for point in figures["risk_coverage"]]) for name in ("answered", "wrong"))
    axis.plot(answered, wrong, color=COLOURS["wrong"], linewidth=2)
    refused = (figures["overall"].get("refused") or [None])[0]
    if refused is not None:
        grey, said = COLOURS["reference"], f"“none of these” leaves {1 - refused:.0%}"
        axis.axvline(1 - refused, color=grey, linestyle="--", linewidth=1, label=said)
        axis.legend(frameon=False, loc="upper left")
    axis.set_xlabel("coverage: share of pictures answered, the most confident first")
    axis.set_ylabel("risk: share of wrong answers among them")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlim(0, 1.02)
    axis.set_ylim(bottom=0, top=None if np.nanmax(wrong, initial=0) > 0 else 0.05)
    _title(axis, "Risk and coverage: withholding the least confident answers")
    _tidy(axis)
    return figure


def similarity(bands: Sequence[Mapping[str, Any]], part: str = "validation", split: str = "") -> Figure:
    """Return accuracy by how alike the nearest learned picture is.

    Args:
        bands: From `summary.of_trust`.
        part: That was measured.
        split: Which split made that part, for the title; empty: the one that the other figures are of.
    """
    figure = empty(6.4, 4.4)
    axis = figure.subplots()
    rows = np.arange(len(bands))
    values = np.array([_numbers(band["accuracy"]) for band in bands]).reshape(-1, 3)
    axis.bar(rows, values[:, 0], width=0.7, color=COLOURS[part])
    axis.errorbar(rows, values[:, 0], yerr=_spread(values), fmt="none", ecolor="black", capsize=4)
    told = [
        f"{band['band']}\n{band['similarity'][0]:.2f} … {band['similarity'][1]:.2f}\n"
        f"{band['pictures']} picture{'s' * (band['pictures'] != 1)}, {band['share']:.0%}"
        for band in bands
    ]
    axis.set_xticks(rows, told)
    axis.set_xlim(-0.6, max(len(bands), 1) - 0.4)
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("cosine similarity to the nearest learned picture")
    axis.set_ylabel("accuracy, 95 % interval")
    _title(axis, "Pictures like those learned from, and unlike them" + (f" ({split})" if split else ""))
    _tidy(axis)
    axis.grid(visible=False, axis="x")
    return figure


def learning_curve(curve: Mapping[str, Any], part: str = "validation") -> Figure:
    """Return accuracy against training pictures per class, and where twice as many would lead."""
    figure = empty(6.4, 4.4)
    axis = figure.subplots()
    counts = _numbers([point["pictures_per_class"] for point in curve["points"]])
    values = np.array([_numbers(point["accuracy"]) for point in curve["points"]])
    colour = COLOURS[part]
    axis.errorbar(counts, values[:, 0], yerr=_spread(values), fmt="o", color=colour, capsize=3, label="measured")
    grid = np.geomspace(counts[0], 2 * counts[-1], 60)
    a, b, c = (curve["formula"][name] for name in "abc")
    fitted = 1 / (1 + a + b * grid**-c)
    axis.plot(grid, fitted, color=COLOURS["reference"], linestyle="--", label="fitted law")
    doubled = _numbers(curve["doubled"])[None]
    axis.errorbar(
        2 * counts[-1:], doubled[:, 0], yerr=_spread(doubled), fmt="D", color=colour, markerfacecolor="white",
        capsize=3, label="extrapolated to twice as many",
    )  # fmt: skip
    axis.set_xscale("log")
    ticks = [*counts, 2 * counts[-1]]
    axis.set_xticks(ticks, [f"{count:.3g}" for count in ticks])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("training pictures per class, logarithmic")
    axis.set_ylabel("accuracy, 95 % interval")
    gain, low, high = 100 * _numbers(curve["gain"])
    _title(axis, f"Learning curve: twice as many pictures {gain:+.1f} points [{low:+.1f}, {high:+.1f}]")
    axis.legend(frameon=False, loc="lower right")
    _tidy(axis)
    return figure


def speed(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the accuracy of backbones against their speed, numbered as in `summary.of_trials`, with the Pareto front.

    Args:
        trials: From there.
    """
    figure = empty(8.6, 5.2)
    axis = figure.subplots()
    rate = _numbers([one["pictures_per_second"] for one in trials])
    values = np.array([_numbers(one["accuracy"]) for one in trials])
    axis.errorbar(rate, values[:, 0], yerr=_spread(values), fmt="none", ecolor="#c9d1dc", elinewidth=1, zorder=1)
    front = sorted((rate[row], values[row, 0]) for row, one in enumerate(trials) if one["on_front"])
    colours = {True: COLOURS["validation"], False: COLOURS["reference"]}
    axis.step(*zip(*front, strict=True), where="pre", color=colours[True], linewidth=1.5, zorder=2)
    for row, one in reversed(list(enumerate(trials))):  # the best on top
        colour = colours[one["on_front"]]
        filled = "white" if one["surely_worse"] else colour
        where, text = (rate[row], values[row, 0]), colour if one["surely_worse"] else "white"
        axis.scatter(*where, s=170, color=filled, edgecolor=colour, linewidth=1.5, zorder=3)
        axis.text(*where, str(row + 1), color=text, ha="center", va="center_baseline", fontsize=8, zorder=3)
    axis.set_xlim(left=0, right=1.08 * rate.max())
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("pictures a second on this machine, decoding included")
    axis.set_ylabel("accuracy out of fold, 95 % interval")
    _title(axis, f"Backbones on {trials[0]['pictures']} pictures of {trials[0]['classes']} classes")
    _key(axis, [f"{row}  {short(one['candidate'])}" for row, one in enumerate(trials, 1)], colours[True])
    _tidy(axis)
    return figure


def per_class(figures: Figures, part: str = "validation") -> Figure:
    """Return each class's recall with its interval, lowest first; of many classes the lowest forty."""
    ranked = sorted(figures["per_class"].items(), key=lambda item: (_numbers(item[1]["recall"])[0], item[0]))
    shown = ranked[:MOST_ROWS]
    figure = empty(8, 1.5 + 0.26 * len(shown))
    axis = figure.subplots()
    rows = np.arange(len(shown))
    recall = np.array([_numbers(told["recall"]) for _, told in shown]).reshape(-1, 3)
    axis.errorbar(
        recall[:, 0], rows, xerr=_spread(recall), fmt="o", color=COLOURS[part], elinewidth=1, capsize=2, clip_on=False
    )
    axis.set_yticks(rows, [f"{short(name)}  ({told['pictures']})" for name, told in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(0, 1.005)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.axvline(_numbers(figures["overall"]["accuracy"])[0], color=COLOURS["reference"], linestyle="--", linewidth=1)
    left_out = f", the lowest {len(shown)} of {len(ranked)}" if len(ranked) > len(shown) else ""
    _title(axis, f"Recall per class (pictures){left_out}")
    axis.set_xlabel("recall, 95 % interval; dashed: accuracy over all")
    _tidy(axis)
    return figure


def grid(pictures: Sequence[Pixels], titles: Sequence[str], heading: str, columns: int = 5) -> Figure:
    """Return pictures in a grid, each under its title of one line or two."""
    rows = max(1, math.ceil(len(pictures) / columns))
    figure = empty(2.3 * columns, 2.55 * rows + 0.5)
    for axis in (cells := figure.subplots(rows, columns, squeeze=False)).flat:
        axis.axis("off")
    for axis, picture, title in zip(cells.flat, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title("\n".join(short(line, 26) for line in title.split("\n", 1)), fontsize=9)
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    return figure


def save(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Draw and write figures as `<name>.png`."""
    for name, draw in drawings.items():
        save_one(draw, folder / f"{name}.png")


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file has it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def save_one(draw: Drawing, path: Path) -> None:
    """Draw and write one figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(path, dpi=110)


def _key(axis: Axes, names: Sequence[str], colour: str) -> None:
    """Say beside the axes what numbers and colours mean."""
    marks = (
        Line2D([], [], color=colour, marker="o", markersize=9, label="Pareto front"),
        Line2D([], [], color="white", marker="o", markersize=9, markeredgecolor="black",
               label="log-loss surely\nworse than that of 1"),
        *(Line2D([], [], color="none", label=name) for name in names),
    )  # fmt: skip
    axis.legend(handles=marks, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def _worst_pairs(figures: Figures) -> Figure:
    pairs = figures["most_confused"][:MOST_ROWS]
    figure = empty(9, 1.5 + 0.26 * max(len(pairs), 3))
    axis = figure.subplots()
    rows = np.arange(len(pairs))
    axis.barh(rows, [pair["pictures"] for pair in pairs], color=COLOURS["wrong"], height=0.7)
    for row, pair in enumerate(pairs):
        support = figures["per_class"][pair["given"]]["pictures"]
        axis.text(pair["pictures"], row, f" {pair['pictures']} of {support}", va="center", fontsize=8)
    told = [f"{short(pair['given'])}  taken for  {short(pair['predicted'])}" for pair in pairs]
    axis.set_yticks(rows, told, fontsize=8)
    axis.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(x=0.15)
    wrong = sum(cell["pictures"] for cell in figures["confusion"] if cell["given"] != cell["predicted"])
    _title(axis, f"Most confused pairs, of {wrong} wrong among {figures['pictures']} pictures")
    axis.set_xlabel("pictures, of those of the given label")
    _tidy(axis)
    return figure


def _counts(figures: Figures) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Return the classes, and (K, K) counts: rows are the given labels, columns the predictions."""
    classes = _classes(figures)
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for cell in figures["confusion"]:
        counts[place[cell["given"]], place[cell["predicted"]]] = cell["pictures"]
    return classes, counts


def _classes(figures: Figures) -> Sequence[str]:
    named = {*figures["per_class"], *(cell["predicted"] for cell in figures["confusion"])}
    return figures.get("classes") or sorted(named)  # the evaluation.json of an older run does not list them


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return plain values as numbers; JSON has null for what does not exist."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _spread(intervals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (2, N) how far the bounds of (N, 3) value, low, high are away."""
    value, low, high = intervals.T
    return np.abs([value - low, high - value])


class _Figure(Figure):
    """A figure that draws a box for a letter its fonts lack, without a warning for each."""

    def draw(self, renderer: RendererBase) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            super().draw(renderer)


def empty(width: float, height: float) -> Figure:
    """Return a figure of these inches that arranges what comes into it."""
    figure = _Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=11, loc="left")


def _dots(steps: int) -> str:
    return "o" if steps < 3 else ""  # a line of one point cannot be seen


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)


def short(name: str, most: int = 32) -> str:
    """Return a name that fits and that matplotlib does not take for a formula."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return (plain if len(plain) <= most else plain[: most - 1] + "…").replace("$", r"\$")
