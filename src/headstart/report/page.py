"""The files of a run → one HTML page that answers how good the model is, where it fails and what to mind; those of
several → one that says what differs.

It needs no other file, asks nothing of any network, and stays small however many classes and pictures there are. Names
of classes and files are shown, never run: everything is escaped, and the browser is told to run this script only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from headstart.errors import ArtifactError
from headstart.report import plots, redraw, runs, story, summary, vector

NAME = "report.html"
MOST_CLASSES = 500  # rows of the table
MOST_FINDINGS, MOST_NAMES = 50, 6
MOST_CHANGED, FEWEST_CHANGED = 200, 12  # pictures that changed sides, of each side: in all comparisons, in each
LONGEST = 300  # letters of a name
TEMPLATES = Path(__file__).parent / "templates"


def render(told: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        told: From `stored.read_run`.

    Raises:
        ArtifactError: Its files do not go together.
    """
    run = story.of_run(told)
    figures = told["evaluations"][run["part"]]
    return filled(
        "page.html",
        **run,
        figures=figures,
        trust=told["trust"],
        charts=_charts(told, run["part"]),
        classes=_classes(figures),
        number_of_classes=len(figures["per_class"]),
        findings=_findings(told),
        speed=(told["journal"] or {}).get("speed"),
        compared=sum(band["pictures"] for band in told["trust"]["similarity"] or ()),
        **_album(told),
    )


def render_comparison(told: Mapping[str, Any], thumbnails: Mapping[str, str]) -> str:
    """Return the page of several runs.

    Args:
        told: From `runs.of_runs`.
        thumbnails: From `runs.thumbnails`.
    """
    pairs = [
        {
            **pair,
            "sentence": runs.sentence(pair),
            "moved": [one for one in pair["changes"] if one["won"] or one["lost"]][: MOST_CLASSES + 1],
            "sides": [[one for one in pair["changed"] if one["won"] == won] for won in (False, True)],
        }
        for pair in told["comparisons"]
    ]
    answer, _, chance = runs.headline(told).partition(". ")
    return filled(
        "compare.html",
        answer=answer,
        chance=chance,
        pairs=pairs,
        runs=told["runs"],
        pictures=told["pictures"],
        rows=runs.rows(told),
        remarks=runs.remarks(told),
        thumbnails=thumbnails,
        most=max(FEWEST_CHANGED, MOST_CHANGED // len(pairs)),
    )


def filled(template: str, **values: Any) -> str:
    """Return what a template makes of values, which it escapes; style and script are those that all pages share."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "name": _name, "minutes": summary.minutes, "code": _code}
    environment.filters["broken"] = _broken
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **values,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own files
        script=Markup(script),  # noqa: S704
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _name(text: str) -> str:
    """Return a name as a page can show it: not endless, and with nothing that turns the rest of its line around."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"


def _percent(share: float | None, digits: int = 0) -> str:
    """Return e.g. `97 %`, which no line breaks."""
    return summary.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def _broken(text: str) -> Markup:
    """Return a name that narrow columns break where its words end, also those that it joins by `_` or `/`."""
    return Markup(re.sub(r"([_/])(?=\w)", r"\1<wbr>", str(escape(text))))  # noqa: S704  # escaped here


def _code(text: str) -> Markup:
    """Return a sentence in which what stands between backticks is set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped here


def _charts(told: Mapping[str, Any], part: str) -> dict[str, Markup]:
    """Return the charts that there is something to draw for."""
    drawings = redraw.of_run(told)
    names = {"reliability", "risk_coverage", "similarity", "learning_curve", "training"}
    if len(told["model"]["classes"]) <= plots.MOST_CLASSES:
        names.add("confusion")  # of more classes the pairs, with their pictures, say it
    if not told["trust"]["similarity"]:
        names.discard("similarity")
    if told["history"]:
        drawings["training"] = partial(drawings["training"], stacked=True)  # type: ignore[call-arg]
    else:
        names.discard("training")
    drawn = {name: drawings[name] for name in sorted(names & drawings.keys())}
    return {name: Markup(vector.inline(draw(), name)) for name, draw in drawn.items()}  # noqa: S704  # by matplotlib


def _classes(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table, the classes that are found least first."""
    taken: dict[str, tuple[int, str]] = {}
    for cell in figures["confusion"]:
        if cell["given"] != cell["predicted"]:
            taken[cell["given"]] = max(taken.get(cell["given"], (0, "")), (cell["pictures"], cell["predicted"]))
    return [
        {"name": name, **row, "taken": taken.get(name)}
        for name, row in story.ranked(figures["per_class"])[:MOST_CLASSES]
    ]


def _findings(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was found in the data, the gravest first, with pictures where it names some."""
    picture, album = _pictures(told), told["album"]
    order = {"error": 0, "warning": 1, "note": 2}
    examples: Sequence[Sequence[int]] = album["findings"] if album else []
    rows = [
        {**one, "names": one["names"][:MOST_NAMES], "more": len(one["names"][MOST_NAMES:]) + one.get("unnamed", 0)}
        | {"pictures": [picture(place) for place in examples[number]] if number < len(examples) else []}
        for number, one in enumerate(told["findings"][:MOST_FINDINGS])
    ]
    return sorted(rows, key=lambda row: order.get(row["severity"], 3))


def _pictures(told: Mapping[str, Any]) -> Callable[[int], Mapping[str, str]]:
    """Return what gives a picture of the album by its place.

    Raises:
        ArtifactError: There is none at that place; raised by what is returned.
    """
    kept: Sequence[Mapping[str, str]] = told["album"]["pictures"] if told["album"] else []

    def picture(place: int) -> Mapping[str, str]:
        if place >= len(kept):
            raise ArtifactError(f"album.json is damaged: it shows picture {place} and holds {len(kept)}.")
        return kept[place]

    return picture


def _album(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the album shows, each picture in its place."""
    album, picture = told["album"], _pictures(told)
    if album is None:
        return {"errors": None, "mistakes": [], "pairs": [], "doubtful": 0, "suspects": [], "filters": []}
    mistakes = [
        one
        | {
            "picture": picture(one["picture"]),
            "nearest": [(picture(place), alike) for place, alike in one["nearest"]],
            "heat_map": picture(one["heat_map"]) if "heat_map" in one else None,
        }
        for one in album["mistakes"]
    ]
    filters = sorted({label for one in mistakes for label in (one["picture"]["label"], one["top"][0][0])})
    pairs = [
        pair | {"pictures": [[picture(place) for place in side] for side in pair["pictures"]]}
        for pair in album["pairs"]
    ]
    suspects = [one | {"picture": picture(one["picture"])} for one in album["suspects"]]
    return {
        "errors": album["errors"],
        "mistakes": mistakes,
        "pairs": pairs,
        "doubtful": album["doubtful"],
        "suspects": suspects,
        "filters": {label: number for number, label in enumerate(filters)},
    }
