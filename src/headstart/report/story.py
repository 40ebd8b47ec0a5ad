"""The files of a run → what is said of it, in plain words and plain values: whatever shows a run says this, a page as
well as a card.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from headstart.report import summary


def of_run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what page and card say of a run: the answer, what to mind, facts, use, limits, origin.

    Args:
        told: From `stored.read_run`.
    """
    model, trust, part = told["model"], told["trust"], summary.reported(told["evaluations"])
    figures, training, journal = told["evaluations"][part], model["training"], told["journal"] or {}
    backbone = " + ".join(f"{one['name']} at {one['preprocess']['size']} px" for one in _networks(model))
    tuned = (training.get("finetune") or {}).get("kept", False)
    views = model.get("views", ["original"])
    turns = part == "validation" and not model["data"]["parts"].get("validation", 0)
    return {
        "title": f"An image classifier of {len(model['classes'])} classes",
        "answer": summary.answer(figures),
        "part": part,
        "in_turn": turns,
        "cautions": _cautions(told, figures),
        "believed": summary.trust_lines(trust),
        "created": model["created"],
        "when": _when(model["created"]),
        "version": model["versions"]["headstart"],
        "seconds": journal.get("seconds"),
        "backbone": f"{backbone} ({_networks(model)[0]['preprocess']['resize']})"
        + (f", features: the mean of {' and '.join(views)}" if len(views) > 1 else ""),
        "network": "one trained with the head, beside the frozen" if tuned else "frozen",
        "head": training["head"],
        "calibration": trust.get("calibration", "temperature"),
        "fitted_on": training["fitted_on"],
        "figures_of": training["figures_of"],
        "beyond": _beyond(told["evaluations"], trust),
        "use": _use(model, figures, turns),
        "limits": _limits(figures, trust),
        "weights": [
            {"name": one["name"], "digest": one["digest"], "licence": _licence(one["name"], journal)}
            for one in _networks(model)
        ],
        "data": model["data"] | {"source": journal.get("source", "")},
        "command": journal.get("command") or "headstart train DATA --config plan.toml",
    }


def _when(created: str) -> str:
    """Return e.g. `24 November 2026, 21:20 UTC`."""
    try:
        return datetime.datetime.fromisoformat(created).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    except ValueError:
        return created


def _networks(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    return model.get("networks") or [model["backbone"] | {"preprocess": model["preprocess"]}]


def _licence(name: str, journal: Mapping[str, Any]) -> str:
    known: str | None = journal.get("licences", {}).get(name)
    return known or f"not known here; timm's card of {name} on the Hugging Face hub says it"


def _cautions(told: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """Return what decides whether the answer holds for somebody's own pictures, in plain words."""
    accuracy = figures["overall"].get("accuracy") or [None] * 3
    lines = [
        f"{finding['message']}. {finding['advice']}"
        for finding in told["findings"]
        if finding["code"] == "pre-training-overlap"
    ]
    bands = told["trust"]["similarity"]
    if len(bands) > 1 and None not in (bands[0]["accuracy"][2], accuracy[1]) and bands[0]["accuracy"][2] < accuracy[1]:
        right, share = summary.percent(bands[0]["accuracy"][0]), summary.percent(bands[0]["share"])
        lines.append(
            f"Pictures unlike any it has learned from are harder: right on {right} of the {share} most unlike."
        )
    if (album := told["album"]) and album["doubtful"]:
        lines.append(
            f"About {album['doubtful']:,} of the {figures['pictures']:,} measured labels are probably wrong, or could "
            "be argued about; some “errors” are the label's."
        )
    if weakest := ranked(figures["per_class"])[:1]:
        name, row = weakest[0]
        if None not in row["recall"] and row["recall"][2] < (accuracy[1] or 0):
            lines.append(f"Weakest class: {name}, {summary.percent(row['recall'][0])} of {row['pictures']:,} found.")
    return lines


def ranked(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the classes with their figures, the least found first."""

    def key(item: tuple[str, Mapping[str, Any]]) -> tuple[float, str]:
        recall = item[1]["recall"][0]
        return (math.inf if recall is None else recall, item[0])

    return sorted(per_class.items(), key=key)


def _use(model: Mapping[str, Any], figures: Mapping[str, Any], turns: bool) -> str:
    classes = list(model["classes"])
    named = ", ".join(classes[:8]) + (f" and {len(classes) - 8:,} more" if len(classes) > 8 else "")
    turn = ", each in its turn" if turns else ""
    return (
        f"Telling which of {len(classes):,} classes a photograph shows ({named}), for pictures like the "
        f"{model['data']['pictures']:,} that it was made from, of which {figures['pictures']:,} measured it{turn}."
    )


def _limits(figures: Mapping[str, Any], trust: Mapping[str, Any]) -> list[str]:
    few = sum(row["pictures"] < 10 for row in figures["per_class"].values())
    return [
        "The figures hold for pictures taken like these; another camera, place or season may be harder.",
        "One answer for each picture: it says nothing of several things in one, nor of where they are.",
        *([f"{few:,} classes were measured on fewer than 10 pictures; their figures are rough."] if few else []),
        *([] if trust["unknown"] else ["It never says “none of these”."]),
        "Not made for decisions about people, nor where a wrong answer does harm that nobody would notice.",
    ]


def _beyond(evaluations: Mapping[str, Any], trust: Mapping[str, Any]) -> str:
    """Return what the model says of pictures that are of none of its classes."""
    rule = trust["unknown"]
    if rule is None:
        return "It answers with one of its classes whatever it is shown, also a picture of something else."
    if not summary.refuses(rule):
        return f"{summary.unknown_line(rule)}. It answers with one of its classes whatever it is shown."
    measured = [
        f"{part} {figures['overall']['refused'][0]:.1%}"
        for part, figures in evaluations.items()
        if (figures["overall"].get("refused") or [None])[0] is not None
    ]
    found = f" (measured: {', '.join(measured)})" if measured else ""
    return (
        "With `--format table` or `--json` each answer says whether the picture is `known`: like those learned from. "
        f"It is made to refuse {rule['refused']:.0%} of pictures of its own classes wrongly{found}; what else is "
        "refused depends on how unlike them it is. The label is then the best of wrong answers."
    )
