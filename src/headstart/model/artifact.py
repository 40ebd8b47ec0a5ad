"""A `Classifier` ⇄ a directory that a person can read and that loads without network, hub or pickle.

`model.json` holds everything but tensors, with the SHA-256 of every other file the model needs; the tensors are
safetensors. The directory is written as a temporary neighbour, flushed, and renamed: there is never half a model under
its name, and where one stood there always is one. A directory that was there before is kept under a numbered name.

Whatever a directory holds, loading it opens nothing outside it, never hangs, and ends in a classifier or an
`ArtifactError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from headstart.config import EncoderConfig
from headstart.encoding import graphs, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.graph import Graph
from headstart.encoding.network import Network
from headstart.errors import ArtifactError, BackboneError, ConfigError, HeadstartError, StorageError, asked_for
from headstart.learning.heads import Head, Shape
from headstart.model import description
from headstart.model.classifier import Classifier
from headstart.model.description import DescribedNetwork, Description
from headstart.model.formats import BACKBONES, FORMAT, GRAPHS, HEAD, MODEL, OUT_OF_DISTRIBUTION, QUANTIZED
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
    with asked_for("Saving the weights of a network"):
        from headstart.encoding import weights

    rule = classifier.rules.out_of_distribution
    contents = {HEAD: _content(classifier.head.tensors)}
    for file, graph, network in zip(BACKBONES, GRAPHS, classifier.backbone.networks, strict=False):
        contents[file] = weights.content(network.module)
        try:
            contents[graph] = runtime.testified(network, folder).content()
        except StorageError:
            raise
        except Exception as error:  # whatever an architecture does that OpenVINO has no word for
            told = str(error).strip().partition("\n")[0][:200]
            warnings.warn(f"{network.name} cannot be a graph ({told}); PyTorch will be needed to run it.", stacklevel=2)
    for file, encoder in zip(QUANTIZED, classifier.encoders, strict=False):
        if encoder.quantized is not None:
            contents[file] = encoder.quantized.content()
    if rule is not None and rule.arrays:
        contents[OUT_OF_DISTRIBUTION] = _content({key: _stored(key, value) for key, value in rule.arrays.items()})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (folder / MODEL).write_text(description.describe(classifier, files, extra or {}), encoding="utf-8")


def load_classifier(directory: str | Path, encoder: EncoderConfig | None = None) -> Classifier:
    """Read a classifier from its directory.

    Args:
        directory: What `save` or `headstart train` wrote.
        encoder: Another engine, device or precision than the saved one; what is "auto" stays as it was saved where
            that goes together. None: the saved one where this machine has it, else what this machine has.

    Raises:
        ArtifactError: Not an artifact, of a newer format, or damaged; the text says which file.
    """
    folder = Path(directory)
    try:
        _require_inside(folder, MODEL)
        described = description.read(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(folder) from error
    shape = Shape.from_description(described.head, len(described.classes))
    head = _head(shape, _read_arrays(folder, HEAD, described), folder / HEAD)
    rules = described.rules_of(_arrays(folder, described, shape.features))
    backbone = Backbone(tuple(_network(folder, one, described) for one in described.networks))
    if backbone.dim != shape.features:
        raise ArtifactError(f"{folder}: the head takes {shape.features} features, the backbone gives {backbone.dim}.")
    plan = _encoder_here(described.encoder, encoder)
    pairs = zip(described.networks, backbone.networks, strict=True)
    quantized = [_quantized(folder, *pair, described) for pair in pairs] if plan.precision == "int8" else []
    encoders = runtime.build_all(backbone, plan, quantized)
    told = described.classes, described.provenance, described.views, described.digest
    return Classifier(backbone, encoders, head, rules, *told)


def _content(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the file of these arrays."""
    return save_arrays({name: np.asarray(values, order="C") for name, values in arrays.items()})


def _stored(name: str, values: Floats) -> NDArray[np.floating]:
    """Return an array as it is kept: in half precision, which it was rounded to, where it is large."""
    return values.astype(np.float16) if name in ("kept", "rows") else values


def _network(folder: Path, asked: DescribedNetwork, described: Description) -> Network:
    """Return a network that needs its module only where something is asked that its graph does not tell."""
    if not asked.graph:
        return _rebuilt(folder, asked, described)
    _read(folder, asked.file, described)  # whole and unchanged, or nobody trusts the rest
    none = np.empty(0, np.float32)
    try:
        graph = Graph.of_content(_read(folder, asked.graph, described))
        build = functools.cache(lambda: _rebuilt(folder, asked, described).module)
        told = asked.name, build, asked.features, asked.preprocess, dict(asked.arguments), asked.digest
        network = Network(*told, labels=(), rows=none, offsets=none, graph=graph)
        graphs.of(network)
    except BackboneError as error:
        raise ArtifactError(f"{folder / asked.graph} cannot be used: {error.message}") from error
    return network


def _rebuilt(folder: Path, asked: DescribedNetwork, described: Description) -> Network:
    """Return a network with its module, from its architecture and weights."""
    with asked_for(f"The network of {folder} as a module of PyTorch"):
        from headstart.encoding import pretrained, weights

    content = _read(folder, asked.file, described)
    try:
        network = pretrained.rebuild(
            asked.name, weights.of_content(content, str(folder / asked.file)), asked.preprocess, asked.arguments
        )
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


def _quantized(folder: Path, asked: DescribedNetwork, network: Network, described: Description) -> Graph | None:
    """Return a network in 8-bit integers, if it was saved so."""
    if not asked.quantized:
        return None
    try:
        quantized = Graph.of_content(_read(folder, asked.quantized, described))
        graphs.read(network, quantized)
    except BackboneError as error:
        raise ArtifactError(f"{folder / asked.quantized} cannot be used: {error.message}") from error
    return quantized


def _arrays(folder: Path, described: Description, features: int) -> dict[str, Floats]:
    """Return the arrays of the rule for "none of these", each checked."""
    result: dict[str, Floats] = {}
    shapes = {"mean": (features,), "whitening": (features, features), "offsets": (None,)}
    for file, names in described.arrays.items():
        tensors = _read_arrays(folder, file, described)
        if sorted(tensors) != sorted(names):
            raise ArtifactError(f"{folder / file} holds {sorted(tensors)} instead of {sorted(names)}.")
        for name, tensor in tensors.items():
            shape = shapes.get(name, (None, features))
            fits = tensor.ndim == len(shape) and all(
                found == wanted or (wanted is None and found > 0)
                for found, wanted in zip(tensor.shape, shape, strict=True)
            )
            if not fits or not np.issubdtype(tensor.dtype, np.floating) or not np.isfinite(tensor).all():
                raise ArtifactError(
                    f"{folder / file}: {name} is {tensor.dtype} of shape {tensor.shape}; finite numbers for "
                    f"{features} features were expected."
                )
        if "rows" in tensors and len(tensors["rows"]) != len(tensors["offsets"]):
            raise ArtifactError(
                f"{folder / file} holds {len(tensors['rows'])} rows of labels and {len(tensors['offsets'])} offsets."
            )
        result |= {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
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


def _read_arrays(folder: Path, name: str, described: Description) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file, which nobody else holds."""
    try:
        return {key: np.array(value) for key, value in load_arrays(_read(folder, name, described)).items()}
    except SafetensorError as error:
        raise ArtifactError(f"{folder / name} is no safetensors file: {error}.") from error
    except KeyError as error:
        raise ArtifactError(f"{folder / name} holds numbers of the type {error}, which are not read here.") from error


def _read(folder: Path, name: str, described: Description) -> bytes:
    """Return the content of a file of the model, whole and unchanged."""
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
    return data


def _head(shape: Shape, arrays: Mapping[str, NDArray[Any]], path: Path) -> Head:
    """Return the head of these arrays, each checked."""
    wanted = {name: f"{np.dtype(kind)} of shape {size}" for name, (size, kind) in shape.tensors().items()}
    for key in arrays.keys() | wanted.keys():
        found = f"{arrays[key].dtype} of shape {arrays[key].shape}" if key in arrays else "missing"
        if found != wanted.get(key):
            expected = f"{wanted[key]} was expected" if key in wanted else "the head has no such tensor"
            raise ArtifactError(f"{path}: {key} is {found}; {expected}.")
        if not np.isfinite(arrays[key]).all():
            raise ArtifactError(f"{path}: {key} holds numbers that are not finite.")
    return Head(shape, dict(arrays))


def _encoder_here(saved: EncoderConfig, asked: EncoderConfig | None) -> EncoderPlan:
    """Return the plan asked for, the rest as it was saved if that goes together; else the saved one, or, on a machine
    without such an engine, its own best.
    """
    if asked is not None:
        with contextlib.suppress(ConfigError):
            return runtime.choose(_completed(asked, saved))
        return runtime.choose(dataclasses.replace(asked, backbone=saved.backbone))
    try:
        return runtime.choose(saved)
    except ConfigError as error:
        here = runtime.choose(EncoderConfig(saved.backbone))
        warnings.warn(f"{error.message} {here.engine} in {here.precision} on {here.device} is used.", stacklevel=3)
        return here


def _completed(asked: EncoderConfig, saved: EncoderConfig) -> EncoderConfig:
    """Return what is asked for; where nothing is, the saved engine on the saved device, and with both the precision."""
    stays = asked.device in ("auto", saved.device)
    same = stays and asked.engine in ("auto", saved.engine)
    return dataclasses.replace(
        saved,
        device=saved.device if stays else asked.device,
        engine=saved.engine if same else asked.engine,
        precision=saved.precision if same and asked.precision == "auto" else asked.precision,
    )


def _next_free(directory: Path) -> Path:
    number = 1
    while os.path.lexists(free := directory.with_name(f"{directory.name}.{number}")):
        number += 1
    return free
