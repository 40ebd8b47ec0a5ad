"""Pictures whose features the cache lacks → the same, which has them now, computed by a cluster.

Each worker commits its shards itself, into a folder that all machines share; whoever asked takes everything from there
afterwards, as if it had lain there always. So the store is what a repeated command goes on from, too.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from headstart import arrays, storage
from headstart.data import manifest
from headstart.encoding import kept_properties
from headstart.encoding.cache import open_cache
from headstart.encoding.encoder import Encoder
from headstart.encoding.opened import Opened
from headstart.encoding.shelves import Shelves
from headstart.errors import ConfigError
from headstart.inspection import files
from headstart.packed import Digests
from headstart.records import Dataset, Place, Progress, silence
from headstart.scale import address as addresses
from headstart.scale import crew as crews
from headstart.scale.cluster import Cluster
from headstart.scale.encoding import Encoding, Hashing
from headstart.scale.hand import Block, Job, Recipe, recipe
from headstart.scale.shipped import Shipped

LEAST, MOST = 32, 1024  # pictures of a block; a worker commits every 256 of them
MANY = 20_000  # files that are worth reading elsewhere, of a cluster that is more than this machine
BLOCKS = 4  # for each worker at least, so that all end at about the same time


class Filling:
    """Has a cluster compute what the cache lacks, when it is called; without a cluster it does nothing.

    The cluster is opened when something is lacking, and left at the end of the `with` block.
    """

    def __init__(self, cluster: str | None, cache: Path | None) -> None:
        """Keep what is asked for.

        Args:
            cluster: What `address.parse` takes; None: no cluster.
            cache: The folder of the cache, which all machines share.

        Raises:
            ConfigError: The cluster is called what none is, or there is no cache.
        """
        self.address = None if cluster is None else addresses.parse(cluster)
        if self.address is not None and cache is None:
            raise ConfigError(
                "A cluster brings features through the cache, and there is to be none.",
                "Leave out --no-cache; HEADSTART_CACHE names a folder that all machines share.",
            )
        self.cache = cache
        self._cluster: Cluster | None = None
        self._standing: tuple[Job, crews.Crew] | None = None
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster."""
        self._dismiss()
        self._closing.close()

    def __call__(
        self,
        dataset: Dataset,
        digests: Sequence[str],
        encoders: Sequence[Encoder],
        *,
        views: Sequence[str],
        with_properties: bool = False,
        progress: Progress = silence,
    ) -> dict[int, str]:
        """Return row → why, of pictures that end whatever process decodes them; arguments as of `features.extract`.

        Raises:
            ConfigError: The cluster cannot be joined, or would not compute what this machine computes.
            HeadstartError: It failed again and again.
            MissingExtraError: Ray is not installed.
        """
        if self.address is None or self.cache is None:
            return {}
        cache = open_cache(self.cache)
        lacking = _lacking(digests, encoders, views, cache, with_properties=with_properties)
        if not lacking:
            return {}
        cluster = self.opened(progress, graphics=encoders[0].plan.device == "cuda")
        with _marked(cache) as mark:
            progress = _kept_fresh(cache / mark, progress)
            networks = tuple(Shipped.of(one, cache) for one in encoders)
            job = Encoding(networks, encoders[0].plan, tuple(views), with_properties, cache.resolve(), mark)
            with crews.gathered(cluster, job, recipe(encoders), progress) as crew:
                return _computed(crew, dataset, digests, list(lacking.values()), len(cluster.places()), progress)

    def crew(self, job: Job, recipe: Recipe, progress: Progress = silence) -> crews.Crew:
        """Return workers that are told of a job: the same ones, until others are needed or the cluster is left.

        Raises:
            ConfigError: The cluster cannot be joined.
            MissingExtraError: Ray is not installed.
        """
        if self._standing is None or self._standing[0] is not job:
            self._standing = job, crews.Crew(self.opened(progress), job, recipe, progress)
        return self._standing[1]

    def fingerprints(
        self, dataset: Dataset, progress: Progress = silence, *, cache: Path | None = None
    ) -> tuple[Digests, dict[int, str]]:
        """Return what `files.fingerprints` does; many files are read by the machines of the cluster.

        What lies on stores is read here: where it was read before, its version tells its digest.
        """
        here = self.address is None or not self.address.place or len(dataset) < MANY
        if here or dataset.packed.far.any():
            return files.fingerprints(dataset, progress, cache=cache)
        known = manifest.Manifest(cache)
        digests = known.recall(dataset)
        lacking = np.flatnonzero(~digests.known)
        rows = [lacking[part] for part in arrays.parts(len(lacking), MOST)]
        if not rows:
            return digests, {}
        failures: dict[int, str] = {}
        versions: dict[int, list[Place | None]] = {}

        def blocks() -> Iterator[Block]:
            for number, part in enumerate(rows):
                versions[number] = [manifest.version(dataset[row].path, settled=True) for row in part]
                yield Block.of(number, dataset.select(part))

        cluster, done = self.opened(progress), len(dataset) - len(lacking)
        with crews.gathered(cluster, Hashing(), recipe(()), progress) as crew, known:
            for answer in crew.work(blocks()):
                part, (found, failed) = rows[answer.number], answer.value
                digests.put(part, found)
                for digest, place in zip(found, versions.pop(answer.number), strict=True):
                    known.note(place, digest)
                failures |= {int(part[place]): reason for place, reason in failed.items()}
                done += len(part)
                progress("Reading", done, len(dataset))
        if not failures:
            return digests, {}
        rest = np.array(sorted(failures))  # of one worker's trouble nobody is to learn less
        again, failed_here = files.fingerprints(dataset.select(rest), cache=cache)
        digests.put(rest, again)
        return digests, {int(rest[place]): reason for place, reason in failed_here.items()}

    def opened(self, progress: Progress = silence, *, graphics: bool = False) -> Cluster:
        """Return the cluster, whose processors nobody of ours has."""
        self._dismiss()
        if self._cluster is None or self._cluster.graphics != graphics:
            assert self.address is not None  # noqa: S101  # asked by the callers
            self._closing.close()
            opening = crews.opened(self.address, progress, graphics=graphics)
            self._cluster = self._closing.enter_context(opening)
        return self._cluster

    def _dismiss(self) -> None:
        if self._standing is not None:
            self._standing[1].end()
            self._standing = None


def _computed(
    crew: crews.Crew,
    dataset: Dataset,
    digests: Sequence[str],
    lacking: Sequence[Sequence[int]],
    workers: int,
    progress: Progress,
) -> dict[int, str]:
    """Have a crew compute the lacking pictures, and return those that cannot be: row → why.

    Args:
        crew: Workers.
        dataset: N samples.
        digests: (N,) of them.
        lacking: Rows of each content that is lacking.
        workers: How many there may be.
        progress: Hears of every block.
    """
    size = int(np.clip(len(lacking) // (BLOCKS * max(1, workers)), LEAST, MOST))
    parts = [lacking[begin : begin + size] for begin in range(0, len(lacking), size)]
    done = len(dataset) - sum(map(len, lacking))
    progress("Encoding", done, len(dataset))
    deadly: dict[int, str] = {}
    for answer in crew.work(_blocks(dataset, digests, parts)):
        part = parts[answer.number]
        for place, reason in answer.deadly.items():
            deadly.update(dict.fromkeys(part[place], reason))
        done += sum(map(len, part))
        progress("Encoding", done, len(dataset))
    return deadly


def _blocks(dataset: Dataset, digests: Sequence[str], parts: Sequence[Sequence[Sequence[int]]]) -> Iterator[Block]:
    for number, part in enumerate(parts):
        first = [rows[0] for rows in part]
        yield Block.of(number, dataset.select(first), [digests[row] for row in first])


def _lacking(
    digests: Sequence[str], encoders: Sequence[Encoder], views: Sequence[str], cache: Path, *, with_properties: bool
) -> dict[str, list[int]]:
    """Return digest → rows of readable pictures of which the cache lacks features, or properties where these count.

    Only keys are looked at: what the cache holds is read once, by whoever takes it.
    """
    opened = Opened()
    shelves = Shelves(cache, encoders, views, opened)
    shelves.look()
    seen = kept_properties.store(cache, encoders[0].preprocess, opened) if with_properties else None
    if seen is not None:
        seen.look()
    rows: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows[digest].append(row)
    return {
        digest: same
        for digest, same in rows.items()
        if shelves.lacking(digest) or not (seen is None or seen.holds(bytes.fromhex(digest)))
    }


def _kept_fresh(mark: Path, progress: Progress) -> Progress:
    """Return who hears of every block, and keeps a file fresh meanwhile."""

    def heard(stage: str, done: int, total: int) -> None:
        """Keep it fresh, and pass on."""
        storage.keep_fresh(mark)
        progress(stage, done, total)

    return heard


@contextlib.contextmanager
def _marked(cache: Path) -> Iterator[str]:
    """Give the name of a file in the cache's folder, by which a machine knows that it sees the same folder."""
    storage.remove_stale(cache, ".cluster.*.tmp")
    mark = cache / f".cluster.{os.getpid()}.{uuid.uuid4().hex}.tmp"
    mark.touch(mode=0o600)
    try:
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)
