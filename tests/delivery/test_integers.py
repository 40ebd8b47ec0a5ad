"""What NNCF leaves between integers is mended so that onnxruntime fuses it, and the numbers stay what they were."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from headstart.delivery import integers


def quantized() -> Any:
    """Return a convolution as NNCF leaves it: signed in, clipped and unsigned out, its bias in float32."""
    generator = np.random.default_rng(0)
    constants = {
        "in/scale": np.float32(0.05),
        "in/zero": np.int8(0),
        # of 7 bits: two products fit 16 bits then, beyond which processors without VNNI add no more
        "weights": generator.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8),
        "weights/scale": np.full(4, 0.008, np.float32),
        "weights/zero": np.zeros(4, np.int8),
        "bias": generator.normal(0, 1, 4).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "out/scale": np.float32(6.1 / 255),
        "out/zero": np.uint8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "in/scale", "in/zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "in/scale", "in/zero"], ["b"]),
        helper.make_node("DequantizeLinear", ["weights", "weights/scale", "weights/zero"], ["w"], axis=0),
        helper.make_node("Conv", ["b", "w", "bias"], ["c"], name="conv"),
        helper.make_node("Clip", ["c", "low", "high"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "out/scale", "out/zero"], ["e"]),
        helper.make_node("DequantizeLinear", ["e", "out/scale", "out/zero"], ["y"]),
    ]
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 9, 9]), ("y", [1, 4, 7, 7]))
    )
    held = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "one convolution", [taken], [given], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def ran(model: Any, folder: Path) -> tuple[np.ndarray, Counter[str]]:
    """Return what a model gives, and the operations that onnxruntime makes of it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "made.onnx"), 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(1).normal(0, 2, (1, 3, 9, 9)).astype(np.float32)
    made = onnx.load(str(folder / "made.onnx"))
    return session.run(None, {"x": picture})[0], Counter(node.op_type for node in made.graph.node)


def test_a_convolution_is_computed_in_integers_and_gives_the_same(tmp_path: Path):
    before, _ = ran(quantized(), tmp_path)
    model = integers.fused(quantized())
    onnx.checker.check_model(model)
    after, operations = ran(model, tmp_path)
    assert operations["QLinearConv"] == 1
    assert not operations["Conv"] + operations["FusedConv"] + operations["Clip"]
    assert np.abs(after - before).max() <= 6.1 / 255 * 1.01  # one step


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_a_range_that_does_not_begin_at_nothing_is_left(low: float):
    model = quantized()
    graph = integers.Graph(model)
    graph.put("out/zero", np.uint8(40 if low else 0))
    integers.fused(model)
    scale = integers.Graph(model).value("out/scale")
    assert scale == pytest.approx(6.1 / 255 if low else 6 / 255, rel=1e-4)
