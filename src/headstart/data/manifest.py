"""What was read ⇄ the cache: the version of a file or object → SHA-256 of its bytes, so that they are known unread.

A version is known by where it lies, its size, and what the store says of its content, or of a file of this machine when
it and its entry were changed last, and its number. What is kept here is taken on trust until the bytes are read: a
digest that was computed counts more, and takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart import storage
from headstart.data import ranges, stores
from headstart.errors import StorageError
from headstart.records import Dataset, Locator, Place

FOLDER, SUFFIX, NOTE = "manifest", ".known", ".note"
MOST_NOTES = 10_000  # files of what was found in others
MOST_FILES = 16  # that are kept apart; more are written as one
MOST_ROWS = 8_000_000  # 48 bytes each; of more, those that were noted first go
SETTLED = 10_000_000_000  # nanoseconds; the times of some file systems go in steps of two seconds
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
    known = _joined(_files(cache / FOLDER)) if cache is not None and _is_trusted(cache) else _joined([])
    if not len(known):
        return digests
    begins, ends = _halves(known["key"])
    order = np.argsort(begins, kind="stable")
    endpoint = stores.endpoint()
    asked = ((row, version(sample.path)) for row, sample in enumerate(dataset))
    keys = {row: _key(place, endpoint) for row, place in asked if place is not None}
    rows = list(keys)
    wanted, rest = _halves(np.frombuffer(b"".join(keys.values()), dtype="V16"))
    behind = np.searchsorted(begins[order], wanted, side="right")  # what was noted last counts
    place = order[np.maximum(behind, 1) - 1]
    same = (begins[place] == wanted) & (ends[place] == rest)
    told = known["digest"][place[same]].tobytes().hex()
    for number, row in enumerate(np.array(rows)[same].tolist()):
        digest = told[64 * number : 64 * number + 64]
        digests[row] = digest if digest != _FORGOTTEN else ""
    return digests


def version(place: Place, *, settled: bool = False) -> Locator | None:
    """Return a place as it is known by its size and a mark; None where no mark tells its content.

    Args:
        place: Of a file of this machine the mark is made of what the system says of it now; what lies in one has none
            once the file has another.
        settled: Whether to give none of a file that was changed just now: once more, and its times may be the same.
    """
    if isinstance(place, Locator) and "://" in place.base:
        return place if place.mark != 0 else None
    return _version_here(place, settled=settled) if os.name == "posix" else None  # elsewhere no time tells of changes


def _version_here(place: Place, *, settled: bool) -> Locator | None:
    file = place if isinstance(place, Path) else Path(place.base)
    try:
        status = file.stat()
    except OSError:
        return None
    if settled and abs(time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)) < SETTLED:
        return None
    (size, mark), uri = ranges.size_and_mark(status), f"file://{os.path.abspath(file)}"
    if isinstance(place, Path):
        return Locator(uri, size=size, mark=mark)
    return replace(place, base=uri) if place.mark == mark else None


def forget(places: Sequence[Place], cache: Path | None) -> None:
    """Know nothing any more of what turned out to be something else; raises as `note` does."""
    now = (version(place) for place in places)
    note({place: _FORGOTTEN for place in now if place is not None}, cache)


def _halves(keys: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return both halves of keys as numbers."""
    numbers = np.ascontiguousarray(keys).view(np.uint64)
    return numbers[::2], numbers[1::2]


def note(read: Mapping[Place, str], cache: Path | None) -> None:
    """Keep what was read: the version that it was then → the SHA-256 of its bytes; of a path nothing is kept.

    Raises:
        StorageError: The cache cannot be written.
    """
    versions = [place for place, digest in read.items() if digest and isinstance(place, Locator) and version(place)]
    if cache is None or not versions:
        return
    endpoint = stores.endpoint()
    rows = [_key(place, endpoint) + bytes.fromhex(read[place]) for place in versions]
    with _writable(cache) as folder:
        if folder is None:
            return
        _write(folder, np.frombuffer(b"".join(rows), dtype=_ROW))
        if len(files := _files(folder)) > MOST_FILES:
            _write(folder, _joined(files))
            for file in files:
                file.unlink(missing_ok=True)


def kept(place: Locator, cache: Path | None) -> bytes | None:
    """Return what `keep` was given for this version of a file; None where that is not known."""
    if cache is None or version(place) is None or not _is_trusted(cache):
        return None
    return _unsealed(_note_of(place, cache / FOLDER))


def keep(place: Locator, content: bytes, cache: Path | None) -> None:
    """Keep what was found in a file of a store, e.g. where its members begin; raises as `note` does."""
    if cache is None or version(place) is None:
        return
    with _writable(cache) as folder:
        if folder is not None:
            storage.write_whole(_note_of(place, folder), _sealed(content), mode=0o600)
            for file in sorted(folder.glob(f"*{NOTE}"), key=lambda one: one.stat().st_mtime)[:-MOST_NOTES]:
                file.unlink(missing_ok=True)


def clear(cache: Path) -> None:
    """Remove all that is kept here, and nothing else that may lie in the folder; raises as `note` does."""
    with storage.storage_errors(cache / FOLDER, "Remove it by hand, or name another cache with HEADSTART_CACHE."):
        for file in [*_files(cache / FOLDER), *(cache / FOLDER).glob(f"{'[0-9a-f]' * 32}{NOTE}")]:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _writable(cache: Path) -> Iterator[Path | None]:
    """Give the folder to write to; None where somebody else may write there too."""
    folder = cache / FOLDER
    with storage.storage_errors(folder, "Make room, or work without a cache: --no-cache."):
        for one in (cache, folder):
            one.mkdir(exist_ok=True, mode=0o700)
        storage.remove_stale(folder)
        yield folder if _is_trusted(cache) else None


def _is_trusted(cache: Path) -> bool:
    try:
        return not (storage.distrust(cache) or storage.distrust(cache / FOLDER))
    except OSError:
        return False


def _note_of(place: Locator, folder: Path) -> Path:
    return folder / f"{_key(place, stores.endpoint()).hex()}{NOTE}"


def _sealed(body: bytes) -> bytes:
    return MAGIC + hashlib.sha256(body).digest() + body


def _unsealed(file: Path) -> bytes | None:
    """Return what was sealed in a file; None if that is damaged, of somebody else, or not there."""
    try:
        content = b"" if storage.distrust(file) else storage.read_regular(file, storage.MOST_TRUSTED)
    except (OSError, StorageError):
        return None
    body = content[len(MAGIC) + 32 :]
    return body if content == _sealed(body) else None


def _key(place: Locator, endpoint: str) -> bytes:
    """Return what a version is known by: at another endpoint, a bucket of the same name is another one."""
    where = place.file if place.kind != "cell" else f"{place.base}\0{place.inner}"
    told = f"{endpoint}\0{where}\0{place.number}\0{place.size}\0{place.mark}"
    return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _files(folder: Path) -> list[Path]:
    """Return the files in the order in which they were written, which their names begin with."""
    return sorted(folder.glob(f"{'[0-9]' * 8}-*{SUFFIX}"))


def _joined(files: Sequence[Path]) -> NDArray[np.void]:
    """Return the rows of files one after the other; what is no file of ours has none."""
    bodies = [body for file in files if (body := _unsealed(file)) is not None and len(body) % _ROW.itemsize == 0]
    return np.frombuffer(b"".join(bodies), dtype=_ROW)[-MOST_ROWS:]


def _write(folder: Path, rows: NDArray[np.void]) -> None:
    sealed = _sealed(rows.tobytes())
    last = max((int(file.name.partition("-")[0]) for file in _files(folder)), default=0)
    name = f"{last + 1:08d}-{hashlib.sha256(sealed).hexdigest()[:16]}{SUFFIX}"
    storage.write_whole(folder / name, sealed, mode=0o600)
