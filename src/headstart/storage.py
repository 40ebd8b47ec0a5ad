"""Bytes ⇄ files that are whole or not there, and what the operating system says about it → `StorageError`.

A temporary file lies beside its target or below that folder (another may be another disk), is flushed before it is
renamed, and its folder after; what a killed process leaves behind goes after a day.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from headstart.errors import StorageError

STALE_SECONDS = 24 * 3600
MOST_TRUSTED = 1 << 30  # bytes of a file of the cache; 16,384 rows of a thousand features are 67 MB


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file, links followed; anything else is an error at once and never hangs.

    Args:
        path: The file.
        most: The most bytes that it may have.

    Raises:
        StorageError: It is no regular file (a pipe or a device may never end), or larger than `most` bytes.
        OSError: It cannot be opened or read, e.g. FileNotFoundError.
    """
    _require_regular(path, os.stat(path), most)  # before opening, for opening alone moves some devices
    # O_NONBLOCK: what was a file a moment ago may be a FIFO now, and opening one that nobody writes to hangs
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        size = _require_regular(path, os.fstat(descriptor), most)
        data = file.read(size + 1) or b""
        if len(data) > size:  # it grows, or is one of those of /proc that tell no size
            data += file.read(most + 1 - len(data)) or b""
    if len(data) > most:
        raise _too_large(path, most)
    return data


def _require_regular(path: Path, status: os.stat_result, most: int) -> int:
    """Return the size of what the status is of."""
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is not a regular file")
    if status.st_size > most:
        raise _too_large(path, most)
    return status.st_size


def _too_large(path: Path, most: int) -> StorageError:
    return StorageError(f"{path} is larger than {most:,} bytes, the most that is read here")


def distrust(path: Path) -> str:
    """Return why what lies at a path must not be used, e.g. "it belongs to another user"; empty if it may.

    Told are whatever is neither a folder nor a regular file of at most `MOST_TRUSTED` bytes (opening a FIFO hangs),
    and, where files have owners, what is not the user's own or may be written by others.

    Raises:
        OSError: There is nothing, or it cannot be asked.
    """
    state = path.stat()
    if not stat.S_ISDIR(state.st_mode):
        if not stat.S_ISREG(state.st_mode):
            return "it is no regular file"
        if state.st_size > MOST_TRUSTED:
            return f"it has {state.st_size:,} bytes, more than {MOST_TRUSTED:,}"
    if os.name == "posix":
        if state.st_uid != os.geteuid():
            return "it belongs to another user"
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others may write it (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file so that after a kill or a power cut it is as it was or as it shall be; arguments as of `whole`."""
    with whole(path, mode) as file:
        file.write(content)


@contextlib.contextmanager
def whole(path: Path, mode: int = 0o666, folder: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` at the end, unless an error ends it.

    Args:
        path: The file.
        mode: Who may read and write a new file, less what the process's umask takes away.
        folder: Where it grows, on the same disk; None: beside `path`.
    """
    # several threads may write the same file at once, and not every clock tells them apart
    name = f".{path.name}.{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}.tmp"
    temporary = (path.parent if folder is None else folder) / name
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or renamed in a folder."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Have two files or folders of one file system change their names in one step; False where it knows no such step.

    Raises:
        OSError: One of them is not there, or may not be renamed.
    """
    call = _exchange_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    """Return the system's call that exchanges two paths: `renameat2` of Linux, `renamex_np` of macOS."""
    if os.name != "posix":
        return None
    system = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE and RENAME_SWAP are both 2
    if hasattr(system, "renameat2"):
        return lambda one, other: int(system.renameat2(here, one, here, other, swap))
    if hasattr(system, "renamex_np"):
        return lambda one, other: int(system.renamex_np(one, other, swap))
    return None


def remove_stale(folder: Path, pattern: str = ".*.tmp") -> None:
    """Remove temporary files and folders that a killed process left behind a day ago or more."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # somebody else removed it, or it is somebody else's
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def keep_fresh(path: Path) -> None:
    """Keep a temporary file or folder that is in use from being taken for one that was left behind."""
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def storage_errors(place: Path, hint: str) -> Iterator[None]:
    """Turn what the operating system says into a `StorageError`, with a hint."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{place} cannot be written: {reason}. What it held before is intact.", hint) from error
