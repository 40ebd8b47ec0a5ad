"""What was read of stores ⇄ the cache: an object's version → SHA-256 of its bytes, so that they are known unread.

A version is known by where the object lies, its size, and what the store says of its content; of a file of this machine
nothing is kept. What is kept here is taken on trust until the bytes are read: a digest that was computed counts more,
and takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart import storage
from headstart.data import stores
from headstart.errors import StorageError
from headstart.records import Dataset, Locator, Place

FOLDER, SUFFIX = "manifest", ".known"
MOST_FILES = 16  # that are kept apart; more are written as one
MOST_ROWS = 8_000_000  # 48 bytes each; of more, those that were noted first go
MAGIC = b"headstart manifest 1\n"

_FORGOTTEN = "00" * 32
_ROW = np.dtype([("key", "V16"), ("digest", "V32")])


def recall(dataset: Dataset, cache: Path | None) -> list[str]:
    """Return the SHA-256 of each picture as it is known, "" where it is not.

    Args:
        dataset: N samples.
        cache: The folder of the cache; None: nothing is known.
    """
    digests = [""] * len(dataset)
    rows = [row for row, sample in enumerate(dataset) if _is_versioned(sample.path)]
    known = _read(cache) if rows and cache is not None else _NOTHING
    if not len(known):
        return digests
    begins, ends = _halves(known["key"])
    order = np.argsort(begins, kind="stable")
    endpoint = stores.endpoint()
    keys = b"".join(_key(dataset[row].path, endpoint) for row in rows)
    wanted, rest = _halves(np.frombuffer(keys, dtype="V16"))
    behind = np.searchsorted(begins[order], wanted, side="right")  # what was noted last counts
    place = order[np.maximum(behind, 1) - 1]
    same = (begins[place] == wanted) & (ends[place] == rest)
    told = known["digest"][place[same]].tobytes().hex()
    for number, row in enumerate(np.array(rows)[same].tolist()):
        digest = told[64 * number : 64 * number + 64]
        digests[row] = digest if digest != _FORGOTTEN else ""
    return digests


def forget(places: Sequence[Place], cache: Path | None) -> None:
    """Know nothing any more of what turned out to be something else; raises as `note` does."""
    note(dict.fromkeys(places, _FORGOTTEN), cache)


def _halves(keys: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return both halves of keys as numbers."""
    numbers = np.ascontiguousarray(keys).view(np.uint64)
    return numbers[::2], numbers[1::2]


def note(read: Mapping[Place, str], cache: Path | None) -> None:
    """Keep what was read: where it lay, as it was then → the SHA-256 of its bytes.

    Raises:
        StorageError: The cache cannot be written.
    """
    versions = [place for place, digest in read.items() if digest and _is_versioned(place)]
    if cache is None or not versions:
        return
    endpoint = stores.endpoint()
    rows = [_key(place, endpoint) + bytes.fromhex(read[place]) for place in versions]
    folder = cache / FOLDER
    with storage.storage_errors(folder, "Make room, or work without a cache: --no-cache."):
        for one in (cache, folder):
            one.mkdir(exist_ok=True, mode=0o700)
            if storage.distrust(one):
                return
        storage.remove_stale(folder)
        _write(folder, np.frombuffer(b"".join(rows), dtype=_ROW))
        if len(files := _files(folder)) > MOST_FILES:
            _write(folder, _joined(files))
            for file in files:
                file.unlink(missing_ok=True)


def clear(cache: Path) -> None:
    """Remove all that is kept here, and nothing else that may lie in the folder; raises as `note` does."""
    with storage.storage_errors(cache / FOLDER, "Remove it by hand, or name another cache with HEADSTART_CACHE."):
        for file in _files(cache / FOLDER):
            file.unlink(missing_ok=True)


def _is_versioned(place: Place) -> bool:
    return isinstance(place, Locator) and place.mark != 0 and place.kind != "cell" and "://" in place.base


def _key(place: Place, endpoint: str) -> bytes:
    """Return what a version is known by: at another endpoint, a bucket of the same name is another one."""
    assert isinstance(place, Locator)  # noqa: S101  # as `_is_versioned` has it
    told = f"{endpoint}\0{place.file}\0{place.number}\0{place.size}\0{place.mark}"
    return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _read(cache: Path) -> NDArray[np.void]:
    try:
        if storage.distrust(cache) or storage.distrust(cache / FOLDER):
            return _NOTHING
    except OSError:
        return _NOTHING
    return _joined(_files(cache / FOLDER))


_NOTHING: NDArray[np.void] = np.zeros(0, dtype=_ROW)


def _files(folder: Path) -> list[Path]:
    """Return the files in the order in which they were written, which their names begin with."""
    return sorted(folder.glob(f"{'[0-9]' * 8}-*{SUFFIX}"))


def _joined(files: Sequence[Path]) -> NDArray[np.void]:
    """Return the rows of files one after the other; a damaged file, or one of somebody else, has none."""
    parts = [_NOTHING]
    for file in files:
        try:
            content = b"" if storage.distrust(file) else storage.read_regular(file, storage.MOST_TRUSTED)
        except (OSError, StorageError):
            continue
        body = content[len(MAGIC) + 32 :]
        whole = content.startswith(MAGIC + hashlib.sha256(body).digest()) and len(body) % _ROW.itemsize == 0
        parts += [np.frombuffer(body, dtype=_ROW)] if whole else []
    return np.concatenate(parts)[-MOST_ROWS:]


def _write(folder: Path, rows: NDArray[np.void]) -> None:
    body = rows.tobytes()
    digest = hashlib.sha256(body).digest()
    last = max((int(file.name.partition("-")[0]) for file in _files(folder)), default=0)
    name = f"{last + 1:08d}-{digest.hex()[:16]}{SUFFIX}"
    storage.write_whole(folder / name, MAGIC + digest + body, mode=0o600)
