"""`model.json` ⇄ everything of a classifier but its tensors, and what must stand in it.

Every value is checked when it is read, and all that is wrong is said at once. What decides an answer is sealed by a
digest besides, so that a value that was changed for another of the right kind is noticed too. Older formats become
this one before they are checked, see `formats`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.config import EncoderConfig
from headstart.encoding.architecture import ARGUMENTS, NAME
from headstart.encoding.encoder import Encoder
from headstart.encoding.features import VIEWS
from headstart.errors import ArtifactError
from headstart.learning.calibration import Calibration
from headstart.learning.conformal import SetRule
from headstart.learning.out_of_distribution import SCORES, OutOfDistributionRule
from headstart.learning.rules import PredictionRules
from headstart.model import formats
from headstart.model.classifier import Classifier
from headstart.model.formats import BACKBONES, FORMAT, GRAPHS, HEAD, MODEL, NOVELTY, OUT_OF_DISTRIBUTION, QUANTIZED
from headstart.records import ClassNames, Floats, Preprocess, Provenance
from headstart.schema import (
    FLAG,
    SECTION,
    SHA256,
    TEXT,
    both,
    choice,
    listing,
    nullable,
    number,
    read_json,
    record,
    require,
    table,
    text,
    variants,
    wrong,
)

KIND = "headstart classifier"
ARRAYS: Mapping[str, tuple[str, ...]] = {  # score → the arrays that it needs
    "energy": (),
    "logit": (),
    "neighbours": ("kept", "mean"),
    "mahalanobis": ("means", "whitening"),
    "labels": ("offsets", "rows"),
}


def _distinct(value: list[str], where: str) -> list[str]:
    twice = sorted(name for name, count in Counter(value).items() if count > 1)
    return [wrong(where, twice, "different names")] if twice else []


def _ascending(value: list[float], where: str) -> list[str]:
    fine = all(before <= after for before, after in zip(value, value[1:], strict=False))
    return [] if fine else [wrong(where, value, "in ascending order")]


def _views(value: Any, where: str) -> list[str]:
    allowed = [list(VIEWS[:count]) for count in range(1, len(VIEWS) + 1)]
    return [] if value in allowed else [wrong(where, value, " or ".join(map(json.dumps, allowed)))]


_BELOW_ONE = number(1e-9, 1 - 1e-9)  # a rate, neither 0 nor 1
_WIDTH = number(1, 2**20 - 1, whole=True)
_CHANNELS = {"fewest": 3, "most": 3}
_SCORE = number(-1e-6, 1 + 1e-6)  # of a conformal set; sums of probabilities may pass 1 by a rounding
_PER_CLASS = nullable(listing(number(-1e6, 1e6), fewest=2))

PREPROCESS = record(
    {
        "size": number(1, 8192, whole=True),
        "crop": number(0.01, 1),
        "interpolation": choice("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"),
        "mean": listing(number(-256, 256), **_CHANNELS),
        "std": listing(number(1e-4, 256), **_CHANNELS),
        "resize": choice("crop", "letterbox", "squash"),
        "background": listing(number(0, 255, whole=True), **_CHANNELS),
    }
)
NETWORK = record(
    {
        "name": NAME,
        "arguments": ARGUMENTS,
        "digest": SHA256,
        "preprocess": PREPROCESS,
        "file": choice(*BACKBONES),
    },
    {"quantized": choice(*QUANTIZED), "graph": choice(*GRAPHS), "features": _WIDTH},
)
ENCODER = record(
    {
        "backbone": TEXT,
        "weights": TEXT,
        "engine": choice("openvino", "torch"),
        "device": choice("cpu", "cuda", "mps"),
        "precision": choice("f32", "bf16", "int8"),
    }
)
HEADS = variants(
    "kind",
    {
        "linear": record({"kind": TEXT, "features": _WIDTH}),
        "multilayer": record(
            {
                "kind": TEXT,
                "features": _WIDTH,
                "hidden": listing(_WIDTH, most=60),
                "dropout": number(0, 0.999),
                "batch_norm": FLAG,
            }
        ),
    },
)
RULES = record(
    {
        "calibration": record({"temperature": number(1e-3, 1e3), "factors": _PER_CLASS, "offsets": _PER_CLASS}),
        "sets": nullable(
            record(
                {
                    "method": choice("lac", "aps"),
                    "level": _BELOW_ONE,
                    "quantile": nullable(_SCORE),  # null: infinite, every class is in the set
                    "by_class": nullable(listing(nullable(_SCORE), fewest=2)),
                }
            )
        ),
        "out_of_distribution": nullable(
            record(
                {
                    "score": choice(*SCORES),
                    "refused": _BELOW_ONE,
                    "own": both(listing(number(-1e30, 1e30), fewest=1, most=100_000), _ascending),
                    "count": number(1, 1e12, whole=True),
                    "arrays": listing(TEXT, most=10),
                    "file": nullable(choice(OUT_OF_DISTRIBUTION, NOVELTY)),
                    "compared": table(number(0, 1), SCORES),
                }
            )
        ),
    }
)
SCHEMA = record(
    {
        "format": number(1, FORMAT, whole=True),
        "kind": choice(KIND),
        "networks": listing(NETWORK, fewest=1, most=len(BACKBONES)),
        "views": _views,
        "encoder": ENCODER,
        "classes": both(listing(text(".+", "a name", most=10_000), fewest=2, most=2**20 - 1), _distinct),
        "head": HEADS,
        "rules": RULES,
        "files": table(SHA256),
        "created": TEXT,
        "versions": table(TEXT),
        "data": SECTION,
        "training": SECTION,
        "engine": SECTION,
    },
    {"digest": SHA256},
    extra=True,  # e.g. the plan
)


@dataclass(frozen=True, slots=True)
class DescribedNetwork:
    """What `model.json` says of a network.

    Attributes:
        name: timm's name of it.
        arguments: What its architecture was built with besides the defaults.
        digest: Of the network.
        preprocess: How pictures are prepared for it.
        file: Where its tensors are.
        quantized: Where it is in 8-bit integers; "" if it did not run in them.
        graph: Where its graph is; "" if it was saved without.
        features: D of a network that was saved with its graph.
    """

    name: str
    arguments: Mapping[str, Any]
    digest: str
    preprocess: Preprocess
    file: str
    quantized: str = ""
    graph: str = ""
    features: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What `model.json` says, checked.

    Attributes:
        format: That it was written in.
        networks: Of the backbone.
        views: Of each picture, of which the mean is taken.
        encoder: The engine that was used.
        classes: K names.
        head: What `heads.Shape.from_description` takes.
        rules: As JSON values, see `rules_of`.
        files: Name → SHA-256.
        provenance: Where it comes from.
        digest: Of all that.
    """

    format: int
    networks: tuple[DescribedNetwork, ...]
    views: tuple[str, ...]
    encoder: EncoderConfig
    classes: ClassNames
    head: Mapping[str, Any]
    rules: Mapping[str, Any]
    files: Mapping[str, str]
    provenance: Provenance
    digest: str

    @property
    def arrays(self) -> Mapping[str, tuple[str, ...]]:
        """File → the names of the arrays in it, of the rule for "none of these"; empty where it needs none."""
        rule = self.rules["out_of_distribution"]
        return {} if rule is None or rule["file"] is None else {rule["file"]: tuple(rule["arrays"])}

    def rules_of(self, arrays: Mapping[str, Floats]) -> PredictionRules:
        """Return the prediction rules.

        Args:
            arrays: Of the rule for "none of these", checked.
        """
        sets, rule = self.rules["sets"], self.rules["out_of_distribution"]
        if sets is not None:
            by_class = None if sets["by_class"] is None else tuple(_infinite(value) for value in sets["by_class"])
            sets = SetRule(**sets | {"quantile": _infinite(sets["quantile"]), "by_class": by_class})
        if rule is not None:
            plain = {key: value for key, value in rule.items() if key != "file"}
            rule = OutOfDistributionRule(**plain | {"own": tuple(map(float, rule["own"])), "arrays": arrays})
        return PredictionRules(Calibration(**_tuples(self.rules["calibration"])), sets, rule)


def read(folder: Path) -> Description:
    """Return what the `model.json` of a folder says.

    Raises:
        FileNotFoundError: There is none; `NotADirectoryError` where the folder is a file.
        ArtifactError: It is of a newer format, or anything in it is not as it must be; all of that is listed.
    """
    return parse(read_json(folder / MODEL), folder)


def parse(content: Any, folder: Path) -> Description:
    """Return what the content of a `model.json` says; errors are those of `read`."""
    path = folder / MODEL
    written = content.get("format") if isinstance(content, dict) else None
    if not isinstance(written, int) or isinstance(written, bool):
        raise ArtifactError(f"{path} is no model of Headstart: it has no format number.")
    if written > FORMAT:
        raise ArtifactError(
            f"{folder} has format {written}; this version of Headstart reads up to {FORMAT}.",
            "pip install --upgrade headstart",
        )
    if written < 1:
        raise ArtifactError(f"{folder} has format {written}, which never was.")
    upgraded = formats.upgrade(content)
    require(path, SCHEMA(upgraded, "") or _misfits(upgraded))
    if written >= 3 and content.get("digest") != formats.seal(content):
        raise ArtifactError(
            f"{path} does not have the digest that it gives for itself: it was changed or damaged.",
            "Copy the whole folder again from where it was trained.",
        )
    return _description(upgraded, written)


def describe(classifier: Classifier, files: Mapping[str, str], extra: Mapping[str, Any]) -> str:
    """Return the text of a `model.json`.

    Args:
        classifier: What is described.
        files: The other files' SHA-256 by their names.
        extra: More entries, e.g. the plan; loading ignores them.
    """
    content = {
        "format": FORMAT,
        "kind": KIND,
        "networks": [_of_network(place, encoder, files) for place, encoder in enumerate(classifier.encoders)],
        "views": list(classifier.views),
        "encoder": dataclasses.asdict(classifier.encoders[0].plan) | {"weights": ""},
        "classes": list(classifier.classes),
        "head": classifier.head.shape.describe(),
        "rules": _of_rules(classifier.rules),
        "files": dict(files),
        **dataclasses.asdict(classifier.provenance),
        **extra,
    }
    sealed = content | {"digest": formats.seal(content)}
    return json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _of_network(place: int, encoder: Encoder, files: Mapping[str, str]) -> dict[str, Any]:
    network = encoder.network
    described = {"name": network.name, "arguments": dict(network.arguments), "digest": network.digest}
    described |= {"preprocess": dataclasses.asdict(network.preprocess), "file": BACKBONES[place]}
    described |= {} if encoder.quantized is None else {"quantized": QUANTIZED[place]}
    return described | ({"graph": GRAPHS[place], "features": network.dim} if GRAPHS[place] in files else {})


def _of_rules(rules: PredictionRules) -> dict[str, Any]:
    """Return the rules as JSON values; an infinite quantile, which JSON does not know, is null."""
    sets, rule = rules.sets, rules.out_of_distribution
    described: dict[str, Any] = {"calibration": dataclasses.asdict(rules.calibration), "sets": None}
    if sets is not None:
        by_class = None if sets.by_class is None else [_finite(value) for value in sets.by_class]
        described["sets"] = dataclasses.asdict(sets) | {"quantile": _finite(sets.quantile), "by_class": by_class}
    described["out_of_distribution"] = None
    if rule is not None:
        plain = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
        file = OUT_OF_DISTRIBUTION if rule.arrays else None
        described["out_of_distribution"] = plain | {"arrays": sorted(rule.arrays), "file": file}
    return described


def _description(content: Mapping[str, Any], written: int) -> Description:
    return Description(
        written,
        tuple(
            DescribedNetwork(**one | {"preprocess": Preprocess.from_dict(one["preprocess"])})
            for one in content["networks"]
        ),
        tuple(content["views"]),
        encoder=EncoderConfig(**content["encoder"]),
        classes=ClassNames(content["classes"]),
        head=content["head"],
        rules=content["rules"],
        files=content["files"],
        provenance=Provenance(**{field.name: content[field.name] for field in dataclasses.fields(Provenance)}),
        digest=formats.seal({**content, "format": FORMAT}),
    )


def _misfits(content: Mapping[str, Any]) -> list[str]:
    """Return what does not go together in a content of which every value on its own is fine."""
    classes, rules, files = len(content["classes"]), content["rules"], content["files"]
    calibration, sets, rule = rules["calibration"], rules["sets"], rules["out_of_distribution"]
    per_class = {f"rules.calibration.{name}": calibration[name] for name in ("factors", "offsets")}
    if sets is not None:
        per_class["rules.sets.by_class"] = sets["by_class"]
    problems = [
        f"{name} has {len(values)} numbers for {classes} classes"
        for name, values in per_class.items()
        if values is not None and len(values) != classes
    ]
    if (calibration["factors"] is None) != (calibration["offsets"] is None):
        problems.append("rules.calibration has only one of factors and offsets")
    networks = content["networks"]
    problems += [
        wrong(f"networks[{place}].file", one["file"], file)
        for place, (one, file) in enumerate(zip(networks, BACKBONES, strict=False))
        if one["file"] != file
    ]
    problems += [
        wrong(f"networks[{place}].graph", one["graph"], f"{file}, with the number of its features")
        for place, (one, file) in enumerate(zip(networks, GRAPHS, strict=False))
        if one.get("graph", file) != file or ("graph" in one) != ("features" in one)
    ]
    backgrounds = [one["preprocess"]["background"] for one in networks]
    if any(one != backgrounds[0] for one in backgrounds):  # a picture is decoded once for all
        problems.append(wrong("networks", backgrounds, "with one preprocess.background for all"))
    quantized = [one.get("quantized") for one in networks]
    if content["encoder"]["precision"] == "int8" and quantized != list(QUANTIZED[: len(networks)]):
        problems.append(wrong("networks[…].quantized", quantized, f"{QUANTIZED[0]}, … as encoder.precision is int8"))
    needed = [HEAD, *(one["file"] for one in networks), *(file for file in quantized if file)]
    needed += [one["graph"] for one in networks if "graph" in one]
    if rule is not None:
        problems += _misfits_of(rule)
        needed += [] if rule["file"] is None else [rule["file"]]
    return problems + [f"files.{name} is missing" for name in needed if name not in files]


def _misfits_of(rule: Mapping[str, Any]) -> list[str]:
    where, arrays = "rules.out_of_distribution", list(ARRAYS[rule["score"]])
    problems = []
    if rule["arrays"] != arrays:
        problems.append(wrong(f"{where}.arrays", rule["arrays"], f"{arrays} for {rule['score']}"))
    if (rule["file"] is None) != (not arrays):
        problems.append(wrong(f"{where}.file", rule["file"], "a file" if arrays else "null"))
    if rule["count"] < len(rule["own"]):
        problems.append(wrong(f"{where}.count", rule["count"], f"at least the {len(rule['own'])} of own"))
    return problems


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, Sequence) else value for key, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)
