"""A backbone → an encoder that runs it: PyTorch (CPU, CUDA, MPS) or OpenVINO behind one protocol.

Pictures come in as 8-bit RGB; normalisation is part of what is compiled. Whatever an engine is told to do is explicit
(precision, streams), and `verified` compares it with PyTorch in float32 before it is trusted.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.config import EncoderConfig
from headstart.data import limits
from headstart.encoding import graphs
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Agreement, Encoder, compare, line
from headstart.encoding.graph import Graph, drawn
from headstart.encoding.graphs import openvino
from headstart.encoding.network import ONE_AT_A_TIME, Network
from headstart.errors import ConfigError, asked_for
from headstart.plans import EncoderPlan
from headstart.records import Floats, Pixels

# What an engine may differ from PyTorch float32. bf16 keeps 8 bits of mantissa; measured on Lite2 are a relative
# error of 4e-2 and a cosine of 0.9986; float32 engines measure about 1e-6. int8 has no mantissa: the worst of 64 dogs
# had 0.21 and 0.980, so that a bound finds mistakes only, and whether heads lose by it is measured apart.
BOUNDS = {"f32": (1e-3, 0.9999), "bf16": (0.25, 0.98), "int8": (0.5, 0.9)}
_SAFER_FIRST = ("f32", "bf16", "int8")


def choose(config: EncoderConfig) -> EncoderPlan:
    """Decide engine, device and precision from what the machine has.

    Raises:
        ConfigError: What was asked for is not to be had here, or does not go together.
    """
    device = _choose_device(config.device)
    engine: Literal["openvino", "torch"] = (
        config.engine if config.engine != "auto" else "openvino" if device == "cpu" else "torch"
    )
    if engine == "torch" and device == "cpu" and importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "The torch engine needs PyTorch, which is not installed here.",
            "Use --engine openvino, or pip install 'headstart[train]'.",
        )
    if engine == "openvino" and device != "cpu":
        raise ConfigError(f"The OpenVINO engine runs on the CPU here, not on {device}.", "Use --engine torch.")
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(engine, device) else "f32"
    elif precision == "bf16" and engine == "openvino" and not _has_bf16(engine, device):
        raise ConfigError(
            "This processor has no bf16 arithmetic; OpenVINO would silently use float32.",
            "Use --precision f32 or auto.",
        )
    elif precision == "int8" and engine != "openvino":
        raise ConfigError(
            f"int8 is for the OpenVINO engine on a CPU; this would be {engine} on {device}.",
            "Add --engine openvino --device cpu, or use --precision auto.",
        )
    return EncoderPlan(config.backbone, config.weights, engine, device, precision)


def usual(plan: EncoderPlan) -> EncoderPlan:
    """Return the plan, or where it asks for int8, which needs to be calibrated, the one that goes without."""
    if plan.precision != "int8":
        return plan
    return replace(plan, precision="bf16" if _has_bf16(plan.engine, plan.device) else "f32")


def build(network: Network, plan: EncoderPlan, quantized: Graph | None = None) -> Encoder:
    """Return the encoder of a network by a plan, for int8 with the quantized one; it compiles when it is first used."""
    if (plan.precision == "int8") != (quantized is not None):
        raise ConfigError(
            f"{network.name} was not calibrated for int8.", "Train with --precision int8, or use --precision auto."
        )
    return OpenVinoEncoder(network, plan, quantized) if plan.engine == "openvino" else _eager(network, plan)


def build_all(backbone: Backbone, plan: EncoderPlan, quantized: Sequence[Graph | None] = ()) -> tuple[Encoder, ...]:
    """Return an encoder for each network of a backbone, all by the same plan; for int8 with each quantized."""
    pairs = zip(backbone.networks, quantized or repeat(None), strict=False)
    return tuple(build(network, plan, own) for network, own in pairs)


def verified(encoder: Encoder, pictures: Sequence[Pixels]) -> tuple[Encoder, Agreement]:
    """Compare the encoder with PyTorch float32 on a few pictures; beyond the bound, fall back to the next safer one.

    Of a network that brings a witness no pictures are needed, and PyTorch only where nothing else agrees. An encoder is
    compared once in its life, whatever number of threads ask; what came of it is kept in its `trusted`.

    Warns:
        UserWarning: The engine differs by more than `BOUNDS` allows, and which one is used instead.
    """
    with ONE_AT_A_TIME:
        if encoder.trusted is None:
            witness = _witness(encoder.network)
            if witness is None:
                reference = np.stack(list(_eager(encoder.network, reference_plan(encoder.plan)).encode(pictures)))
            else:
                pictures, reference = drawn(encoder.preprocess.size), witness
            used, agreement = encoder.trusted = _first_that_agrees(encoder, pictures, reference)
            used.trusted = used, agreement
        return encoder.trusted


def needs_pictures(encoder: Encoder) -> bool:
    """Return whether `verified` has to be given pictures."""
    return encoder.trusted is None and _witness(encoder.network) is None


def testified(network: Network, folder: Path) -> Graph:
    """Return a network's graph with a witness, as it is saved.

    Args:
        network: Whose.
        folder: Where what OpenVINO writes may lie for a while.

    Raises:
        StorageError: Nothing can be written there.
    """
    if network.graph is not None and network.graph.witness is not None:
        return network.graph
    graph = graphs.kept(graphs.of(network), folder) if network.graph is None else network.graph
    truth = _eager(network, EncoderPlan(network.name, "", "torch", "cpu", "f32"))
    return replace(graph, witness=np.stack(list(truth.encode(drawn(network.preprocess.size)))))


def _witness(network: Network) -> Floats | None:
    return None if network.graph is None else network.graph.witness


def _eager(network: Network, plan: EncoderPlan) -> Encoder:
    with asked_for("Running a network by PyTorch"):
        from headstart.encoding.eager import TorchEncoder  # slow to import, and a saved network runs without

    return TorchEncoder(network, plan)


def _first_that_agrees(encoder: Encoder, pictures: Sequence[Pixels], reference: Floats) -> tuple[Encoder, Agreement]:
    agreement = compare(np.stack(list(encoder.encode(pictures))), reference)
    most, least = BOUNDS[encoder.plan.precision]
    safest = reference_plan(encoder.plan)
    if (agreement.relative_error <= most and agreement.cosine >= least) or encoder.plan == safest:
        return encoder, agreement
    safer = replace(encoder.plan, precision="f32") if encoder.plan.precision == "bf16" else safest
    safer = usual(encoder.plan) if encoder.plan.precision == "int8" else safer
    warnings.warn(
        f"{encoder.version} in {encoder.plan.precision} differs from PyTorch float32 by "
        f"{agreement.relative_error:.2g} (cosine {agreement.cosine:.4f}), more than {most:g} (cosine {least:g}); "
        f"{safer.engine} in {safer.precision} is used instead.",
        stacklevel=4,
    )
    return _first_that_agrees(build(encoder.network, safer), pictures, reference)


def safest(encoders: Iterable[Encoder]) -> EncoderPlan:
    """Return the plan, of those of encoders that began with the same one, that was fallen back to last."""
    plans = [encoder.plan for encoder in encoders]
    return min(plans, key=lambda plan: (plan != reference_plan(plan), _SAFER_FIRST.index(plan.precision)))


def by_plan(encoder: Encoder, plan: EncoderPlan) -> Encoder:
    """Return the encoder of the same network by another plan; asked again, the same one, which is compiled once."""
    with ONE_AT_A_TIME:
        if encoder.plan == plan:
            return encoder
        if plan not in encoder.others:
            encoder.others = {**encoder.others, plan: build(encoder.network, plan)}
        return encoder.others[plan]


def worst(agreements: Iterable[Agreement | None]) -> Agreement | None:
    """Return the agreement that holds for all networks of which one is known; None if none is."""
    known = [one for one in agreements if one is not None]
    if not known:
        return None
    errors, cosines, counts = zip(*((one.relative_error, one.cosine, one.pictures) for one in known), strict=True)
    return Agreement(max(errors), min(cosines), min(counts))


def reference_plan(plan: EncoderPlan) -> EncoderPlan:
    """Return the plan of the ground truth: PyTorch eager, float32, on the CPU."""
    return replace(plan, engine="torch", device="cpu", precision="f32")


class OpenVinoEncoder:
    """OpenVINO on the CPU: one picture a request, one stream a core, requests in a ring.

    Pictures one by one on single-threaded streams are twice as fast as batches of 32 (Lite0 on two cores: 176 against
    81 per second), and make each row independent of every other one to the last bit.
    """

    def __init__(self, network: Network, plan: EncoderPlan, quantized: Graph | None = None) -> None:
        """Keep the network; it is converted, unless that was done and quantized, and compiled on first use."""
        self.plan, self.preprocess, self.quantized = plan, network.preprocess, quantized
        self.weights, self.dim, self.ahead = network.digest, network.dim, limits.available_cores() + 2
        self.trusted: tuple[Encoder, Agreement] | None = None
        self.others: Mapping[EncoderPlan, Encoder] = {}
        self.network = network
        self._compiled: Any = None
        self._idle: list[Any] = []  # requests between two calls

    def __repr__(self) -> str:
        """Return one line."""
        return line(self)

    @property
    def version(self) -> str:
        """E.g. `openvino 2026.4.1`."""
        return f"openvino {openvino().__version__.split('-')[0]}"

    def encode(self, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        """See `Encoder.encode`."""
        with ONE_AT_A_TIME:
            compiled = self._compiled = self._compiled or self._compile()
        ring: deque[Any] = (
            deque()
        )  # of this call alone: a request is one thread's at a time, the network is everybody's
        slots = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 2
        try:
            for picture in pictures:
                if len(ring) < slots:
                    request = self._free_request(compiled)
                else:  # equal pictures take equal time: the oldest request is the next one to finish
                    request = ring.popleft()
                    yield _result(request)
                request.start_async([picture[None]])
                ring.append(request)
            while ring:
                values = _result(ring[0])
                self._idle.append(ring.popleft())
                yield values
        finally:
            for request in ring:  # nobody wants what they are at
                request.wait()
                self._idle.append(request)

    def _free_request(self, compiled: Any) -> Any:
        """Return a request that nobody uses: one of an earlier call, since to make one costs as much as a picture."""
        try:
            return self._idle.pop()
        except IndexError:
            return compiled.create_infer_request()

    def _compile(self) -> Any:
        cores = limits.available_cores()
        precise = self.quantized is None
        return (
            openvino()
            .Core()
            .compile_model(
                graphs.of(self.network) if self.quantized is None else graphs.read(self.network, self.quantized),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": self.plan.precision if precise else "f32",  # of what is not quantized
                    "PERFORMANCE_HINT": "THROUGHPUT",
                    "NUM_STREAMS": cores,
                    "INFERENCE_NUM_THREADS": cores,
                },
            )
        )


def _result(request: Any) -> Floats:
    request.wait()
    values: Floats = request.get_output_tensor().data[0].astype(np.float32)
    return values


def _choose_device(asked: str) -> Literal["cpu", "cuda", "mps"]:
    if asked == "cpu":
        return "cpu"
    torch: Any = None
    with contextlib.suppress(ModuleNotFoundError):  # then there is the CPU, which OpenVINO has
        torch = importlib.import_module("torch")
    has: Mapping[str, bool] = {
        "cuda": torch is not None and torch.cuda.is_available(),
        "mps": torch is not None and torch.backends.mps.is_available(),
        "cpu": True,
    }
    for device in ("cuda", "mps", "cpu"):
        if asked == device or (asked == "auto" and has[device]):
            if not has[device]:
                raise ConfigError(f"There is no {device} device that PyTorch can use here.", "Use --device auto.")
            return device
    raise ConfigError(f"The device {asked!r} is none of auto, cpu, cuda, mps.")


def _has_bf16(engine: str, device: str) -> bool:
    if engine == "openvino":
        return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return device == "cuda" and bool(importlib.import_module("torch").cuda.is_bf16_supported())
