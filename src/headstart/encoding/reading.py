"""Pictures → what the encoder takes, read once and decoded by threads a little ahead of who asks; and the remarks made.

What is remarked of a picture travels as a code, one integer, so that it can be kept beside its features. A code belongs
to the bytes; whether a file's name ends as its content should is told here, for each name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data import images, pictures
from headstart.data.pictures import InMemory
from headstart.encoding import runtime
from headstart.errors import PictureError
from headstart.inspection import properties
from headstart.records import Dataset, Floats, Integers, Pixels, Preprocess

# Bits of a code, kept in caches, so new ones go to the end. Above them lies the format: 1 + its place in FORMATS.
REMARKS = ("many-frames", "sixteen-bit")
_FORMAT_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one picture.

    Attributes:
        digest: Of the file; "" if it could not be read.
        pixels: Prepared for the encoder; None if it cannot be used, or need not be.
        code: Of what was remarked, see `REMARKS`.
        problem: Why it cannot be used; "" if it can.
        properties: What can be seen of it, where that was asked for.
        kept: Whether the cache has its features, so that nothing was decoded.
    """

    digest: str
    pixels: Pixels | None = None
    code: int = 0
    problem: str = ""
    properties: Floats | None = None
    kept: bool = False


def load(
    source: Path | InMemory, preprocess: Preprocess, is_kept: Callable[[str], bool], *, with_properties: bool = False
) -> Loaded:
    """Read a picture and, unless its features are kept already, decode and prepare it.

    Args:
        source: The file, or the picture where it is none.
        preprocess: What to prepare it by.
        is_kept: Tells of a digest whether its features are kept.
        with_properties: Whether to look at its properties too.
    """
    digest = ""
    try:
        content = pictures.read(source, preprocess)
        digest = content.digest
        if is_kept(digest):
            return Loaded(digest, kept=True)
        picture = content.decode(preprocess)
    except PictureError as error:
        return Loaded(digest, problem=error.message)
    seen = properties.measure(picture, content.size) if with_properties else None
    return Loaded(digest, images.prepare(picture.pixels, preprocess), _code(picture), properties=seen)


def ahead(load: Callable[[int], Loaded], wanted: Iterable[list[int]]) -> Generator[tuple[list[int], Loaded]]:
    """Yield each list of rows with its first picture, loaded by threads; at most eight a core wait in memory.

    Closed early, or after an error, what was not begun is not begun any more.
    """
    cores = runtime.available_cores()
    waiting: deque[tuple[list[int], Future[Loaded]]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        for rows in wanted:
            waiting.append((rows, pool.submit(load, rows[0])))
            if len(waiting) >= 8 * cores:
                rows, future = waiting.popleft()
                yield rows, future.result()
        while waiting:
            rows, future = waiting.popleft()
            yield rows, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def observations(dataset: Dataset, codes: Integers) -> dict[str, tuple[str, ...]]:
    """Return remark → names of the pictures that were remarked on.

    Args:
        dataset: N samples.
        codes: (N,), 0 where nothing is known.
    """
    seen: dict[str, Iterable[str]] = {
        remark: (dataset[row].name for row in np.flatnonzero(codes >> bit & 1)) for bit, remark in enumerate(REMARKS)
    }
    seen["wrong-suffix"] = (
        sample.name
        for sample, kind in zip(dataset, (codes >> _FORMAT_SHIFT).tolist(), strict=True)
        if kind and images.belies(sample.path.suffix, images.FORMATS[kind - 1])
    )
    told = {remark: tuple(sorted(set(names))) for remark, names in seen.items()}
    return {remark: names for remark, names in told.items() if names}


def _code(picture: images.Picture) -> int:
    kind = picture.facts.format
    code = (images.FORMATS.index(kind) + 1) << _FORMAT_SHIFT if kind in images.FORMATS else 0
    return code | sum(1 << bit for bit, remark in enumerate(REMARKS) if remark in picture.remarks)
