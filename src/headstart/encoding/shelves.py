"""The stores of the cache for each network and view of a backbone, asked and filled as if they were one.

What is kept of one network is kept whatever stands beside it: a combination finds what each of its networks left here
alone, and the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from headstart.data import images
from headstart.encoding import crops
from headstart.encoding.cache import Row, Store
from headstart.encoding.encoder import Agreement, Encoder
from headstart.encoding.reading import Part
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

    def __init__(self, cache: Path | None, encoders: Sequence[Encoder], views: Sequence[str]) -> None:
        """Open the stores; without a cache there are none."""
        self.parts = tuple((network, view) for network in range(len(encoders)) for view in range(len(views)))
        self._stores: dict[Part, Store] = {}
        if cache is not None:
            for network, view in self.parts:
                encoder = encoders[network]
                self._stores[network, view] = Store(cache, recipe(encoder, views[view]), encoder.dim)
        self._held: dict[Part, set[bytes]] = {part: set() for part in self._stores}

    def __bool__(self) -> bool:
        """Return whether anything can be kept here."""
        return bool(self._stores)

    def unread(self) -> bool:
        """Return whether shards appeared since they were last asked for."""
        return any(store.unread() for store in self._stores.values())

    def take(self, wanted: Iterable[str]) -> Iterator[tuple[Part, Row]]:
        """Yield what the shards not yet read hold of the wanted digests, part by part; it warns as a store does."""
        wanted = list(wanted)
        for part, store in self._stores.items():
            yield from ((part, row) for row in store.take(wanted))

    def look(self) -> None:
        """Note which digests the stores hold, without reading what they hold of them."""
        for part, store in self._stores.items():
            self._held[part].update(store.new_keys())

    def lacking(self, digest: str) -> tuple[Part, ...]:
        """Return the parts of a picture that no store held when last looked at."""
        key = bytes.fromhex(digest)
        return tuple(part for part in self.parts if key not in self._held.get(part, ()))

    def add(self, fresh: Sequence[tuple[str, int, Sequence[Part], Sequence[Floats]]]) -> None:
        """Keep features: of each picture its digest, a code of what was remarked, and the parts that were computed."""
        rows: dict[Part, list[tuple[str, int, Floats]]] = defaultdict(list)
        for digest, code, parts, vectors in fresh:
            for part, vector in zip(parts, vectors, strict=True):
                rows[part].append((digest, code, vector))
        for part, store in self._stores.items():
            if rows[part]:
                digests, codes, values = zip(*rows[part], strict=True)
                store.add(digests, np.stack(values), codes)

    def agreement(self, network: int) -> Agreement | None:
        """Return how the engine of a network compared when its stores were filled; None if that is not known."""
        known = self._stores[network, 0].remembered() if self._stores else None
        return Agreement(**known) if isinstance(known, dict) and known.keys() == AGREEMENT else None

    def remember(self, network: int, agreement: Agreement) -> None:
        """Keep how the engine of a network compared."""
        for (owner, _), store in self._stores.items():
            if owner == network:
                store.remember(asdict(agreement))
