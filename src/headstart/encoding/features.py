"""Dataset × encoder → features, read from and written to the cache.

Pictures are read and decoded by threads a little ahead of the encoder, each once, and committed in shards. Each row
depends on its own picture alone, so it does not matter which rows were there already, or in which order the others are
computed. Nothing that belongs to the whole process is changed, so that threads may extract side by side.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data import images
from headstart.data.pictures import InMemory
from headstart.encoding import reading, runtime
from headstart.encoding.cache import Store, open_cache
from headstart.encoding.reading import Loaded
from headstart.encoding.runtime import Agreement, Encoder
from headstart.inspection import properties
from headstart.records import Dataset, FeatureTable, Floats, ImageProperties, Pixels, Preprocess, Progress, silence

SHARD_ROWS = 256
VIEWS = ("original", "mirror")
AGREEMENT = {field.name for field in fields(Agreement)}
COMPARED = 8  # pictures on which the engine is compared with PyTorch
NOT_FINITE = "the network gave numbers that are not finite"


class Extraction(NamedTuple):
    """What `extract` gives: the features, and what is known of the encoders that made them."""

    table: FeatureTable
    encoders: tuple[Encoder, ...]
    agreement: Agreement | None


def recipe(encoder: Encoder, view: str) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the features."""
    return {
        "weights": encoder.weights,
        "preprocess": asdict(encoder.preprocess),
        "decoder": images.DECODER,
        "engine": encoder.version,
        "precision": encoder.plan.precision,
        "view": view,
        "remarks": 1,  # counts changes of what is kept beside the vectors
    }


def properties_recipe(preprocess: Preprocess) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the properties of a picture."""
    known = {"properties": properties.VERSION, "decoder": images.DECODER}
    return known | {"side": preprocess.size, "background": preprocess.background}


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
) -> Extraction:
    """Return the features of every picture, and its properties if asked for, computing what the cache lacks.

    Before the first picture is encoded the engine is compared with PyTorch float32 on up to eight pictures, and
    replaced by a safer one if it differs too much; see `runtime.verified`.

    Args:
        dataset: N samples.
        digests: (N,) SHA-256 of their bytes as they were when last looked at; "" where a file could not be read. None:
            they are found out as each file is read, which is then read only once.
        encoders: Compute the features, each those of one network, which stand side by side.
        views: From `VIEWS`.
        with_properties: Whether properties are wanted; they come from the same decoding.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.
        memory: Row → its picture, where that is not a file.

    Raises:
        StorageError: The cache cannot be used.
    """
    job = _Job(dataset, digests, encoders[0], tuple(views), with_properties, cache, progress, memory or {})
    agreement = job.recall()
    if agreement is None and job.missing():
        agreement = job.verify()
    while job.missing():  # once, unless files change while they are read
        job.compute()
    job.complete_properties()
    return Extraction(job.table(), (job.encoder,), agreement)


class _Job:
    """One extraction: what is known, what is missing, and where it goes."""

    def __init__(
        self,
        dataset: Dataset,
        digests: Sequence[str] | None,
        encoder: Encoder,
        views: tuple[str, ...],
        with_properties: bool,
        cache: Path | None,
        progress: Progress,
        memory: Mapping[int, InMemory],
    ) -> None:
        self.dataset, self.encoder, self.views, self.memory = dataset, encoder, views, memory
        self.blind = digests is None
        self.digests = [""] * len(dataset) if digests is None else list(digests)
        self.cache = None if cache is None else open_cache(cache)
        self.progress = progress
        self.values: Floats = np.zeros((len(dataset), len(views), encoder.dim), dtype=np.float32)
        self.known = np.zeros((len(dataset), len(views)), dtype=bool)
        self.codes = np.zeros(len(dataset), dtype=np.int64)  # of remarks
        self.properties = _Properties(self.digests, encoder.preprocess, self.cache) if with_properties else None
        self.failures: dict[int, str] = {}
        self.done = 0  # rows with all their views
        self.encoded = 0
        self.changed: list[str] = []
        self.loaded: dict[int, Loaded] = {}  # what was read for the comparison and is not encoded yet

    def recall(self) -> Agreement | None:
        """Take what the cache holds, and return how the engine compared when it was filled."""
        self.stores = (
            []
            if self.cache is None
            else [Store(self.cache, recipe(self.encoder, view), self.encoder.dim) for view in self.views]
        )
        self.held: list[set[bytes]] = [set() for _ in self.stores]  # keys of the stores, where no digests were given
        self._fetch()
        known = self.stores[0].remembered() if self.stores else None
        return Agreement(**known) if isinstance(known, dict) and known.keys() == AGREEMENT else None

    def verify(self) -> Agreement | None:
        """Compare the engine on a few missing pictures, and go on with the one that came of it."""
        asked = self.encoder
        prepared = [] if asked.trusted else self._some_pictures(COMPARED)
        if not (asked.trusted or prepared):
            return None
        self.encoder, agreement = runtime.verified(asked, prepared)
        if self.encoder is not asked:
            self.recall()
        for store in self.stores:
            store.remember(asdict(agreement))
        return agreement

    def missing(self) -> dict[str, list[int]]:
        """Return digest → rows that still need their features. Unreadable files are asked again, each on its own."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.known.all(axis=1)).tolist():
            if row not in self.failures:
                rows[self.digests[row] or f"row {row}"].append(row)
        return rows

    def compute(self) -> None:
        """Encode the missing pictures, one row for each digest, and commit them shard by shard."""
        waiting: deque[tuple[list[int], Loaded]] = deque()  # what was handed to the encoder, in its order
        fresh: list[tuple[Loaded, Floats]] = []  # (V, D) each; not yet in the cache
        vectors: list[Floats] = []
        try:
            with closing(self._prepared(waiting)) as source:
                for vector in self._encoded(source):
                    vectors.append(vector)
                    if len(vectors) < len(self.views):
                        continue
                    rows, outcome = waiting.popleft()
                    if self._settle(rows, stacked := np.stack(vectors)):
                        fresh.append((outcome, stacked))
                    vectors = []
                    if len(fresh) == SHARD_ROWS:
                        self._commit(fresh)
                        fresh = []
        finally:
            self._commit(fresh)  # also when interrupted: what was computed is kept
            if self.properties is not None:
                self.properties.commit()
        self._share()
        self.blind = False
        self._fetch()  # what was found to be kept when its file was read

    def _encoded(self, source: Iterator[Pixels]) -> Iterator[Floats]:
        """Yield the features of pictures; where none comes, since all are kept, no engine is compiled."""
        for first in source:
            yield from self.encoder.encode(chain([first], source))

    def _prepared(self, waiting: deque[tuple[list[int], Loaded]]) -> Generator[Pixels]:
        """Yield the views of each missing picture, after noting in `waiting` which rows they are for."""
        self.first: dict[str, int] = {}  # digest → row that is encoded
        self.copies: list[tuple[int, int]] = []  # row, and the row whose features are its own too
        with closing(reading.ahead(self._load, self._to_do())) as source:
            for rows, outcome in source:
                same = self._receive(rows, outcome)
                if same and outcome.pixels is not None:
                    waiting.append((same, outcome))
                    for view in self.views:
                        pixels = outcome.pixels
                        yield pixels if view == "original" else np.ascontiguousarray(pixels[:, ::-1])

    def complete_properties(self) -> None:
        """Decode once more what was encoded before anybody asked for its properties."""
        if self.properties is None:
            return
        rows = [rows for rows in self.properties.missing(self.digests).values() if rows[0] not in self.failures]
        try:
            with closing(reading.ahead(self._load, rows)) as source:
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
            tuple(self.digests),
            dict(self.failures),
            self.encoded,
            tuple(self.changed),
            observations,
            None if self.properties is None else properties.unpack(self.properties.values),
        )

    def _receive(self, rows: list[int], outcome: Loaded) -> list[int]:
        """Note what a picture turned out to be, and return the rows its features are for; none if it needs none."""
        row = rows[0]
        same = rows if outcome.digest == self.digests[row] else [row]
        if outcome.problem:
            self.failures.update(dict.fromkeys(same, outcome.problem))  # the same bytes fail the same way
            self._report()
            return []
        if self.digests[row] and outcome.digest != self.digests[row]:
            self.changed.append(self.dataset[row].name)
        self.digests[row] = outcome.digest
        if outcome.kept:
            self.done += 1
            self._report()
            return []
        self.codes[same] = outcome.code
        if self.properties is not None and outcome.properties is not None:
            self.properties.take(same, outcome.digest, outcome.properties)
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
            self.done += bool(self.known[row].all())
        self._report()

    def _settle(self, rows: list[int], vectors: Floats) -> bool:
        """Take the features (V, D) of rows, and return whether they can be used."""
        usable = bool(np.isfinite(vectors).all())
        if usable:
            self.values[rows], self.known[rows] = vectors, True
            self.encoded += 1
            self.done += len(rows)
        else:
            self.failures.update(dict.fromkeys(rows, NOT_FINITE))
        self._report()
        return usable

    def _to_do(self) -> Iterator[list[int]]:
        """Yield the rows of each missing digest, leaving out what another process commits in the meantime.

        Blocks are visited in an order of this process's own: two processes with the same pictures then work on
        different ends and meet only now and then, without a lock that a killed one could leave behind.
        """
        missing = list(self.missing().values())
        blocks = [missing[start : start + SHARD_ROWS] for start in range(0, len(missing), SHARD_ROWS)]
        if self.stores:
            random.Random(os.urandom(8)).shuffle(blocks)  # noqa: S311  # the order decides no result
        for block in blocks:
            if self.blind:
                for held, store in zip(self.held, self.stores, strict=True):
                    held.update(store.new_keys())
            else:
                self._fetch()
            yield from (rows for rows in block if not self.known[rows].all())

    def _some_pictures(self, most: int) -> list[Pixels]:
        """Return a few of the missing pictures, prepared, and keep them for the encoder."""
        prepared: list[Pixels] = []
        for row, *_ in self.missing().values():
            self.loaded[row] = outcome = self._load(row)
            if outcome.pixels is not None:
                prepared.append(outcome.pixels)
            if len(prepared) == most:
                break
        return prepared

    def _load(self, row: int) -> Loaded:
        if row in self.loaded:
            return self.loaded.pop(row)
        wanted = self.properties is not None and not self.properties.known[row]
        source = self.memory.get(row, self.dataset[row].path)
        return reading.load(source, self.encoder.preprocess, self._is_kept, with_properties=wanted)

    def _is_kept(self, digest: str) -> bool:
        return bool(self.blind and self.stores) and all(bytes.fromhex(digest) in held for held in self.held)

    def _fetch(self) -> None:
        """Take from the stores what they hold of the missing rows."""
        if not any(store.unread() for store in self.stores):
            return
        rows = {digest: rows for digest, rows in self.missing().items() if not digest.startswith("row ")}
        if not rows:
            return
        for index, store in enumerate(self.stores):
            for digest, vector, code in store.take(rows):
                if np.isfinite(vector).all():
                    self.values[rows[digest], index] = vector
                    self.known[rows[digest], index] = True
                    self.codes[rows[digest]] = code
        self.done = int(self.known.all(axis=1).sum())
        self._report()

    def _commit(self, fresh: Sequence[tuple[Loaded, Floats]]) -> None:
        if fresh:
            digests, codes = [one.digest for one, _ in fresh], [one.code for one, _ in fresh]
            for index, store in enumerate(self.stores):
                store.add(digests, np.stack([vectors[index] for _, vectors in fresh]), codes)

    def _report(self) -> None:
        self.progress("Encoding", self.done + len(self.failures), len(self.dataset))


class _Properties:
    """The properties of a dataset while it is worked on: what is known, and what the cache does not hold yet."""

    def __init__(self, digests: Sequence[str], preprocess: Preprocess, cache: Path | None) -> None:
        self.values: Floats = np.full((len(digests), properties.DIM), np.nan, dtype=np.float32)
        self.values[:, len(ImageProperties.FIGURES) :] = 0
        self.known = np.zeros(len(digests), dtype=bool)
        self._store = None if cache is None else Store(cache, properties_recipe(preprocess), properties.DIM)
        self._fresh: dict[str, Floats] = {}
        rows = self.missing(digests)
        for digest, vector, _ in self._store.take(filter(None, rows)) if self._store is not None else ():
            self._keep(rows[digest], vector)

    def missing(self, digests: Sequence[str]) -> dict[str, list[int]]:
        """Return digest → rows whose properties are not known."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.known).tolist():
            rows[digests[row]].append(row)
        return rows

    def take(self, rows: Sequence[int], digest: str, vector: Floats) -> None:
        """Keep what was seen."""
        self._keep(rows, vector)
        self._fresh[digest] = vector
        if len(self._fresh) == SHARD_ROWS:
            self.commit()

    def commit(self) -> None:
        """Put what the cache does not hold yet into it."""
        if self._store is not None and self._fresh:
            self._store.add(list(self._fresh), np.stack(list(self._fresh.values())))
        self._fresh = {}

    def _keep(self, rows: Sequence[int], vector: Floats) -> None:
        self.values[rows] = vector
        self.known[rows] = True
