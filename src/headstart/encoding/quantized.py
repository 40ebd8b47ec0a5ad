"""A graph of OpenVINO → the same in 8-bit integers, by a few pictures; the only door to NNCF.

What comes of it is kept as bytes with a digest of their own, since the pictures that it was calibrated with decide it.
Whoever has these bytes needs neither NNCF nor the pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from headstart.encoding.network import quiet
from headstart.errors import BackboneError, MissingExtraError
from headstart.records import Pixels

_PARTS = ("graph", "constants")
_CONTROL_FLOW = b"<body"  # of what repeats or chooses parts of a graph: no network here needs it, and it may never end


@dataclass(frozen=True, slots=True, repr=False)
class Quantized:
    """A quantized network: (1, S, S, 3) uint8 → (1, D) features, preprocessing included.

    Attributes:
        graph: OpenVINO's description of it, XML.
        constants: Its weights.
    """

    graph: bytes
    constants: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of both."""
        inner = (hashlib.sha256(part).digest() for part in (self.graph, self.constants))
        return hashlib.sha256(b"".join(inner)).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Return both as tensors of bytes, which is how they are kept in a file."""
        parts = zip(_PARTS, (self.graph, self.constants), strict=True)
        return {name: torch.frombuffer(bytearray(part), dtype=torch.uint8) for name, part in parts}

    def content(self) -> bytes:
        """Return a file of `tensors`."""
        return save(self.tensors())

    @classmethod
    def of_content(cls, content: bytes) -> Quantized:
        """Return what `content` was of; errors are those of `of_tensors`."""
        try:
            return cls.of_tensors(load(content))
        except SafetensorError as error:
            raise BackboneError(f"A quantized network is a safetensors file; this is none: {error}.") from error

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Quantized:
        """Return what `tensors` was of.

        Raises:
            BackboneError: It is something else, or a graph that holds others.
        """
        found = {name: f"{tensor.dtype} of shape {tuple(tensor.shape)}" for name, tensor in tensors.items()}
        fits = all(tensor.dtype == torch.uint8 and tensor.ndim == 1 for tensor in tensors.values())
        if not fits or sorted(tensors) != sorted(_PARTS):
            raise BackboneError(f"A quantized network is {' and '.join(_PARTS)}, bytes each; found was {found}.")
        own = cls(*(tensors[name].numpy().tobytes() for name in _PARTS))
        if not own.graph.startswith(b"<?xml") or _CONTROL_FLOW in own.graph:
            raise BackboneError("The graph of a quantized network is no plain one of OpenVINO.")
        return own


def keep_private() -> None:
    """Have OpenVINO and NNCF, imported from now on, send nothing from this machine.

    Importing them reports the fact to an analytics service unless their telemetry package cannot be found.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def require_nncf() -> Any:
    """Return NNCF.

    Raises:
        MissingExtraError: It is not installed.
    """
    keep_private()
    compilers = logging.getLogger("torch.utils.cpp_extension")  # complains where CUDA is half installed
    compilers.setLevel(logging.ERROR)
    try:
        with quiet():
            return importlib.import_module("nncf")
    except ImportError as error:
        raise MissingExtraError("--precision int8", "int8") from error


def quantize(model: Any, pictures: Sequence[Pixels]) -> Any:
    """Return a model of OpenVINO with weights and activations in 8-bit integers where these pictures have them.

    Args:
        model: Takes (1, S, S, 3) uint8.
        pictures: Prepared as the network sees them; some hundred are enough.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    nncf = require_nncf()
    nncf.set_log_level(logging.ERROR)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # it draws bars of its own
        dataset = nncf.Dataset(list(pictures), lambda picture: picture[None])
        return nncf.quantize(model, dataset, subset_size=len(pictures))


def has_int8() -> bool:
    """Return whether the processor has instructions for 8-bit integers, or nothing is known of it."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    known: Mapping[str, Any] = tell() if tell is not None else {}
    names = [name for name, here in known.items() if here]
    return not names or any(part in name for name in names for part in ("vnni", "amx_int8", "i8mm", "dot"))
