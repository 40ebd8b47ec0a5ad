"""A network → its graph in OpenVINO, as it is or in 8-bit integers; the only door to OpenVINO.

A graph takes pictures as 8-bit RGB; normalisation is a part of it.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from headstart.encoding.graph import Graph
from headstart.encoding.network import ONE_AT_A_TIME, Network, cannot_take, quiet
from headstart.encoding.quantized import keep_private, quantize
from headstart.errors import BackboneError, StorageError
from headstart.records import Pixels

_MODELS: WeakKeyDictionary[Network, Any] = WeakKeyDictionary()  # what `of` gave; they share their weights with modules


def of(network: Network) -> Any:
    """Return the network as a model of OpenVINO: (1, S, S, 3) uint8 → (1, D); asked again, the same one.

    Raises:
        BackboneError: It cannot take pictures of its size, or what it was saved as cannot be read.
    """
    with ONE_AT_A_TIME:
        model = _MODELS.get(network)
        if model is None:
            model = _converted(network) if network.graph is None else read(network, network.graph)
            _MODELS[network] = model
        return model


def quantized(network: Network, pictures: Sequence[Pixels]) -> Graph:
    """Return the network in 8-bit integers, calibrated with pictures that are prepared as it sees them.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    with ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        return kept(quantize(of(network).clone(), pictures), Path(folder))


def kept(model: Any, folder: Path) -> Graph:
    """Return a model of OpenVINO in bytes, by way of two files in a folder that are removed again.

    Raises:
        StorageError: They cannot be written.
    """
    graph, constants = folder / ".network.xml", folder / ".network.bin"
    try:
        openvino().save_model(model, graph, compress_to_fp16=False)
        return Graph(graph.read_bytes(), constants.read_bytes())
    except RuntimeError as error:  # of a stream that failed, whatever the reason
        raise StorageError(f"{folder} cannot be written: {str(error).strip()[-100:]}.", "Make room.") from error
    finally:
        for path in (graph, constants):
            path.unlink(missing_ok=True)


def read(network: Network, graph: Graph) -> Any:
    """Return OpenVINO's model of a graph that was kept.

    Raises:
        BackboneError: It is none, or not of such a network.
    """
    size = network.preprocess.size
    wanted = "uint8_t", [1, size, size, 3], [1, network.dim]
    try:
        model = openvino().Core().read_model(graph.graph, graph.constants)
        (taken,), (given,) = model.inputs, model.outputs
        found = taken.get_element_type().to_string(), list(taken.get_shape()), list(given.get_shape())
    except Exception as error:  # OpenVINO, and whatever it trips over in a file that was changed
        raise BackboneError(f"The graph of {network.name} cannot be read: {str(error).strip()[-200:]}") from error
    if graph.witness is not None and not (graph.witness.shape[1] == network.dim and np.isfinite(graph.witness).all()):
        raise BackboneError(f"The witness of {network.name} is not of its {network.dim} features.")
    if found[1:] != wanted[1:] or found[0] not in ("u8", "uint8_t"):
        raise BackboneError(f"The graph of {network.name} is {found}; {wanted} was expected.")
    return model


def openvino() -> Any:
    """Return OpenVINO."""
    keep_private()
    return importlib.import_module("openvino")


def _converted(network: Network) -> Any:
    ov, torch, size = openvino(), importlib.import_module("torch"), network.preprocess.size
    with quiet():  # torch announces the end of tracing, which OpenVINO still relies on
        # traced here: OpenVINO would have torch check the trace, which takes as long again, and `verified` does it
        example = torch.zeros(1, 3, size, size)
        try:
            traced = torch.jit.trace(network.module, example, check_trace=False, strict=False)
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
