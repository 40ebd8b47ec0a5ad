"""Files, folders and glob patterns → the names of pictures to predict, as lean as names can be.

A million pictures are a million short strings; the record and the path of one are made when it is asked for.
"""

from __future__ import annotations

import glob
import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from headstart.data import folders
from headstart.data.images import SUFFIXES
from headstart.errors import ConfigError
from headstart.records import Dataset, Finding, Sample, listing


class _Stretch(NamedTuple):
    """Names of one source: relative to its folder, if it is one, and what goes before them in what they are called."""

    folder: Path | None
    prefix: str
    names: Sequence[str]

    def sample(self, place: int) -> Sample:
        name = self.names[place]
        return Sample(Path(name) if self.folder is None else self.folder / name, self.prefix + name)


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
        return cls([_Stretch(None, "", names)])

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
        samples = tuple(self[row] for row in range(len(self))[begin:end])
        return Dataset(Path(), samples, self.findings if whole else ())

    def digest(self) -> str:
        """Return a digest of all names, where they lie and their order."""
        told = hashlib.sha256()
        for stretch in self._stretches:
            told.update(f"{os.path.abspath(stretch.folder or '')}\0{stretch.prefix}\0".encode(errors="surrogateescape"))
            for name in stretch.names:
                told.update(os.fsencode(name) + b"\0")
        return told.hexdigest()


def of(sources: Sequence[str | Path], *, follow_links: bool = False) -> Listing:
    """Return the pictures of files, folders (searched through) and glob patterns, in this order.

    A Kaggle competition folder (with `test/` beside `labels.csv`) stands for its `test/`.

    Raises:
        ConfigError: A source matches nothing, or is not there and has no suffix of a picture. A picture that is not
            there is one of those that cannot be used.
    """
    stretches: list[_Stretch] = []
    findings: list[Finding] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            if (path / "labels.csv").is_file() and (path / "test").is_dir():
                path = path / "test"
            names, found = folders.names(path, follow_links)
            findings += found
            prefix = f"{path.as_posix()}/" if len(sources) > 1 else ""  # two folders may each have a 1.jpg
            stretches.append(_Stretch(path, prefix, names))
        else:
            stretches.append(_Stretch(None, "", _files(str(source))))
    pictures = Listing(stretches, findings)
    if not pictures:
        raise ConfigError(
            f"No picture was found in {listing([str(s) for s in sources])}.", f"Looked for {', '.join(SUFFIXES)}."
        )
    return pictures


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
