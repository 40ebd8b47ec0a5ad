"""A `Classifier` ⇄ a directory that a person can read and that loads without network, hub or pickle.

`model.json` holds everything but tensors, with the SHA-256 of every other file the model needs; the tensors are
safetensors. The directory is written as a temporary neighbour, flushed, and renamed: there is never half a model under
its name. A directory that was there before is kept under a numbered name.

Rule for `FORMAT`: raise it by one whenever an older Headstart would misread a new file, and add a step to `_UPGRADES`
that turns the old `model.json` into the new one. From the first release on, a model of every format is kept for the
tests, and loads forever.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headstart.config import EncoderConfig, EncoderPlan, TrainConfig
from headstart.encoding import backbone as backbones
from headstart.encoding import runtime
from headstart.errors import ArtifactError, ConfigError, HeadstartError
from headstart.learning.calibration import Calibration
from headstart.learning.conformal import SetRule
from headstart.learning.heads import Head
from headstart.learning.out_of_distribution import OutOfDistributionRule
from headstart.learning.rules import PredictionRules
from headstart.model.classifier import Classifier
from headstart.records import ClassNames, Floats, Preprocess, Provenance
from headstart.storage import flush, remove_stale, storage_errors

FORMAT = 3
MODEL, HEAD, BACKBONE = "model.json", "head.safetensors", "backbone.safetensors"
_NOVELTY = "novelty.safetensors"  # its name up to format 2
OUT_OF_DISTRIBUTION = "out_of_distribution.safetensors"  # only where the rule for "none of these" needs arrays

_HINT = "Make room, or name another place with --out."


def _add_judgement(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had a temperature, and neither sets nor a rule for "none of these"."""
    calibration = {"temperature": content["temperature"], "factors": None, "offsets": None}
    return content | {"judgement": {"calibration": calibration, "sets": None, "novelty": None}}


def _rename_rules(content: dict[str, Any]) -> dict[str, Any]:
    """Format 2 called the prediction rules a judgement, and the rule for "none of these" novelty."""
    rules = dict(content["judgement"])
    rules["out_of_distribution"] = rules.pop("novelty")
    files = {OUT_OF_DISTRIBUTION if name == _NOVELTY else name: digest for name, digest in content["files"].items()}
    return content | {"rules": rules, "files": files}


# format n → what makes n + 1 of it
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _add_judgement, 2: _rename_rules}


def probe(directory: Path) -> None:
    """Find out, before hours of work, whether an artifact can be written there.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The place cannot be written.
    """
    if directory.resolve() == Path.cwd() or not directory.name:
        raise ConfigError(f"A model cannot be put at {str(directory)!r}: it is a folder of its own.", "Give it a name.")
    empty = directory.is_dir() and not any(directory.iterdir())
    if os.path.lexists(directory) and not empty and not (directory / MODEL).is_file():
        raise ConfigError(
            f"{directory} exists and is not a model of Headstart; it is left alone.",
            "Name another place with --out.",
        )
    with storage_errors(directory, _HINT):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory.parent):
            pass


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """Give a temporary folder beside `directory`; at the end flush it and rename it into place.

    What was there before is kept as `directory.1`, `directory.2`, … If anything fails, the temporary folder
    goes and the old one stays.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.
    """
    probe(directory)
    with storage_errors(directory, _HINT):
        remove_stale(directory.parent, f".{glob.escape(directory.name)}.*.tmp")
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            for path in sorted(temporary.rglob("*")):
                flush(path)
            flush(temporary)
            _put_in_place(temporary, directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _put_in_place(temporary: Path, directory: Path) -> None:
    previous = aside(directory)
    if previous is not None:
        os.rename(directory, previous)
    try:
        os.replace(temporary, directory)
    except BaseException:
        if previous is not None:
            os.rename(previous, directory)
        raise
    flush(directory.parent)


def aside(directory: Path) -> Path | None:
    """Return where the model that stands at this place goes when another is written; None if there is none."""
    return _next_free(directory) if (directory / MODEL).exists() else None


def save(classifier: Classifier, directory: str | Path) -> None:
    """Write a classifier as a directory.

    Raises:
        ConfigError: There is something at that place that is not a model.
        StorageError: The disk is full or the place cannot be written.
    """
    with writing(Path(directory)) as folder:
        write_into(folder, classifier)


def write_into(folder: Path, classifier: Classifier, extra: Mapping[str, Any] | None = None) -> None:
    """Write the files of a classifier into a folder that `writing` gave.

    Args:
        folder: An empty folder.
        classifier: What to write.
        extra: More entries for `model.json`, e.g. the plan; loading ignores them.
    """
    out_of_distribution = classifier.rules.out_of_distribution
    states: dict[str, Mapping[str, Tensor]] = {
        HEAD: classifier.head.state_dict(),
        BACKBONE: classifier.backbone.module.state_dict(),
    }
    if out_of_distribution is not None and out_of_distribution.arrays:
        # half precision is what the arrays were rounded to where they are large
        states[OUT_OF_DISTRIBUTION] = {
            key: _stored(key, torch.from_numpy(value)) for key, value in out_of_distribution.arrays.items()
        }
    for name, state in states.items():
        (folder / name).write_bytes(save_tensors({key: value.contiguous().cpu() for key, value in state.items()}))
    files = {name: _sha256(folder / name) for name in states}
    content = {
        "format": FORMAT,
        "kind": "headstart classifier",
        "backbone": {
            "name": classifier.backbone.name,
            "arguments": dict(classifier.backbone.arguments),
            "digest": classifier.backbone.digest,
        },
        "preprocess": dataclasses.asdict(classifier.preprocess),
        "encoder": dataclasses.asdict(classifier.encoder.plan) | {"weights": ""},
        "classes": list(classifier.classes),
        "head": classifier.head.describe(),
        "rules": _describe(classifier.rules),
        "files": files,
        **dataclasses.asdict(classifier.provenance),
        **(extra or {}),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MODEL).write_text(text + "\n", encoding="utf-8")


def load_classifier(directory: str | Path, encoder: EncoderConfig | None = None) -> Classifier:
    """Read a classifier from its directory.

    Args:
        directory: What `save` or `headstart train` wrote.
        encoder: Another engine, device or precision than the saved one; None: the saved one where this machine has
            it, else what this machine has.

    Raises:
        ArtifactError: Not an artifact, of a newer format, or damaged; the text says which file.
    """
    folder = Path(directory)
    content = _read_json(folder)
    try:
        classes = ClassNames(_checked(content["classes"], list))
        preprocess = Preprocess.from_dict(content["preprocess"])
        with torch.device("meta"):  # a forged description takes no memory
            empty = Head.from_description(content["head"], len(classes))
        rules = _rules(folder, content["rules"], _checked(content["files"], dict))
        name = _checked(content["backbone"]["name"], str)
        arguments = _checked(content["backbone"]["arguments"], dict)
        saved = TrainConfig(encoder=EncoderConfig(**content["encoder"])).encoder
        digests = _checked(content["files"], dict)
        provenance = Provenance(**{f.name: content[f.name] for f in dataclasses.fields(Provenance)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{folder / MODEL} is damaged: {type(error).__name__}: {error}.") from error
    if len(set(classes)) != len(classes) or len(classes) < 2 or not all(isinstance(c, str) for c in classes):
        raise ArtifactError(f"{folder / MODEL} is damaged: its classes are not at least two different names.")
    head = _fill(empty, _read_tensors(folder, HEAD, digests), folder / HEAD)
    if problem := _misfit(rules, len(classes), head.features):
        raise ArtifactError(f"{folder / MODEL} is damaged: {problem}.")
    try:
        backbone = backbones.rebuild(name, _read_tensors(folder, BACKBONE, digests), preprocess, arguments)
    except ArtifactError:
        raise
    except (HeadstartError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{folder} cannot be loaded: {error}") from error
    if backbone.dim != head.features:
        raise ArtifactError(f"{folder}: the head takes {head.features} features, the backbone gives {backbone.dim}.")
    plan = _encoder_here(saved, encoder)
    return Classifier(backbone, runtime.build(backbone, plan), head, rules, classes, provenance)


def _stored(name: str, values: Tensor) -> Tensor:
    return values.half() if name == "kept" else values


def _describe(rules: PredictionRules) -> dict[str, Any]:
    """Return the rules as JSON values; an infinite quantile, which JSON does not know, is null."""
    described: dict[str, Any] = {
        "calibration": dataclasses.asdict(rules.calibration),
        "sets": None,
        "out_of_distribution": None,
    }
    if rules.sets is not None:
        sets = dataclasses.asdict(rules.sets)
        by_class = None if rules.sets.by_class is None else [_finite(value) for value in rules.sets.by_class]
        described["sets"] = sets | {"quantile": _finite(rules.sets.quantile), "by_class": by_class}
    if rules.out_of_distribution is not None:
        out_of_distribution = {
            f.name: getattr(rules.out_of_distribution, f.name) for f in dataclasses.fields(rules.out_of_distribution)
        }
        described["out_of_distribution"] = out_of_distribution | {"arrays": sorted(rules.out_of_distribution.arrays)}
    return described


def _rules(folder: Path, described: Mapping[str, Any], digests: Mapping[str, str]) -> PredictionRules:
    """Return the rules that `_describe` described.

    Raises:
        ValueError: They make no sense; `KeyError` and `TypeError` where something is missing or of a wrong type.
        ArtifactError: Their arrays are damaged.
    """
    calibration: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in described["calibration"].items()
    }
    sets, out_of_distribution = described["sets"], described["out_of_distribution"]
    if sets is not None:
        by_class = sets["by_class"]
        limits = None if by_class is None else tuple(_infinite(value) for value in by_class)
        sets = SetRule(**sets | {"quantile": _infinite(sets["quantile"]), "by_class": limits})
    if out_of_distribution is not None:
        arrays: dict[str, Floats] = {}
        if out_of_distribution["arrays"]:
            arrays = {
                key: value.float().numpy() for key, value in _read_tensors(folder, OUT_OF_DISTRIBUTION, digests).items()
            }
        if sorted(arrays) != out_of_distribution["arrays"]:
            raise ValueError(f"{OUT_OF_DISTRIBUTION} holds {sorted(arrays)} instead of {out_of_distribution['arrays']}")
        out_of_distribution = OutOfDistributionRule(
            **out_of_distribution
            | {"own": tuple(float(value) for value in out_of_distribution["own"]), "arrays": arrays}
        )
    return PredictionRules(Calibration(**calibration), sets, out_of_distribution)


def _misfit(rules: PredictionRules, classes: int, features: int) -> str:
    """Return what of the rules does not go with the head, or nothing."""
    per_class = {
        "factors": rules.calibration.factors,
        "offsets": rules.calibration.offsets,
        "by_class": None if rules.sets is None else rules.sets.by_class,
    }
    for name, values in per_class.items():
        if values is not None and len(values) != classes:
            return f"{name} has {len(values)} numbers for {classes} classes"
    arrays = {} if rules.out_of_distribution is None else rules.out_of_distribution.arrays
    for name, array in arrays.items():
        if array.shape[-1] != features or not np.isfinite(array).all():
            return f"{name} of {OUT_OF_DISTRIBUTION} is not {features} finite numbers wide"
    return ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / MODEL
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(folder) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ArtifactError(f"{path} is no model of Headstart: it has no format number.")
    number = content["format"]
    if number > FORMAT:
        raise ArtifactError(
            f"{folder} has format {number}; this version of Headstart reads up to {FORMAT}.",
            "pip install --upgrade headstart",
        )
    upgraded: dict[str, Any] = content
    while number < FORMAT:
        if number not in _UPGRADES:
            raise ArtifactError(f"{folder} has format {number}, which never was.")
        try:
            upgraded = _UPGRADES[number](upgraded)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
        number += 1
    return upgraded


def _not_found(folder: Path) -> ArtifactError:
    if folder.is_dir():
        return ArtifactError(
            f"{folder} is no model of Headstart: it has no {MODEL}.",
            "Name the folder that `headstart train --out` wrote.",
        )
    hint = "`headstart train DATA --out FOLDER` makes one."
    if folder.name and os.path.lexists(previous := folder.with_name(f"{folder.name}.1")):
        hint = f"Earlier models from this place are kept as {previous} and so on."
    return ArtifactError(f"There is no model at {folder}.", hint)


def _read_tensors(folder: Path, name: str, digests: Mapping[str, str]) -> dict[str, Tensor]:
    path = folder / (_NOVELTY if name == OUT_OF_DISTRIBUTION and (folder / _NOVELTY).exists() else name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != digests.get(name):
        raise ArtifactError(
            f"{path} does not have the digest that {MODEL} gives for it: it was changed or damaged.",
            "Copy the whole folder again from where it was trained.",
        )
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is no safetensors file: {error}.") from error
    return tensors


def _fill(head: Head, state: Mapping[str, Tensor], path: Path) -> Head:
    wanted = {name: f"{value.dtype} of shape {tuple(value.shape)}" for name, value in head.state_dict().items()}
    for key in state.keys() | wanted.keys():
        found = f"{state[key].dtype} of shape {tuple(state[key].shape)}" if key in state else "missing"
        if found != wanted.get(key):
            expected = f"{wanted[key]} was expected" if key in wanted else "the head has no such tensor"
            raise ArtifactError(f"{path}: {key} is {found}; {expected}.")
        if not torch.isfinite(state[key]).all():
            raise ArtifactError(f"{path}: {key} holds numbers that are not finite.")
    head.load_state_dict(dict(state), assign=True)
    return head.eval().requires_grad_(False)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _encoder_here(saved: EncoderConfig, asked: EncoderConfig | None) -> EncoderPlan:
    """Return the plan asked for; else the saved one, or, on a machine without such an engine, its own best."""
    if asked is not None:
        return runtime.choose(dataclasses.replace(asked, backbone=saved.backbone))
    try:
        return runtime.choose(saved)
    except ConfigError as error:
        here = runtime.choose(EncoderConfig(saved.backbone))
        warnings.warn(f"{error.message} {here.engine} in {here.precision} on {here.device} is used.", stacklevel=3)
        return here


def _next_free(directory: Path) -> Path:
    number = 1
    while os.path.lexists(free := directory.with_name(f"{directory.name}.{number}")):
        number += 1
    return free


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
