"""Whatever a caller calls a picture (a file, its bytes, an image of Pillow, an array) → a name, a digest, pixels.

Paths may also be folders and glob patterns. All four ways end in the same upright RGB; pictures that are not files have
no name of their own and are called after their place in the list.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data import images, manifest, sources
from headstart.errors import ConfigError, PictureError
from headstart.records import Dataset, Finding, Locator, Place, Preprocess, Sample

InMemory = bytes | Image.Image | NDArray[Any]
AnyPicture = str | os.PathLike[str] | InMemory
Pictures = Dataset | AnyPicture | Iterable[AnyPicture]

_KINDS = "a path, bytes of a picture file, an image of Pillow, or a uint8 array (H, W), (H, W, 1), (H, W, 3), (H, W, 4)"
_LOADING = threading.Lock()  # Pillow reads an opened file when it is first asked for pixels, in one thread at a time


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a picture before it is decoded for good.

    Attributes:
        digest: SHA-256 by which equal pictures are known: of a file's bytes, or of upright pixels and their shape.
        size: In bytes.
        held: The file's bytes, or the picture where there is no file.
        version: Of the file, as `manifest.read` tells it.
    """

    digest: str
    size: int
    held: bytes | images.Picture
    version: Place | None = None

    def decode(self, preprocess: Preprocess) -> images.Picture:
        """Return the upright picture; how its name ends is not remarked on.

        Raises:
            PictureError: See `images.decode`.
        """
        if isinstance(self.held, images.Picture):
            return self.held
        return images.decode(self.held, background=preprocess.background, side=preprocess.size)

    def alike(self, picture: images.Picture, one: Preprocess, other: Preprocess) -> bool:
        """Return whether a picture that was decoded for one way to prepare it is what another way takes, to the bit."""
        if isinstance(self.held, images.Picture):
            return True
        return one.background == other.background and images.alike(picture.facts, one.size, other.size)


def gather(pictures: Pictures) -> tuple[Dataset, Mapping[int, InMemory]]:
    """Return a dataset of pictures, and row → the picture for those that are not files.

    Args:
        pictures: A dataset; a picture; or several, mixed as you like: what `listings.of` takes, and pictures in
            memory, which are called `picture i` by their place in the list, counted from 0. An array
            (N, H, W, 1 | 3 | 4) is N pictures.

    Raises:
        ConfigError: Something is none of these, or a source matches nothing.
    """
    if isinstance(pictures, Dataset):
        return pictures, {}
    given = list(_several(pictures))
    if all(isinstance(picture, str | os.PathLike) for picture in given):
        return sources.read_pictures([_path(picture) for picture in given]), {}
    samples: list[Sample] = []
    findings: list[Finding] = []
    memory: dict[int, InMemory] = {}
    for place, picture in enumerate(given):
        if isinstance(picture, str | os.PathLike):
            read = _one_source(_path(picture))
            samples += read.samples
            findings += read.findings
        else:
            memory[len(samples)] = _checked(picture)
            samples.append(Sample(Path(), f"picture {place}"))
    return Dataset(Path(), tuple(samples), tuple(findings)), memory


def read(source: Place | InMemory, preprocess: Preprocess) -> Content:
    """Return a picture with its digest; a file is read here, once, and not yet decoded.

    Raises:
        ConfigError: An array or an image is not what `images.from_array` or `images.from_pil` takes.
        PictureError: It cannot be read, or not be used.
    """
    if isinstance(source, Path | Locator | bytes):
        data, version = (source, None) if isinstance(source, bytes) else manifest.read(source)
        if not data:
            raise PictureError("it holds no bytes")
        return Content(images.digest(data), len(data), data, version)
    picture = _from_memory(source, preprocess)
    pixels = np.ascontiguousarray(picture.pixels)
    digest = hashlib.sha256(f"pixels {pixels.shape}".encode())  # no file begins like this
    digest.update(pixels.data)
    return Content(digest.hexdigest(), pixels.nbytes, picture)


def _from_memory(source: Image.Image | NDArray[Any], preprocess: Preprocess) -> images.Picture:
    if isinstance(source, np.ndarray):
        return images.from_array(source, preprocess.background)
    if not getattr(source, "tile", None):
        return images.from_pil(source, preprocess.background)
    with _LOADING:
        return images.from_pil(source, preprocess.background)


def _several(pictures: AnyPicture | Iterable[AnyPicture]) -> Iterator[AnyPicture]:
    """Yield the pictures of a list, or the single one that was given."""
    if isinstance(pictures, np.ndarray):
        if pictures.ndim != 4:
            raise ConfigError(
                f"An array of the shape {pictures.shape} may be one picture or many.",
                "Give a list of arrays, or one array (N, H, W, channels).",
            )
        yield from pictures
    elif isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        yield pictures  # type: ignore[misc]  # `_checked` makes bytes of the like
    elif isinstance(pictures, Iterable):
        yield from pictures
    else:
        raise _unknown(pictures)


def _path(picture: object) -> str | Path:
    path = os.fspath(picture)  # type: ignore[call-overload]  # only called with what has a path
    return picture if isinstance(picture, str | Path) else str(path)


def _one_source(source: str | Path) -> Dataset:
    """Return the pictures of one path among pictures in memory; those of a folder keep its name before theirs."""
    read = sources.read_pictures([source])
    if not Path(source).is_dir():
        return read
    prefix = Path(source).as_posix()
    return replace(read, samples=tuple(replace(s, name=f"{prefix}/{s.name}") for s in read.samples))


def _checked(picture: object) -> InMemory:
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, bytes | np.ndarray | Image.Image):
        return picture
    raise _unknown(picture)


def _unknown(picture: object) -> ConfigError:
    return ConfigError(f"A picture cannot be a {type(picture).__name__}.", f"Give {_KINDS}; or a list of these.")
