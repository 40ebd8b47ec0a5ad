"""Pictures → what the encoders take, read once and decoded by threads a little ahead of who asks; and the remarks made.

What is remarked of a picture travels as a code, one integer, so that it can be kept beside its features. A code belongs
to the bytes; whether a file's name ends as its content should is told here, for each name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from headstart.data import images, limits, pictures
from headstart.data.pictures import Content, InMemory
from headstart.encoding import crops
from headstart.errors import PictureError
from headstart.inspection import properties
from headstart.records import Dataset, Floats, Integers, Pixels, Place, Preprocess
from headstart.threads import in_order

# Bits of a code, kept in caches, so new ones go to the end. Above them lies the format: 1 + its place in FORMATS.
REMARKS = ("many-frames", "sixteen-bit")
_FORMAT_SHIFT = 32

FAR_READERS = 16  # threads at least that wait for pictures of a store

Part = tuple[int, int]  # of the features of a picture: which network, and which view


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one picture.

    Attributes:
        digest: Of the file; "" if it could not be read.
        parts: What is to be computed of it; nothing where the cache has all of it.
        pixels: Network → the picture as that network wants it, for the networks of `parts`.
        crops: Part → the same of a part of the picture, for those of `parts` that are crops.
        code: Of what was remarked, see `REMARKS`.
        problem: Why it cannot be used; "" if it can.
        properties: What can be seen of it, where that was asked for.
        version: Of the file, as `manifest.read` tells it.
    """

    digest: str
    parts: tuple[Part, ...] = ()
    pixels: Mapping[int, Pixels] = field(default_factory=dict)
    crops: Mapping[Part, Pixels] = field(default_factory=dict)
    code: int = 0
    problem: str = ""
    properties: Floats | None = None
    version: Place | None = None


def load(
    source: Place | InMemory,
    preprocesses: Sequence[Preprocess],
    lacking: Callable[[str], tuple[Part, ...]],
    *,
    views: Sequence[str] = ("original",),
    with_properties: bool = False,
) -> Loaded:
    """Read a picture and, unless all of its features are kept already, decode and prepare it.

    Args:
        source: The file, or the picture where it is none.
        preprocesses: What each network has it prepared by.
        lacking: Tells of a digest what is to be computed.
        views: What the second numbers of its parts stand for.
        with_properties: Whether to look at its properties too, as it is decoded for the first network.
    """
    digest, version = "", None
    pixels: dict[int, Pixels] = {}
    cropped: dict[Part, Pixels] = {}
    code, seen = 0, None
    try:
        content = pictures.read(source, preprocesses[0])
        digest, version, parts = content.digest, content.version, lacking(content.digest)
        wanted = {network for network, _ in parts}
        for network, picture in _decoded(content, preprocesses, wanted | ({0} if with_properties else set())):
            code = _code(picture)
            if network in wanted:
                for part in (part for part in parts if part[0] == network):
                    if crops.is_crop(view := views[part[1]]):
                        cropped[part] = crops.shown(picture.pixels, preprocesses[network], view, digest)
                    elif network not in pixels:
                        pixels[network] = images.prepare(picture.pixels, preprocesses[network])
            if with_properties and network == 0:
                seen = properties.measure(picture, content.size)
            del picture  # the next may be large too
    except PictureError as error:
        return Loaded(digest, problem=error.message)
    return Loaded(digest, parts, pixels, cropped, code, properties=seen, version=version)


def _decoded(
    content: Content, preprocesses: Sequence[Preprocess], wanted: Collection[int]
) -> Iterator[tuple[int, images.Picture]]:
    """Yield each wanted network with the picture decoded for it, decoded once for all that would have got the same."""
    waiting = sorted(wanted)
    while waiting:
        first = preprocesses[waiting[0]]
        picture = content.decode(first)
        same = [network for network in waiting if content.alike(picture, first, preprocesses[network])]
        waiting = [network for network in waiting if network not in same]
        for network in same:
            yield network, picture
        del picture


def ahead(
    load: Callable[[int], Loaded], wanted: Iterable[list[int]], networks: int = 1, *, far: bool = False
) -> Generator[tuple[list[int], Loaded]]:
    """Yield each list of rows with its first picture, loaded by threads.

    At most eight prepared pictures a core wait in memory (though two a core are read whatever the number of networks);
    some more where the bytes are `far` away, for there threads mostly wait. Closed early, or after an error, what was
    not begun is not begun any more.
    """
    cores = limits.available_cores()
    threads = max(cores, FAR_READERS) if far else cores
    most = max(cores * max(2, 8 // networks), 2 * threads if far else 0)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, lambda rows: (rows, load(rows[0])), wanted, most)


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
