"""What extractions open of the cache, and the next one finds open."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from headstart.data.manifest import Manifest
from headstart.encoding.cache import Store
from headstart.errors import StorageError


class Opened:
    """Stores by what decides their rows, and what is known of files; what was noted is kept when the `with` block ends.

    Attributes:
        stores: That are open: folder of a cache and text of a recipe → store.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self.stores: dict[tuple[Path, str], Store] = {}
        self._manifests: dict[Path | None, Manifest] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was noted, also after an error or an interrupt."""
        self.keep()

    def keep(self, *, after: float = 0.0) -> None:
        """Keep what was noted of files, if that was done so many seconds ago.

        Warns:
            UserWarning: The cache cannot be written: what was computed is no worse for it.
        """
        for manifest in self._manifests.values():
            try:
                manifest.keep(after=after)
            except StorageError as error:
                warnings.warn(f"What was read is not remembered: {error}", stacklevel=2)

    def store(self, cache: Path, recipe: Mapping[str, object], dim: int) -> Store:
        """Return the store of a recipe for vectors of `dim` features."""
        key = cache, json.dumps(recipe, sort_keys=True)
        if key not in self.stores:
            self.stores[key] = Store(cache, recipe, dim)
        return self.stores[key]

    def manifest(self, cache: Path | None) -> Manifest:
        """Return what a cache knows of files."""
        if cache not in self._manifests:
            self._manifests[cache] = Manifest(cache)
        return self._manifests[cache]
