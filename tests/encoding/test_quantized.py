"""Networks in 8-bit integers: what NNCF makes of a toy, how it is kept, and when it is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import contracts
import numpy as np
import pytest
import torch
from safetensors.torch import save

from headstart.config import EncoderConfig, TrainConfig
from headstart.encoding import graphs, runtime, shelves
from headstart.encoding.encoder import Encoder
from headstart.encoding.graph import Graph
from headstart.encoding.quantized import WEIGHT_BITS, require_nncf
from headstart.errors import BackboneError, ConfigError, MissingExtraError
from headstart.plans import EncoderPlan, refuse_contradictions

PLAN = EncoderPlan("toys", "", "openvino", "cpu", "int8")
FORGED = {
    "other-tensors": {"graph": torch.zeros(3, dtype=torch.uint8)},
    "other-type": {"graph": torch.zeros(3), "constants": torch.zeros(3)},
    "no-xml": {"graph": torch.zeros(3, dtype=torch.uint8), "constants": torch.zeros(3, dtype=torch.uint8)},
}


def encoder() -> Encoder:
    network = contracts.toys().networks[0]
    return runtime.build(network, PLAN, contracts.quantized_toys()[0])


@pytest.mark.slow
def test_a_quantized_encoder_keeps_the_contract_and_its_bound():
    own = encoder()
    contracts.check_encoder(own, contracts.noise(34))
    used, agreement = runtime.verified(own, contracts.noise(8))
    assert used is own
    assert agreement.cosine < 0.99999  # it is not float32 under another name


@pytest.mark.slow
def test_a_quantized_network_comes_back_from_its_bytes_without_nncf(monkeypatch: pytest.MonkeyPatch):
    own = encoder()
    before = list(own.encode(contracts.noise(3)))
    monkeypatch.setitem(sys.modules, "nncf", None)
    back = Graph.of_content(own.quantized.content())
    assert back.digest == own.quantized.digest
    again = runtime.build(own.network, PLAN, back)
    np.testing.assert_array_equal(list(again.encode(contracts.noise(3))), before)


@pytest.mark.slow
def test_weights_are_small_enough_for_processors_that_saturate():
    own = encoder()
    constants = [one for one in graphs.read(own.network, own.quantized).get_ops() if one.get_type_name() == "Constant"]
    weights = [one.data for one in constants if one.get_element_type().get_type_name() == "i8"]
    assert weights
    most = max(int(np.abs(one.astype(int)).max()) for one in weights)
    assert most <= 2 ** (WEIGHT_BITS - 1)
    assert 2 * 255 * most <= np.iinfo(np.int16).max  # what they add to without VNNI


@pytest.mark.slow
def test_the_quantized_network_is_part_of_the_key_of_the_cache():
    own = encoder()
    other = runtime.build(own.network, PLAN, Graph(own.quantized.graph, own.quantized.constants + b"0"))
    recipes = [shelves.recipe(one, "original") for one in (own, other)]
    assert recipes[0] != recipes[1]
    assert recipes[0]["precision"] == "int8"


@pytest.mark.slow
def test_a_quantized_network_of_another_shape_is_refused():
    other = contracts.toys().networks[1]
    with pytest.raises(BackboneError, match="was expected"):
        graphs.read(other, contracts.quantized_toys()[0])


@pytest.mark.slow
def test_a_wrong_quantized_network_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch):
    real = runtime.OpenVinoEncoder.encode

    def encode(self: runtime.OpenVinoEncoder, pictures: object) -> object:
        return (-vector if self.plan.precision == "int8" else vector for vector in real(self, pictures))

    monkeypatch.setattr(runtime.OpenVinoEncoder, "encode", encode)
    with pytest.warns(UserWarning, match="in int8 differs"):
        used, _ = runtime.verified(encoder(), contracts.noise(4))
    assert used.plan == runtime.usual(PLAN)
    assert used.plan.precision in ("f32", "bf16")


@pytest.mark.parametrize("tensors", FORGED.values(), ids=FORGED)
def test_forged_bytes_are_no_quantized_network(tensors: dict[str, torch.Tensor]):
    with pytest.raises(BackboneError, match="graph"):
        Graph.of_content(save(tensors))


@pytest.mark.parametrize("name", contracts.FORGED)
def test_a_forged_file_is_no_quantized_network(name: str):
    with pytest.raises(BackboneError, match="graph"):
        Graph.of_content(contracts.FORGED[name])


def test_a_graph_that_may_never_end_is_refused():
    with pytest.raises(BackboneError, match="no plain one"):
        Graph.of_content(Graph(b"<?xml version='1.0'?><net><body/></net>", b"0").content())


def test_bytes_that_openvino_cannot_read_are_refused():
    with pytest.raises(BackboneError, match="cannot be read"):
        graphs.read(contracts.toys().networks[0], Graph(b"<?xml version='1.0'?><net></net>", b""))


@pytest.mark.parametrize("asked", [{"engine": "torch"}, {"device": "cuda"}])
def test_int8_is_for_openvino_on_the_cpu(monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="int8 is for the OpenVINO engine") as told:
        runtime.choose(EncoderConfig("lite0", precision="int8", **asked))
    assert "--engine openvino" in told.value.hint


def test_int8_without_nncf_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError) as told:
        require_nncf()
    assert "headstart[int8]" in told.value.hint


def test_nncf_reports_to_nobody():
    code = "from headstart.encoding import quantized; quantized.require_nncf(); import sys"
    told = f"{code}; print(sys.modules['openvino_telemetry'])"
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-1] == "None"


def test_int8_of_what_was_not_calibrated_is_refused():
    with pytest.raises(ConfigError, match="not calibrated"):
        runtime.build_all(contracts.toys(), PLAN)


def test_int8_and_a_budget_exclude_each_other():
    config = TrainConfig(budget=60, encoder=EncoderConfig(precision="int8"))
    with pytest.raises(ConfigError, match="int8 and there is a budget"):
        refuse_contradictions(config)


@pytest.mark.slow
def test_a_saved_model_brings_its_quantized_networks(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    from headstart.data import sources

    classifier = contracts.quantized_toy_classifier()
    monkeypatch.setitem(sys.modules, "nncf", None)
    contracts.check_artifact(classifier, tmp_path / "model", sources.read(photos))
    assert (tmp_path / "model" / "quantized.2.safetensors").is_file()
