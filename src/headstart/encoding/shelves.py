"""The stores of the cache for each network and view of a backbone, asked and filled as if they were one.

What is kept of one network is kept whatever stands beside it: a combination finds what each of its networks left here
alone, and the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from headstart.data import images
from headstart.encoding import crops
from headstart.encoding.cache import Store
from headstart.encoding.encoder import Agreement, Encoder
from headstart.encoding.opened import Opened
from headstart.encoding.reading import Part
from headstart.encoding.shards import Rows
from headstart.records import Floats

AGREEMENT = {field.name for field in fields(Agreement)}


def recipe(encoder: Encoder, view: str) -> dict[str, object]:
    """Return everything besides the file's bytes that decides the features."""
    quantized = {} if encoder.quantized is None else {"quantized": encoder.quantized.digest}
    return {
        "weights": encoder.weights,
        "preprocess": asdict(encoder.preprocess),
        "decoder": images.DECODER,
        "engine": encoder.version,
        "precision": encoder.plan.precision,
        "view": view,
        "remarks": 1,  # counts changes of what is kept beside the vectors
        **({"drawn": 1} if crops.is_crop(view) else {}),  # counts changes of how crops are drawn
        **quantized,
    }


class Shelves:
    """A store for each part of the features: for each network and each view."""

    def __init__(self, cache: Path | None, encoders: Sequence[Encoder], views: Sequence[str], opened: Opened) -> None:
        """Open the stores, but for those that were opened before; without a cache there are none."""
        self.parts = tuple((network, view) for network in range(len(encoders)) for view in range(len(views)))
        self._stores: dict[Part, Store] = {}
        if cache is not None:
            for network, view in self.parts:
                told = recipe(encoders[network], views[view])
                self._stores[network, view] = opened.store(cache, told, encoders[network].dim)
        self._taken = dict.fromkeys(self._stores, 0)  # how many shards were known when rows were last taken

    def __bool__(self) -> bool:
        """Return whether anything can be kept here."""
        return bool(self._stores)

    def unread(self) -> bool:
        """Return whether shards appeared since rows were last taken, besides those that were added here."""
        return any(store.look() > self._taken[part] for part, store in self._stores.items())

    def take(self, wanted: Sequence[str]) -> Iterator[tuple[Part, Rows]]:
        """Yield what the stores hold of the wanted digests, by part and shard; it warns as a store does."""
        for part, store in self._stores.items():
            self._taken[part] = store.look()
            yield from ((part, rows) for rows in store.take(wanted))

    def take_again(self) -> None:
        """Take rows once more of the shards that others were taken of."""
        self._taken = dict.fromkeys(self._stores, 0)

    def look(self) -> None:
        """Note which digests the stores hold, without reading what they hold of them."""
        for store in self._stores.values():
            store.look()

    def lacking(self, digest: str) -> tuple[Part, ...]:
        """Return the parts of a picture that no store held when last looked at."""
        key = bytes.fromhex(digest)
        return tuple(part for part in self.parts if part not in self._stores or not self._stores[part].holds(key))

    def add(self, fresh: Sequence[tuple[str, int, Sequence[Part], Sequence[Floats]]]) -> None:
        """Keep features: of each picture its digest, a code of what was remarked, and the parts that were computed."""
        rows: dict[Part, list[tuple[str, int, Floats]]] = defaultdict(list)
        for digest, code, parts, vectors in fresh:
            for part, vector in zip(parts, vectors, strict=True):
                rows[part].append((digest, code, vector))
        for part, store in self._stores.items():
            if rows[part]:
                digests, codes, values = zip(*rows[part], strict=True)
                others = store.looked - self._taken[part]
                store.add(digests, np.stack(values), codes)
                self._taken[part] = store.looked - others

    def agreement(self, network: int) -> Agreement | None:
        """Return how the engine of a network compared when its stores were filled; None if that is not known."""
        known = self._stores[network, 0].remembered() if self._stores else None
        return Agreement(**known) if isinstance(known, dict) and known.keys() == AGREEMENT else None

    def remember(self, network: int, agreement: Agreement) -> None:
        """Keep how the engine of a network compared."""
        for (owner, _), store in self._stores.items():
            if owner == network:
                store.remember(asdict(agreement))
