"""Networks + training pictures → the networks in 8-bit integers, where quick heads prove that they lose nothing by it.

What is quantized is kept in the cache, by all that decides it: the same pictures give the same network, and its
features are found again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from headstart import metrics
from headstart.config import HeadConfig
from headstart.encoding import cache as caches
from headstart.encoding import features, graphs, reading, runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.encoding.features import Extraction
from headstart.encoding.graph import Graph
from headstart.encoding.network import Network
from headstart.encoding.quantized import WEIGHT_BITS, has_int8
from headstart.errors import BackboneError, DataError, StorageError
from headstart.experiments import grouping, trying
from headstart.experiments.trying import Answers
from headstart.inspection import duplicates
from headstart.inspection.files import Inspection
from headstart.learning import learners
from headstart.learning.learner import Learner
from headstart.learning.prior import LabelRows
from headstart.plans import Plan, SplitPlan, resolve_head
from headstart.predictions import Interval
from headstart.records import Dataset, Finding, Integers, LabelledFeatures, Pixels, Progress, silence
from headstart.storage import distrust, read_regular, write_whole

CALIBRATING, COMPARING = "Calibrating int8", "Comparing int8"  # stages
CALIBRATED = 128  # pictures; 300 took longer, and heads did no better
PICTURES = 600  # that quick heads are compared on
MOST_WORSE = 0.005  # in log-loss, out of fold
MOST_BYTES = 4 * 1024**3  # of a quantized network


def choose(
    inspection: Inspection, backbone: Backbone, plan: Plan, *, cache: Path | None, progress: Progress = silence
) -> tuple[tuple[Encoder, ...], tuple[Finding, ...]]:
    """Return the encoders of a plan, and what is to be told: in int8 where that was asked for and loses nothing by it.

    Args:
        inspection: The usable pictures. Only those of the training part are looked at.
        backbone: Its networks.
        plan: What was decided.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    usual = runtime.build_all(backbone, runtime.usual(plan.encoder))
    if plan.encoder.precision != "int8":
        return usual, ()
    if plan.head.finetune != "none":
        why = "a network is to be trained, which would have to be calibrated again (head.finetune=none trains none)"
        return usual, (_refused(usual[0].plan.precision, why),)
    rows = np.flatnonzero([part in (None, "train") for part in inspection.dataset.packed.splits])
    part = replace(
        inspection,
        dataset=inspection.dataset.select(rows),
        digests=inspection.digests.select(rows),
    )
    quantized = _quantized(part, backbone, plan, cache, progress)
    encoders = runtime.build_all(backbone, plan.encoder, quantized)
    taken, told = _Comparison(part, backbone, plan, cache, progress).better(usual, encoders)
    return taken, (told, *_slow()) if taken is encoders else (told,)


def _quantized(part: Inspection, backbone: Backbone, plan: Plan, cache: Path | None, progress: Progress) -> list[Graph]:
    """Return each network in 8-bit integers, from the cache where it is there."""
    order = sorted(range(len(part.dataset)), key=lambda row: part.digests[row])
    rows = sorted(np.random.default_rng(plan.seed).permutation(order)[:CALIBRATED].tolist())
    keys = [_key(network, [part.digests[row] for row in rows]) for network in backbone.networks]
    found = [_kept(cache, key) for key in keys]
    missing = [number for number, one in enumerate(found) if one is None]
    pictures = _pictures(part.dataset, rows, backbone, missing)
    for place, number in enumerate(missing):
        progress(CALIBRATING, place, len(missing))
        found[number] = one = graphs.quantized(backbone.networks[number], pictures[number])
        if cache is not None:
            _keep(cache, keys[number], one)
    progress(CALIBRATING, len(missing), len(missing))
    return [one for one in found if one is not None]


def _pictures(
    dataset: Dataset, rows: Sequence[int], backbone: Backbone, networks: Sequence[int]
) -> dict[int, list[Pixels]]:
    """Return network → pictures as it sees them; what cannot be decoded is left out."""
    parts = tuple((network, 0) for network in networks)
    preprocesses = [network.preprocess for network in backbone.networks]
    read = [reading.load(dataset[row].path, preprocesses, lambda _: parts) for row in rows] if parts else []
    return {network: [one.pixels[network] for one in read if not one.problem] for network in networks}


def _key(network: Network, digests: Sequence[str]) -> str:
    """Return the SHA-256 of all that decides a quantized network."""
    versions = [importlib.metadata.version(name) for name in ("nncf", "openvino")]
    deciding = [network.digest, asdict(network.preprocess), sorted(digests), versions, WEIGHT_BITS]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _path(cache: Path, key: str) -> Path:
    return cache / caches.QUANTIZED / f"{key}.safetensors"


def _kept(cache: Path | None, key: str) -> Graph | None:
    """Return what the cache holds, unless it is not to be trusted; then it is made again."""
    if cache is None:
        return None
    path = _path(caches.open_cache(cache), key)
    try:
        if distrust(path.parent) or distrust(path):
            return None
        return Graph.of_content(read_regular(path, MOST_BYTES))
    except (OSError, StorageError, BackboneError):
        return None


def _keep(cache: Path, key: str, quantized: Graph) -> None:
    path = _path(caches.open_cache(cache), key)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    write_whole(path, quantized.content(), mode=0o600)


class _Comparison:
    """Quick heads on features of the same pictures, in int8 and as usual."""

    def __init__(
        self, part: Inspection, backbone: Backbone, plan: Plan, cache: Path | None, progress: Progress
    ) -> None:
        rows = trying.draw(part.dataset, PICTURES, plan.seed)
        self.dataset, self.digests = part.dataset.select(rows), [part.digests[row] for row in rows]
        self.backbone, self.plan, self.cache, self.progress = backbone, plan, cache, progress

    def better(self, usual: tuple[Encoder, ...], small: tuple[Encoder, ...]) -> tuple[tuple[Encoder, ...], Finding]:
        """Return the quantized encoders if they lose nothing, else those that go without; and why."""
        without, within = self._extract(usual, 0), self._extract(small, 1)
        plan = without.encoders[0].plan
        if within.encoders != small:  # a warning has said by how much
            return without.encoders, _refused(plan.precision, "its features differ too much from those of float32")
        failures = without.table.failures.keys() | within.table.failures.keys()
        kept = np.array([row for row in range(len(self.dataset)) if row not in failures], dtype=np.int64)
        try:
            difference, pictures = self._difference(without, within, kept)
        except DataError as error:
            return without.encoders, _refused(plan.precision, f"it cannot be compared: {error.message.rstrip('.')}")
        text = f"its out-of-fold log-loss on {pictures} pictures is {difference} above that of {plan.precision}"
        if not difference.value <= MOST_WORSE:
            return without.encoders, _refused(plan.precision, f"{text}, and {MOST_WORSE:g} is allowed")
        return small, Finding("int8", "note", f"The network runs in int8: {text} ({MOST_WORSE:g} is allowed)")

    def _extract(self, encoders: tuple[Encoder, ...], place: int) -> Extraction:
        def told(stage: str, done: int, total: int) -> None:
            self.progress(COMPARING, place * total + done, 2 * total)

        with_properties = place == 0
        return features.extract(
            self.dataset, self.digests, encoders, with_properties=with_properties, cache=self.cache, progress=told
        )

    def _difference(self, without: Extraction, within: Extraction, kept: Integers) -> tuple[Interval, int]:
        """Return how much larger the log-loss of int8 is, paired by pictures, and on how many."""
        learner = self._learner(without, kept)
        table, known = without.table, learner.features
        assert table.properties is not None  # noqa: S101  # asked for
        alike = duplicates.find(
            table.properties.select(kept), known.values[:, 0], known.targets, known.digests, self.plan.seed
        )
        groups = grouping.decide(learner, alike, SplitPlan()).groups
        usual = trying.probe(learner, groups)
        small: Answers = trying.probe(self._learner(within, kept), groups, usual.l2)
        worse = small.losses - usual.losses
        return metrics.mean_interval(worse, groups[usual.rows], seed=self.plan.seed), len(worse)

    def _learner(self, extraction: Extraction, kept: Integers) -> Learner:
        dataset, backbone = self.dataset.select(kept), self.backbone
        classes = dataset.classes
        digests = extraction.table.digests.select(kept)
        values = extraction.table.values[kept]
        known = LabelledFeatures(dataset, values, classes, classes.encode(dataset.labels), digests)
        head = resolve_head(HeadConfig(hidden=(), class_weight=self.plan.head.class_weight))
        head = replace(head, l2=head.l2[::2])
        rows = LabelRows(backbone.labels, backbone.rows, backbone.offsets)
        return learners.build(known, head, rows, self.plan.seed)


def _refused(precision: str, why: str) -> Finding:
    return Finding("not-int8", "warning", f"int8 was asked for, and {precision} is used instead: {why}")


def _slow() -> list[Finding]:
    if has_int8():
        return []
    text = "This processor has no instructions for int8 (VNNI, AMX), so int8 will not be faster here"
    return [Finding("slow-int8", "warning", text, (), "Leave out --precision int8, unless the model is for another.")]
