"""Feature vectors ⇄ a folder that is addressed by content; nothing here knows pictures or encoders.

A vector is found by the digest of the picture's bytes within the store of a recipe, which is everything else that
shaped it. Each shard is there by a rename once it is on disk, and light ones are removed once a large one holds their
rows: killed anywhere, or shared by any number of processes without a lock, the cache at worst holds a row twice, and
the rows are the same. It holds tensors, which cannot run code; files that somebody else could have written are passed
over.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open

from headstart.data import manifest
from headstart.encoding import shards, shared
from headstart.encoding.shards import Rows
from headstart.errors import StorageError
from headstart.records import Floats, numbered
from headstart.storage import distrust, read_regular, remove_stale, storage_errors, write_whole

SHARD_ROWS = 256  # rows that are committed together: what a killed process loses at most
LARGE_SHARD = 1 << 14  # rows of a large shard at most; one of less than half of them is light
MANY_LIGHT = 64  # light shards from which on they are made large ones
MERGED_KEYS = 1 << 16  # keys that an index holds apart before it sorts them in
FITS = "fits"  # where fits in epochs keep their state
QUANTIZED = "quantized"  # where networks in 8-bit integers are kept
IN_USE = 3600.0  # seconds after its last use in which a shard is not removed to make room
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


class ShardState(NamedTuple):
    """One file of the cache: its path, rows (0 if damaged), size in bytes, when it was last used, in seconds since
    1970, and what is wrong with it, if anything.
    """

    path: Path
    rows: int
    size: int
    used: float
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
        self.rows: dict[str, int] = {}  # of each shard that was looked at; 0 of those that are of no use
        self._names: list[str] = []
        self._recent: dict[int, int] = {}
        self._sorted = np.zeros(0, np.uint64), np.zeros(0, np.int32)  # beginnings of keys, and the shard of each

    def add(self, name: str, keys: Sequence[bytes]) -> None:
        """Note what a shard holds; of several that hold a key the last one counts."""
        self.rows[name], number = len(keys), len(self._names)
        self._names.append(name)
        self._recent.update((_beginning(key), number) for key in keys)
        if len(self._recent) >= MERGED_KEYS:
            self._sort()

    def forget(self, name: str) -> None:
        """Find nothing in a shard any more."""
        self.rows[name] = 0

    def find(self, key: bytes) -> str | None:
        """Return the name of the shard that holds a key."""
        beginning = _beginning(key)
        number = self._recent.get(beginning)
        if number is None:
            beginnings, numbers = self._sorted
            place = int(np.searchsorted(beginnings, np.uint64(beginning)))
            if place < len(beginnings) and beginnings[place] == beginning:
                number = int(numbers[place])
        name = "" if number is None else self._names[number]
        return name if self.rows.get(name) else None

    def by_shard(self, keys: Sequence[bytes]) -> dict[str, set[bytes]]:
        """Return the name of each shard that holds any of the keys, with those that it holds."""
        self._sort()
        beginnings, numbers = self._sorted
        if not (len(keys) and len(beginnings)):
            return {}
        wanted = np.frombuffer(b"".join(keys), dtype=">u8").reshape(len(keys), -1)[:, 0].astype(np.uint64)
        places = np.minimum(np.searchsorted(beginnings, wanted), len(beginnings) - 1)
        known = np.flatnonzero(beginnings[places] == wanted)
        known = known[np.argsort(numbers[places[known]], kind="stable")]
        found, begins = np.unique(numbers[places[known]], return_index=True)
        parts = zip(found.tolist(), np.split(known, begins[1:]), strict=True) if len(found) else ()
        held = {self._names[number]: {keys[place] for place in part.tolist()} for number, part in parts}
        return {name: own for name, own in held.items() if self.rows[name]}

    def _sort(self) -> None:
        """Sort in the keys that are held apart."""
        recent = dict(self._recent)
        if recent:
            keys_known = np.concatenate([np.fromiter(recent.keys(), np.uint64), self._sorted[0]])
            shards_known = np.concatenate([np.fromiter(recent.values(), np.int32), self._sorted[1]])
            beginnings, first = np.unique(keys_known, return_index=True)
            self._sorted = beginnings, shards_known[first]
            self._recent = {}  # last, so that nothing is missed in between


def _beginning(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


class Store:
    """The shards of one recipe: a folder named by the recipe's digest.

    Rows are committed few at a time, and many light shards are then made a large one: so a kill costs little, and a
    million rows are some sixty files. A shard whose digests do not agree is passed over. In a folder that others may
    write, nothing is read or written.
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
        self._looked = 0
        self._index = _Index()
        self._shared = shared.of(self.folder)
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
        """Note which keys the shards hold that appeared since this was last asked; return how many shards did so far.

        Warns:
            UserWarning: A shard is damaged, or somebody else could have written it.
        """
        if self._shared is not None and self.trusted:
            self._shared.fetch()
        for path in self._own(self._fresh()):
            try:
                self._note(path.name, shards.read_keys(path, self.recipe))
            except FileNotFoundError:  # its rows are in a large one by now
                continue
            except (SafetensorError, OSError, ValueError) as error:
                self._pass_over(path, error)
        return self._looked

    @property
    def looked(self) -> int:
        """How many shards were looked at or committed so far."""
        return self._looked

    def holds(self, key: bytes) -> bool:
        """Return whether a shard held a key when they were last looked at."""
        return self._index.find(key) is not None

    def take(self, wanted: Iterable[str]) -> Iterator[Rows]:
        """Look, and yield what the shards hold of the wanted digests, shard by shard; it warns as `look` does."""
        keys = {bytes.fromhex(digest) for digest in wanted}
        while keys:
            self.look()
            gone: set[bytes] = set()
            for name, own in self._index.by_shard(list(keys)).items():
                try:
                    rows = self._read(name, own)
                except FileNotFoundError:
                    gone |= own
                else:
                    if rows.keys:
                        yield rows
            if gone:
                self._index = _Index()  # they are in a large shard now, or nowhere
            keys = gone

    def add(self, digests: Sequence[str], values: Floats, remarks: Sequence[int] = ()) -> None:
        """Commit rows as a new shard, with a code of what was remarked of each picture, where anything was.

        Raises:
            StorageError: The disk is full or the folder cannot be written; nothing half-written remains.
        """
        if not self.trusted:
            return
        codes = np.array(remarks or [0] * len(digests), dtype=np.int64)
        self._commit(Rows([bytes.fromhex(digest) for digest in digests], values, codes))
        light = sorted(name for name, rows in self._index.rows.items() if 0 < rows < LARGE_SHARD // 2)
        if len(light) >= MANY_LIGHT:
            self._merge(light)

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
        return [self.folder / n for n in sorted(names) if n.endswith(".safetensors") and n not in self._index.rows]

    def _note(self, name: str, keys: Sequence[bytes]) -> None:
        self._looked += 1
        self._index.add(name, keys)

    def _read(self, name: str, wanted: set[bytes] | None = None) -> Rows:
        """Return the wanted rows of a shard (None: all); none of one that is damaged.

        Raises:
            FileNotFoundError: It is not there any more.
        """
        path = self.folder / name
        try:
            rows = shards.read(path, self.recipe, wanted)
            if rows.keys and rows.values.shape[1] != self.dim:
                raise ValueError(f"its rows have {rows.values.shape[1]} features instead of {self.dim}")
            with contextlib.suppress(OSError):
                os.utime(path)  # when a file was last read many systems do not note
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError) as error:
            self._pass_over(path, error)
            return Rows([], np.zeros((0, self.dim), dtype=np.float32), np.zeros(0, dtype=np.int64))
        return rows

    def _commit(self, rows: Rows) -> str:
        """Write a shard, and return its name."""
        name, content = shards.encode(self.recipe, rows)
        with storage_errors(self.folder, _HINT):
            write_whole(self.folder / name, content, mode=0o600)
        if self._shared is not None:
            self._shared.put(name)
        self._note(name, rows.keys)
        return name

    def _merge(self, light: Sequence[str]) -> None:
        """Make a large shard of light ones, the lightest first; where another process does so, leave it to that.

        Whoever is about to read one of them finds it gone, and looks for its rows again.
        """
        sizes = np.cumsum(sorted(self._index.rows[name] for name in light))
        names = sorted(light, key=self._index.rows.__getitem__)[: int((sizes <= LARGE_SHARD).sum())]
        try:
            read = {name: self._read(name) for name in names}
        except FileNotFoundError:
            self._index = _Index()
            return
        keys = list(chain.from_iterable(rows.keys for rows in read.values()))
        places = sorted({key: place for place, key in enumerate(keys)}.values())  # of each key one
        values, remarks = (np.concatenate([rows[part] for rows in read.values()])[places] for part in (1, 2))
        large = self._commit(Rows([keys[place] for place in places], values, remarks))
        for name, rows in read.items():
            if rows.keys and name != large:  # where all others are damaged, it is the same
                self._index.forget(name)
                with storage_errors(self.folder, _HINT):
                    (self.folder / name).unlink(missing_ok=True)
                if self._shared is not None:
                    self._shared.remove(name)

    def _pass_over(self, path: Path, error: Exception) -> None:
        self._index.forget(path.name)
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
            self._index.forget(path.name)
            refused.append(f"{path.name}: {reason}")
        if refused:
            warnings.warn(
                numbered("{n} [file|files] of the cache folder ", len(refused))
                + f"{self.folder} {numbered('[is|are] not used', len(refused))} ({refused[0]}). What they held "
                "is computed again; `headstart cache verify --remove` removes them.",
                stacklevel=3,
            )


def _trusts_folder(folder: Path) -> bool:
    if not (reason := distrust(folder)):
        return True
    warnings.warn(
        f"The cache folder {folder} is not used: {reason}, so what lies in it cannot be trusted. Make it your own "
        f"(`chmod go-w {folder}`), or name another with HEADSTART_CACHE.",
        stacklevel=3,
    )
    return False


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def survey(cache: Path, *, verify: bool = False) -> list[ShardState]:
    """Return every shard of a cache with its size, and with `verify` whether its digests agree."""
    states = []
    for folder in sorted((cache / "features").glob("*/")):
        try:
            recipe = hashlib.sha256(read_regular(folder / "recipe.json", MOST_NOTES)).hexdigest()
        except (OSError, StorageError):
            recipe = ""
        for path in _shards(folder):
            try:
                status = path.stat()
            except FileNotFoundError:  # its rows are in a large shard by now, or it was removed
                continue
            try:
                if reason := distrust(path):
                    raise ValueError(reason)
                if verify:
                    rows = len(shards.read(path, recipe).keys)
                else:
                    with safe_open(path, framework="numpy") as file:
                        rows = file.get_slice("keys").get_shape()[0]
                states.append(ShardState(path, rows, status.st_size, status.st_mtime, ""))
            except (SafetensorError, OSError, ValueError) as error:
                states.append(ShardState(path, 0, status.st_size, status.st_mtime, str(error)))
    return states


def trim(cache: Path, most: int) -> list[ShardState]:
    """Remove shards until no more bytes of them are left, those first that were not used for longest; return them.

    One that was used within the last hour stays. A process that is about to read one that goes computes its rows again.

    Args:
        cache: The folder.
        most: Bytes that may stay.
    """
    states = survey(cache)
    left, removed = sum(state.size for state in states), []
    for state in sorted(states, key=lambda state: (state.used, state.path)):
        if left > most and state.used < time.time() - IN_USE:
            with storage_errors(state.path, _HINT):
                state.path.unlink(missing_ok=True)
            left -= state.size
            removed.append(state)
    return removed


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
            for path in [*_shards(folder), folder / "recipe.json", folder / "remembered.json"]:
                path.unlink(missing_ok=True)
            remove_stale(folder)
