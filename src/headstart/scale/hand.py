"""What travels between who gives out work and who does it; and the one who does it. Nothing here needs Ray.

Rows travel as names, never as pixels; what is computed stays where the job keeps it, and answers are small.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from headstart.data import uris
from headstart.data.images import DECODER
from headstart.encoding import runtime
from headstart.encoding.encoder import Encoder
from headstart.errors import HeadstartError
from headstart.records import Dataset, Place, Preprocess
from headstart.scale import screening

PACKAGES = ("headstart", "numpy", "pillow")
Recipe = Mapping[str, str]  # all that decides a result, by the words that a person has for it


class Block(NamedTuple):
    """What is worked on at once: mostly pictures.

    Attributes:
        number: By which its answer is known.
        dataset: The pictures; their paths are absolute, for they are read elsewhere.
        digests: SHA-256 of each, where that is known.
        asked: What else is asked, where it is not about pictures.
        home: The place whose worker has at hand what it takes: it has the block while it is there. Empty: none has.
    """

    number: int
    dataset: Dataset = Dataset(Path(), ())
    digests: tuple[str, ...] | None = None
    asked: Any = None
    home: str = ""

    @classmethod
    def of(cls, number: int, dataset: Dataset, digests: Sequence[str] | None = None) -> Block:
        """Return the block of these pictures."""
        samples = tuple(replace(one, path=path) if (path := _absolute(one.path)) else one for one in dataset)
        return cls(number, replace(dataset, samples=samples, findings=()), None if digests is None else tuple(digests))

    def __str__(self) -> str:
        """Say what it is, for who reads that workers died of it."""
        if not len(self.dataset):
            return "the same part of a fit"
        first, last = self.dataset[0], self.dataset[len(self.dataset) - 1]
        return f"the same {len(self.dataset)} pictures, {first.name} to {last.name}, though each of them can be decoded"


class Done(NamedTuple):
    """What became of a block: what was asked for, and which of its rows could not be used."""

    value: Any
    failed: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of a block.

    Attributes:
        number: Of the block.
        value: What was asked for.
        deadly: Row of the block → why, of pictures that end whatever process decodes them.
        unseen: Files that cannot be read where the worker is.
        warned: What a person should know.
    """

    number: int
    value: Any
    deadly: Mapping[int, str]
    unseen: tuple[Path, ...]
    warned: tuple[str, ...]


class Work(Protocol):
    """A job that was begun, with everything loaded that it needs."""

    @property
    def recipe(self) -> Recipe:
        """All that decides its results here; it must be the same everywhere."""

    @property
    def preprocesses(self) -> Sequence[Preprocess]:
        """What each network has pictures prepared by; nothing where none is decoded."""

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Work on a block; the pictures of its deadly rows are not touched, and are told as these say."""


class Job(Protocol):
    """What workers are told; it travels to each of them."""

    def begin(self) -> Work:
        """Load what it needs on this machine."""


class Station:
    """A process that works; whoever began it asks for one thing at a time.

    What goes wrong in our own words is returned and not raised, so that it travels whole.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        """Take these processors; none named: all that the process may use."""
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it hears of it too, and ends this one
        self._work: Work

    def ping(self) -> str:
        """Say that it is there, and where."""
        return os.uname().nodename if hasattr(os, "uname") else "a node"

    def begin(self, job: Job) -> Recipe | HeadstartError:
        """Load a job, and say what decides its results here."""
        try:
            self._work = job.begin()
            return self._work.recipe
        except HeadstartError as error:
            return error

    def do(self, block: Block, careful: bool) -> Answer | HeadstartError:
        """Work on a block, and carefully where processes died of it: who kills is found out first."""
        paths = [sample.path for sample in block.dataset]
        try:
            deadly = screening.deadly(paths, self._work.preprocesses) if careful and self._work.preprocesses else {}
            with warnings.catch_warnings(record=True) as caught:
                warnings.filterwarnings("default", category=UserWarning, module=r"headstart\..*")
                done = self._work.do(block, deadly)
        except HeadstartError as error:
            return error
        files = (file_of(paths[row]) for row in done.failed if row not in deadly)
        unseen = tuple(dict.fromkeys(file for file in files if file is not None and not os.access(file, os.R_OK)))
        told = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
        return Answer(block.number, done.value, deadly, unseen, tuple(told))


def _absolute(place: Place) -> Place | None:
    """Return a place by the path that leads there from everywhere; None if it is told so already."""
    if isinstance(place, Path):
        return None if place.is_absolute() else Path(os.path.abspath(place))
    there = place.kind == "object" or "://" in place.base or os.path.isabs(place.base)
    return None if there else replace(place, base=os.path.abspath(place.base))


def file_of(place: Place) -> Path | None:
    """Return the file that something is or lies in; None of what lies on a store."""
    file = uris.holder(place)
    return file if isinstance(file, Path) else None


def compared(encoder: Encoder) -> Encoder:
    """Return the encoder, or the safer one that takes its place here, where its network tells without pictures."""
    return encoder if runtime.needs_pictures(encoder) else runtime.verified(encoder, ())[0]


def recipe(encoders: Sequence[Encoder]) -> dict[str, str]:
    """Return what decides features in this process, besides the pictures."""
    told = {f"the version of {name}": importlib.metadata.version(name) for name in PACKAGES} | {"the decoder": DECODER}
    for number, one in enumerate(encoders, start=1):
        which = f"network {number} ({one.network.name})"
        told[f"the weights of {which}"] = one.weights
        told[f"the engine of {which}"] = f"{one.version} in {one.plan.precision}"
        if one.quantized is not None:
            told[f"the 8-bit integers of {which}"] = one.quantized.digest
    return told


def differences(theirs: Recipe, ours: Recipe) -> list[str]:
    """Return where two recipes differ, with both sides."""
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [
        f"{key} is {theirs.get(key, 'unknown')} there and {ours.get(key, 'unknown')} here"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]
