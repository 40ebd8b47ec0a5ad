"""A graph of ONNX that NNCF quantized → the same, so that onnxruntime computes in 8-bit integers, and not around them.

Quantized numbers are written as float32 that were rounded in between. onnxruntime makes one operation in integers of a
convolution and what surrounds it where what goes in and what comes out are of one type, the bias is in integers too,
and nothing stands before the rounding that the rounding does not do anyway. NNCF has some ranges signed and some not,
leaves biases in float32, and rounds a little beyond what was clipped: that is mended here, and changes no number by
more than a rounding. Of Lite2 59 of 64 convolutions then are in integers, before 22.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 255


class Graph:
    """The graph of a model, in which constants are read and written by their names."""

    def __init__(self, model: Any) -> None:
        """Index what it holds."""
        self.onnx: Any = importlib.import_module("onnx")
        self.nodes, self.constants = model.graph.node, model.graph.initializer
        self.held = {one.name: one for one in self.constants}
        self.made = {name: node for node in self.nodes for name in node.output}

    def value(self, name: str) -> NDArray[Any] | None:
        """Return a constant, wherever it stands; None if it is none."""
        if name in self.held:
            return np.asarray(self.onnx.numpy_helper.to_array(self.held[name]))
        node = self.made.get(name)
        if node is None or node.op_type not in ("Constant", "Identity"):
            return None
        if node.op_type == "Constant":
            return np.asarray(self.onnx.numpy_helper.to_array(node.attribute[0].t))
        return self.value(node.input[0])

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Set a constant that there may have been."""
        tensor = self.onnx.numpy_helper.from_array(np.array(values), name)
        if name in self.held:
            self.held[name].CopyFrom(tensor)
        else:
            self.constants.append(tensor)
            self.held[name] = self.constants[-1]


def fused(model: Any) -> Any:
    """Return a quantized model of ONNX, changed in place, that onnxruntime fuses."""
    graph = Graph(model)
    for node in [one for one in graph.nodes if one.op_type == "QuantizeLinear"]:
        _within_clip(graph, node)
        _unsigned(graph, node)
    for node in [one for one in graph.nodes if one.op_type == "Conv" and len(one.input) == 3]:
        _bias(graph, node)
    del model.graph.value_info[:]  # it tells of types that have changed
    _tidy(model.graph)
    return model


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep off the terminal what onnxruntime says of each constant of a graph that is being quantized."""
    runtime: Any = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)  # errors
    try:
        yield
    finally:
        runtime.set_default_logger_severity(2)  # warnings, as it begins


def _tidy(graph: Any) -> None:
    """Leave out constants that nothing reads: the weights and biases in float32 that others stand for now."""
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _unsigned(graph: Graph, node: Any) -> None:
    """Have what is rounded in [-128, 127] be rounded in [0, 255], with zero at 128: the same numbers."""
    zero = graph.value(node.input[2])
    if zero is not None and zero.dtype == np.int8:
        graph.put(node.input[2], (zero.astype(np.int16) + 128).astype(np.uint8))


def _within_clip(graph: Graph, node: Any) -> None:
    """Have a range that begins at 0 end where what is rounded was clipped."""
    clip, (scale, zero) = graph.made.get(node.input[0]), (graph.value(name) for name in node.input[1:3])
    if clip is None or clip.op_type != "Clip" or scale is None or zero is None:
        return
    top = graph.value(clip.input[2])
    if top is not None and zero.dtype == np.uint8 and not zero.any():
        graph.put(node.input[1], np.minimum(scale, np.float32(top.item() / LEVELS * (1 - 1e-6))))


def _bias(graph: Graph, node: Any) -> None:
    """Have the bias of a convolution in steps of the products of what goes in and of the weights."""
    inner, weights = (graph.made.get(name) for name in node.input[:2])
    if inner is not None and inner.op_type == "Pad":
        inner = graph.made.get(inner.input[0])
    scales = [_scale(graph, one) for one in (inner, weights)]
    bias = graph.value(node.input[2])
    if bias is None or scales[0] is None or scales[1] is None:
        return
    step = np.broadcast_to((scales[0] * scales[1]).astype(np.float32).ravel(), bias.shape)
    whole = np.clip(np.round(bias / step), -(2**31), 2**31 - 1).astype(np.int32)
    name = f"{node.name}/bias"
    parts = {f"{name}/integers": whole, f"{name}/step": step, f"{name}/zero": np.zeros(bias.shape, np.int32)}
    for part, values in parts.items():
        graph.put(part, values)
    read = graph.onnx.helper.make_node("DequantizeLinear", list(parts), [name], name=name, axis=0)
    graph.nodes.insert(list(graph.nodes).index(node), read)
    node.input[2] = name


def _scale(graph: Graph, node: Any) -> NDArray[Any] | None:
    """Return the steps that a node brings back from integers; None if it does something else."""
    return graph.value(node.input[1]) if node is not None and node.op_type == "DequantizeLinear" else None
