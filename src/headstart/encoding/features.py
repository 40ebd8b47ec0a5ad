"""Dataset × encoders → features, read from and written to the cache.

Pictures are read and decoded by threads a little ahead of the encoders, each once, and committed in shards. Each row
depends on its own picture alone, so it does not matter which rows were there already, or in which order the others are
computed. Nothing that belongs to the whole process is changed, so that threads may extract side by side.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from headstart import arrays
from headstart.data.pictures import InMemory
from headstart.encoding import cache as caches
from headstart.encoding import crops, reading, runtime, side_by_side
from headstart.encoding.cache import open_cache
from headstart.encoding.encoder import Agreement, Encoder
from headstart.encoding.kept_properties import KeptProperties
from headstart.encoding.opened import Opened
from headstart.encoding.reading import Loaded, Part
from headstart.encoding.shelves import Shelves
from headstart.packed import Digests, Finder
from headstart.records import (
    Dataset,
    FeatureTable,
    Floats,
    Integers,
    Pixels,
    Progress,
    silence,
)

VIEWS = ("original", "mirror")
COMPARED = 8  # pictures on which the engine is compared with PyTorch
NOT_FINITE = "the network gave numbers that are not finite"


class Extraction(NamedTuple):
    """What `extract` gives: the features, and what is known of the encoders that made them."""

    table: FeatureTable
    encoders: tuple[Encoder, ...]
    agreement: Agreement | None


def extract(
    dataset: Dataset,
    digests: Sequence[str] | None,
    encoders: Sequence[Encoder],
    *,
    views: Sequence[str] = ("original",),
    with_properties: bool = False,
    cache: Path | None = None,
    progress: Progress = silence,
    memory: Mapping[int, InMemory] | None = None,
    opened: Opened | None = None,
    failures: Mapping[int, str] = MappingProxyType({}),
) -> Extraction:
    """Return the features of every picture, and its properties if asked for, computing what the cache lacks.

    Before the first picture is encoded the engine of each network is compared with PyTorch float32 on up to eight
    pictures, and replaced by a safer one, for all networks, if it differs too much; see `runtime.verified`.

    Args:
        dataset: N samples.
        digests: (N,) SHA-256 of their bytes as they were when last looked at; "" where a file could not be read. None:
            they are found out as each file is read, which is then read only once; and not at all where it is known
            unread, and its features are kept.
        encoders: Compute the features, each those of one network, which stand side by side.
        views: From `VIEWS`, or `crops.names`.
        with_properties: Whether properties are wanted; they come from the same decoding.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.
        memory: Row → its picture, where that is not a file.
        opened: What an earlier call opened of the cache, which need not be looked through again, and where this one
            leaves its own.
        failures: Row → why its picture cannot be used, where that is known beforehand: it is not touched.

    Raises:
        StorageError: The cache cannot be used.
    """
    wanted = _Wanted(dataset, digests, tuple(views), with_properties, memory or {})
    with Opened() if opened is None else nullcontext(opened) as known:
        job = _Job(wanted, encoders, cache, progress, known)
        job.failures |= failures
        agreement = job.choose_engines()
        while job.missing():  # once, unless files change while they are read
            job.compute()
        job.complete_properties()
        return Extraction(job.table(), job.encoders, agreement)


def missing(
    dataset: Dataset, digests: Sequence[str], encoders: Sequence[Encoder], *, views: Sequence[str], cache: Path | None
) -> Integers:
    """Return rows of pictures whose features the cache lacks, one for each content; arguments as in `extract`."""
    job = _Job(_Wanted(dataset, digests, tuple(views)), encoders, cache)
    job.recall()
    return np.array([rows[0] for rows in job.missing().values()], dtype=np.int64)


def kept(
    dataset: Dataset, digests: Sequence[str], encoders: Sequence[Encoder], *, views: Sequence[str], cache: Path | None
) -> tuple[Integers, Floats]:
    """Return the rows whose features the cache holds, and these, (M, V, D); no picture is read; see `extract`."""
    job = _Job(_Wanted(dataset, digests, tuple(views)), encoders, cache)
    job.recall()
    rows = np.flatnonzero(job.known.all(axis=(1, 2)))
    return rows, arrays.select(job.values, rows, job.cache)


def mean(values: Floats, folder: Path | None = None) -> Floats:
    """Return (N, 1, D): of (N, V, D) the sum in the order of the views, divided by their number.

    Args:
        values: Of all pictures.
        folder: Where they may lie in a file, if they are too many for memory; None: where temporary files do.
    """
    if values.shape[1] == 1:
        return values
    means = arrays.zeros((len(values), 1, values.shape[2]), folder, half=values.dtype == np.float16)
    for part, block in arrays.blocks(values):
        total = block[:, :1]
        for view in range(1, values.shape[1]):
            total += block[:, view : view + 1]
        total /= np.float32(values.shape[1])
        means[part] = total
        arrays.release(means)
    return means


class _Wanted(NamedTuple):
    """What is extracted; fields as the arguments of `extract`."""

    dataset: Dataset
    digests: Sequence[str] | None
    views: tuple[str, ...]
    with_properties: bool = False
    memory: Mapping[int, InMemory] = MappingProxyType({})


class _Job:
    """One extraction: what is known, what is missing, and where it goes."""

    def __init__(
        self,
        wanted: _Wanted,
        encoders: Sequence[Encoder],
        cache: Path | None,
        progress: Progress = silence,
        opened: Opened | None = None,
    ) -> None:
        self.dataset, digests, self.views, with_properties, self.memory = wanted
        self.encoders = tuple(encoders)
        self.far = bool(self.dataset.packed.far.any())
        self.preprocesses = [encoder.preprocess for encoder in encoders]
        self.blind = digests is None
        self.digests = Digests.unknown(len(self.dataset)) if digests is None else Digests.of(digests)
        self.cache = None if cache is None else open_cache(cache)
        self.progress = progress
        self.opened = Opened() if opened is None else opened
        ends = [0, *accumulate(encoder.dim for encoder in encoders)]
        self.columns = [slice(begin, end) for begin, end in pairwise(ends)]  # of each network
        self.values = arrays.zeros((len(self.dataset), len(self.views), ends[-1]), self.cache, half=True)
        self.known = np.zeros((len(self.dataset), len(encoders), len(self.views)), dtype=bool)
        self.codes = np.zeros(len(self.dataset), dtype=np.int64)  # of remarks
        self.properties: KeptProperties | None = None
        if with_properties:
            self.properties = KeptProperties(self.digests, self.preprocesses[0], self.cache, self.opened)
        self.failures: dict[int, str] = {}
        self.done = 0  # rows with all their parts
        self.encoded = 0
        self.changed: list[str] = []
        self.loaded: dict[int, Loaded] = {}  # what was read for the comparison and is not encoded yet

    def choose_engines(self) -> Agreement | None:
        """Take what the cache holds, compare the engines that will be needed, and return how they compare.

        All networks run on one engine: where one falls back to a safer one, the others do too.
        """
        while True:
            asked = self.encoders
            self.recall()
            agreements = [self._compared(network) for network in range(len(asked))]
            plan = runtime.safest(self.encoders)
            self.encoders = tuple(runtime.by_plan(encoder, plan) for encoder in self.encoders)
            if self.encoders == asked:
                return runtime.worst(agreements)

    def missing(self) -> dict[str, list[int]]:
        """Return digest → rows that still need their features. Unreadable files are asked again, each on its own."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.known.all(axis=(1, 2))).tolist():
            if row not in self.failures:
                rows[self.digests[row] or f"row {row}"].append(row)
        return rows

    def compute(self) -> None:
        """Encode what is missing, one row for each digest, and commit it shard by shard."""
        fresh: list[tuple[str, int, Sequence[Part], Sequence[Floats]]] = []  # not yet in the cache
        try:
            with closing(self._prepared()) as source:
                for (rows, outcome), vectors in side_by_side.encode(self.encoders, source):
                    if self._settle(rows, outcome.parts, vectors):
                        fresh.append((outcome.digest, outcome.code, outcome.parts, vectors))
                    if len(fresh) == caches.SHARD_ROWS:
                        self.shelves.add(fresh)
                        fresh = []
                        arrays.release(self.values)
        finally:
            self.shelves.add(fresh)  # also when interrupted: what was computed is kept
            if self.properties is not None:
                self.properties.commit()
        self._share()
        if self.blind:
            self.blind = False
            self.shelves.take_again()
        self._fetch()  # what was found to be kept when its file was read

    def complete_properties(self) -> None:
        """Decode once more what was encoded before anybody asked for its properties."""
        if self.properties is None:
            return
        rows = [rows for rows in self.properties.missing(self.digests).values() if rows[0] not in self.failures]
        try:
            with closing(reading.ahead(self._load, rows, far=self.far)) as source:
                for done, (same, outcome) in enumerate(source, start=1):
                    if outcome.properties is not None and outcome.digest == self.digests[same[0]]:
                        self.properties.take(same, outcome.digest, outcome.properties)
                    self.progress("Looking", done, len(rows))
        finally:
            self.properties.commit()

    def table(self) -> FeatureTable:
        """Return what is known now."""
        observations = reading.observations(self.dataset, self.codes)
        if self.changed:
            observations["changed-file"] = tuple(sorted(set(self.changed)))
        return FeatureTable(
            self.values,
            self.digests,
            dict(self.failures),
            self.encoded,
            tuple(self.changed),
            observations,
            None if self.properties is None else self.properties.all(),
        )

    def recall(self) -> None:
        """Take what the cache holds of these encoders."""
        self.shelves = Shelves(self.cache, self.encoders, self.views, self.opened)
        self.known[:] = False
        if self.blind and self.shelves.unread():
            self.digests = self.opened.manifest(self.cache).recall(self.dataset)
        self._fetch()
        if self.blind:  # of what has to be read nothing is believed before it was
            lacking = np.flatnonzero(~self.known.all(axis=(1, 2)))
            self.digests.put(lacking, Digests.unknown(len(lacking)))
            self.known[lacking], self.codes[lacking] = False, 0
            self.shelves.take_again()

    def _compared(self, network: int) -> Agreement | None:
        """Return how the engine of a network compares; one that differs too much is replaced."""
        asked, known = self.encoders[network], self.shelves.agreement(network)
        if known is not None or self.known[:, network].all():
            return known
        needed = runtime.needs_pictures(asked)
        prepared = self._some_pictures(network) if needed else []
        if needed and not prepared:
            return None
        used, agreement = runtime.verified(asked, prepared)
        if used is asked:
            self.shelves.remember(network, agreement)
        self.encoders = (*self.encoders[:network], used, *self.encoders[network + 1 :])
        return agreement

    def _prepared(self) -> Generator[tuple[tuple[list[int], Loaded], list[tuple[int, Pixels]]]]:
        """Yield each missing picture with the rows that it is for, and what its parts are computed of."""
        self.first: dict[str, int] = {}  # digest → row that is encoded
        self.copies: list[tuple[int, int]] = []  # row, and the row whose features are its own too
        with closing(reading.ahead(self._load, self._to_do(), len(self.encoders), far=self.far)) as source:
            for rows, outcome in source:
                if same := self._receive(rows, outcome):
                    yield (same, outcome), [(network, self._view(outcome, network, v)) for network, v in outcome.parts]

    def _view(self, outcome: Loaded, network: int, view: int) -> Pixels:
        if crops.is_crop(self.views[view]):
            return outcome.crops[network, view]
        pixels = outcome.pixels[network]
        return pixels if self.views[view] == "original" else np.ascontiguousarray(pixels[:, ::-1])

    def _receive(self, rows: list[int], outcome: Loaded) -> list[int]:
        """Note what a picture turned out to be, and return the rows its features are for; none if it needs none."""
        row = rows[0]
        same = rows if outcome.digest == self.digests[row] else [row]
        if outcome.problem:
            self._fail(same, outcome.problem)  # the same bytes fail the same way
            return []
        if self.digests[row] and outcome.digest != self.digests[row]:
            self.changed.append(self.dataset[row].name)
            self.known[row] = False  # what was known is of other bytes
        self.digests[row] = outcome.digest
        if self.blind:
            self.opened.manifest(self.cache).note(outcome.version, outcome.digest)
        if self.properties is not None and outcome.properties is not None:
            self.properties.take(same, outcome.digest, outcome.properties)
        if not outcome.parts:
            self.done += 1
            self._report()
            return []
        self.codes[same] = outcome.code
        if outcome.digest in self.first:
            self.copies += [(copy, self.first[outcome.digest]) for copy in same]
            return []
        self.first[outcome.digest] = row
        return same

    def _share(self) -> None:
        """Give copies that were met on the way the features of the one that was encoded."""
        for row, first in self.copies:
            self.values[row], self.known[row] = self.values[first], self.known[first]
            if first in self.failures:
                self.failures[row] = self.failures[first]
            else:
                self.done += 1
        self._report()

    def _settle(self, rows: list[int], parts: Sequence[Part], vectors: Sequence[Floats]) -> bool:
        """Take the computed parts of rows, and return whether they can be used."""
        if not all(np.isfinite(vector).all() for vector in vectors):
            self._fail(rows, NOT_FINITE)
            return False
        for part, vector in zip(parts, vectors, strict=True):
            self._know(rows, part, vector)
        self.encoded += 1
        self.done += len(rows)
        self._report()
        return True

    def _fail(self, rows: list[int], problem: str) -> None:
        self.values[rows] = 0  # another network's may have been in the cache
        self.failures.update(dict.fromkeys(rows, problem))
        self._report()

    def _know(self, rows: Sequence[int] | Integers, part: Part, vectors: Floats) -> None:
        """Take features: one vector (D,) for all the rows, or (n, D) one for each."""
        network, view = part
        if not arrays.holds(self.values, vectors):
            self.values = arrays.single(self.values, self.cache)
        self.values[rows, view, self.columns[network]] = vectors
        self.known[rows, network, view] = True

    def _to_do(self) -> Iterator[list[int]]:
        """Yield the rows of each missing digest, leaving out what another process commits in the meantime.

        Blocks are visited in an order of this process's own: two processes with the same pictures then work on
        different ends and meet only now and then, without a lock that a killed one could leave behind.
        """
        missing = list(self.missing().values())
        blocks = [missing[start : start + caches.SHARD_ROWS] for start in range(0, len(missing), caches.SHARD_ROWS)]
        if self.shelves:
            random.Random(os.urandom(8)).shuffle(blocks)  # noqa: S311  # the order decides no result
        for block in blocks:
            if self.blind:
                self.shelves.look()
            else:
                self._fetch()
            yield from (rows for rows in block if not self.known[rows].all())

    def _some_pictures(self, network: int) -> list[Pixels]:
        """Return a few of the pictures that a network lacks, as it wants them, and keep them for the encoders."""
        prepared: list[Pixels] = []
        for row, *_ in self.missing().values():
            if self.known[row, network].all():
                continue
            outcome = self.loaded.get(row) or self._load(row)
            if len(self.loaded) < COMPARED * len(self.encoders):
                self.loaded[row] = outcome
            prepared += [self._view(outcome, *part) for part in outcome.parts if part[0] == network][:1]
            if len(prepared) == COMPARED:
                break
        return prepared

    def _load(self, row: int) -> Loaded:
        if row in self.loaded:
            return self.loaded.pop(row)
        wanted = self.properties is not None and not self.properties.known[row]
        source = self.memory.get(row, self.dataset[row].path)
        lacking = partial(self._lacking, row)
        return reading.load(source, self.preprocesses, lacking, views=self.views, with_properties=wanted)

    def _lacking(self, row: int, digest: str) -> tuple[Part, ...]:
        """Return what is to be computed of a row whose file turned out to have this digest."""
        if self.blind:
            return self.shelves.lacking(digest)
        same = digest == self.digests[row]
        return tuple(part for part in self.shelves.parts if not (same and self.known[row][part]))

    def _fetch(self) -> None:
        """Take from the stores what they hold of the missing rows."""
        if not self.shelves.unread():
            return
        lacking = ~self.known.all(axis=(1, 2)) & self.digests.known
        lacking[list(self.failures)] = False
        if not lacking.any():
            return
        finder = Finder(self.digests, np.flatnonzero(lacking))
        for part, held in self.shelves.take(finder.wanted):
            places, own = finder.find(held.keys)
            fine = np.asarray(np.isfinite(held.values).all(axis=1))[own]
            self._know(places[fine], part, held.values[own[fine]])
            self.codes[places[fine]] = held.remarks[own[fine]]
            arrays.release(self.values)
        self.done = int(self.known.all(axis=(1, 2)).sum())
        self._report()

    def _report(self) -> None:
        self.progress("Encoding", self.done + len(self.failures), len(self.dataset))
