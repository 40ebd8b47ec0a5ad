"""Dataset × encoder → features, read from and written to the cache.

Pictures are decoded by threads a little ahead of the encoder, and committed in shards. Each row depends on its own
picture alone, so it does not matter which rows were there already, or in which order the others are computed.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data import images
from headstart.encoding import runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import Store, open_cache
from headstart.encoding.runtime import Agreement, Encoder
from headstart.errors import PictureError
from headstart.inspection import properties
from headstart.records import Dataset, FeatureTable, Floats, ImageProperties, Pixels, Preprocess, Progress, silence

SHARD_ROWS = 256
VIEWS = ("original", "mirror")
AGREEMENT = {field.name for field in fields(Agreement)}
COMPARED = 8  # pictures on which the engine is compared with PyTorch


class Extraction(NamedTuple):
    """What `extract` gives: the features, and what is known of the encoder that made them."""

    table: FeatureTable
    encoder: Encoder
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
    }


def properties_recipe(preprocess: Preprocess) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the properties of a picture."""
    known = {"properties": properties.VERSION, "decoder": images.DECODER}
    return known | {"side": preprocess.size, "background": preprocess.background}


def extract(
    dataset: Dataset,
    digests: Sequence[str],
    encoder: Encoder,
    backbone: Backbone,
    *,
    views: Sequence[str] = ("original",),
    with_properties: bool = False,
    cache: Path | None = None,
    progress: Progress = silence,
) -> Extraction:
    """Return the features of every picture, and its properties if asked for, computing what the cache lacks.

    Before the first picture is encoded the engine is compared with PyTorch float32 on up to eight pictures, and
    replaced by a safer one if it differs too much; see `runtime.verified`.

    Args:
        dataset: N samples.
        digests: (N,) SHA-256 of their bytes as they were when last looked at; "" where a file could not be read.
        encoder: Computes the features.
        backbone: Of the encoder, to check it against.
        views: From `VIEWS`.
        with_properties: Whether properties are wanted; they come from the same decoding.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.
    """
    job = _Job(dataset, list(digests), encoder, tuple(views), with_properties, cache, progress)
    agreement = job.recall()
    with images.quiet_pillow():
        if job.missing() and agreement is None:
            pictures = job.some_pictures(COMPARED)
            if pictures:
                job.encoder, agreement = runtime.verified(encoder, backbone, pictures)
                if job.encoder is not encoder:
                    job.recall()
                job.remember(agreement)
        while job.missing():  # once, unless files change while they are read
            job.compute()
        job.complete_properties()
    return Extraction(job.table(), job.encoder, agreement)


class _Job:
    """One extraction: what is known, what is missing, and where it goes."""

    def __init__(
        self,
        dataset: Dataset,
        digests: list[str],
        encoder: Encoder,
        views: tuple[str, ...],
        with_properties: bool,
        cache: Path | None,
        progress: Progress,
    ) -> None:
        self.dataset, self.digests, self.encoder, self.views = dataset, digests, encoder, views
        self.cache = None if cache is None else open_cache(cache)
        self.progress = progress
        self.values: Floats = np.zeros((len(dataset), len(views), encoder.dim), dtype=np.float32)
        self.known = np.zeros((len(dataset), len(views)), dtype=bool)
        self.properties = _Properties(self.digests, encoder.preprocess, self.cache) if with_properties else None
        self.failures: dict[int, str] = {}
        self.done = 0  # rows with all their views
        self.encoded = 0
        self.changed: list[str] = []
        self.remarks: dict[str, list[str]] = defaultdict(list)

    def recall(self) -> Agreement | None:
        """Take what the cache holds, and return how the engine compared when it was filled."""
        self.stores = (
            []
            if self.cache is None
            else [Store(self.cache, recipe(self.encoder, view), self.encoder.dim) for view in self.views]
        )
        self._fetch()
        known = self.stores[0].remembered() if self.stores else None
        return Agreement(**known) if isinstance(known, dict) and known.keys() == AGREEMENT else None

    def remember(self, agreement: Agreement) -> None:
        """Note beside the features how the engine compared."""
        for store in self.stores:
            store.remember(asdict(agreement))

    def missing(self) -> dict[str, list[int]]:
        """Return digest → rows that still need their features. Unreadable files are asked again, each on its own."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.known.all(axis=1)).tolist():
            if row not in self.failures:
                rows[self.digests[row] or f"row {row}"].append(row)
        return rows

    def some_pictures(self, most: int) -> list[Pixels]:
        """Return a few of the missing pictures, prepared."""
        pictures = []
        for rows in self.missing().values():
            pixels = self._load(rows[0]).pixels
            if pixels is not None:
                pictures.append(pixels)
            if len(pictures) == most:
                break
        return pictures

    def compute(self) -> None:
        """Encode the missing pictures, one row for each digest, and commit them shard by shard."""
        waiting: deque[tuple[int, list[int], str, int]] = deque()  # what was handed to the encoder, in its order
        fresh: list[tuple[str, Floats]] = []  # digest, (V, D); not yet in the cache
        vectors: list[Floats] = []

        def pictures() -> Iterator[Pixels]:
            for row, rows, outcome in self._ahead(self._to_do()):
                same = rows if outcome.digest == self.digests[row] else [row]
                if outcome.pixels is None:
                    self.failures.update(dict.fromkeys(same, outcome.problem))  # the same bytes fail the same way
                    self._report()
                    continue
                for remark in outcome.remarks:
                    self.remarks[remark].append(self.dataset[row].name)
                if self.digests[row] and outcome.digest != self.digests[row]:
                    self.changed.append(self.dataset[row].name)
                self.digests[row] = outcome.digest
                if self.properties is not None and outcome.properties is not None:
                    self.properties.take(same, outcome.digest, outcome.properties)
                for index, view in enumerate(self.views):
                    waiting.append((row, same, outcome.digest, index))
                    yield outcome.pixels if view == "original" else np.ascontiguousarray(outcome.pixels[:, ::-1])

        try:
            for vector in self.encoder.encode(pictures()):
                _, rows, digest, index = waiting.popleft()
                self.values[rows, index] = vector
                self.known[rows, index] = True
                vectors.append(vector)
                if index + 1 == len(self.views):
                    fresh.append((digest, np.stack(vectors)))
                    vectors = []
                    self.encoded += 1
                    self.done += len(rows)
                    self._report()
                if len(fresh) == SHARD_ROWS:
                    self._commit(fresh)
                    fresh = []
        finally:
            self._commit(fresh)  # also when interrupted: what was computed is kept
            if self.properties is not None:
                self.properties.commit()

    def complete_properties(self) -> None:
        """Decode once more what was encoded before anybody asked for its properties."""
        if self.properties is None:
            return
        rows = [rows for rows in self.properties.missing(self.digests).values() if rows[0] not in self.failures]
        try:
            for done, (row, same, outcome) in enumerate(self._ahead(rows), start=1):
                if outcome.properties is not None and outcome.digest == self.digests[row]:
                    self.properties.take(same, outcome.digest, outcome.properties)
                self.progress("Looking", done, len(rows))
        finally:
            self.properties.commit()

    def table(self) -> FeatureTable:
        """Return what is known now."""
        if self.changed:
            self.remarks["changed-file"] = self.changed
        observations = {key: tuple(sorted(set(names))) for key, names in self.remarks.items()}
        return FeatureTable(
            self.values,
            tuple(self.digests),
            dict(self.failures),
            self.encoded,
            tuple(self.changed),
            observations,
            None if self.properties is None else properties.unpack(self.properties.values),
        )

    def _ahead(self, wanted: Iterable[list[int]]) -> Iterator[tuple[int, list[int], _Loaded]]:
        """Yield the first picture of each list of rows, decoded by threads a little ahead of who asks for them."""
        cores = runtime.available_cores()
        ahead: deque[tuple[int, list[int], Future[_Loaded]]] = deque()
        pool = ThreadPoolExecutor(cores)
        try:
            for rows in wanted:
                ahead.append((rows[0], rows, pool.submit(self._load, rows[0])))
                if len(ahead) >= 8 * cores:
                    row, rows, future = ahead.popleft()
                    yield row, rows, future.result()
            for row, rows, future in ahead:
                yield row, rows, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

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
            self._fetch()
            yield from (rows for rows in block if not self.known[rows].all())

    def _load(self, row: int) -> _Loaded:
        path, digest = self.dataset[row].path, ""
        try:
            data = images.read_bytes(path)
            digest = images.digest(data)
            preprocess = self.encoder.preprocess
            picture = images.decode(data, suffix=path.suffix, background=preprocess.background, side=preprocess.size)
        except PictureError as error:
            return _Loaded(digest, problem=error.message)
        measured = (
            None if self.properties is None or self.properties.known[row] else properties.measure(picture, len(data))
        )
        return _Loaded(digest, images.prepare(picture.pixels, preprocess), picture.remarks, properties=measured)

    def _fetch(self) -> None:
        """Take from the stores what they hold of the missing rows."""
        if not self.stores:
            return
        unread = [store for store in self.stores if store.unread()]
        if not unread:
            return
        rows = {digest: rows for digest, rows in self.missing().items() if not digest.startswith("row ")}
        for index, store in enumerate(self.stores):
            for digest, vector in store.take(rows):
                self.values[rows[digest], index] = vector
                self.known[rows[digest], index] = True
        self.done = int(self.known.all(axis=1).sum())
        self._report()

    def _commit(self, fresh: Sequence[tuple[str, Floats]]) -> None:
        if fresh:
            for index, store in enumerate(self.stores):
                store.add([digest for digest, _ in fresh], np.stack([vectors[index] for _, vectors in fresh]))

    def _report(self) -> None:
        self.progress("Encoding", self.done + len(self.failures), len(self.dataset))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What became of one file: its digest ("" if it could not be read), and its prepared picture or the problem."""

    digest: str
    pixels: Pixels | None = None
    remarks: tuple[str, ...] = ()
    problem: str = ""
    properties: Floats | None = None


class _Properties:
    """The properties of a dataset while it is worked on: what is known, and what the cache does not hold yet."""

    def __init__(self, digests: Sequence[str], preprocess: Preprocess, cache: Path | None) -> None:
        self.values: Floats = np.full((len(digests), properties.DIM), np.nan, dtype=np.float32)
        self.values[:, len(ImageProperties.FIGURES) :] = 0
        self.known = np.zeros(len(digests), dtype=bool)
        self._store = None if cache is None else Store(cache, properties_recipe(preprocess), properties.DIM)
        self._fresh: dict[str, Floats] = {}
        rows = self.missing(digests)
        for digest, vector in self._store.take(filter(None, rows)) if self._store is not None else ():
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
