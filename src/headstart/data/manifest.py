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
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headstart import storage
from headstart.data import images, ranges, stores, uris
from headstart.errors import StorageError
from headstart.packed import DIGEST, Digests
from headstart.records import Dataset, Locator, Place

FOLDER, SUFFIX, NOTE = "manifest", ".known", ".note"
MOST_NOTES = 10_000  # files of what was found in others
MOST_FILES = 16  # that are kept apart; more are written as one
MOST_ROWS = 8_000_000  # 48 bytes each; of more, those that were noted first go
SETTLED = 10_000_000_000  # nanoseconds; the times of some file systems go in steps of two seconds
NOTED = 50_000  # rows that are written at once
WORTH = 1000  # rows that are read sooner than a picture
MAGIC = b"headstart manifest 1\n"

_FORGOTTEN = "00" * DIGEST
_ROW = np.dtype([("key", "V16"), ("digest", f"V{DIGEST}")])


class Manifest:
    """What the cache knows of versions, read once; and what is found out meanwhile, kept at the end of the block."""

    def __init__(self, cache: Path | None) -> None:
        """Read nothing yet.

        Args:
            cache: The folder of the cache; None: nothing is known, and nothing kept.
        """
        self._cache, self._endpoint = cache, stores.endpoint()
        self._known: _Known | None = None
        self._asked, self._fresh = 0, bytearray()
        self._kept = time.monotonic()  # when what was noted was written last

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was noted, also after an error or an interrupt."""
        self.keep()

    def recall(self, dataset: Dataset) -> Digests:
        """Return the SHA-256 of each picture as it is known.

        To know a few files of this machine unread would take longer than to read them, where many are known.

        Args:
            dataset: N samples.
        """
        digests = Digests.unknown(len(dataset))
        if (known := self._looked_up(dataset)) is None or not len(known.begins):
            return digests
        rows, keys = array("q"), bytearray()
        for row, sample in enumerate(dataset):
            if (place := version(sample.path)) is not None:
                rows.append(row)
                keys += _key(place, self._endpoint)
        wanted, rest = _halves(np.frombuffer(keys, dtype="V16"))
        behind = np.searchsorted(known.begins, wanted, side="right")  # what was noted last counts
        found = np.maximum(behind, 1) - 1
        same = (known.begins[found] == wanted) & (known.ends[found] == rest)
        told = np.ascontiguousarray(known.digests[found[same]]).view(np.uint8).reshape(-1, DIGEST)
        remembered = told.any(axis=1)
        digests.put(np.array(rows, dtype=np.int64)[same][remembered], Digests.of_bytes(told[remembered]))
        return digests

    def note(self, place: Place | None, digest: str) -> None:
        """Note what was read: the version that it was then → the SHA-256 of its bytes; of a path, nothing.

        Raises:
            StorageError: The cache cannot be written.
        """
        if self._cache is None or not digest or not isinstance(place, Locator) or version(place) is None:
            return
        if uris.is_web(place):  # which nobody lists with a mark, so that it is never found again
            return
        self._fresh += _key(place, self._endpoint) + bytes.fromhex(digest)
        if len(self._fresh) >= NOTED * _ROW.itemsize:
            self.keep()

    def keep(self, *, after: float = 0.0) -> None:
        """Write what was noted, if that was done so many seconds ago; raises as `note` does."""
        if self._cache is None or not self._fresh or time.monotonic() - self._kept < after:
            return
        with _writable(self._cache) as folder:
            if folder is not None:
                files = _files(folder)
                _write(folder, np.frombuffer(bytes(self._fresh), dtype=_ROW), max(map(_number, files), default=0) + 1)
                if len(files) >= MOST_FILES:
                    _join(folder)
        self._fresh, self._kept = bytearray(), time.monotonic()

    def _looked_up(self, dataset: Dataset) -> _Known | None:
        """Return what is known, once it is worth reading."""
        if self._known is None and self._cache is not None and _is_trusted(self._cache):
            self._asked += len(dataset)
            folder = self._cache / FOLDER
            size = sum(map(_size, _files(folder)))
            if size <= WORTH * _ROW.itemsize * self._asked or dataset.packed.far.any():
                self._known = _Known.of(_all(folder))
        return self._known


class _Known(NamedTuple):
    """Rows, sorted by the beginnings of their keys; of the same ones the last is what was noted last."""

    begins: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    digests: NDArray[np.void]

    @classmethod
    def of(cls, rows: NDArray[np.void]) -> _Known:
        begins, ends = _halves(rows["key"])
        order = np.argsort(begins, kind="stable")
        return cls(begins[order], ends[order], rows["digest"][order])


def read(place: Place) -> tuple[bytes, Place | None]:
    """Return the bytes of a picture, and the version that they are; None or a path where they cannot be known again.

    Raises:
        PictureError: See `images.read_bytes`.
        StorageError: So too.
    """
    before = version(place, settled=True)  # a store tells the version that it gave; a disk does not
    data, where = images.fetch(place)
    return data, before if where == place else where


def recall(dataset: Dataset, cache: Path | None) -> Digests:
    """Return what `Manifest.recall` does of a cache."""
    return Manifest(cache).recall(dataset)


def note(read: Mapping[Place, str], cache: Path | None) -> None:
    """Note what was read, and keep it; see `Manifest.note`."""
    with Manifest(cache) as known:
        for place, digest in read.items():
            known.note(place, digest)


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
            one.mkdir(parents=True, exist_ok=True, mode=0o700)
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


def _size(file: Path) -> int:
    """Return how many bytes a file has; 0 of one that was just made part of another."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _number(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _all(folder: Path) -> NDArray[np.void]:
    """Return the rows of all files, of which others may be made one meanwhile."""
    while True:
        files = _files(folder)
        rows = _joined(files)
        if set(files) <= set(_files(folder)):
            return rows


def _join(folder: Path) -> None:
    """Make one of the last files, of so many that each weighs no more than those after it: rows are rarely rewritten.

    It has the number of the last of them, so that what others noted in the meantime still counts more.
    """
    files = _files(folder)
    sizes = np.array([_size(file) for file in files])
    later = np.cumsum(sizes[::-1])[::-1] - sizes
    files = files[int(np.argmax(sizes <= later)) :]
    rows = _joined(files)
    _, last = np.unique(rows["key"][::-1], return_index=True)
    whole = _write(folder, rows[np.sort(len(rows) - 1 - last)], _number(files[-1]))
    for file in files:
        if file != whole:  # which may be what the last of them was, to the byte
            file.unlink(missing_ok=True)


def _joined(files: Sequence[Path]) -> NDArray[np.void]:
    """Return the rows of files one after the other; what is no file of ours has none."""
    bodies = [body for file in files if (body := _unsealed(file)) is not None and len(body) % _ROW.itemsize == 0]
    return np.frombuffer(b"".join(bodies), dtype=_ROW)[-MOST_ROWS:]


def _write(folder: Path, rows: NDArray[np.void], number: int) -> Path:
    sealed = _sealed(rows.tobytes())
    file = folder / f"{number:08d}-{hashlib.sha256(sealed).hexdigest()[:16]}{SUFFIX}"
    storage.write_whole(file, sealed, mode=0o600)
    return file
