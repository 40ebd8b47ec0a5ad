"""The files of several runs → what differs between them, in plain values: figures, settings, and on the pictures that
all of them measured who is right, tested in pairs, and which of them changed sides.

A picture is known by its bytes, so that neither another name nor another folder matters. No picture is read, and no
model loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError
from headstart.evaluation import comparison
from headstart.evaluation.comparison import SIGNIFICANT, Change
from headstart.records import counted, listing
from headstart.report import stored, summary
from headstart.schema import SECTION, TEXT, Check, number, record, require
from headstart.workflows.resume import PreviousRun

Hits = NDArray[np.bool_]

_FIGURES = ("accuracy", "log_loss", "macro_f1", "ece")


_COUNT = number(0, 1e12, whole=True)
_MODEL: Check = record(
    {
        "created": TEXT,
        "versions": record({"headstart": TEXT}, extra=True),
        "data": record({"pictures": _COUNT, "classes": _COUNT}, extra=True),
        "plan": SECTION,
    },
    extra=True,
)


class Run(NamedTuple):
    """A run as its files tell it.

    Attributes:
        name: Its folder, as it was called.
        told: From `stored.read_run`.
        left: Which picture was in which part, under which label, and what was said of it.
    """

    name: str
    told: Mapping[str, Any]
    left: PreviousRun

    @property
    def measured(self) -> set[str]:
        """The digests of the pictures that it has an answer to, and had not learned from."""
        return {digest for digest, answer in self.left.answers.items() if answer}


def read(directory: Path) -> Run:
    """Return a run.

    Raises:
        ArtifactError: The folder is no run, or one of its files is damaged.
    """
    left = stored.read_previous(directory, "compared")
    told = stored.read_run(directory)
    require(directory / stored.MODEL, _MODEL(told["model"], ""))
    return Run(str(directory), told, left)


def of_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the runs side by side, and each but the first compared with the first.

    Labels are those of the last run. Of a picture that a run measured several times its last answer counts, and each
    picture has one vote in the test: which ones show the same thing, no run keeps.

    Raises:
        ConfigError: They are fewer than two, have no class in common, or measured no picture in common.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run was named; two or more can be compared.", "headstart compare RUN RUN")
    measured = [run.measured for run in runs]
    known = _shared_classes(runs)
    labels = runs[-1].left.labels
    both = set.intersection(*measured)
    shared = sorted((digest for digest in both if labels[digest] in known), key=runs[-1].left.names.__getitem__)
    if not shared:
        raise ConfigError(
            f"No picture was measured by all of these runs: {_each(runs, [len(one) for one in measured])}.",
            "Pictures are known by their bytes. `headstart train DATA --from RUN` measures those that RUN measured.",
        )
    right = [np.array([run.left.answers[digest] == labels[digest] for digest in shared]) for run in runs]
    relabelled = sum(len({run.left.labels[digest] for run in runs}) > 1 for digest in shared)
    return {
        "pictures": len(shared),
        "runs": [
            _of_run(run) | {"right": int(hits.sum()), "left_out": len(run.measured) - len(shared)}
            for run, hits in zip(runs, right, strict=True)
        ],
        "of_other_classes": len(both) - len(shared),
        "labels_that_differ": relabelled,
        "settings": _differing(runs),
        "comparisons": _corrected([_pair(runs, right, shared, place) for place in range(1, len(runs))]),
    }


def _shared_classes(runs: Sequence[Run]) -> set[str]:
    known = set.intersection(*(set(run.left.classes) for run in runs))
    if not known:
        told = "; ".join(f"{run.name}: {listing(run.left.classes)}" for run in runs)
        raise ConfigError(
            f"These runs have no class in common. {told}.", "Runs on the same pictures and labels can be compared."
        )
    return known


def _each(runs: Sequence[Run], numbers: Sequence[int]) -> str:
    return ", ".join(f"{run.name} {number:,}" for run, number in zip(runs, numbers, strict=True))


def _of_run(run: Run) -> dict[str, Any]:
    model, journal = run.told["model"], run.told["journal"] or {}
    figures = run.told["evaluations"][summary.reported(run.told["evaluations"])]
    speed = journal.get("speed") or {}
    return {
        "run": run.name,
        "created": model["created"],
        "headstart": model["versions"]["headstart"],
        "data": {name: model["data"].get(name) for name in ("pictures", "classes", "digest")},
        "measured": figures["pictures"],
        "figures": {name: figures["overall"][name] for name in _FIGURES if name in figures["overall"]},
        "seconds": journal.get("seconds"),
        "pictures_per_second": speed.get("pictures_per_second"),
        "megabytes": speed.get("megabytes"),
    }


def _differing(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the settings that are not the same in all runs; None where a run has no such setting."""
    plans = [_flat(run.told["model"]["plan"]) for run in runs]
    names = dict.fromkeys(name for plan in plans for name in plan)
    rows = [{"name": name, "values": [plan.get(name) for plan in plans]} for name in names]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plan.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _pair(runs: Sequence[Run], right: Sequence[Hits], shared: Sequence[str], place: int) -> dict[str, Any]:
    """Compare a run with the first."""
    labels, names = runs[-1].left.labels, runs[-1].left.names
    before, after = runs[0].left.answers, runs[place].left.answers
    changed = np.flatnonzero(right[0] != right[place]).tolist()
    return {
        "before": 1,
        "after": place + 1,
        "changes": comparison.compare(right[0], right[place], [labels[digest] for digest in shared]),
        "changed": [
            {
                "picture": names[shared[row]],
                "label": labels[shared[row]],
                "before": before[shared[row]],
                "after": after[shared[row]],
                "won": bool(right[place][row]),
                "sha256": shared[row],
            }
            for row in sorted(changed, key=lambda row: (labels[shared[row]], row))
        ],
    }


def _corrected(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparisons as plain values, each overall test corrected for there being several runs."""
    totals: list[Change] = [pair["changes"][0] for pair in pairs]
    adjusted = comparison.holm([change.p_value for change in totals])
    return [
        pair | {"changes": [asdict(change) for change in (replace(total, adjusted=p), *pair["changes"][1:])]}
        for pair, total, p in zip(pairs, totals, adjusted, strict=True)
    ]


def sentence(pair: Mapping[str, Any]) -> str:
    """Return what a comparison of `of_runs` found, in words.

    >>> every = {"pictures": 118, "before": 110 / 118, "after": 112 / 118, "lost": 3, "won": 5}
    >>> every |= {"p_value": 0.727, "adjusted": 0.727}
    >>> sentence({"before": 1, "after": 2, "changes": [every]})  # doctest: +NORMALIZE_WHITESPACE
    'Run 2 is right on 112 and run 1 on 110 of the same 118 pictures: 5 won, 3 lost. By chance alone so uneven a count
    comes in 73 of 100 cases, so neither is surely better.'
    """
    every = pair["changes"][0]
    before, after = (round(every[name] * every["pictures"]) for name in ("before", "after"))
    told = (
        f"Run {pair['after']} is right on {after:,} and run {pair['before']} on {before:,} of the same "
        f"{every['pictures']:,} pictures: {every['won']:,} won, {every['lost']:,} lost"
    )
    if not every["won"] and not every["lost"]:
        return f"{told}. No picture changed sides."
    corrected = ", corrected for comparing several runs" if every["adjusted"] > every["p_value"] else ""
    if every["adjusted"] < SIGNIFICANT:
        return f"{told}. That is more than chance explains (p = {every['adjusted']:.2g}{corrected})."
    cases = f"{100 * every['adjusted']:.0f} of 100 cases{corrected}"
    return f"{told}. By chance alone so uneven a count comes in {cases}, so neither is surely better."


def headline(told: Mapping[str, Any]) -> str:
    """Return what a page of `of_runs` begins with: of two runs the comparison, of several how many each gets right."""
    if len(told["comparisons"]) == 1:
        return sentence(told["comparisons"][0])
    right = ", ".join(f"run {number} on {run['right']:,}" for number, run in enumerate(told["runs"], start=1))
    return f"Right, of the same {told['pictures']:,} pictures: {right}. Each is compared with run 1 below."


def remarks(told: Mapping[str, Any]) -> list[str]:
    """Return which pictures are in no comparison, and by which labels the others are judged."""
    left = [
        f"run {number} measured {run['left_out']:,} more"
        for number, run in enumerate(told["runs"], start=1)
        if run["left_out"]
    ]
    lines = [f"Compared on the {told['pictures']:,} pictures that all of them measured{'; ' if left else ''}"]
    lines[0] += ", ".join(left) + (", which are left out" if left else "")
    if told["of_other_classes"]:
        lines.append(
            f"{told['of_other_classes']:,} pictures are of classes that not all of them know, and are left out"
        )
    if told["labels_that_differ"]:
        lines.append(f"{told['labels_that_differ']:,} labels differ between them; those of the last run count")
    return lines


def rows(told: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the table of the runs, a column for each: what they are, their figures, the settings that differ."""
    runs = told["runs"]
    figures = {summary.FIGURES[name]: [_interval(run["figures"].get(name)) for run in runs] for name in _FIGURES}
    table = {
        "folder": [run["run"] for run in runs],
        f"right, of the same {told['pictures']:,}": [
            f"{run['right']:,} ({summary.percent(run['right'] / told['pictures'], 1)})" for run in runs
        ],
        "of all that it measured": [f"{run['measured']:,}" for run in runs],
        **figures,
        "trained on": [counted(run["data"]["pictures"], run["data"]["classes"]) for run in runs],
        "trained in": ["–" if run["seconds"] is None else summary.minutes(run["seconds"]) for run in runs],
        "pictures a second": [_plain(run["pictures_per_second"]) for run in runs],
        "weights, MB": [_plain(run["megabytes"]) for run in runs],
        "made": [f"{run['created'][:16].replace('T', ' ')} UTC" for run in runs],
        "Headstart": [run["headstart"] for run in runs],
    } | {row["name"]: [_plain(value) for value in row["values"]] for row in told["settings"]}
    return [(name, cells) for name, cells in table.items() if set(cells) != {"–"}]


def _interval(figure: Sequence[float | None] | None) -> str:
    return "–" if figure is None else summary.interval(figure)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else str(value)


def thumbnails(runs: Sequence[Run]) -> dict[str, str]:
    """Return the small pictures that the runs keep, by digest, as WebP in base64."""
    found: dict[str, str] = {}
    for run in runs:
        digests = {name: digest for digest, name in run.left.names.items()}
        kept = run.told["album"]["pictures"] if run.told["album"] else []
        found |= {digests[one["name"]]: one["webp"] for one in kept if one["name"] in digests}
    return found
