"""Formats of `model.json`: their number, the files that go with it, and how an older one becomes the one of today.

Rule for `FORMAT`: raise it by one whenever an older Headstart would misread a new file, and add a step to `_UPGRADES`
that turns the old `model.json` into the new one. A model of every format is kept in `tests/artifacts`, with what it
answered, and loads forever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 5
MODEL, HEAD = "model.json", "head.safetensors"
BACKBONES = ("backbone.safetensors", *(f"backbone.{number}.safetensors" for number in range(2, 9)))  # of each network
GRAPHS = tuple(one.replace("backbone", "graph") for one in BACKBONES)  # of each network, as OpenVINO runs it
QUANTIZED = tuple(one.replace("backbone", "quantized") for one in BACKBONES)  # of each network, where it ran in int8
OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"  # only where the rule for "none of these" needs arrays
NOVELTY = "novelty.safetensors"  # its name in format 2

_SEALED = ("networks", "views", "classes", "head", "rules", "files")  # what decides an answer
_SEALED_ONCE = {3: ("backbone", "preprocess", "classes", "head", "rules", "files")}


def seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides an answer."""
    deciding = json.dumps({name: content.get(name) for name in _sealed(content.get("format"))}, sort_keys=True)
    return hashlib.sha256(deciding.encode()).hexdigest()


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a `model.json` as today's format has it.

    Args:
        content: Of a format that was; else whatever it may be, for what comes of it is checked.
    """
    for number in range(content["format"], FORMAT):
        content = _UPGRADES[number](content)
    return content


def _sealed(number: Any) -> tuple[str, ...]:
    return _SEALED_ONCE.get(number, _SEALED) if isinstance(number, int) else _SEALED


def _add_judgement(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had a temperature, and neither sets nor a rule for "none of these"; at first, no arguments either."""
    calibration = {"factors": None, "offsets": None} | {k: v for k, v in content.items() if k == "temperature"}
    backbone = content.get("backbone")
    backbone = {"arguments": {}, **backbone} if isinstance(backbone, dict) else backbone
    return content | {
        "backbone": backbone,
        "judgement": {"calibration": calibration, "sets": None, "novelty": None},
    }


def _rename_rules(content: dict[str, Any]) -> dict[str, Any]:
    """Format 2 called the prediction rules a judgement, the rule for "none of these" novelty, and had no digest."""
    plain = {name: value for name, value in content.items() if name not in ("judgement", "digest")}
    rules = content.get("judgement")
    if isinstance(rules, dict):
        rules = {"out_of_distribution" if name == "novelty" else name: value for name, value in rules.items()}
        if isinstance(rule := rules.get("out_of_distribution"), dict):
            rules["out_of_distribution"] = rule | {"file": NOVELTY if rule.get("arrays") else None}
    return plain | {"rules": rules}


def _list_networks(content: dict[str, Any]) -> dict[str, Any]:
    """Format 3 had one network, called the backbone, with its preprocessing apart, and one view."""
    plain = {name: value for name, value in content.items() if name not in ("backbone", "preprocess")}
    network = content.get("backbone")
    if isinstance(network, dict):
        given = {"preprocess": content["preprocess"]} if "preprocess" in content else {}
        network = network | given | {"file": BACKBONES[0]}
    return plain | {"networks": [network], "views": ["original"]}


def _same(content: dict[str, Any]) -> dict[str, Any]:
    """Format 4 had no graphs, which may be missing."""
    return content


# format n → what makes n + 1 of it, of whatever content: the schema has the last word
_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _add_judgement,
    2: _rename_rules,
    3: _list_networks,
    4: _same,
}
