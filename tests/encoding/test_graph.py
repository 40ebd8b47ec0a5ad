"""A network in bytes: it comes back the same, brings a witness, and whoever has it needs no module."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import contracts
import numpy as np
import pytest
from safetensors.numpy import save

from headstart.encoding import graphs, runtime
from headstart.encoding.graph import BLOCKS, Graph, drawn
from headstart.encoding.network import Network
from headstart.errors import BackboneError
from headstart.plans import EncoderPlan

PLAN = EncoderPlan("toy", "", "openvino", "cpu", "f32")
XML = b"<?xml version='1.0'?><net></net>"


def toy() -> Network:
    """Return a network that has its module."""
    return contracts.toys().networks[0]


@functools.cache
def with_witness() -> Graph:
    """Return its graph with a witness."""
    with tempfile.TemporaryDirectory() as folder:
        return runtime.testified(toy(), Path(folder))


def saved(witness: bool = True) -> Network:
    """Return the same from its bytes, without a module."""

    def nobody() -> None:
        raise AssertionError("the module was asked for")

    graph = with_witness()
    return replace(toy(), build=nobody, graph=graph if witness else replace(graph, witness=None))


def test_a_graph_comes_back_from_its_file():
    graph = with_witness()
    back = Graph.of_content(graph.content())
    assert (back.graph, back.constants, back.digest) == (graph.graph, graph.constants, graph.digest)
    np.testing.assert_array_equal(back.witness, graph.witness)
    assert Graph.of_content(replace(graph, witness=None).content()).witness is None


def test_a_saved_network_answers_to_the_bit_as_the_one_that_was_converted():
    pictures = contracts.noise(5)
    first, second = (list(runtime.build(one, PLAN).encode(pictures)) for one in (toy(), saved()))
    np.testing.assert_array_equal(first, second)


def test_the_witness_is_what_pytorch_makes_of_the_drawn_pictures():
    truth = runtime.build(toy(), runtime.reference_plan(PLAN))
    wanted = np.stack(list(truth.encode(drawn(toy().preprocess.size))))
    np.testing.assert_array_equal(with_witness().witness, wanted)
    assert len(np.unique(wanted, axis=0)) == len(BLOCKS)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_an_engine_is_compared_with_the_witness_and_no_module_is_built(precision: str):
    if precision == "bf16" and not runtime._has_bf16("openvino", "cpu"):
        pytest.skip("this processor has no bf16")
    encoder = runtime.build(saved(), replace(PLAN, precision=precision))
    assert not runtime.needs_pictures(encoder)
    used, agreement = runtime.verified(encoder, [])
    assert used is encoder
    assert agreement.pictures == len(BLOCKS)
    assert agreement.cosine > 0.99


def test_without_a_witness_pictures_are_needed():
    assert runtime.needs_pictures(runtime.build(saved(witness=False), PLAN))
    assert runtime.needs_pictures(runtime.build(toy(), PLAN))


def test_an_engine_that_contradicts_the_witness_is_left_for_pytorch():
    graph = with_witness()
    liar = replace(toy(), graph=replace(graph, witness=-graph.witness))
    with pytest.warns(UserWarning, match="openvino .* in f32 differs from PyTorch"):
        used, _ = runtime.verified(runtime.build(liar, PLAN), [])
    assert used.plan == runtime.reference_plan(PLAN)


def test_drawn_pictures_are_the_same_on_every_machine():
    """Their bytes are written down: another generator or another rounding would make witnesses of other pictures."""
    digest = hashlib.sha256(b"".join(one.tobytes() for one in drawn(64))).hexdigest()
    assert digest == "93deddeb0502036485e6bff1ed70878546e50a077129a1b9a98e8e4ba0dfe11a"
    assert all(one.shape == (100, 100, 3) and one.dtype == np.uint8 for one in drawn(100))


@pytest.mark.parametrize(
    "witness", [np.zeros((2, 5), np.float32), np.zeros((4, 5), np.float64), np.zeros(4, np.float32)]
)
def test_a_witness_of_another_kind_is_refused(witness: np.ndarray):
    arrays = {"graph": np.frombuffer(XML, np.uint8), "constants": np.zeros(1, np.uint8), "witness": witness}
    with pytest.raises(BackboneError, match="graph"):
        Graph.of_content(save(arrays))


@pytest.mark.parametrize("witness", [np.zeros((4, 5), np.float32), np.full((4, 384), np.nan, np.float32)])
def test_a_witness_of_another_network_is_refused(witness: np.ndarray):
    with pytest.raises(BackboneError, match="witness of test_resnet"):
        graphs.read(toy(), replace(with_witness(), witness=witness))
