"""A weights file → a table of tensors, without running code that the file holds; and whether they fit a network."""

from __future__ import annotations

import contextlib
import hashlib
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from headstart.errors import BackboneError


def read(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a `.safetensors` file, or of one that torch wrote, by name.

    Raises:
        BackboneError: It is not there, is damaged, holds something else, or asks for code.
    """
    if not file.is_file():
        raise BackboneError(f"The weights file {file} is not there.")
    if _is_keras(file):
        raise BackboneError(
            f"The weights file {file} is of Keras, which names and lays out its weights otherwise.",
            "timm's own file of the network is what fits: model.safetensors of its page on the hub.",
        )
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise BackboneError(f"The weights file {file} is damaged or no safetensors file: {error}.") from error
    except Exception as error:  # a refused global, a broken zip, a truncated stream: all mean "not read"
        asks = _first_global(file, str(error))
        why = f"it asks for {asks}, which is no tensor" if asks else "it is damaged or holds no tensors"
        raise BackboneError(
            f"The weights file {file} is refused: {why}.",
            "Only tensors are read from it; code in it is never run. A .safetensors file is the safe choice.",
        ) from error
    for key in ("state_dict", "model", "state_dict_ema", "model_ema"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BackboneError(f"The weights file {file} holds no plain table of tensors.")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def content(module: nn.Module) -> bytes:
    """Return the safetensors file of a network's weights."""
    return save({key: value.contiguous().cpu() for key, value in module.state_dict().items()})


def of_content(content: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of the content of a safetensors file, which is called `source`.

    Raises:
        BackboneError: It is none.
    """
    try:
        return dict(load(content))
    except SafetensorError as error:
        raise BackboneError(f"{source} is no safetensors file: {error}.") from error


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a network; errors are those of `require_fit`."""
    require_fit(module.state_dict(), state, source)
    module.load_state_dict(dict(state))


def require_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        own: The network's tensors, by name.
        state: Those that are to take their place.
        source: Where they are from, for the message.

    Raises:
        BackboneError: Some are missing, unknown, of another shape or not finite.
    """
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown to this network" for key in state if key not in own]
    problems += [
        f"{key} has the shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems += [
        f"{key} holds numbers that are not finite" for key in own if key in state and not is_finite(state[key])
    ]
    if problems:
        raise BackboneError(
            f"The weights of {source} do not fit the network: {'; '.join(problems[:3])}"
            + (f"; and {len(problems) - 3} more." if len(problems) > 3 else "."),
            "Name the network that the weights belong to with --backbone.",
        )


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def digest(module: nn.Module, about: str = "") -> str:
    """Return the SHA-256 over what is said of the weights, and their names, shapes and bytes."""
    result = hashlib.sha256(about.encode())
    for key, value in sorted(module.state_dict().items()):
        result.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        result.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return result.hexdigest()


def _is_keras(file: Path) -> bool:
    """Return whether it is an HDF5 file (`.h5`) or the zip archive of Keras 3 (`.keras`)."""
    with open(file, "rb") as stream:
        if stream.read(8) == b"\x89HDF\r\n\x1a\n":
            return True
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(".weights.h5") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _first_global(file: Path, message: str) -> str:
    """Return the name that a pickle wanted to import, as torch tells it or as the file's own opcodes do."""
    if told := re.search(r"GLOBAL ([\w.]+)", message):
        return told[1]
    words: list[str] = []
    with contextlib.suppress(Exception), open(file, "rb") as stream:  # whatever the file is, reading it may fail
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(words[-2:])
            if isinstance(argument, str):
                words.append(argument)
    return ""
