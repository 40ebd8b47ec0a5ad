"""A network → its graph in OpenVINO, as it is or in 8-bit integers; the only door to OpenVINO.

A graph takes pictures as 8-bit RGB; normalisation is a part of it.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from headstart.encoding.network import ONE_AT_A_TIME, Network, cannot_take, quiet
from headstart.encoding.quantized import Quantized, keep_private, quantize
from headstart.errors import BackboneError
from headstart.records import Pixels


def of(network: Network) -> Any:
    """Return the network as a model of OpenVINO: (1, S, S, 3) uint8 → (1, D).

    Raises:
        BackboneError: It cannot take pictures of its size.
    """
    ov, size = openvino(), network.preprocess.size
    with quiet():  # torch announces the end of tracing, which OpenVINO still relies on
        # traced here: OpenVINO would have torch check the trace, which takes as long again, and `verified` does it
        example = torch.zeros(1, 3, size, size)
        try:
            traced = torch.jit.trace(network.module, example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # a saved model's size that its network cannot take; each trips over its own
            raise cannot_take(network.name, size, error) from error
        model = ov.convert_model(traced, example_input=example)
    model.reshape([1, 3, size, size])
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(
        [255 * value for value in network.preprocess.mean]
    ).scale([255 * value for value in network.preprocess.std])
    return steps.build()


def quantized(network: Network, pictures: Sequence[Pixels]) -> Quantized:
    """Return the network in 8-bit integers, calibrated with pictures that are prepared as it sees them.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    with ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        graph, constants = Path(folder, "q.xml"), Path(folder, "q.bin")
        openvino().save_model(quantize(of(network), pictures), graph, compress_to_fp16=False)
        return Quantized(graph.read_bytes(), constants.read_bytes())


def read(network: Network, quantized: Quantized) -> Any:
    """Return OpenVINO's model of a quantized network.

    Raises:
        BackboneError: It is none, or not of such a network.
    """
    size = network.preprocess.size
    wanted = "uint8_t", [1, size, size, 3], [1, network.dim]
    try:
        model = openvino().Core().read_model(quantized.graph, quantized.constants)
        (taken,), (given,) = model.inputs, model.outputs
        found = taken.get_element_type().to_string(), list(taken.get_shape()), list(given.get_shape())
    except Exception as error:  # OpenVINO, and whatever it trips over in a file that was changed
        raise BackboneError(f"The quantized {network.name} cannot be read: {str(error).strip()[-200:]}") from error
    if found[1:] != wanted[1:] or found[0] not in ("u8", "uint8_t"):
        raise BackboneError(f"The quantized {network.name} is {found}; {wanted} was expected.")
    return model


def openvino() -> Any:
    """Return OpenVINO."""
    keep_private()
    return importlib.import_module("openvino")
