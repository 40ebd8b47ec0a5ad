"""Feature vectors ⇄ a folder that is addressed by content; nothing here knows pictures or encoders.

A vector is found by the digest of the picture's bytes within the store of a recipe, which is everything else that
shaped it. Shards are only ever added, each by a rename once it is on disk: killed anywhere, or shared by any number of
processes without a lock, the cache at worst holds a row twice, and the rows are the same. It holds tensors, which
cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from headstart.errors import StorageError
from headstart.records import Floats, Pixels
from headstart.storage import remove_stale, storage_errors, write_whole

FITS = "fits"  # where fits in epochs keep their state

_HINT = "Make room, name another folder with HEADSTART_CACHE, or work without one: --no-cache."


class ShardState(NamedTuple):
    """One file of the cache: its path, rows (0 if damaged), size in bytes, and what is wrong with it, if anything."""

    path: Path
    rows: int
    size: int
    problem: str


def default_cache() -> Path:
    """Return the cache folder: `HEADSTART_CACHE`, else the platform's place for caches."""
    return Path(os.environ.get("HEADSTART_CACHE") or platformdirs.user_cache_dir("headstart", appauthor=False))


class Default(Enum):
    """The type of `DEFAULT`."""

    FOLDER = "default"


DEFAULT = Default.FOLDER  # stands for `default_cache()` where a cache is asked for; None keeps nothing, everywhere


def resolve(cache: Path | Default | None) -> Path | None:
    """Return the folder that a `cache` argument stands for; None: keep nothing."""
    return default_cache() if isinstance(cache, Default) else cache


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


class Store:
    """The shards of one recipe: a folder named by the recipe's digest.

    A shard is a safetensors file with `keys` (n, 32) uint8, SHA-256 of the files' bytes, and `values` (n, D) float32.
    Its metadata holds the digest of the recipe and of both tensors; one that does not agree is passed over.
    """

    def __init__(self, cache: Path, recipe: Mapping[str, object], dim: int) -> None:
        """Make the folder for vectors of `dim` features."""
        text = json.dumps(recipe, sort_keys=True)
        self.recipe = hashlib.sha256(text.encode()).hexdigest()
        self.folder = cache / "features" / self.recipe[:32]
        self.dim = dim
        self._read: set[str] = set()
        with storage_errors(self.folder, _HINT):
            for folder in (cache, self.folder.parent, self.folder):  # parents=True would give parents the usual mode
                folder.mkdir(exist_ok=True, mode=0o700)
            remove_stale(self.folder)
            if not (self.folder / "recipe.json").exists():
                write_whole(self.folder / "recipe.json", text.encode())

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
                if held and values.shape[1] != self.dim:
                    raise ValueError(f"its rows have {values.shape[1]} features instead of {self.dim}")
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
        # named by what it holds, not by its bytes: safetensors writes the metadata in an order of its own
        named = self.recipe + metadata["keys"] + metadata["values"]
        name = hashlib.sha256(named.encode()).hexdigest()[:32] + ".safetensors"
        with storage_errors(self.folder, _HINT):
            write_whole(self.folder / name, content)
        self._read.add(name)

    def remembered(self) -> Any:
        """Return what was remembered beside the vectors, plain JSON values; None if there is nothing to read."""
        try:
            return json.loads((self.folder / "remembered.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def remember(self, content: Any) -> None:
        """Keep plain JSON values beside the vectors, e.g. how the engine compared when the store was begun."""
        with storage_errors(self.folder, _HINT):
            write_whole(self.folder / "remembered.json", json.dumps(content).encode())


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
    if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(held):
        raise ValueError(f"its values are {values.dtype} of shape {values.shape} for {len(held)} keys")
    return held, values


def survey(cache: Path, *, verify: bool = False) -> list[ShardState]:
    """Return every shard of a cache with its size, and with `verify` whether its digests agree."""
    states = []
    for folder in sorted((cache / "features").glob("*/")):
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
    """Remove stored features and the state of killed fits, and nothing else that may lie in the folder."""
    with storage_errors(cache / FITS, _HINT):
        for path in (cache / FITS).glob(f"{'[0-9a-f]' * 32}.safetensors"):
            path.unlink(missing_ok=True)
    for folder in (cache / "features").glob("*/"):
        with storage_errors(folder, _HINT):
            for path in [*shards(folder), folder / "recipe.json", folder / "remembered.json"]:
                path.unlink(missing_ok=True)
            remove_stale(folder)


def _sha(array: Floats | Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
