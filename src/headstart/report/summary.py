"""Records → plain dicts and lists that JSON can hold, and those → sentences. Whatever shows a record starts from
here, so that the files of a run can be shown like the run itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from headstart.predictions import Evaluation, Interval
from headstart.records import Finding

if TYPE_CHECKING:  # a page is drawn from the files of a run without what trained it
    from headstart.experiments.expectation import Expectation
    from headstart.experiments.leakage import LeakageReport
    from headstart.experiments.learning_curve import LearningCurve
    from headstart.experiments.trying import Trial
    from headstart.learning.heads import Step
    from headstart.learning.rules import PredictionRules
    from headstart.workflows.train import TrainingResult

FIGURES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "log_loss": "log-loss",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "aurc": "risk, averaged over coverage (AURC)",
    "coverage": "sets that hold the true class",
    "set_size": "classes in a set, mean",
    "refused": "refused of the known classes",
}
OF_A_FINDING = 6  # pictures that are shown
MOST_NAMES = 100_000  # of a finding that are kept


def of_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure as `[value, low, high]`."""
    classes = evaluation.classes
    support = dict(zip(classes, evaluation.support.tolist(), strict=True))
    return {
        "pictures": evaluation.pictures,
        "failures": evaluation.failures,
        "interval": "95 %",
        "classes": list(classes),
        "overall": {name: _numbers(figure) for name, figure in evaluation.overall.items()},
        "per_class": {
            name: {"pictures": support[name]} | {key: _numbers(figure) for key, figure in figures.items()}
            for name, figures in evaluation.per_class.items()
        },
        "most_confused": [
            {"given": given, "predicted": predicted, "pictures": count}
            for given, predicted, count in evaluation.confused
        ],
        "confusion": [
            {"given": classes[given], "predicted": classes[predicted], "pictures": pictures}
            for given, predicted, pictures in evaluation.cells.tolist()
        ],
        "risk_coverage": [
            {"answered": round(share, 4), "wrong": round(risk, 6)} for share, risk in evaluation.risk_coverage
        ],
        "reliability": [
            {"confidence": confidence, "accuracy": accuracy, "pictures": count}
            for confidence, accuracy, count in evaluation.reliability
        ],
    }


def of_trials(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return how each backbone did, figures as `[value, low, high]`; the order stays."""
    return [
        {
            "candidate": one.candidate,
            "accuracy": _numbers(one.accuracy),
            "log_loss": _numbers(one.log_loss),
            "difference": _numbers(one.difference),
            "surely_worse": one.surely_worse,
            "on_front": one.on_front,
            **asdict(one.cost),
            "pictures": one.pictures,
            "classes": one.classes,
            "l2": one.l2,
            "same_object": one.same_object,
        }
        for one in trials
    ]


def of_evaluations(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return the figures of each part."""
    return {name: of_evaluation(evaluation) for name, evaluation in evaluations.items()}


def of_trust(result: TrainingResult) -> dict[str, Any]:
    """Return what tells how far the figures can be believed, and what the model does beyond naming a class."""
    classes = len(result.classifier.classes)
    return {
        "expected": None if result.expected is None else _of_expectation(result.expected),
        **_of_leakage(result.leakage),
        **_of_rules(result.classifier.rules, classes),
        "learning_curve": None if result.curve is None else _of_curve(result.curve),
        "changes": [asdict(change) for change in result.changes],
    }


def _of_expectation(expected: Expectation) -> dict[str, Any]:
    return {
        "accuracy": _numbers(expected.accuracy),
        "gain": _numbers(expected.gain),
        "learned_from": expected.pictures,
        "measured_heads_learned_from": expected.measured_from,
    }


def _of_leakage(leakage: LeakageReport) -> dict[str, Any]:
    drawn = leakage.random_split
    return {
        "similarity": [
            {
                "band": band.name,
                "similarity": [round(band.low, 4), round(band.high, 4)],
                "pictures": band.pictures,
                "share": round(band.share, 4),
                "accuracy": _numbers(band.accuracy),
            }
            for band in leakage.bands
        ],
        "same_object": {
            "accuracy_lost_without": None if leakage.gap is None else _numbers(leakage.gap),
            "kept_together": leakage.together,
            "split_of_the_data": leakage.given,
        },
        "random_split": None
        if drawn is None
        else {"accuracy": _numbers(drawn.accuracy), "pictures": len(drawn.measured.rows), "leaked": drawn.leaked},
    }


def _of_rules(rules: PredictionRules, classes: int) -> dict[str, Any]:
    sets, unknown = rules.sets, rules.out_of_distribution
    return {
        "calibration": str(rules.calibration),
        "sets": None
        if sets is None
        else {
            "method": sets.method,
            "level": sets.level,
            "classes": classes,
            "always_all": not any(map(math.isfinite, sets.by_class or (sets.quantile,))),
        },
        "unknown": None
        if unknown is None
        else {
            "score": unknown.score,
            "refused": unknown.refused,
            "pictures": unknown.count,
            "needed": math.floor(1 / unknown.refused),  # fewer, and the least p-value is not below the rate
            "compared": dict(unknown.compared),
        },
    }


def of_history(history: Sequence[Step]) -> list[dict[str, float | None]]:
    """Return a row for each step of a fit, to the nine digits that `history.csv` keeps; None for what is not there."""
    if not history:
        return []
    names = [field.name for field in fields(history[0])[1:]]
    return [{"step": step.number} | {name: _rounded(getattr(step, name)) for name in names} for step in history]


def _rounded(number: float) -> float | None:
    return float(f"{number:.9g}") if math.isfinite(number) else None


def _of_curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "points": [
            {
                "pictures_per_class": round(point.pictures_per_class, 2),
                "accuracy": _numbers(point.accuracy),
                "log_loss": round(point.log_loss, 6),
            }
            for point in curve.points
        ],
        "doubled": _numbers(curve.doubled),
        "gain": _numbers(curve.gain),
        "formula": {"error odds": "a + b * pictures_per_class ** -c", **dict(zip("abc", curve.formula, strict=True))},
        "most_to_gain": [gain._asdict() for gain in curve.by_class],
    }


def of_findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return each finding with its names; of very many the first, and how many are left out."""
    return [
        {
            "code": one.code,
            "severity": one.severity,
            "message": one.message,
            "names": list(one.names[:MOST_NAMES]),
            "unnamed": one.unnamed + len(one.names[MOST_NAMES:]),
            "advice": one.advice,
        }
        for one in findings
    ]


def examples(finding: Finding, places: Mapping[str, int]) -> list[int]:
    """Return the places of the first pictures that a finding names; of `a = b` and `a (label) = b (label)` each."""
    rows: list[int] = []
    for name in finding.names[:OF_A_FINDING]:
        parts = [name] if name in places else name.split(" = ")
        known = [part if part in places else part.rpartition(" (")[0] for part in parts]
        rows += [places[part] for part in known if part in places]
    return rows[:OF_A_FINDING]


def _numbers(interval: Interval) -> list[float | None]:
    return [round(number, 6) if math.isfinite(number) else None for number in interval]


def trust_lines(trust: Mapping[str, Any]) -> list[str]:
    """Return what `of_trust` gave as sentences."""
    lines: list[str] = []
    if trust.get("expected") is not None:  # a run of an older Headstart has none
        lines.append(expected_line(trust["expected"]))
    if trust["similarity"]:
        told = [f"{band['band']} {band['share']:.0%}: {interval(band['accuracy'])}" for band in trust["similarity"]]
        measured = split_of_bands(trust)
        of = f"pictures that a {measured} measures" if measured else "measured pictures"
        lines.append(f"Accuracy by how alike the nearest learned picture is (share of the {of}): " + "; ".join(told))
    gap = trust["same_object"]["accuracy_lost_without"]
    if gap is not None:
        kept = "kept on one side" if trust["same_object"]["kept_together"] else "not kept on one side"
        kept += " within the training part" if trust["same_object"]["split_of_the_data"] else ""
        lines.append(
            f"Accuracy that same-object pictures among the learned pictures add: {interval(gap)}; they were {kept}"
        )
    drawn = trust.get("random_split")  # a run of an older Headstart has it under another name
    if drawn is not None:
        lines.append(
            "A random split, which parts near-duplicates, same-object pictures and groups, would have reported an "
            f"accuracy of {interval(drawn['accuracy'])}, with {drawn['leaked']:,} of its "
            f"{drawn['pictures']:,} measured pictures having one among the learned"
        )
    if trust["sets"] is not None:
        lines.append(sets_line(trust["sets"]))
    if trust["unknown"] is not None:
        lines.append(unknown_line(trust["unknown"]))
    if trust["learning_curve"] is not None:
        curve = trust["learning_curve"]
        value, low, high = (100 * number for number in curve["gain"])
        lines.append(
            f"Twice as many pictures would bring about {value:+.1f} points of accuracy [{low:+.1f}, {high:+.1f}]"
        )
        if curve["most_to_gain"]:
            names = [f"{gain['name']} ({gain['pictures']})" for gain in curve["most_to_gain"][:5]]
            lines.append("Most left to gain (pictures now): " + ", ".join(names))
    return lines


def expected_line(expected: Mapping[str, Any]) -> str:
    """Return what `of_trust` gave of the saved model as a sentence."""
    value, low, high = (100 * number for number in expected["gain"])
    return (
        f"The saved model learned from {expected['learned_from']:,} pictures, those measured from "
        f"{expected['measured_heads_learned_from']:,}; what to expect of it, estimated, not measured: accuracy "
        f"{interval(expected['accuracy'])}, {value:+.1f} points [{low:+.1f}, {high:+.1f}]"
    )


def split_of_bands(trust: Mapping[str, Any]) -> str:
    """Return "random split" where that is what the bands of similarity were measured by; empty: by the split itself.

    A split that keeps same-object pictures together has hardly any that are alike.
    """
    apart = trust["same_object"]["kept_together"] and trust.get("random_split") is not None
    return "random split" if apart else ""


def sets_line(rule: Mapping[str, Any]) -> str:
    """Return what `of_trust` gave of the sets as a sentence."""
    if rule.get("always_all"):
        return (
            f"Sets list all {rule['classes']} classes: there are too few held-out pictures to promise "
            f"{rule['level']:.0%} with less"
        )
    return f"Sets ({rule['method']}) are made to hold the true class of {rule['level']:.0%} of pictures"


def refuses(rule: Mapping[str, Any]) -> bool:
    """Return whether the rule for "none of these" can refuse anything; with too few pictures no p-value is so small."""
    return bool(rule.get("pictures", math.inf) >= rule.get("needed", 0))


def unknown_line(rule: Mapping[str, Any]) -> str:
    """Return what `of_trust` gave of the rule for "none of these" as a sentence."""
    if refuses(rule):
        return f"None of these: by {rule['score']}, made to refuse {rule['refused']:.0%} of pictures of its own classes"
    return (
        f"None of these: nothing is refused; to refuse {rule['refused']:.0%} takes {rule['needed']} held-out pictures, "
        f"and there are {rule['pictures']}"
    )


def interval(figures: Sequence[float | None]) -> str:
    """Return e.g. `0.854 [0.838, 0.870]`."""
    value, low, high = (math.nan if figure is None else figure for figure in figures)
    return str(Interval(value, low, high))


def reported(evaluations: Mapping[str, Any]) -> str:
    """Return the part whose figures are reported: the data's own test part where it brings one."""
    return "test" if "test" in evaluations else "validation"


def answer(figures: Mapping[str, Any]) -> str:
    """Return what `of_evaluation` gave as one sentence: how good, how surely so, and where it is least sure.

    >>> answer({"overall": {"accuracy": [0.8643, 0.8312, 0.8794]}, "confusion": [], "most_confused": [
    ...     {"given": "shirt", "predicted": "t-shirt", "pictures": 3}]})
    'Right on 86 of 100 new pictures, between 83 and 88; least sure about shirt and t-shirt'
    """
    accuracy = figures["overall"].get("accuracy")
    if accuracy is None or None in accuracy:
        return "No picture could be measured"
    value, low, high = (100 * number for number in accuracy)
    right = round(value) if value in (0, 100) else min(max(round(value), 1), 99)
    bounds = f"between {math.floor(low + 1e-9)} and {math.ceil(high - 1e-9)}"
    pair = _least_sure(figures)
    doubt = f"; least sure about {pair[0]} and {pair[1]}" if pair else ""
    return f"Right on {right} of 100 new pictures, {bounds}{doubt}"


def _least_sure(figures: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the two classes that are taken for each other most often, in either direction."""
    counts: dict[tuple[str, str], int] = {}
    for cell in figures["confusion"] or figures["most_confused"]:
        if cell["given"] != cell["predicted"]:
            one, other = sorted((cell["given"], cell["predicted"]))
            counts[one, other] = counts.get((one, other), 0) + cell["pictures"]
    return max(counts, key=lambda pair: (counts[pair], pair)) if counts else None


def percent(figure: float | None, digits: int = 0) -> str:
    """Return e.g. `88 %`; a dash for what does not exist."""
    return "–" if figure is None else f"{100 * figure:.{digits}f} %"


def minutes(seconds: float) -> str:
    """Return e.g. `45 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), 2)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"
