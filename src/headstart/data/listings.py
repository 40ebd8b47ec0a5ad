"""Files, folders, glob patterns, tars and tables → the names of pictures to predict, as lean as names can be.

A million pictures are a million short strings; the record and the path of one are made when it is asked for.
"""

from __future__ import annotations

import glob
import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from headstart.data import folders, shards, stores, uris
from headstart.data.images import SUFFIXES
from headstart.errors import ConfigError
from headstart.records import Dataset, Finding, Locator, Place, Sample, instead, listing
from headstart.samples import Samples


class _Stretch(NamedTuple):
    """Names of one source, where each lies, where all lie, and what goes before them in what they are called."""

    names: Sequence[str]
    place: Callable[[int], Place]
    root: str = ""
    prefix: str = ""

    def sample(self, row: int) -> Sample:
        return Sample(self.place(row), self.prefix + self.names[row])

    def marks(self) -> list[int]:
        """Return the marks of the tables or tars that they lie in, see `Locator`; none of files of their own."""
        first = self.place(0)
        if uris.holder(first) == first:
            return []
        places = (self.place(row) for row in range(len(self.names)))
        return list(dict.fromkeys(place.mark for place in places if isinstance(place, Locator)))


class Listing:
    """Pictures without labels, in the order asked for, and what was met while listing them."""

    def __init__(self, stretches: Sequence[_Stretch], findings: Sequence[Finding] = ()) -> None:
        """Keep the names of each source, one after the other."""
        self.findings = tuple(findings)
        self._stretches = [stretch for stretch in stretches if stretch.names]
        self._ends = list(accumulate(len(stretch.names) for stretch in self._stretches))

    @classmethod
    def named(cls, names: Sequence[str]) -> Listing:
        """Return files that are called by their paths."""
        return cls([_of_files(names)])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> Sample:
        """Return one picture."""
        number = bisect_right(self._ends, row)
        stretch = self._stretches[number]
        return stretch.sample(row - self._ends[number] + len(stretch.names))

    def __iter__(self) -> Iterator[Sample]:
        """Go over the pictures."""
        return (self[row] for row in range(len(self)))

    def names(self) -> Iterator[str]:
        """Yield what each picture is called."""
        return (stretch.prefix + name for stretch in self._stretches for name in stretch.names)

    def dataset(self, begin: int = 0, end: int | None = None) -> Dataset:
        """Return the dataset of these rows; that of all rows has the findings too."""
        whole = begin == 0 and end is None
        samples = Samples.of(self[row] for row in range(len(self))[begin:end])
        return Dataset(Path(), samples, self.findings if whole else ())

    def digest(self) -> str:
        """Return a digest of all names, where they lie and their order; of tables and tars also of their versions.

        The rows of a table are called by their numbers, in whatever order they are.
        """
        told = hashlib.sha256()
        for stretch in self._stretches:
            root = stretch.root if uris.is_uri(stretch.root) else os.path.abspath(stretch.root)
            told.update(f"{root}\0{stretch.prefix}\0".encode(errors="surrogateescape"))
            for name in stretch.names:
                told.update(os.fsencode(name) + b"\0")
            told.update(f"{stretch.marks()}\0".encode())
        return told.hexdigest()


def of(sources: Sequence[str | Path | Locator], *, follow_links: bool = False, cache: Path | None = None) -> Listing:
    """Return the pictures of files, folders (searched through), glob patterns, tars and tables, in this order.

    A Kaggle competition folder (with `test/` beside `labels.csv`) stands for its `test/`.

    Args:
        sources: Paths and URIs.
        follow_links: Whether links may lead out of a folder.
        cache: As in `tars.index`.

    Raises:
        ConfigError: A source matches nothing, or is not there and has no suffix of a picture. A picture that is not
            there is one of those that cannot be used.
        DataError: A tar or a table is damaged.
        StorageError: A store does not answer.
    """
    stretches: list[_Stretch] = []
    findings: list[Finding] = []
    for source in sources:
        stretch, met = _stretch(source, follow_links, cache, several=len(sources) > 1)
        stretches.append(stretch)
        findings += met
    pictures = Listing(stretches, findings)
    if not pictures:
        told, advice = instead(findings)
        raise ConfigError(
            f"No picture was found in {listing([uris.shown(str(s)) for s in sources])}{told}.",
            f"{advice}Looked for {', '.join(SUFFIXES)}.",
        )
    return pictures


def _stretch(
    source: str | Path | Locator, follow_links: bool, cache: Path | None, *, several: bool
) -> tuple[_Stretch, list[Finding]]:
    """Return the names of one source, and what was met; of several, each name begins with that of its source."""
    place = uris.place(source)
    if isinstance(place, Locator) and place.suffix.lower() in SUFFIXES:
        return _Stretch([str(place)], lambda _: place), []
    if isinstance(place, Path) and not place.is_dir() and not shards.is_shard(place):
        return _of_files(_files(str(place if uris.is_uri(str(source)) else source))), []
    if shards.is_shard(place):
        walked = shards.pictures(shards.shards(place), cache)
    else:
        place = _tested(place)
        walked = folders.walk(place, follow_links)
        if not walked.names and (some := shards.shards(place)):
            walked = shards.pictures(some, cache)
    called = place.as_posix() if isinstance(place, Path) else str(place)
    prefix = f"{called}/" if several else ""  # two folders may each have a 1.jpg
    return _Stretch(walked.names, walked.place, str(place), prefix), walked.findings


def _of_files(names: Sequence[str]) -> _Stretch:
    return _Stretch(names, lambda row: Path(names[row]))


def _tested(folder: Place) -> Place:
    """Return the folder of pictures to predict of a Kaggle competition, of any other itself."""
    if isinstance(folder, Path):
        kaggle = (folder / "labels.csv").is_file() and (folder / "test").is_dir()
    elif uris.is_web(folder) or stores.there(folder / "labels.csv") is None:
        kaggle = False
    else:
        kaggle = bool(folders.walk(folder / "test", False).names)
    return folder / "test" if kaggle else folder


def _files(source: str) -> list[str]:
    """Return the file of that name, or the files that match it."""
    if os.path.lexists(source):
        return [source]
    if matches := sorted(glob.glob(source, recursive=True)):
        return [match for match in matches if not os.path.isdir(match)]
    if glob.has_magic(source):
        raise ConfigError(f"{source!r} matches no file.")
    if os.path.splitext(source)[1].lower() not in SUFFIXES:
        raise ConfigError(f"{source!r} is not there; a picture or a folder of pictures was expected.")
    return [source]  # its row will say that it is missing
