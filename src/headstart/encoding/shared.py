"""The shards of one recipe ⇄ a bucket that a team fills together: each is fetched once, and lies here afterwards.

`HEADSTART_SHARED_CACHE=s3://bucket/features` names it. What is committed here is put there under the same name, which
says what it holds; there are no locks, and nothing has to come in any order. A bucket that does not answer is told of
once, and the work goes on without it. Shards from there are checked as those of this machine are, which shows that they
are whole and not who computed them: whoever may write to the bucket is trusted.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from headstart.data import stores, uris
from headstart.errors import ConfigError, PictureError, StorageError
from headstart.records import Locator
from headstart.storage import MOST_TRUSTED, write_whole

VARIABLE = "HEADSTART_SHARED_CACHE"
AGAIN = 60.0  # seconds after which it is asked what is new

_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


def of(folder: Path) -> Shared | None:
    """Return what is shared of a store's folder; None where no bucket is named.

    Raises:
        ConfigError: What is named is no bucket.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    root = uris.place(named)
    if isinstance(root, Path) or uris.is_web(root):
        raise ConfigError(
            f"{VARIABLE} is {uris.shown(named)}; a bucket was expected.",
            "For example s3://bucket/features; a folder that several machines see is named by HEADSTART_CACHE.",
        )
    return Shared(folder, root / folder.name)


class Shared:
    """The folder of one recipe, here and on the bucket."""

    def __init__(self, folder: Path, root: Locator) -> None:
        """Ask nothing yet."""
        self._folder, self._root = folder, root
        self._known: set[str] = set()  # that are there, or were
        self._asked = -AGAIN
        self._given_up: set[str] = set()

    def fetch(self) -> None:
        """Bring the shards that are there and were not brought yet; asked again within a minute, do nothing.

        Warns:
            UserWarning: The bucket does not answer, or refuses.
        """
        if time.monotonic() - self._asked >= AGAIN:
            self._tried("read", self._bring)
            self._asked = time.monotonic()

    def put(self, name: str) -> None:
        """Put a shard there; warns as `fetch` does."""
        self._known.add(name)
        if (self._folder / name).exists():  # or else another process has made it part of a large one, and puts that
            self._tried("written", lambda: stores.put(self._folder / name, self._root / name))

    def remove(self, name: str) -> None:
        """Remove a shard whose rows are in a large one by now; warns as `fetch` does."""
        self._tried("written", lambda: stores.remove(self._root / name))

    def _bring(self) -> None:
        for name in stores.listed(self._root, lambda name: _NAME.fullmatch(name) is not None).names:
            if name in self._known or (self._folder / name).exists():
                continue
            with contextlib.suppress(PictureError):  # it went, or comes in pieces: its rows are computed here
                content, _ = stores.fetch(self._root / name, MOST_TRUSTED)
                write_whole(self._folder / name, content, mode=0o600)
            self._known.add(name)

    def _tried(self, what: str, work: Callable[[], None]) -> None:
        """Do something; what fails is told once, and not done again."""
        if what in self._given_up:
            return
        try:
            work()
        except (StorageError, OSError) as error:  # of the bucket, or of the disk here
            self._given_up.add(what)
            why = error.message if isinstance(error, StorageError) else error
            told = f"The shared cache {self._root} cannot be {what}, and the work goes on without it: {why}"
            warnings.warn(told, stacklevel=4)
