"""The figures: they draw at any number of classes, with any names, and their titles tell the last values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from headstart.evaluation import measure
from headstart.learning.heads import Step
from headstart.predictions import Interval, Predictions
from headstart.records import ClassNames
from headstart.report import plots, summary

HOSTILE = (
    "a$b",
    "$x^2$",
    "two\nlines",
    "\\frac{1}{2}",
    "<script>",
    "x" * 300,
    "100 %_&#{}",
    "tab\there",
    " ",
    "a$b$c$",
)


def evaluated(classes: int = 3, rows: int = 200, names: tuple[str, ...] = (), seed: int = 0) -> dict[str, Any]:
    """Return the figures of simulated predictions."""
    generator = np.random.default_rng(seed)
    names = names or tuple(f"class {k:03d}" for k in range(classes))
    targets = np.concatenate([np.arange(len(names)), generator.integers(0, len(names), rows)])
    logits = generator.normal(0, 1, (len(targets), len(names))) + 2 * np.eye(len(names))[targets]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    pictures = tuple(f"{row}.png" for row in range(len(targets)))
    said = Predictions(pictures, ClassNames(names), shares, targets=tuple(names[k] for k in targets))
    return summary.of_evaluation(measure.measure(said))


def perfect(classes: int) -> dict[str, Any]:
    """Return figures without a mistake."""
    names = tuple(f"class {k:03d}" for k in range(classes))
    return summary.of_evaluation(measure.measure(Predictions(names, ClassNames(names), np.eye(classes), targets=names)))


def drawn(figure: Figure) -> str:
    """Draw a figure, which warns of whatever does not fit, and return its texts."""
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


FIGURES = [plots.confusion, plots.reliability, plots.per_class, plots.risk_coverage]


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("classes", [2, 30, 31, 120])
def test_every_figure_draws_at_any_number_of_classes(figure: Callable[[dict[str, Any]], Figure], classes: int):
    assert "class 0" in drawn(figure(evaluated(classes))) or figure in (plots.reliability, plots.risk_coverage)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("classes", [2, 30, 120])
def test_every_figure_draws_where_nothing_is_wrong(figure: Callable[[dict[str, Any]], Figure], classes: int):
    assert drawn(figure(perfect(classes)))


@pytest.mark.parametrize("figure", FIGURES)
def test_B11_names_that_look_like_formulas_or_markup_break_nothing(figure: Callable[[dict[str, Any]], Figure]):
    assert drawn(figure(evaluated(names=HOSTILE)))


@pytest.mark.parametrize("figure", [plots.confusion, plots.per_class])
@pytest.mark.parametrize("names", [("🐕", "🐈"), ("日本", "中国"), ("ضفدع", "שלום")])
def test_B10_names_in_any_script_draw_without_warnings(
    figure: Callable[[dict[str, Any]], Figure], names: tuple[str, ...]
):
    assert drawn(figure(evaluated(names=names)))


def test_the_confusion_matrix_has_a_number_in_every_cell_that_holds_pictures():
    result = evaluated(3)
    texts = drawn(plots.confusion(result)).split("\n")
    assert [t for t in texts if t.isdigit()] == [str(cell["pictures"]) for cell in result["confusion"]]
    assert any(f"{result['pictures']} in all" in t for t in texts)


def test_beyond_thirty_classes_the_confusion_shows_the_worst_pairs():
    result = evaluated(40, rows=400)
    text = drawn(plots.confusion(result))
    pair = result["most_confused"][0]
    assert f"{pair['given']}  taken for  {pair['predicted']}" in text
    assert f"{pair['pictures']} of {result['per_class'][pair['given']]['pictures']}" in text
    wrong = sum(cell["pictures"] for cell in result["confusion"] if cell["given"] != cell["predicted"])
    assert f"of {wrong} wrong among {result['pictures']} pictures" in text


def test_the_title_of_the_reliability_holds_the_calibration_error():
    result = evaluated(5)
    assert str(Interval(*result["overall"]["ece"])) in drawn(plots.reliability(result))


def test_the_classes_are_shown_worst_first_and_the_rest_is_counted():
    result = evaluated(60, rows=600)
    figure = plots.per_class(result)
    text = drawn(figure)
    worst = min(result["per_class"], key=lambda name: (result["per_class"][name]["recall"][0], name))
    assert worst in figure.axes[0].get_yticklabels()[0].get_text()
    assert "the lowest 40 of 60" in text


def test_the_titles_of_the_training_hold_the_last_values():
    history = [Step(0, 1.5, 0.3, 1.6, 0.25), Step(1, 0.1234, 0.987, 0.5678, 0.854)]
    text = drawn(plots.training_curves(summary.of_history(history), "validation", "epoch"))
    assert "Accuracy: training 98.7%, validation 85.4%" in text
    assert "Loss: training 0.123, validation 0.568" in text


@pytest.mark.parametrize("steps", [1, 2, 300])
def test_the_training_draws_at_any_length(steps: int):
    history = summary.of_history([Step(n, 1 / (n + 1), 0.5, 1.0, 0.5) for n in range(steps)])
    assert "test" in drawn(plots.training_curves(history, "test", "step"))


def test_a_training_without_measured_pictures_has_one_curve():
    history = summary.of_history([Step(n, 0.5, 0.75, float("nan"), float("nan")) for n in range(3)])
    text = drawn(plots.training_curves(history, "validation", "epoch"))
    assert "Accuracy: training 75.0%" in text
    assert "validation" not in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 5, 7, 25])
def test_a_grid_shows_every_picture_under_its_title(number: int):
    pictures = [np.full((20, 30, 3), 10 * k, np.uint8) for k in range(number)]
    figure = plots.grid(pictures, [f"title {k}" for k in range(number)], "heading")
    text = drawn(figure)
    assert sum(len(axis.images) for axis in figure.axes) == number
    assert all(f"title {k}" in text for k in range(number))
    assert "heading" in text


def test_saving_writes_one_png_a_figure_that_opens(tmp_path: Path):
    plots.save(
        {"one": lambda: plots.reliability(evaluated()), "two": lambda: plots.confusion(evaluated())}, tmp_path / "plots"
    )
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["one.png", "two.png"]
    for file in (tmp_path / "plots").iterdir():
        with Image.open(file) as image:
            image.load()
            assert min(image.size) > 300


def test_the_same_evaluation_gives_the_same_picture(tmp_path: Path):
    for name in ("first", "second"):
        plots.save({"p": lambda: plots.per_class(evaluated())}, tmp_path / name)
    assert (tmp_path / "first" / "p.png").read_bytes() == (tmp_path / "second" / "p.png").read_bytes()


BANDS = [
    {
        "band": name,
        "similarity": [0.5, 0.75],
        "pictures": pictures,
        "share": pictures / 1000,
        "accuracy": [0.8, 0.7, 0.9],
    }
    for name, pictures in (("unlike", 3), ("between", 990), ("same-object", 7))
]
CURVE = {
    "points": [
        {"pictures_per_class": n, "accuracy": [a, a - 0.1, a + 0.05]} for n, a in ((4, 0.5), (8, 0.6), (11, 0.65))
    ],
    "formula": {"a": 0.05, "b": 2.0, "c": 0.5},
    "doubled": [0.7, 0.6, 0.8],
    "gain": [0.05, 0.01, 0.09],
}


def overlaps(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the upright texts of a figure that lie upon each other, of those that are really drawn."""
    shown: dict[int, Text] = {}
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: draw(shown.setdefault(id(self), self), renderer))
    figure.canvas.draw()
    texts = [t for t in shown.values() if t.get_visible() and t.get_text().strip() and not t.get_rotation() % 90]
    boxes = [(text.get_text(), text.get_window_extent().shrunk(0.95, 0.95)) for text in texts]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.similarity(BANDS),
        lambda: plots.learning_curve(CURVE),
        lambda: plots.reliability(evaluated(5)),
        lambda: plots.risk_coverage(evaluated(5)),
        lambda: plots.per_class(evaluated(60)),
        lambda: plots.confusion(evaluated(12)),
        lambda: plots.confusion(evaluated(40, rows=400)),
        lambda: plots.training_curves(
            summary.of_history([Step(n, 1 / n, 0.7, 1.2 / n, 0.6) for n in range(1, 26)]), "validation", "epoch", 20
        ),
    ],
)
def test_no_text_lies_upon_another(figure: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch):
    assert overlaps(figure(), monkeypatch) == []


def test_similarity_tells_every_band_however_few_its_pictures():
    text = drawn(plots.similarity(BANDS))
    assert "unlike\n0.50 … 0.75\n3 pictures, 0%" in text
    assert "same-object\n0.50 … 0.75\n7 pictures, 1%" in text


def test_a_part_has_one_colour_in_every_plot():
    figures, colour = evaluated(4), plots.COLOURS["test"]
    lines = [plots.reliability(figures, "test").axes[0].lines[1], plots.per_class(figures, "test").axes[0].lines[0]]
    history = summary.of_history([Step(1, 0.5, 0.5, 0.5, 0.5)])
    lines.append(plots.training_curves(history, "test", "epoch").axes[0].lines[1])
    assert {line.get_color() for line in lines} == {colour}
    assert plots.similarity(BANDS, "test").axes[0].patches[0].get_facecolor() == to_rgba(colour)


def tried(name: str, rate: float, accuracy: float, *, on_front: bool = False, worse: bool = False) -> dict[str, Any]:
    interval = [accuracy, accuracy - 0.03, accuracy + 0.02]
    told = {"candidate": name, "pictures_per_second": rate, "accuracy": interval, "pictures": 600, "classes": 9}
    return told | {"on_front": on_front, "surely_worse": worse}


def test_backbones_are_drawn_by_their_rank_and_the_front_as_steps():
    trials = [
        tried("lite2@320", 90, 0.91, on_front=True),
        tried("$a_b$", 60, 0.9),
        tried("lite0@224", 200, 0.8, on_front=True, worse=True),
    ]
    figure = plots.speed(trials)
    axis = figure.axes[0]
    assert plots.png(figure).startswith(b"\x89PNG")
    assert sorted(text.get_text() for text in axis.texts) == ["1", "2", "3"]
    assert axis.lines[-1].get_xydata().tolist() == [[90, 0.91], [200, 0.8]]
    assert "1  lite2@320" in [text.get_text() for text in axis.get_legend().get_texts()]
