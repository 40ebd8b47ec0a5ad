"""A `Classifier` ⇄ a directory that a person can read and that loads without network, hub or pickle.

`model.json` holds everything but tensors, with the SHA-256 of every other file the model needs; the tensors are
safetensors. The directory is written as a temporary neighbour, flushed, and renamed: there is never half a model under
its name, and where one stood there always is one. A directory that was there before is kept under a numbered name.

Whatever a directory holds, loading it opens nothing outside it, never hangs, and ends in a classifier or an
`ArtifactError`.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headstart.config import EncoderConfig
from headstart.encoding import graphs, runtime, weights
from headstart.encoding import network as networks
from headstart.encoding.backbone import Backbone
from headstart.encoding.network import Network
from headstart.encoding.quantized import Quantized
from headstart.errors import ArtifactError, BackboneError, ConfigError, HeadstartError, StorageError
from headstart.learning.heads import Head
from headstart.model import description
from headstart.model.classifier import Classifier
from headstart.model.description import DescribedNetwork, Description
from headstart.model.formats import BACKBONES, FORMAT, HEAD, MODEL, OUT_OF_DISTRIBUTION, QUANTIZED
from headstart.plans import EncoderPlan
from headstart.records import Floats
from headstart.storage import exchange, flush, read_regular, remove_stale, storage_errors

__all__ = ["BACKBONES", "FORMAT", "HEAD", "MODEL", "aside", "load_classifier", "probe", "save", "write_into", "writing"]

MOST_BYTES = 16 * 1024**3  # of a file of tensors; the largest backbones of timm have about four of these

_HINT = "Make room, or name another place with --out."


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
    """Have `directory` be the new model and the next free number the old one, with a model at `directory` all the time.

    The new one takes the number first, and then the two change places in one step of the file system; whenever that
    is interrupted, both are there under a name that lasts. Where there is no such step, the old one moves away first.
    """
    previous = aside(directory)
    if previous is None:
        os.replace(temporary, directory)
    else:
        os.replace(temporary, previous)
        try:
            exchanged = exchange(previous, directory)
        except OSError:
            os.replace(previous, temporary)
            raise
        if not exchanged:
            os.replace(previous, temporary)
            _put_aside_first(temporary, directory, previous)
    flush(directory.parent)


def _put_aside_first(temporary: Path, directory: Path, previous: Path) -> None:
    try:
        os.rename(directory, previous)
        os.replace(temporary, directory)
    except BaseException:
        if not os.path.lexists(directory):
            os.rename(previous, directory)
        raise


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
    rule = classifier.rules.out_of_distribution
    states: dict[str, Mapping[str, Tensor]] = {HEAD: classifier.head.state_dict()}
    states |= {
        file: network.module.state_dict()
        for file, network in zip(BACKBONES, classifier.backbone.networks, strict=False)
    }
    states |= {
        file: encoder.quantized.tensors()
        for file, encoder in zip(QUANTIZED, classifier.encoders, strict=False)
        if encoder.quantized is not None
    }
    if rule is not None and rule.arrays:
        states[OUT_OF_DISTRIBUTION] = {key: _stored(key, torch.from_numpy(value)) for key, value in rule.arrays.items()}
    for name, state in states.items():
        (folder / name).write_bytes(save_tensors({key: value.contiguous().cpu() for key, value in state.items()}))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in states}
    (folder / MODEL).write_text(description.describe(classifier, files, extra or {}), encoding="utf-8")


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
    try:
        _require_inside(folder, MODEL)
        described = description.read(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(folder) from error
    with torch.device("meta"):  # a forged description takes no memory
        empty = Head.from_description(described.head, len(described.classes))
    head = _fill(empty, _read_tensors(folder, HEAD, described), folder / HEAD)
    rules = described.rules_of(_arrays(folder, described, head.features))
    backbone = Backbone(tuple(_network(folder, one, described) for one in described.networks))
    if backbone.dim != head.features:
        raise ArtifactError(f"{folder}: the head takes {head.features} features, the backbone gives {backbone.dim}.")
    plan = _encoder_here(described.encoder, encoder)
    pairs = zip(described.networks, backbone.networks, strict=True)
    quantized = [_quantized(folder, *pair, described) for pair in pairs] if plan.precision == "int8" else []
    encoders = runtime.build_all(backbone, plan, quantized)
    return Classifier(backbone, encoders, head, rules, described.classes, described.provenance, described.views)


def _stored(name: str, values: Tensor) -> Tensor:
    """Return an array as it is kept: in half precision, which it was rounded to, where it is large."""
    return values.half() if name in ("kept", "rows") else values


def _network(folder: Path, asked: DescribedNetwork, described: Description) -> Network:
    state = _read_tensors(folder, asked.file, described)
    try:
        network = networks.rebuild(asked.name, state, asked.preprocess, asked.arguments)
    except (HeadstartError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{folder} cannot be loaded: {error}") from error
    digests = {network.digest}
    if described.format == 1:
        digests.add(weights.digest(network.module))
    if asked.digest not in digests:
        raise ArtifactError(
            f"{folder / MODEL} gives another digest for its backbone than {asked.name} has, built with "
            f"{dict(asked.arguments)} and filled from {asked.file}: it was changed or damaged.",
            "Copy the whole folder again from where it was trained.",
        )
    return network


def _quantized(folder: Path, asked: DescribedNetwork, network: Network, described: Description) -> Quantized | None:
    """Return a network in 8-bit integers, if it was saved so."""
    if not asked.quantized:
        return None
    try:
        quantized = Quantized.of_tensors(_read_tensors(folder, asked.quantized, described))
        graphs.read(network, quantized)
    except BackboneError as error:
        raise ArtifactError(f"{folder / asked.quantized} cannot be used: {error.message}") from error
    return quantized


def _arrays(folder: Path, described: Description, features: int) -> dict[str, Floats]:
    """Return the arrays of the rule for "none of these", each checked."""
    result: dict[str, Floats] = {}
    shapes = {"mean": (features,), "whitening": (features, features), "offsets": (None,)}
    for file, names in described.arrays.items():
        tensors = _read_tensors(folder, file, described)
        if sorted(tensors) != sorted(names):
            raise ArtifactError(f"{folder / file} holds {sorted(tensors)} instead of {sorted(names)}.")
        for name, tensor in tensors.items():
            shape = shapes.get(name, (None, features))
            fits = tensor.ndim == len(shape) and all(
                found == wanted or (wanted is None and found > 0)
                for found, wanted in zip(tensor.shape, shape, strict=True)
            )
            if not fits or not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
                raise ArtifactError(
                    f"{folder / file}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; finite numbers for "
                    f"{features} features were expected."
                )
        if "rows" in tensors and len(tensors["rows"]) != len(tensors["offsets"]):
            raise ArtifactError(
                f"{folder / file} holds {len(tensors['rows'])} rows of labels and {len(tensors['offsets'])} offsets."
            )
        result |= {name: tensor.float().numpy() for name, tensor in tensors.items()}
    return result


def _require_inside(folder: Path, name: str) -> None:
    """Refuse a file that is a link out of its folder."""
    path = folder / name
    target = Path(os.path.realpath(path))
    if path.is_symlink() and not target.is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(
            f"{path} is a link to {target}, outside the folder of the model.",
            "Copy the files themselves, e.g. with cp -rL.",
        )


def _not_found(folder: Path) -> ArtifactError:
    if folder.is_dir():
        return ArtifactError(
            f"{folder} is no model of Headstart: it has no {MODEL}.",
            "Name the folder that `headstart train --out` wrote.",
        )
    hint = "`headstart train DATA --out FOLDER` makes one."
    if folder.name and (free := _next_free(folder)) != (first := folder.with_name(f"{folder.name}.1")):
        last = folder.with_name(f"{folder.name}.{int(free.suffix[1:]) - 1}")
        hint = f"Earlier models from this place are kept as {first}" + (f" to {last}" if last != first else "")
        hint += f". If writing a newer one was cut off, rename {last} back."
    return ArtifactError(f"There is no model at {folder}.", hint)


def _read_tensors(folder: Path, name: str, described: Description) -> dict[str, Tensor]:
    path = folder / name
    try:
        _require_inside(folder, name)
        data = read_regular(path, MOST_BYTES)
    except StorageError as error:
        raise ArtifactError(error.message) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != described.files[name]:
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
