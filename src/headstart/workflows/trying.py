"""Labelled pictures → the backbones at hand, ranked on a sample of them: what `headstart models --try` says.

What is encoded on the way is kept, so that a training with one of the backbones begins where this ends.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart import arrays
from headstart.config import HeadConfig, TrainConfig, apply_recipe
from headstart.data import sources
from headstart.data.splits import Grouping
from headstart.encoding import at_hand, features, runtime
from headstart.encoding import cache as caches
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.encoding.features import COMPARED, NOT_FINITE, Extraction
from headstart.errors import BackboneError, ConfigError, HeadstartError
from headstart.experiments import grouping, trying
from headstart.experiments.trying import Cost, Trial
from headstart.inspection import duplicates, files
from headstart.inspection.files import Inspection
from headstart.learning import learners
from headstart.learning.learner import Learner
from headstart.learning.prior import LabelRows
from headstart.plans import EncoderPlan, HeadPlan, SplitPlan, resolve_head
from headstart.records import Dataset, Floats, Integers, LabelledFeatures, Progress, silence

PICTURES = 600
TIMED = 64  # pictures that are encoded again where the cache had them all
FEWEST_TIMED = 32
MOST_L2 = 5  # penalties that are all considered; of more every second, as a factor of ten changes a log-loss little


def try_backbones(
    data: Any,
    names: Sequence[str] | None = None,
    config: TrainConfig | None = None,
    *,
    pictures: int = PICTURES,
    cache: caches.CacheChoice = caches.DEFAULT,
    progress: Progress = silence,
) -> tuple[Trial, ...]:
    """Return how backbones do on a sample of labelled pictures, that of the smallest log-loss first.

    Args:
        data: What `sources.dataset_of` takes: a dataset, a path, or a data frame with paths. Where it brings a split,
            only the training part is looked at.
        names: Of backbones, e.g. `lite2@320`; one without a size is tried at three. None: all whose weights are on this
            machine. Weights of a network that is named may be downloaded.
        config: Engine, device, precision, resize policy, class weights and seed, where they are not the defaults.
        pictures: How many at most.
        cache: A folder where features are kept; None: keep nothing.
        progress: Hears how far it is.

    Raises:
        DataError: The data cannot be learned from, or no picture can be left out to measure.
        BackboneError: A name is unknown, or not one of the backbones could be tried.
        ConfigError: A size is out of range, or the engine is not to be had here.
        StorageError: The cache cannot be written.

    Warns:
        UserWarning: A backbone is left out, and why; or pictures are.
    """
    config = apply_recipe(config or TrainConfig())
    engine = runtime.choose(config.encoder)
    if engine.precision == "int8":
        raise ConfigError("Backbones are tried as they are, not in int8.", "Leave out --precision int8.")
    candidates = list(
        dict.fromkeys(one for name in (at_hand.names() if names is None else names) for one in at_hand.candidates(name))
    )
    sample = _sample(sources.dataset_of(data, cache=caches.resolve(cache)), pictures, config.seed)
    inspection = files.inspect(sample, progress, cache=caches.resolve(cache))
    tried = []
    with _kept(cache) as folder:
        bench = _Bench(inspection, config, engine, folder, progress, download=names is not None)
        for place, candidate in enumerate(candidates):
            progress("Trying backbones", place, len(candidates))
            try:
                tried.append((candidate, *bench.measure(candidate)))
            except (BackboneError, ConfigError) as error:
                _leave_out(candidate, error, alone=len(candidates) == 1)
        progress("Trying backbones", len(candidates), len(candidates))
    if bench.seen is None or not tried:
        raise BackboneError(f"None of these could be tried: {', '.join(candidates) or 'no backbone was named'}.")
    if lost := len(sample) - len(bench.seen.dataset):
        warnings.warn(f"{lost} of {len(sample)} pictures cannot be used; `headstart check` names them.", stacklevel=2)
    return trying.rank(tried, len(bench.seen.dataset.classes), bench.seen.grouping, config.seed)


def _sample(dataset: Dataset, most: int, seed: int) -> Dataset:
    """Return some pictures of the training part."""
    files.refuse_one_class(dataset, dataset.findings)
    training = dataset.select([row for row, one in enumerate(dataset) if one.split in (None, "train")])
    files.refuse_one_class(training, training.findings)
    return training.select(trying.draw(training, most, seed))


def _leave_out(candidate: str, error: HeadstartError, *, alone: bool) -> None:
    if alone:
        raise error
    warnings.warn(f"{candidate} is left out. {error.message}", stacklevel=2)


@contextmanager
def _kept(cache: caches.CacheChoice) -> Iterator[Path]:
    """Give the folder of the cache, or where nothing shall be kept one that is gone afterwards."""
    folder = caches.resolve(cache)
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="headstart-") as passing:
        yield Path(passing)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The pictures that every backbone answers, as the first one that saw them left them.

    Attributes:
        kept: Rows of the inspected files that can be decoded.
        dataset: These pictures.
        digests: Of each.
        grouping: What stays together wherever some are left out.
    """

    kept: Integers
    dataset: Dataset
    digests: Sequence[str]
    grouping: Grouping


class _Bench:
    """Measures one backbone after the other on the same pictures."""

    def __init__(
        self,
        inspection: Inspection,
        config: TrainConfig,
        engine: EncoderPlan,
        cache: Path,
        progress: Progress,
        *,
        download: bool,
    ) -> None:
        self.inspection, self.config, self.engine, self.cache = inspection, config, engine, cache
        self.progress, self.download = progress, download
        self.seen: _Seen | None = None
        self.l2: float | None = None  # of the backbone before: the next one's is near it

    def measure(self, candidate: str) -> tuple[Cost, trying.Answers]:
        """Encode the pictures and let quick heads answer them."""
        backbone = at_hand.load(candidate, resize=self.config.pictures.resize, download=self.download)
        asked = runtime.build_all(backbone, self.engine)
        encoders = features.extract(self._some(COMPARED), None, asked).encoders  # compiled before the clock runs
        begun = time.perf_counter()
        extraction = self._extract(encoders, candidate)
        seconds = time.perf_counter() - begun
        self.seen = self.seen or self._look(backbone, extraction, candidate)
        cost = self._cost(backbone, extraction, seconds)
        learner = self._learner(backbone, self._known(extraction, self.seen))
        answers = trying.probe(learner, self.seen.grouping.groups, self.l2)
        self.l2 = answers.l2
        return cost, answers

    def _extract(self, encoders: Sequence[Encoder], candidate: str, *, with_properties: bool = False) -> Extraction:
        known = -1

        def told(stage: str, done: int, total: int) -> None:
            nonlocal known
            if done != known and with_properties == (stage == "Looking"):  # else it was told already
                self.progress(f"Encoding with {candidate}" if stage == "Encoding" else stage, done, total)
                known = done

        return features.extract(
            self.inspection.dataset,
            self.inspection.digests,
            encoders,
            with_properties=with_properties,
            cache=self.cache,
            progress=told,
        )

    def _some(self, most: int) -> Dataset:
        """Return a few pictures from everywhere."""
        dataset = self.inspection.dataset
        return dataset.select(arrays.spaced(len(dataset), most))

    def _look(self, backbone: Backbone, extraction: Extraction, candidate: str) -> _Seen:
        """Find out which pictures can be used and which stay together; the features are in the cache already."""
        table = self._extract(extraction.encoders, candidate, with_properties=True).table
        assert table.properties is not None  # noqa: S101  # asked for above
        if NOT_FINITE in table.failures.values():  # no fault of the pictures
            raise BackboneError(f"It cannot be tried: {NOT_FINITE}.")
        kept = np.array([row for row in range(len(table.values)) if row not in table.failures], dtype=np.int64)
        dataset = self.inspection.dataset.select(kept)
        files.refuse_one_class(dataset, files.unusable(self.inspection.dataset, table.failures))
        known = _labelled(dataset, table.digests.select(kept), table.values[kept])
        resemblance = duplicates.find(
            table.properties.select(kept), known.values[:, 0], known.targets, known.digests, self.config.seed
        )
        decided = grouping.decide(self._learner(backbone, known), resemblance, SplitPlan())
        return _Seen(kept, dataset, known.digests, decided)

    def _known(self, extraction: Extraction, seen: _Seen) -> LabelledFeatures:
        """Return the features of the pictures that every backbone answers."""
        failures = extraction.table.failures
        if lost := [failures[row] for row in seen.kept if row in failures]:
            raise BackboneError(f"{len(lost)} of the pictures have no features: {lost[0]}.")
        return _labelled(seen.dataset, seen.digests, extraction.table.values[seen.kept])

    def _learner(self, backbone: Backbone, known: LabelledFeatures) -> Learner:
        rows = LabelRows(backbone.labels, backbone.rows, backbone.offsets)
        return learners.build(known, _quick(self.config.head), rows, self.config.seed)

    def _cost(self, backbone: Backbone, extraction: Extraction, seconds: float) -> Cost:
        table, total = extraction.table, len(self.inspection.dataset)
        timed, again = table.encoded, table.encoded < min(FEWEST_TIMED, total)
        if again:
            begun = time.perf_counter()
            timed = features.extract(self._some(TIMED), None, extraction.encoders).table.encoded
            seconds = time.perf_counter() - begun
        parameters = [one for network in backbone.networks for one in network.module.parameters()]
        state = [one for network in backbone.networks for one in network.module.state_dict().values()]
        return Cost(
            tuple(network.preprocess.size for network in backbone.networks),
            timed / seconds,
            timed,
            again,
            sum(one.numel() for one in parameters),
            sum(one.numel() * one.element_size() for one in state) / 1e6,
        )


def _labelled(dataset: Dataset, digests: Sequence[str], values: Floats) -> LabelledFeatures:
    return LabelledFeatures(dataset, values, dataset.classes, dataset.classes.encode(dataset.labels), digests)


def _quick(head: HeadConfig) -> HeadPlan:
    """Return the plan of quick linear heads: every second penalty of the plan asked for, if that is of a linear one."""
    plan = resolve_head(head)
    plan = resolve_head(HeadConfig(class_weight=head.class_weight)) if plan.in_epochs else plan
    return replace(plan, l2=plan.l2[:: 1 + (len(plan.l2) > MOST_L2)])
