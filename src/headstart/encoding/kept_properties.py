"""Image properties ⇄ the cache: what was seen of pictures while they were encoded, one vector each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart import arrays
from headstart.data import images
from headstart.encoding import cache as caches
from headstart.encoding.cache import Store
from headstart.encoding.opened import Opened
from headstart.inspection import properties
from headstart.packed import Digests, Finder
from headstart.records import Floats, ImageProperties, Integers, Preprocess


def properties_recipe(preprocess: Preprocess) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the properties of a picture."""
    known = {"properties": properties.VERSION, "decoder": images.DECODER}
    return known | {"side": preprocess.size, "background": preprocess.background}


class KeptProperties:
    """The properties of a dataset while it is worked on: what is known, and what the cache does not hold yet."""

    def __init__(self, digests: Digests, preprocess: Preprocess, cache: Path | None, opened: Opened) -> None:
        """Take what the cache holds of files of these digests, seen as a network's pictures are decoded.

        Args:
            digests: SHA-256 of each.
            preprocess: Of the network.
            cache: The folder of the cache; None: nothing is kept.
            opened: As in `features.extract`.
        """
        self.values = arrays.zeros((len(digests), properties.DIM), cache)
        self.known = np.zeros(len(digests), dtype=bool)
        self._store = None if cache is None else store(cache, preprocess, opened)
        self._fresh: dict[str, Floats] = {}
        finder = Finder(digests, np.flatnonzero(digests.known))
        for held in self._store.take(finder.wanted) if self._store is not None else ():
            places, own = finder.find(held.keys)
            self._keep(places, held.values[own])
            arrays.release(self.values)

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
            arrays.release(self.values)

    def commit(self) -> None:
        """Put what the cache does not hold yet into it."""
        if self._store is not None and self._fresh:
            self._store.add(list(self._fresh), np.stack(list(self._fresh.values())))
        self._fresh = {}

    def all(self) -> ImageProperties:
        """Return the properties of all pictures; NaN for figures of those that are not known."""
        unknown = np.flatnonzero(~self.known)
        self.values[unknown, : len(ImageProperties.FIGURES)] = np.nan
        return properties.unpack(self.values)

    def _keep(self, rows: Sequence[int] | Integers, vectors: Floats) -> None:
        self.values[rows] = vectors
        self.known[rows] = True


def store(cache: Path, preprocess: Preprocess, opened: Opened) -> Store:
    """Return the store of the properties, the one that was opened before where there is one."""
    return opened.store(cache, properties_recipe(preprocess), properties.DIM)
