"""Feature vectors ⇄ a folder that is addressed by content; nothing here knows pictures or encoders.

A vector is found by the digest of the picture's bytes within the store of a recipe, which is everything else that
shaped it. Shards are only ever added, each by a rename once it is on disk: killed anywhere, or shared by any number of
processes without a lock, the cache at worst holds a row twice, and the rows are the same. It holds tensors, which
cannot run code; files that somebody else could have written are passed over.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import platformdirs
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from headstart.data import manifest
from headstart.errors import StorageError
from headstart.records import Floats, Integers, numbered
from headstart.storage import distrust, read_regular, remove_stale, storage_errors, write_whole

SHARD_ROWS = 256  # rows of a shard at most
MERGED_KEYS = 1 << 16  # keys that an index holds apart before it sorts them in
FITS = "fits"  # where fits in epochs keep their state
QUANTIZED = "quantized"  # where networks in 8-bit integers are kept
MOST_NOTES = 1 << 20  # bytes of a recipe or of what is remembered

_HINT = "Make room, name another folder with HEADSTART_CACHE, or work without one: --no-cache."


class Default(enum.Enum):
    """The kind of `DEFAULT`."""

    DEFAULT = "the default cache folder"

    def __repr__(self) -> str:
        """Return what signatures show."""
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
CacheChoice = Path | str | Default | None  # a folder, the default folder, or None: keep nothing


def resolve(cache: CacheChoice) -> Path | None:
    """Return the folder that is meant by a `cache` argument: `DEFAULT` is `default_cache()`, None keeps nothing."""
    if isinstance(cache, Default):
        return default_cache()
    return None if cache is None else Path(cache)


class Row(NamedTuple):
    """What the cache holds of one picture: digest of its bytes, (D,) values, and a code of what was remarked of it."""

    digest: str
    values: Floats
    remarks: int


class Rows(NamedTuple):
    """What a shard holds: n keys, (n, D) values, and (n,) codes of remarks, 0 where nothing was remarked."""

    keys: list[bytes]
    values: Floats
    remarks: Integers


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


class _Index:
    """Which shard holds the vector of a key: 12 bytes a key, whatever the number of shards.

    A key is known by its first eight bytes. That two of a million begin alike has a chance of 3e-8, and costs that a
    shard is read in vain. Threads may ask while one of them adds.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._sorted = np.zeros(0, np.uint64), np.zeros(0, np.int32)  # beginnings of keys, and the shard of each
        self._gone: set[int] = set()

    def add(self, keys: Iterable[bytes], shard: int) -> None:
        """Note what a shard holds; of several that hold a key the last one counts."""
        self._recent.update((_beginning(key), shard) for key in keys)
        if len(self._recent) >= MERGED_KEYS:
            keys_known = np.concatenate([np.fromiter(self._recent.keys(), np.uint64), self._sorted[0]])
            shards_known = np.concatenate([np.fromiter(self._recent.values(), np.int32), self._sorted[1]])
            beginnings, first = np.unique(keys_known, return_index=True)
            self._sorted = beginnings, shards_known[first]
            self._recent = {}  # last, so that nothing is missed in between

    def forget(self, shard: int) -> None:
        """Find nothing in a shard any more."""
        self._gone.add(shard)

    def find(self, key: bytes) -> int | None:
        """Return the number of the shard that holds a key."""
        beginning = _beginning(key)
        shard = self._recent.get(beginning)
        if shard is None:
            beginnings, shards = self._sorted
            place = int(np.searchsorted(beginnings, np.uint64(beginning)))
            if place < len(beginnings) and beginnings[place] == beginning:
                shard = int(shards[place])
        return None if shard in self._gone else shard


def _beginning(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


class Store:
    """The shards of one recipe: a folder named by the recipe's digest.

    A shard is a safetensors file with `keys` (n, 32) uint8, SHA-256 of the files' bytes, `values` (n, D) float32 and,
    where anything was remarked, `remarks` (n,) int64. Its metadata holds the digest of the recipe and of the tensors;
    one that does not agree is passed over. In a folder that others may write, nothing is read or written.
    """

    def __init__(self, cache: Path, recipe: Mapping[str, object], dim: int) -> None:
        """Make the folder for vectors of `dim` features.

        Warns:
            UserWarning: The folder is not the user's own or may be written by others, so that it is not used.
        """
        text = json.dumps(recipe, sort_keys=True)
        self.recipe = hashlib.sha256(text.encode()).hexdigest()
        self.folder = cache / "features" / self.recipe[:32]
        self.dim = dim
        self._numbers: dict[str, int] = {}  # of the shards that were looked at, by their names
        self._index = _Index()
        with storage_errors(self.folder, _HINT):
            for folder in (cache, self.folder.parent, self.folder):  # parents=True would give parents the usual mode
                folder.mkdir(exist_ok=True, mode=0o700)
                self.trusted = _trusts_folder(folder)
                if not self.trusted:
                    return
            remove_stale(self.folder)
            if not (self.folder / "recipe.json").exists():
                write_whole(self.folder / "recipe.json", text.encode(), mode=0o600)

    def look(self) -> int:
        """Note which keys the shards hold that appeared since this was last asked; return how many shards are known.

        Warns:
            UserWarning: A shard is damaged, or somebody else could have written it.
        """
        for path in self._own(self._fresh()):
            try:
                with safe_open(path, framework="numpy") as file:
                    keys = _keys(file, file.metadata() or {}, self.recipe)
            except (SafetensorError, OSError, ValueError) as error:
                self._pass_over(path, error)
                continue
            self._index.add(keys, self._number(path.name))
        return len(self._numbers)

    def holds(self, key: bytes) -> bool:
        """Return whether a shard held a key when they were last looked at."""
        return self._index.find(key) is not None

    def take(self, wanted: Iterable[str]) -> Iterator[Row]:
        """Look, and yield what the shards hold of the wanted digests; it warns as `look` does."""
        self.look()
        names = list(self._numbers)
        keys: dict[int, dict[bytes, str]] = defaultdict(dict)
        for digest in wanted:
            key = bytes.fromhex(digest)
            if (number := self._index.find(key)) is not None:
                keys[number][key] = digest
        for number, held_here in sorted(keys.items()):
            path = self.folder / names[number]
            try:
                held = read_shard(path, self.recipe, held_here)
                if held.keys and held.values.shape[1] != self.dim:
                    raise ValueError(f"its rows have {held.values.shape[1]} features instead of {self.dim}")
            except (SafetensorError, OSError, ValueError) as error:
                self._pass_over(path, error)
                continue
            for key, vector, code in zip(*held, strict=True):
                if key in held_here:
                    yield Row(held_here[key], vector, int(code))

    def add(self, digests: Sequence[str], values: Floats, remarks: Sequence[int] = ()) -> None:
        """Commit rows as a new shard, with a code of what was remarked of each picture, where anything was.

        Raises:
            StorageError: The disk is full or the folder cannot be written; nothing half-written remains.
        """
        if not self.trusted:
            return
        keys = np.frombuffer(b"".join(bytes.fromhex(digest) for digest in digests), dtype=np.uint8).reshape(-1, 32)
        tensors: dict[str, NDArray[Any]] = {
            "keys": keys.copy(),
            "values": np.ascontiguousarray(values, dtype=np.float32),
        }
        if any(remarks):
            tensors["remarks"] = np.array(remarks, dtype=np.int64)
        metadata = {"recipe": self.recipe} | {name: _sha(tensor) for name, tensor in tensors.items()}
        # named by what it holds, not by its bytes: safetensors writes the metadata in an order of its own
        name = hashlib.sha256("".join(metadata.values()).encode()).hexdigest()[:32] + ".safetensors"
        with storage_errors(self.folder, _HINT):
            write_whole(self.folder / name, save(tensors, metadata), mode=0o600)
        self._index.add(map(bytes.fromhex, digests), self._number(name))

    def remembered(self) -> Any:
        """Return what was remembered beside the vectors, plain JSON values; None if there is nothing to read."""
        path = self.folder / "remembered.json"
        try:
            return None if not self.trusted or distrust(path) else json.loads(read_regular(path, MOST_NOTES))
        except (OSError, ValueError, RecursionError, StorageError):
            return None

    def remember(self, content: Any) -> None:
        """Keep plain JSON values beside the vectors, e.g. how the engine compared when the store was begun."""
        if self.trusted:
            with storage_errors(self.folder, _HINT):
                write_whole(self.folder / "remembered.json", json.dumps(content).encode(), mode=0o600)

    def _fresh(self) -> list[Path]:
        """Return the shards that were not looked at; asked for often, of thousands."""
        try:
            names = os.listdir(self.folder) if self.trusted else []
        except FileNotFoundError:  # somebody removed it
            return []
        return [self.folder / n for n in sorted(names) if n.endswith(".safetensors") and n not in self._numbers]

    def _number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def _pass_over(self, path: Path, error: Exception) -> None:
        self._index.forget(self._number(path.name))
        warnings.warn(
            f"The cache file {path} is damaged and not used: {error}. What it held is computed again; "
            "`headstart cache verify --remove` removes it.",
            stacklevel=3,
        )

    def _own(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield the shards that nobody else could have written, and tell of the others in one warning."""
        refused = []
        for path in paths:
            try:
                reason = distrust(path)
            except OSError:  # it went away; whoever opens it will say so
                reason = ""
            if not reason:
                yield path
                continue
            self._number(path.name)
            refused.append(f"{path.name}: {reason}")
        if refused:
            warnings.warn(
                numbered("{n} [file|files] of the cache folder ", len(refused))
                + f"{self.folder} {numbered('[is|are] not used', len(refused))} ({refused[0]}). What they held "
                "is computed again; `headstart cache verify --remove` removes them.",
                stacklevel=3,
            )


def shards(folder: Path) -> list[Path]:
    """Return the committed shards of a store."""
    return sorted(folder.glob("*.safetensors"))


def read_shard(path: Path, recipe: str, wanted: Container[bytes] | None = None) -> Rows:
    """Return what a shard holds; the values are read only if it holds something wanted (None: always).

    Raises:
        ValueError: Its digests or its recipe do not agree.
        SafetensorError: It is no safetensors file.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        held = _keys(file, metadata, recipe)
        if wanted is not None and not any(key in wanted for key in held):
            return Rows([], np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64))
        values: Floats = _tensor(file, metadata, "values")
        known = "remarks" in metadata or "remarks" in file.keys()  # noqa: SIM118  # a file is no dict
        remarks = _tensor(file, metadata, "remarks") if known else np.zeros(len(held), dtype=np.int64)
    if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(held):
        raise ValueError(f"its values are {values.dtype} of shape {values.shape} for {len(held)} keys")
    if remarks.dtype != np.int64 or remarks.shape != (len(held),):
        raise ValueError(f"its remarks are {remarks.dtype} of shape {remarks.shape} for {len(held)} keys")
    return Rows(held, values, remarks)


def _keys(file: Any, metadata: Mapping[str, str], recipe: str) -> list[bytes]:
    if metadata.get("recipe") != recipe:
        raise ValueError("it belongs to another recipe")
    return [key.tobytes() for key in _tensor(file, metadata, "keys")]


def _tensor(file: Any, metadata: Mapping[str, str], name: str) -> Any:
    tensor = file.get_tensor(name)
    if _sha(tensor) != metadata.get(name):
        raise ValueError(f"its {name} do not have the digest they should have")
    return tensor


def _trusts_folder(folder: Path) -> bool:
    if not (reason := distrust(folder)):
        return True
    warnings.warn(
        f"The cache folder {folder} is not used: {reason}, so what lies in it cannot be trusted. Make it your own "
        f"(`chmod go-w {folder}`), or name another with HEADSTART_CACHE.",
        stacklevel=3,
    )
    return False


def survey(cache: Path, *, verify: bool = False) -> list[ShardState]:
    """Return every shard of a cache with its size, and with `verify` whether its digests agree."""
    states = []
    for folder in sorted((cache / "features").glob("*/")):
        try:
            recipe = hashlib.sha256(read_regular(folder / "recipe.json", MOST_NOTES)).hexdigest()
        except (OSError, StorageError):
            recipe = ""
        for path in shards(folder):
            try:
                if reason := distrust(path):
                    raise ValueError(reason)
                if verify:
                    rows = len(read_shard(path, recipe).keys)
                else:
                    with safe_open(path, framework="numpy") as file:
                        rows = file.get_slice("keys").get_shape()[0]
                states.append(ShardState(path, rows, path.stat().st_size, ""))
            except (SafetensorError, OSError, ValueError) as error:
                states.append(ShardState(path, 0, path.stat().st_size, str(error)))
    return states


def clear(cache: Path) -> None:
    """Remove features, quantized networks, the state of killed fits and what is known of stores, and nothing else that
    may lie in the folder.
    """
    manifest.clear(cache)
    for kept, digits in ((cache / FITS, 32), (cache / QUANTIZED, 64)):
        with storage_errors(kept, _HINT):
            for path in kept.glob(f"{'[0-9a-f]' * digits}.safetensors"):
                path.unlink(missing_ok=True)
    for folder in (cache / "features").glob("*/"):
        with storage_errors(folder, _HINT):
            for path in [*shards(folder), folder / "recipe.json", folder / "remembered.json"]:
                path.unlink(missing_ok=True)
            remove_stale(folder)


def _sha(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
