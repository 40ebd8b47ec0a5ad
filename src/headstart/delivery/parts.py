"""Blocks of answers ⇄ parts of a file that is not there yet, in a folder beside it, which outlast a kill.

Each part is written by a rename, and the folder is named by all that decides the answers: the same command finds what
is there already, and another command finds nothing of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from headstart import storage
from headstart.data import images
from headstart.data.listings import Listing
from headstart.delivery import forms
from headstart.delivery.forms import Form, Part
from headstart.delivery.reports import Told
from headstart.errors import StorageError
from headstart.model.classifier import Classifier
from headstart.records import listing

NOTE_BYTES = 1 << 22  # of what is kept with a part


class Computed(NamedTuple):
    """A block that was predicted: its number, its part, and what there is to tell."""

    number: int
    part: bytes
    told: Told


class Held:
    """Parts in memory, which outlast nothing; the methods are those of `Parts`."""

    def __init__(self) -> None:
        """Begin with none."""
        self._held: dict[int, Computed] = {}
        self.done = 0
        self.folder = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._held)

    def __contains__(self, number: int) -> bool:
        """Return whether a part is there."""
        return number in self._held

    def __enter__(self) -> Self:
        """Have nothing to look for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget them."""
        self._held = {}

    def others(self) -> dict[Path, list[str]]:
        """Know of no others."""
        return {}

    def put(self, one: Computed) -> None:
        """Keep a part."""
        self._held[one.number] = one
        self.done += one.told.pictures

    def part(self, number: int) -> Part:
        """Return a part."""
        return self._held[number].part

    def told(self, number: int) -> Told:
        """Return what there is to tell of it."""
        return self._held[number].told


@dataclass(frozen=True)
class Parts:
    """Parts in a folder beside the file that they will be.

    Attributes:
        out: The file.
        job: What the parts belong to, by the words that a person has for it; its digest is in the folder's name.
        again: Whether a part is computed anew of which pictures could not be read: what failed may have passed, as a
            connection that broke. What is no picture stays none.
    """

    out: Path
    job: Mapping[str, str | int]
    again: bool = False
    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where they lie."""
        digest = hashlib.sha256(json.dumps(self.job, sort_keys=True).encode()).hexdigest()
        return self.out.with_name(f".{self.out.name}.{digest[:12]}.parts")

    def __enter__(self) -> Self:
        """Make the folder, and look which of its parts are whole.

        Raises:
            StorageError: It cannot be written, or somebody else could have written what lies in it.
        """
        with storage.storage_errors(self.folder, "Name another file with --out."):
            if not self.folder.exists():
                self.folder.mkdir(mode=0o700)
                if reason := storage.distrust(self.folder):  # as of all files of some disks, whoever makes them
                    warnings.warn(
                        f"Stopped, this cannot go on: parts beside {self.out} would not be used again, for of their new"
                        f" folder, too, the system says that {reason}. Beside an --out on another disk they would be.",
                        stacklevel=2,
                    )
            elif reason := storage.distrust(self.folder):
                raise StorageError(f"{self.folder} is not used: {reason}.", "Remove it, or name another file.")
            storage.remove_stale(self.folder)
            storage.write_whole(self.folder / "job.json", json.dumps(self.job).encode())
            for note in self.folder.glob(f"{'[0-9]' * 6}.json"):
                told = self._whole(int(note.stem))
                if told is not None and not (self.again and told.unread):
                    self.sizes[int(note.stem)] = told.pictures
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the parts once the file is there, with those of other commands for it; else keep what there is."""
        if kind is None:
            gone = [self.folder, *self.others()]
        else:  # also parts that are asked for again are better than none
            gone = [] if any(self.folder.glob("*.part")) else [self.folder]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.sizes)

    @property
    def done(self) -> int:
        """How many pictures have their rows."""
        return sum(self.sizes.values())

    def __contains__(self, number: int) -> bool:
        """Return whether a part is there, whole."""
        return number in self.sizes

    def others(self) -> dict[Path, list[str]]:
        """Return the folders of other commands' parts for the same file, and what is different there."""
        found = {}
        for folder in self.out.parent.glob(".*.parts"):
            if folder != self.folder and folder.name.rpartition(".")[0].rpartition(".")[0] == f".{self.out.name}":
                there = _json(folder / "job.json")
                found[folder] = [name for name, value in self.job.items() if there.get(name) != value]
        return found

    def put(self, one: Computed) -> None:
        """Keep a part; it counts once its note is there.

        Raises:
            StorageError: The disk is full, or the folder has gone.
        """
        note = {"sha256": hashlib.sha256(one.part).hexdigest(), "told": asdict(one.told)}
        with storage.storage_errors(self.folder, "Make room; the same command then goes on from what is there."):
            storage.write_whole(self._data(one.number), one.part, mode=0o600)
            storage.write_whole(self._note(one.number), json.dumps(note).encode(), mode=0o600)
        self.sizes[one.number] = one.told.pictures

    def part(self, number: int) -> Part:
        """Return a part."""
        return self._data(number)

    def told(self, number: int) -> Told:
        """Return what there is to tell of it."""
        return Told(**_json(self._note(number))["told"])

    def _data(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def _note(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _whole(self, number: int) -> Told | None:
        """Return what there is to tell of a part that is there, whole and unchanged."""
        try:
            with open(self._data(number), "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == _json(self._note(number)).get("sha256")
            return self.told(number) if same else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _json(path: Path) -> dict[str, Any]:
    """Return what a file of ours holds; nothing if it is none."""
    try:
        content = json.loads(storage.read_regular(path, NOTE_BYTES))
    except (OSError, ValueError, RecursionError, StorageError):
        return {}
    return content if isinstance(content, dict) else {}


def job(classifier: Classifier, pictures: Listing, form: Form) -> dict[str, str | int]:
    """Return everything that decides the bytes of a file, by the words that a person has for it."""
    engines = [f"{one.version} {one.plan.precision} {one.plan.device}" for one in classifier.encoders]
    return {
        "the model": classifier.digest,
        "the list of pictures": pictures.digest(),
        "the form of the answers": form.told,
        "the engine": ", ".join([*engines, images.DECODER]),
        "the version of Headstart": importlib.metadata.version("headstart"),
        "the size of a part": forms.BLOCK,
    }


def differing(others: Mapping[Path, Sequence[str]]) -> Iterator[str]:
    """Yield a sentence on each folder of parts that are none of this command's."""
    for folder, different in others.items():
        why = f"{listing([*different], 9)} {'differs' if len(different) == 1 else 'differ'}"
        yield f"{folder} holds parts of another command ({why}): they are left alone, and go once this file is written."
