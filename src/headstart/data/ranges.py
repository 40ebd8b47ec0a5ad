"""A file, here or on a store → what reads it in ranges, for whoever seeks in it."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path
from typing import Any

from headstart.data import stores
from headstart.errors import PictureError, StorageError
from headstart.records import Place


class Ranges(io.RawIOBase):
    """A file, here or on a store, for whoever seeks in it: what is read is fetched in ranges.

    Attributes:
        size: In bytes.
        mark: See `Locator`.
    """

    def __init__(self, source: Place, most: int | None = None, block: int = 1 << 16) -> None:
        """Open a file.

        Args:
            source: Which.
            most: The most bytes that may be read at once, where a hostile file might ask for more.
            block: The fewest bytes that are asked of a store at once.

        Raises:
            StorageError: It is not there, on a store; or it is no regular file.
            OSError: It is not there, on this machine.
        """
        super().__init__()
        self._source, self._most, self._least, self._at = source, most, block, 0
        self._begin, self._block, self._lock = 0, b"", threading.Lock()
        if isinstance(source, Path):
            state(source)
            self._file = open(source, "rb")  # noqa: SIM115  # closed with this
            self.size, self.mark = size_and_mark(os.fstat(self._file.fileno()))
        else:
            found = stores.there(source)
            if found is None:
                raise StorageError(f"{source} is not there.")
            self._source, self.size, self.mark = found, found.size, found.mark

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, which may lie behind the end."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is anything, and return how many bytes there were."""
        data = self._range(self._at, min(len(buffer), max(0, self.size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer only at the end.

        Raises:
            StorageError: They are more than may be read at once.
        """
        size = max(0, min(self.size - self._at, self.size if size is None or size < 0 else size))
        if self._most is not None and size > self._most:
            raise StorageError(f"{self._source} asks for {size:,} bytes at once; at most {self._most:,} are read.")
        data = self._range(self._at, size)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close a file of this machine."""
        if not self.closed and isinstance(self._source, Path):
            self._file.close()
        super().close()

    def _range(self, begin: int, length: int) -> bytes:
        if not length:
            return b""
        if isinstance(self._source, Path):
            self._file.seek(begin)
            return self._file.read(length)
        with self._lock:
            if not self._begin <= begin <= begin + length <= self._begin + len(self._block):
                end = min(self.size, begin + max(length, self._least))
                try:
                    block, found = stores.part(self._source, begin, end, end - begin)
                except (PictureError, FileNotFoundError) as error:
                    raise StorageError(f"{self._source} cannot be read: {error}.", stores.HINT) from None
                if found.mark != self.mark:
                    raise StorageError(f"{self._source} changed while it was read.", "Begin anew once it is whole.")
                self._begin, self._block = begin, block
            return self._block[begin - self._begin : begin - self._begin + length]


def state(file: Path) -> tuple[int, int]:
    """Return size and mark of a file of this machine.

    Raises:
        StorageError: It is no regular file, and may never end.
        OSError: It is not there.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{file} is not a regular file.")
    return size_and_mark(status)


def size_and_mark(status: os.stat_result) -> tuple[int, int]:
    """Return what the system's word of a file comes to. Not its device: machines that share a disk number it each."""
    told = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return status.st_size, stores.number_of(told)
