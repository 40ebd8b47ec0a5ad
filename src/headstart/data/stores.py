"""Files that lie elsewhere, by URI → their bytes, whole or a range of them; the only door to object stores.

What is asked for is asked again where a connection breaks or a server is busy, and bytes count only if there are as
many as the store says. Who may read is told by the environment alone (`AWS_…`, `GOOGLE_…`, `AZURE_…`): no error of this
room quotes what a library or a server said, for such texts may hold a signature.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import random
import re
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from headstart.data import uris
from headstart.errors import ConfigError, MissingExtraError, PictureError, StorageError
from headstart.records import Locator, Place

ATTEMPTS = 4  # of a request whose answer breaks off or falls short
PAUSE = 0.2  # seconds before the second one; doubled each time
RETRIES, PATIENCE = 6, 90.0  # of a request that is refused or not answered, and for how many seconds
TIMEOUT = 120.0  # seconds that an answer may take as a whole
SILENT = 32  # requests that fail one after the other until a store is given up
PAGE = 1000  # names that are listed at once
FEW, REQUESTS = 500, 32  # files that are asked for one by one at most, and how many at once

T = TypeVar("T")


class Listed(NamedTuple):
    """Objects below a folder of a store, in code-point order of their names: 16 bytes each, and their names.

    Attributes:
        below: The URI of the folder, ending in `/`.
        names: Of each, below the folder.
        sizes: In bytes.
        marks: See `Locator`.
    """

    below: str
    names: list[str]
    sizes: array[int]
    marks: array[int]

    def place(self, row: int) -> Locator:
        """Return where one lies."""
        return Locator(self.below, self.names[row], "object", 0, self.sizes[row], self.marks[row])


def listed(root: Locator, wanted: Callable[[str], bool], most: int = sys.maxsize) -> Listed:
    """Return the objects below a folder whose names are wanted, so many at most; of the others nothing is kept.

    Raises:
        ConfigError: It is a web server, which tells no names.
        StorageError: The store does not answer, or refuses.
    """
    if uris.is_web(root):
        raise ConfigError(
            f"{root} is on a web server, which does not tell what lies in a folder.",
            "Name a table of URLs with --labels, or a .tar or .parquet file.",
        )
    client, key = _client_of(root)
    names, sizes, marks, cut = list[str](), array("q"), array("q"), len(key) + 1 if key else 0
    for found in _entries(client, root, key):
        name = found["path"][cut:]
        if wanted(name):
            names.append(name)
            sizes.append(found["size"])
            marks.append(_mark(found))
        if len(names) == most:
            break
    order = sorted(range(len(names)), key=names.__getitem__)
    if order != list(range(len(names))):
        names = [names[row] for row in order]
        sizes, marks = (array("q", [one[row] for row in order]) for one in (sizes, marks))
    return Listed(_below(root), names, sizes, marks)


def _entries(client: Any, root: Locator, key: str) -> Iterator[dict[str, Any]]:
    """Yield what a store tells of each object, page by page; after a page that was lost it goes on behind the last."""
    last: str | None = None
    for attempt in range(ATTEMPTS):
        pages = client.list(key or None, offset=last, chunk_size=PAGE)
        try:
            for page in pages:
                yield from page
                last = page[-1]["path"] if page else last
            return
        except _failures() as error:
            if attempt + 1 == ATTEMPTS or _is_final(error):
                raise StorageError(f"{root} cannot be listed: {_reason(error)}.", HINT) from None
            _wait(attempt)


def there(target: Locator) -> Locator | None:
    """Return a file as it is now, with its size and mark; None where there is none.

    Raises:
        StorageError: The store does not answer, or refuses.
    """
    client, key = _client_of(target)
    try:
        found = _retried(target, lambda: client.head(key)) if key else None
    except FileNotFoundError:
        return None
    except PictureError as error:
        raise StorageError(f"{target} {error.message}.", HINT) from None
    return None if found is None else _as_found(target, found)


def looked_up(files: Sequence[Locator]) -> dict[str, Locator]:
    """Return file → as it is now, with size and mark, of those that are there; a web server is not asked.

    A few are asked for one by one. Of many, the folder that they have in common is listed.

    Raises:
        StorageError: A store does not answer, or refuses.
    """
    asked: dict[str, dict[str, Locator]] = defaultdict(dict)
    for file in files:
        asked[uris.owner(file.file)][file.file] = file
    known: dict[str, Locator] = {}
    for owner, wanted in asked.items():
        if owner.startswith("http"):
            known |= wanted
        elif len(wanted) <= FEW:
            with ThreadPoolExecutor(REQUESTS) as pool:
                known |= {one.file: one for one in pool.map(there, wanted.values()) if one is not None}
        else:
            known |= _found_below(Locator(os.path.commonprefix(list(wanted)).rpartition("/")[0]), wanted)
    return known


def _found_below(folder: Locator, wanted: Collection[str]) -> dict[str, Locator]:
    below = _below(folder)
    near = listed(folder, lambda name: below + name in wanted, len(wanted))
    return {below + name: near.place(row) for row, name in enumerate(near.names)}


def fetch(source: Locator, most: int) -> tuple[bytes, Locator]:
    """Return the bytes of an object or of a member of a tar, and where they lie with size and mark as they are now.

    Args:
        source: Where they lie.
        most: The most bytes that are fetched.

    Raises:
        PictureError: It is not there, refused, too large, or falls short each time that it is asked for.
        StorageError: Nothing has been had of the store for a while.
    """
    begin, end = (source.number, source.number + source.size) if source.kind == "member" else (0, -1)
    if end - begin > most:
        raise PictureError(f"is larger than {most:,} bytes, the most that is read here")
    try:
        data, found = part(source, begin, end, most)
    except FileNotFoundError:
        raise PictureError("cannot be read: it is not there") from None
    if source.kind == "member" and source.mark not in (0, found.mark):
        raise PictureError(f"{source.base} is not the file any more whose members were looked up")
    if not data:
        raise PictureError("the file is empty")
    return data, found


def read_all(source: Place, most: int) -> bytes:
    """Return the bytes of a file, e.g. of a table.

    Raises:
        StorageError: It cannot be had, or is larger.
        OSError: A file of this machine cannot be read.
    """
    if isinstance(source, Path):
        return source.read_bytes()
    try:
        return fetch(source, most)[0]
    except PictureError as error:
        raise StorageError(f"{source}: {error.message}.", HINT) from None


def put(file: Path, target: Locator) -> None:
    """Write a file to a store, where it is whole or not there.

    Raises:
        StorageError: It cannot be written.
    """
    client, key = _client_of(target)
    try:
        client.put(key, file)
    except _failures() as error:
        raise StorageError(f"{target} cannot be written: {_reason(error)}.", HINT) from None


def remove(target: Locator) -> None:
    """Remove a file from a store; it need not be there.

    Raises:
        StorageError: It cannot be removed.
    """
    client, key = _client_of(target)
    try:
        client.delete(key)
    except FileNotFoundError:
        return
    except _failures() as error:
        raise StorageError(f"{target} cannot be removed: {_reason(error)}.", HINT) from None


HINT = (
    "What was computed is kept; the same command goes on from there. Credentials are taken from the environment: e.g. "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket."
)


_FEWER = "fewer bytes came than it has"


class _ShortError(Exception):
    """An answer broke off, or was shorter than the store had told."""


def part(source: Locator, begin: int, end: int, most: int) -> tuple[bytes, Locator]:
    """Return the bytes of a range of a file, all of it where `end` is negative, and the file as it is now."""
    client, key = _client_of(source)

    def ask() -> tuple[bytes, Locator]:
        result = client.get(key) if end < 0 else client.get(key, options={"range": (begin, end)})
        found = result.meta
        wanted = found["size"] if end < 0 else end - begin
        if wanted > most:
            raise PictureError(f"is larger than {most:,} bytes, the most that is read here")
        try:
            data = bytes(result.bytes())
        except _failures() as error:
            raise _ShortError(_reason(error)) from None
        if len(data) != wanted:
            raise _ShortError(_FEWER)
        now = _as_found(source, found)
        if end < 0 and source.mark == now.mark != 0 and 0 <= source.size != len(data):
            raise _ShortError(_FEWER)  # the same content as was listed has that many bytes
        return data, now

    return _retried(source, ask)


def _as_found(source: Locator, found: dict[str, Any]) -> Locator:
    size = source.size if source.kind == "member" else int(found["size"])
    return Locator(source.base, source.inner, source.kind, source.number, size, _mark(found), source.query)


def _retried(source: Locator, ask: Callable[[], T]) -> T:
    """Return what a request gives, which is made again where its answer breaks off or falls short.

    Where a server is busy or does not answer, the library itself asks again.

    Raises:
        FileNotFoundError: There is no such file.
        PictureError: It is refused, or does not come out whole.
        StorageError: Nothing has been had of the store for a while.
    """
    health, reason, answered = _health(source), "", True
    for attempt in range(ATTEMPTS):
        try:
            result = ask()
        except FileNotFoundError:
            health.clear()
            raise
        except _ShortError as error:
            reason, answered = str(error), str(error) == _FEWER
        except _failures() as error:  # it was made again as often as that helps
            reason, answered = _reason(error), _is_final(error)
            break
        else:
            health.clear()
            return result
        if attempt + 1 < ATTEMPTS:
            _wait(attempt)
    if answered:  # though not as one would like
        health.clear()
    else:
        health.append(reason)
    if len(health) >= SILENT:
        raise StorageError(
            f"{SILENT} requests to {uris.owner(source.file)} failed one after the other: {reason}.", HINT
        )
    raise PictureError(f"cannot be read: {reason}")


def _wait(attempt: int) -> None:
    time.sleep(PAUSE * 2**attempt * (0.5 + random.random()))  # noqa: S311  # so that not all come back at once


@functools.cache
def _failed(owner: str) -> list[str]:
    return []


def _health(source: Locator) -> list[str]:
    """Return why the last requests to a store failed; empty once one came through."""
    return _failed(uris.owner(source.file))


def _mark(found: dict[str, Any]) -> int:
    """Return a number for what a store says of the version of an object.

    Where that is only the time of the last change, it counts once it is two seconds old: two changes within a second
    have the same time.
    """
    if tag := str(found.get("e_tag") or "").removeprefix("W/").strip('"'):
        return number_of(tag)
    changed: datetime = found["last_modified"]
    old = datetime.now(UTC) - changed > timedelta(seconds=2)
    return number_of(changed.replace(microsecond=0).isoformat()) if old else 0  # a header tells no more than seconds


def number_of(text: str) -> int:
    """Return the mark of whatever tells a version from another, see `Locator`; never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1 or 1


def endpoint() -> str:
    """Return where buckets are looked for, if that is told; it may be hashed, and is not to be shown."""
    return os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""


def _below(root: Locator) -> str:
    return f"{root.file.rstrip('/')}/"


def _client_of(source: Locator) -> tuple[Any, str]:
    """Return what speaks to the store of a file, and the file's key there."""
    told = uris.URI.match(source.file)
    if told is None:
        raise ConfigError(f"{source} is no URI.")
    scheme, owner, key = told[1], told[2], told[3].strip("/")
    key = unquote(key) if scheme.startswith("http") else key
    return _client(scheme, owner, source.query if scheme.startswith("http") else ""), key


@functools.lru_cache(maxsize=256)
def _client(scheme: str, owner: str, query: str) -> Any:
    library = _obstore().store
    backoff = {"init_backoff": timedelta(seconds=PAUSE), "max_backoff": timedelta(seconds=8), "base": 2}
    retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=PATIENCE), "backoff": backoff}
    options: dict[str, Any] = {"timeout": timedelta(seconds=TIMEOUT), "connect_timeout": timedelta(seconds=10)}
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes") if scheme == "s3" else scheme == "http"
    if scheme == "s3" and not plain and endpoint().startswith("http://"):
        raise StorageError(
            f"s3://{owner} is looked for at an endpoint that begins with http://, where nothing is encrypted.",
            "If that is meant, set AWS_ALLOW_HTTP=true in the environment.",
        )
    how: dict[str, Any] = {"client_options": options | {"allow_http": plain}, "retry_config": retry}
    if scheme in ("https", "http"):
        return library.HTTPStore.from_url(f"{scheme}://{owner}/{'?' if query else ''}{query}", **how)
    kind = {"s3": library.S3Store, "gs": library.GCSStore, "az": library.AzureStore}[scheme]
    try:
        return kind(owner, **how)
    except _failures():
        raise StorageError(
            f"{scheme}://{owner} cannot be opened: the environment does not tell all that is needed.",
            "For az:// that is AZURE_STORAGE_ACCOUNT_NAME, and who may read.",
        ) from None


def forget_connections() -> None:
    """Begin anew with every store, e.g. since the environment changed."""
    _client.cache_clear()
    _failed.cache_clear()


def _obstore() -> Any:
    try:
        importlib.import_module("obstore.store")
        return importlib.import_module("obstore")
    except ModuleNotFoundError as error:
        raise MissingExtraError("To read or write what lies on a store", "cloud", str(error.name)) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what may be raised where a request fails; a file that is not there comes as `FileNotFoundError`."""
    return (_obstore().exceptions.BaseError, OSError, ValueError)


def _is_final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    kinds = _obstore().exceptions
    final = (kinds.PermissionDeniedError, kinds.UnauthenticatedError, kinds.InvalidPathError, kinds.NotSupportedError)
    return isinstance(error, (*final, FileNotFoundError, ValueError))


def _reason(error: Exception) -> str:
    """Return why a request failed, in words of our own."""
    kinds, text = _obstore().exceptions, str(error)
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
        return "the store refuses it to these credentials"
    if isinstance(error, kinds.InvalidPathError | ValueError):
        return "its name cannot be asked for"
    if status := re.search(r"\b([45]\d\d) [A-Z][a-z]+", text):
        if status[1] in ("401", "403"):
            return "the store refuses it to these credentials"
        return f"the server answers {status[1]}"
    if re.search("timed out|timeout|Timeout", text):
        return "the server does not answer in time"
    return "the connection broke"
