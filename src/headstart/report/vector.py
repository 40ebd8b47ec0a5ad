"""A figure of `plots` → SVG that stands in a page beside others."""

from __future__ import annotations

import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from headstart.report.plots import COLOURS


def inline(figure: Figure, name: str) -> str:
    """Return a figure as SVG that stands in a page: sharp, its text searchable, its colours those of the page.

    Black is the colour of the page's text, each colour of `COLOURS` the variable of its name, so that a dark page has
    others. Every id begins with the name, as several figures share a page. Nothing in it points elsewhere.
    """
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", transparent=True)
    text = drawn.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", text, count=5)
    text = re.sub(r'((?: id="|href="#|url\(#))', rf"\1{name}-", text)
    for colour, variable in {"#000000": "text", "#b0b0b0": "grid", **{v: k for k, v in COLOURS.items()}}.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
