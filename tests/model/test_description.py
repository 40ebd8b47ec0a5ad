"""`model.json` with any value changed: an error that names it, or the same classifier; no NaN, no traceback."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import ArtifactError
from headstart.learning.heads import Shape
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.model import description, formats
from headstart.model.description import Description

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
FORMATS = ["v1", "v2", "v3", "v4"]
SEALED = ["v3", "v4"]  # older formats have no digest of themselves
TOLD_ONLY = {"created", "versions", "data", "training", "engine", "plan", "encoder"}  # decide no answer
HOSTILE = [
    None,
    True,
    "",
    "x",
    "hf-hub:a/b",
    [],
    {},
    -1,
    0,
    1e-320,
    1e300,
    10**400,
    math.nan,
    [math.nan],
    [[]],
    {"": 0},
]


def content_of(name: str) -> dict[str, Any]:
    return json.loads((ARTIFACTS / name / "model.json").read_text(encoding="utf-8"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every section and leaf; of a long list the first and the last."""
    if path:
        yield path
    if isinstance(value, dict) and not (path and path[0] in TOLD_ONLY - {"encoder"}):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list) and value:
        for row in {0, len(value) - 1}:
            yield from places(value[row], (*path, row))


def mutants(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content with one thing removed, replaced, or added."""
    for path in places(content):
        for hostile in ["removed", "extra", *HOSTILE]:
            changed = copy.deepcopy(content)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if hostile == "removed":
                del inner[path[-1]]
            elif hostile == "extra":
                if not isinstance(inner[path[-1]], dict):
                    continue
                inner[path[-1]]["smuggled"] = 1
            else:
                inner[path[-1]] = hostile
            yield f"{'.'.join(map(str, path))} = {hostile!r:.30}", changed


def decided(described: Description) -> tuple[Any, ...]:
    return tuple(getattr(described, name) for name in Description.__slots__ if name not in ("provenance", "encoder"))


@pytest.mark.parametrize("name", FORMATS)
def test_no_changed_value_changes_an_answer_or_ends_in_a_traceback(name: str):
    content = content_of(name)
    before = description.parse(content, ARTIFACTS / name)
    refused = 0
    for told, changed in mutants(content):
        try:
            after = description.parse(changed, ARTIFACTS / name)
        except ArtifactError:
            refused += 1
            continue
        if name in SEALED and changed.get("format") == content["format"]:
            assert decided(after) == decided(before), told
        Shape.from_description(after.head, len(after.classes))
        check_rules(after, told)
    assert refused > 500


def check_rules(described: Description, told: str) -> None:
    """What is made of finite logits is finite."""
    rules = described.rules_of({})
    logits = np.random.default_rng(0).normal(size=(3, len(described.classes))).astype(np.float32)
    probabilities = rules.calibration.probabilities(logits)
    assert np.isfinite(probabilities).all(), told
    if rules.sets is not None:
        assert rules.sets.sets(probabilities).any(axis=1).all(), told
    if (rule := rules.out_of_distribution) is not None:
        energy = OutOfDistributionRule("energy", rule.refused, rule.own, rule.count)
        assert np.isfinite(energy.p_value(logits, logits)).all(), told


@pytest.mark.parametrize("name", SEALED)
def test_what_is_sealed_again_must_still_be_sound(name: str):
    content = content_of(name)
    for told, changed in mutants(content):
        if changed.get("digest") != content["digest"]:
            continue
        changed["digest"] = formats.seal(changed)
        try:
            check_rules(description.parse(changed, ARTIFACTS / name), told)
        except ArtifactError:
            continue


def test_what_belongs_to_several_networks_must_go_together():
    content = content_of("v4")
    content["networks"][1]["preprocess"]["background"] = [0, 0, 0]
    content["networks"][1]["file"] = "backbone.safetensors"
    with pytest.raises(ArtifactError, match=r"(?s)networks\[1\]\.file is .*one preprocess.background for all"):
        description.parse(content, ARTIFACTS / "v4")


def test_all_problems_are_told_at_once():
    content = content_of("v4")
    content["rules"]["calibration"]["temperature"] = 1e-320
    content["networks"][0]["preprocess"]["background"] = [0, 0, 999]
    content["kind"] = "x"
    with pytest.raises(ArtifactError) as refused:
        description.parse(content, ARTIFACTS / "v4")
    for place in (
        "rules.calibration.temperature is 1e-320",
        "networks[0].preprocess.background[2] is 999",
        "kind is 'x'",
    ):
        assert place in refused.value.message
    assert "model.json" in refused.value.message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path, value: str):
    text = json.dumps(content_of("v4")).replace('"crop": 0.95', f'"crop": {value}')
    (tmp_path / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no number of JSON"):
        description.read(tmp_path)
