"""A graph of OpenVINO → the same in 8-bit integers, by a few pictures; the only door to NNCF.

The pictures that it was calibrated with decide what comes of it; whoever has that needs neither NNCF nor the pictures.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headstart.encoding.network import quiet
from headstart.errors import MissingExtraError
from headstart.records import Pixels, Place

WEIGHT_BITS = 7  # with 8 the sum of two products passes 16 bits, where processors without VNNI saturate


def keep_private() -> None:
    """Have OpenVINO and NNCF, imported from now on, send nothing from this machine.

    Importing them reports the fact to an analytics service unless their telemetry package cannot be found.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def require_nncf(wanted: str = "--precision int8") -> Any:
    """Return NNCF, which `wanted` needs.

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
        raise MissingExtraError(wanted, "int8") from error


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
        return nncf.quantize(model, dataset, subset_size=len(pictures), advanced_parameters=_parameters())


def quantize_but(
    model: Any,
    pictures: Sequence[Place],
    feed: Callable[[Place], Any],
    precise: Sequence[str],
    *,
    one_range: bool = False,
) -> Any:
    """Return a model of OpenVINO or ONNX with weights and activations in 8-bit integers, but for some operations.

    Args:
        model: Of either runtime, which NNCF then works with.
        pictures: Some hundred files; each is read when it is its turn, since decoded they may be large.
        feed: A file → what the model is given of it, as its runtime takes it.
        precise: Regular expressions of the names of operations that stay as they are.
        one_range: Whether all channels of an activation share one range, for a runtime that knows no other.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    nncf = require_nncf("--quantize int8")
    nncf.set_log_level(logging.ERROR)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        scope = nncf.IgnoredScope(patterns=list(precise), validate=False)
        dataset = nncf.Dataset(list(pictures), feed)
        return nncf.quantize(
            model,
            dataset,
            subset_size=len(pictures),
            ignored_scope=scope,
            advanced_parameters=_parameters(one_range),
        )


def _parameters(one_range: bool = False) -> Any:
    """Return how NNCF is to quantize: so that sums saturate on no processor."""
    own = importlib.import_module("nncf.quantization.advanced_parameters")
    return own.AdvancedQuantizationParameters(
        overflow_fix=own.OverflowFix.ENABLE,  # `WEIGHT_BITS` of each weight are used
        activations_quantization_params=own.QuantizationParameters(per_channel=False) if one_range else None,
    )


def has_int8() -> bool:
    """Return whether the processor has instructions for 8-bit integers, or nothing is known of it."""
    tell = getattr(importlib.import_module("torch").cpu, "get_capabilities", None)
    known: Mapping[str, Any] = tell() if tell is not None else {}
    names = [name for name, here in known.items() if here]
    return not names or any(part in name for name in names for part in ("vnni", "amx_int8", "i8mm", "dot"))
