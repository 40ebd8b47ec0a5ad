"""Dataset × encoder → features, read from and written to a cache that is addressed by content.

A stored vector is found by the digest of the file's bytes and by everything that shaped it (weights, preprocessing,
decoder, engine, precision, view). Shards are only ever added, each by a rename once it is on disk, and each row depends
on its own picture alone: killed anywhere, or shared by any number of processes without a lock, the cache at worst makes
somebody compute a row twice, and the rows are the same. Nothing in the cache can run code: it holds tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from headstart.data import images
from headstart.encoding import runtime
from headstart.encoding.backbone import Backbone
from headstart.encoding.runtime import Agreement, Encoder
from headstart.errors import PictureError, StorageError
from headstart.records import Dataset, FeatureTable, Floats, Pixels, Progress, silence

SHARD_ROWS = 256
STALE_SECONDS = 24 * 3600
VIEWS = ("original", "mirror")
COMPARED = 8  # pictures on which the engine is compared with PyTorch


class Extraction(NamedTuple):
    """What `extract` gives: the features, and what is known of the encoder that made them."""

    table: FeatureTable
    encoder: Encoder
    agreement: Agreement | None


class ShardState(NamedTuple):
    """One file of the cache: its path, rows (0 if damaged), size in bytes, and what is wrong with it, if anything."""

    path: Path
    rows: int
    size: int
    problem: str


def default_cache() -> Path:
    """Return the cache folder: `HEADSTART_CACHE`, else the platform's place for caches."""
    return Path(os.environ.get("HEADSTART_CACHE") or platformdirs.user_cache_dir("headstart", appauthor=False))


def open_cache(folder: Path) -> Path:
    """Make the cache folder if need be, for its owner alone, and return it.

    Raises:
        StorageError: It cannot be written, or others may write to it, so that its content cannot be trusted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except OSError as error:
        raise StorageError(
            f"The cache folder {folder} cannot be made: {error.strerror}.",
            "Name another with HEADSTART_CACHE, or work without one: --no-cache.",
        ) from error
    if os.name == "posix" and state.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"The cache folder {folder} may be written by everybody (mode {stat.S_IMODE(state.st_mode):o}"
            "), so what lies in it cannot be trusted.",
            f"`chmod o-w {folder}` if it is yours, or name another with HEADSTART_CACHE.",
        )
    if not os.access(folder, os.W_OK):
        raise StorageError(
            f"The cache folder {folder} cannot be written.",
            "Name another with HEADSTART_CACHE, or work without one: --no-cache.",
        )
    return folder


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


def extract(
    dataset: Dataset,
    digests: Sequence[str],
    encoder: Encoder,
    backbone: Backbone,
    *,
    views: Sequence[str] = ("original",),
    cache: Path | None = None,
    progress: Progress = silence,
) -> Extraction:
    """Return the features of every picture, computing what the cache lacks.

    Before the first picture is encoded the engine is compared with PyTorch float32 on up to eight pictures, and
    replaced by a safer one if it differs too much; see `runtime.verified`.

    Args:
        dataset: N samples.
        digests: (N,) SHA-256 of their bytes as they were when last looked at; "" where a file could not be read.
        encoder: Computes the features.
        backbone: Of the encoder, to check it against.
        views: From `VIEWS`.
        cache: The folder of the cache; None: keep nothing.
        progress: Hears of every picture.
    """
    job = _Job(dataset, list(digests), encoder, tuple(views), cache, progress)
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
    return Extraction(job.table(), job.encoder, agreement)


class _Job:
    """One extraction: what is known, what is missing, and where it goes."""

    def __init__(
        self,
        dataset: Dataset,
        digests: list[str],
        encoder: Encoder,
        views: tuple[str, ...],
        cache: Path | None,
        progress: Progress,
    ) -> None:
        self.dataset, self.digests, self.encoder, self.views = dataset, digests, encoder, views
        self.cache = None if cache is None else open_cache(cache)
        self.progress = progress
        self.values: Floats = np.zeros((len(dataset), len(views), encoder.dim), dtype=np.float32)
        self.known = np.zeros((len(dataset), len(views)), dtype=bool)
        self.failures: dict[int, str] = {}
        self.done = 0  # rows with all their views
        self.encoded = 0
        self.changed: list[str] = []
        self.remarks: dict[str, list[str]] = defaultdict(list)

    def recall(self) -> Agreement | None:
        """Take what the cache holds, and return how the engine compared when it was filled."""
        self.stores = [] if self.cache is None else [Store(self.cache, recipe(self.encoder, v)) for v in self.views]
        self._fetch()
        return self.stores[0].agreement() if self.stores else None

    def remember(self, agreement: Agreement) -> None:
        """Note beside the features how the engine compared."""
        for store in self.stores:
            store.note(agreement)

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
            outcome = self._load(rows[0])
            if not isinstance(outcome, PictureError):
                pictures.append(outcome.pixels)
            if len(pictures) == most:
                break
        return pictures

    def compute(self) -> None:
        """Encode the missing pictures, one row for each digest, and commit them shard by shard."""
        waiting: deque[tuple[int, list[int], str, int]] = deque()  # what was handed to the encoder, in its order
        fresh: list[tuple[str, Floats]] = []  # digest, (V, D); not yet in the cache
        vectors: list[Floats] = []

        def pictures() -> Iterator[Pixels]:
            for row, rows, outcome in self._decoded():
                if isinstance(outcome, PictureError):
                    self.failures[row] = outcome.message
                    if self.digests[row]:  # the same bytes fail the same way
                        self.failures.update(dict.fromkeys(rows, outcome.message))
                    self._report()
                    continue
                for remark in outcome.remarks:
                    self.remarks[remark].append(self.dataset[row].name)
                same = rows if outcome.digest == self.digests[row] else [row]
                if self.digests[row] and outcome.digest != self.digests[row]:
                    self.changed.append(self.dataset[row].name)
                self.digests[row] = outcome.digest
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

    def table(self) -> FeatureTable:
        """Return what is known now."""
        if self.changed:
            self.remarks["changed-file"] = self.changed
        observations = {key: tuple(sorted(set(names))) for key, names in self.remarks.items()}
        return FeatureTable(
            self.values, tuple(self.digests), dict(self.failures), self.encoded, tuple(self.changed), observations
        )

    def _decoded(self) -> Iterator[tuple[int, list[int], _Loaded | PictureError]]:
        """Yield the missing pictures, decoded by threads a little ahead of the encoder."""
        cores = runtime.available_cores()
        ahead: deque[tuple[int, list[int], Future[_Loaded | PictureError]]] = deque()
        pool = ThreadPoolExecutor(cores)
        try:
            for rows in self._to_do():
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

    def _load(self, row: int) -> _Loaded | PictureError:
        path = self.dataset[row].path
        try:
            data = images.read_bytes(path)
            picture = images.load(data, self.encoder.preprocess, suffix=path.suffix)
        except PictureError as error:
            return error
        return _Loaded(picture.pixels, picture.remarks, images.digest(data))

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
    pixels: Pixels
    remarks: tuple[str, ...]
    digest: str


class Store:
    """The shards of one recipe: a folder named by the recipe's digest.

    A shard is a safetensors file with `keys` (n, 32) uint8, SHA-256 of the files' bytes, and `values` (n, D) float32.
    Its metadata holds the digest of the recipe and of both tensors; one that does not agree is passed over.
    """

    def __init__(self, cache: Path, recipe: Mapping[str, object]) -> None:
        """Make the folder."""
        text = json.dumps(recipe, sort_keys=True)
        self.recipe = hashlib.sha256(text.encode()).hexdigest()
        self.folder = cache / "features" / self.recipe[:32]
        self._read: set[str] = set()
        with _storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_stale(self.folder)
            if not (self.folder / "recipe.json").exists():
                _write(self.folder / "recipe.json", text.encode())

    def unread(self) -> list[Path]:
        """Return the shards that appeared since they were last asked for."""
        return [path for path in shards(self.folder) if path.name not in self._read]

    def take(self, wanted: Iterable[str]) -> Iterator[tuple[str, Floats]]:
        """Yield (digest, (D,)) of what the shards not yet read hold of the wanted digests."""
        keys = {bytes.fromhex(digest): digest for digest in wanted}
        for path in self.unread():
            self._read.add(path.name)
            try:
                held, values = read_shard(path, self.recipe, keys)
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(
                    f"The cache file {path} is damaged and not used: {error}. What it held is computed again; "
                    "`headstart cache verify --remove` removes it.",
                    stacklevel=2,
                )
                continue
            for key, vector in zip(held, values, strict=True):
                if key in keys:
                    yield keys[key], vector

    def add(self, digests: Sequence[str], values: Floats) -> None:
        """Commit rows as a new shard.

        Raises:
            StorageError: The disk is full or the folder cannot be written; nothing half-written remains.
        """
        keys = np.frombuffer(b"".join(bytes.fromhex(digest) for digest in digests), dtype=np.uint8).reshape(-1, 32)
        values = np.ascontiguousarray(values, dtype=np.float32)
        metadata = {"recipe": self.recipe, "keys": _sha(keys), "values": _sha(values)}
        content = save({"keys": keys.copy(), "values": values}, metadata)
        name = hashlib.sha256(content).hexdigest()[:32] + ".safetensors"
        with _storage_errors(self.folder):
            _write(self.folder / name, content)
        self._read.add(name)

    def agreement(self) -> Agreement | None:
        """Return how the engine compared with PyTorch when this store was begun, if that is known."""
        try:
            return Agreement(**json.loads((self.folder / "agreement.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def note(self, agreement: Agreement) -> None:
        """Keep how the engine compared."""
        with _storage_errors(self.folder):
            _write(self.folder / "agreement.json", json.dumps(asdict(agreement)).encode())


def shards(folder: Path) -> list[Path]:
    """Return the committed shards of a store."""
    return sorted(folder.glob("*.safetensors"))


def read_shard(path: Path, recipe: str, wanted: Iterable[bytes] | None = None) -> tuple[list[bytes], Floats]:
    """Return keys and values of a shard; the values are read only if it holds something wanted (None: always).

    Raises:
        ValueError: Its digests or its recipe do not agree.
        SafetensorError: It is no safetensors file.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("recipe") != recipe:
            raise ValueError("it belongs to another recipe")
        keys = file.get_tensor("keys")
        if _sha(keys) != metadata.get("keys"):
            raise ValueError("its keys do not have the digest they should have")
        held = [key.tobytes() for key in keys]
        if wanted is not None and not set(held) & set(wanted):
            return [], np.zeros((0, 0), dtype=np.float32)
        values: Floats = file.get_tensor("values")
        if _sha(values) != metadata.get("values"):
            raise ValueError("its values do not have the digest they should have")
    return held, values


def survey(cache: Path, *, verify: bool = False) -> list[ShardState]:
    """Return every shard of a cache with its size, and with `verify` whether its digests agree."""
    states = []
    for folder in sorted((cache / "features").glob("*")):
        try:
            recipe = hashlib.sha256((folder / "recipe.json").read_bytes()).hexdigest()
        except OSError:
            recipe = ""
        for path in shards(folder):
            try:
                if verify:
                    rows = len(read_shard(path, recipe)[0])
                else:
                    with safe_open(path, framework="numpy") as file:
                        rows = file.get_slice("keys").get_shape()[0]
                states.append(ShardState(path, rows, path.stat().st_size, ""))
            except (SafetensorError, OSError, ValueError) as error:
                states.append(ShardState(path, 0, path.stat().st_size, str(error)))
    return states


def clear(cache: Path) -> None:
    """Remove every stored feature, and nothing else that may lie in the folder."""
    for folder in (cache / "features").glob("*"):
        with _storage_errors(folder):
            for path in [*shards(folder), folder / "recipe.json", folder / "agreement.json"]:
                path.unlink(missing_ok=True)
            _remove_stale(folder)


class _storage_errors:
    """Turn what the operating system says about a folder into a `StorageError`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StorageError(
                f"The cache cannot be written in {self.folder}: {error.strerror or error}. What it held is intact.",
                "Make room, name another folder with HEADSTART_CACHE, or work without one: --no-cache.",
            ) from error


def _write(path: Path, content: bytes) -> None:
    """Write, flush to disk, rename, flush the folder: after a power cut the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Remove what a killed process left half-written a day ago or more."""
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # somebody else removed it


def _sha(array: Floats | Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
