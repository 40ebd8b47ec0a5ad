"""Image properties ⇄ the cache: what was seen of pictures while they were encoded, one vector each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart.data import images
from headstart.encoding import cache as caches
from headstart.encoding.cache import Store
from headstart.encoding.shelves import Opened
from headstart.inspection import properties
from headstart.records import Floats, ImageProperties, Preprocess


def properties_recipe(preprocess: Preprocess) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the properties of a picture."""
    known = {"properties": properties.VERSION, "decoder": images.DECODER}
    return known | {"side": preprocess.size, "background": preprocess.background}


class KeptProperties:
    """The properties of a dataset while it is worked on: what is known, and what the cache does not hold yet."""

    def __init__(
        self, digests: Sequence[str], preprocess: Preprocess, cache: Path | None, opened: Opened | None = None
    ) -> None:
        """Take what the cache holds of files of these digests, seen as a network's pictures are decoded.

        Args:
            digests: SHA-256 of each.
            preprocess: Of the network.
            cache: The folder of the cache; None: nothing is kept.
            opened: As in `features.extract`.
        """
        self.values: Floats = np.full((len(digests), properties.DIM), np.nan, dtype=np.float32)
        self.values[:, len(ImageProperties.FIGURES) :] = 0
        self.known = np.zeros(len(digests), dtype=bool)
        self._store = None if cache is None else _store(cache, preprocess, {} if opened is None else opened)
        self._fresh: dict[str, Floats] = {}
        rows = self.missing(digests)
        for digest, vector, _ in self._store.take(filter(None, rows)) if self._store is not None else ():
            self._keep(rows[digest], vector)

    def missing(self, digests: Sequence[str]) -> dict[str, list[int]]:
        """Return digest → rows whose properties are not known."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.known).tolist():
            rows[digests[row]].append(row)
        return rows

    def take(self, rows: Sequence[int], digest: str, vector: Floats) -> None:
        """Keep what was seen."""
        self._keep(rows, vector)
        self._fresh[digest] = vector
        if len(self._fresh) == caches.SHARD_ROWS:
            self.commit()

    def commit(self) -> None:
        """Put what the cache does not hold yet into it."""
        if self._store is not None and self._fresh:
            self._store.add(list(self._fresh), np.stack(list(self._fresh.values())))
        self._fresh = {}

    def _keep(self, rows: Sequence[int], vector: Floats) -> None:
        self.values[rows] = vector
        self.known[rows] = True


def _store(cache: Path, preprocess: Preprocess, opened: Opened) -> Store:
    """Return the store of the properties, the one that was opened before where there is one."""
    told = properties_recipe(preprocess)
    if (key := f"{cache} {json.dumps(told, sort_keys=True)}") not in opened:
        opened[key] = Store(cache, told, properties.DIM)
    return opened[key]
