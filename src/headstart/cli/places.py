"""Where the verbs read and write besides the pictures: refused before any work, and before anything heavy is imported,
where that cannot succeed.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import webbrowser
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from headstart import storage
from headstart.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from headstart.records import Dataset, Locator, Place


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, for commands that are to be copied."""
    return shlex.quote(str(path))


def cache(without: bool) -> Path | None:
    """Return the folder of computed features, or None where none shall be used."""
    from headstart.encoding import cache as caches

    return None if without else caches.default_cache()


def corrected(dataset: Dataset, sheet: Path | None) -> Dataset:
    """Return the dataset as a sheet of `headstart audit` corrects it."""
    if sheet is None:
        return dataset
    from headstart.data import corrections, tables

    return corrections.apply(dataset, tables.read_table(sheet))


def check_model(model: Path) -> None:
    """Refuse a mistyped name of a model at once; whether it is one, whoever loads it finds out.

    Raises:
        ArtifactError: There is nothing at that place, nor anything that was moved away from it.
    """
    if not model.is_dir() and not os.path.lexists(model.with_name(f"{model.name}.1") if model.name else model):
        raise ArtifactError(f"There is no model at {model}.", "`headstart train DATA --out FOLDER` makes one.")


def check_out(out: Path, inputs: Iterable[Place]) -> None:
    """Refuse a file that cannot be written, or that is one of those that are read.

    Raises:
        ConfigError: With what is wrong with it.
        StorageError: Its folder cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; a file was expected.")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out {out} is a device or a pipe; a file was expected.", "Without --out: > or |.")
    if out.exists() and any(isinstance(p, Path) and p.exists() and out.samefile(p) for p in _files(inputs)):
        raise ConfigError(f"--out {out} is one of the files that are read; it would be lost.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}.")
    with storage.storage_errors(out, "Name another file with --out."), tempfile.TemporaryFile(dir=out.parent):
        return  # found out now, not after the work


def _files(inputs: Iterable[Place]) -> Iterator[Place]:
    """Yield the files that are read, once for all that lies in one and is named in a row."""
    from headstart.data import uris

    return (file for file, _ in groupby(map(uris.holder, inputs)))


def outgoing(out: Locator, inputs: Iterable[Place]) -> Path:
    """Return where a file grows that shall lie on a store at the end: in the cache, so that the same command goes on.

    Raises:
        ConfigError: It is one of those that are read, or has no name.
        StorageError: The store does not answer, or refuses; or the cache cannot be written.
    """
    import hashlib

    from headstart.data import stores
    from headstart.encoding import cache as caches

    if any(not isinstance(place, Path) and place.file == out.file for place in _files(inputs)):
        raise ConfigError(f"--out {out} is one of the files that are read; it would be lost.")
    stores.there(out)  # found out now, not after the work
    folder = caches.open_cache(caches.default_cache()) / "outgoing"
    with storage.storage_errors(folder, "Name another cache with HEADSTART_CACHE."):
        folder.mkdir(exist_ok=True, mode=0o700)
    return folder / f"{hashlib.sha256(str(out).encode()).hexdigest()[:16]}-{out.name}"


def send(file: Path, out: Locator) -> None:
    """Move a file to a store; where that fails, its parts are left, and not the file as well.

    Raises:
        StorageError: It could not be written there.
    """
    from headstart.data import stores

    try:
        stores.put(file, out)
    finally:
        file.unlink()


def show(page: Path, asked: bool | None) -> None:
    """Open a page in the browser if that was asked for; None: if somebody seems to sit before a screen."""
    if asked is None:
        display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
        asked = display and sys.stdout.isatty()
    if asked:
        webbrowser.open(page.resolve().as_uri())


def check_folder(out: Path, inputs: Sequence[Place]) -> None:
    """Refuse a folder that cannot be made or written, or in which something lies that is read.

    Raises:
        ConfigError: With what is wrong with it.
        StorageError: It cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; a folder was expected.")
    files = [path for path in _files(inputs) if isinstance(path, Path)]
    if inside := next((path for path in files if path.parent.resolve() == out.resolve()), None):
        raise ConfigError(f"--out {out} holds {inside.name}, which is read.", "Name a folder of its own.")
    with storage.storage_errors(out, "Name another folder with --out."):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return  # found out now, not after the work


def write(out: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with storage.storage_errors(out, "Name another file with --out."):
        storage.write_whole(out, data)
