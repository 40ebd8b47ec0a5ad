"""The nouns that travel between the rooms: plain, frozen, numpy only. Nothing here reads files or computes anything.

Letters used in shapes: N images, K classes, D features, V views of each image, S side in pixels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]

SPLIT_NAMES = ("train", "validation", "test")


class Progress(Protocol):
    """Somebody who wants to hear how far a stage has come, e.g. a progress bar."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `stage` are finished."""


def silence(stage: str, done: int, total: int) -> None:
    """Ignore progress: the listener of whoever did not ask for one."""


class Displayable:
    """What a notebook shows by more than a line: as HTML, where the front door of the package has said who draws it.

    Rooms that draw stand below the records that they draw, so the records name none of them.
    """

    __slots__ = ()
    drawing: ClassVar[Callable[[Any], str] | None] = None

    def _repr_html_(self) -> str | None:
        return None if Displayable.drawing is None else Displayable.drawing(self)


@dataclass(frozen=True, slots=True)
class Locator:
    """Where something lies that is no file of its own on this machine; a million of them fit into memory.

    Attributes:
        base: What goes before, the same text for many: of an object of a store the URI of its folder, ending in `/`;
            else the file that it lies in, by its path or URI.
        inner: The rest: of an object its key below that folder, of a member of a tar its name, of a cell its column.
        kind: An "object" of a store, a "member" of a tar, or a "cell" of a table.
        number: Of a member its first byte in the tar; of a cell its row, from 0.
        size: In bytes, -1 where that is not known.
        mark: A number that is another one once the file has another content; 0 where nothing tells.
        query: What a URL asks its server for besides, perhaps signed; it is never shown and never kept.
    """

    base: str
    inner: str = ""
    kind: Literal["object", "member", "cell"] = "object"
    number: int = 0
    size: int = -1
    mark: int = 0
    query: str = field(default="", repr=False, compare=False)

    @property
    def file(self) -> str:
        """The path or URI of the file."""
        return self.base + self.inner if self.kind == "object" else self.base

    @property
    def name(self) -> str:
        """The last part, e.g. `1.jpg`."""
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """How the name of a file ends, e.g. `.jpg`; a cell has no such name."""
        return "" if self.kind == "cell" else PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        """Return it for a person."""
        if self.kind == "object":
            return self.file
        return f"{self.base}/{self.inner}" if self.kind == "member" else f"{self.base}, row {self.number}"

    def __truediv__(self, name: str) -> Locator:
        """Return what lies below this folder of a store under a relative name."""
        return Locator(f"{self.file.rstrip('/')}/", name, query=self.query)

    def to_text(self) -> str:
        """Return it as `from_text` reads it, without what nobody may see."""
        if self.kind == "object":
            return self.file
        return f"{self.base}#{self.kind}={self.number},{self.size},{self.inner}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return what `to_text` told."""
        told = re.fullmatch(r"(.*)#(member|cell)=(\d+),(-?\d+),(.*)", text, re.S)
        if told is None:
            return cls(text)
        base, kind, number, size, inner = told.groups()
        return cls(base, inner, "member" if kind == "member" else "cell", int(number), int(size))


Place = Path | Locator


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known of it.

    Attributes:
        path: Where it lies; a file was verified to be under the dataset's root.
        name: What the user calls it: its id in the table, or its path relative to the root.
        label: Its class, always a string; None where it is not known.
        group: Whatever must not straddle a split (a patient, a camera); None without a group column.
        split: "train", "validation" or "test" where the data brings its own split, else None.
    """

    path: Place
    name: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know about their data.

    Attributes:
        code: A short stable name such as "duplicate-rows".
        severity: "error" (left out), "warning" (look at it) or "note".
        message: One sentence with the count.
        names: Every picture, row or class that it concerns, in order.
        advice: What to do about it; may be empty.
        unnamed: How many more it concerns, where there may be too many to name.
    """

    code: str
    severity: Literal["error", "warning", "note"]
    message: str
    names: tuple[str, ...] = ()
    advice: str = ""
    unnamed: int = 0


def found(
    code: str,
    severity: Literal["error", "warning", "note"],
    text: str,
    names: Sequence[str],
    advice: str = "",
    unnamed: int = 0,
) -> list[Finding]:
    """Return the finding about these names, `text` as `numbered` takes it; none if there are no names."""
    message = numbered(text, len(names) + unnamed)
    return [Finding(code, severity, message, tuple(names), advice, unnamed)] if names else []


def numbered(text: str, number: int) -> str:
    """Return a text with a number in place of `{n}`, and of each `[one|many]` what goes with it.

    >>> numbered("{n} [picture is|pictures are] blurry", 1), numbered("{n} [picture is|pictures are] blurry", 1200)
    ('1 picture is blurry', '1,200 pictures are blurry')
    """
    chosen = re.sub(r"\[([^\[\]|]*)\|([^\[\]|]*)\]", r"\1" if number == 1 else r"\2", text)
    return chosen.replace("{n}", f"{number:,}")


class ClassNames(tuple[str, ...]):
    """The classes in the order of the head's outputs; joined to labels by name, never by position."""

    __slots__ = ()

    def encode(self, labels: Iterable[str | None]) -> Integers:
        """Return the position of each label.

        Raises:
            DataError: A label is missing or is none of the classes; both lists are shown.
        """
        labels = list(labels)
        position = {name: index for index, name in enumerate(self)}
        if unknown := sorted({repr(label) for label in labels if label not in position}):
            raise DataError(
                numbered("{n} [label is|labels are]", len(unknown))
                + f" none of the model's {len(self)} classes: {listing(unknown)}.\n"
                f"The model's classes: {listing([repr(name) for name in self], 12)}",
                "Correct the labels, leave those pictures out, or train a model that has these classes.",
            )
        return np.array([position[label] for label in labels if label is not None], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Dataset(Displayable):
    """Pictures with names and, where known, labels, in a stable order.

    Attributes:
        root: The folder that every picture lies under, or the file that holds them.
        samples: One per picture.
        findings: What was met while reading.
        layout: "folders", "table", "kaggle" or "pictures".
    """

    root: Place
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...] = ()
    layout: str = "pictures"

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.samples)

    def __repr__(self) -> str:
        """Return e.g. `Dataset(8640 pictures, 120 classes, table, '/data/dogs')`."""
        return f"Dataset({counted(len(self), len(self.classes))}, {self.layout}, {str(self.root)!r})"

    def __iter__(self) -> Iterator[Sample]:
        """Go over the pictures."""
        return iter(self.samples)

    def __getitem__(self, index: int | np.integer[Any]) -> Sample:
        """Return one picture."""
        return self.samples[int(index)]

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The label of each picture."""
        return tuple(sample.label for sample in self.samples)

    @property
    def classes(self) -> ClassNames:
        """The distinct labels in code-point order."""
        return ClassNames(sorted({label for label in self.labels if label is not None}))

    def select(self, indices: Sequence[int] | Integers) -> Dataset:
        """Return the dataset of these rows, in this order; the findings stay."""
        return dataclasses.replace(self, samples=tuple(self.samples[int(index)] for index in indices))


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of a dataset, each in at most one part.

    Attributes:
        train: Rows that the head learns from.
        validation: Rows that measure and decide nothing; empty where each picture was measured in its turn, and perhaps
            where the data brings its own test part.
        test: Rows the data itself keeps for testing; never learned from. Empty unless given.
        findings: What to know about the split, e.g. classes too small to be measured.
        origin: Who divided the pictures: "drawn" here, the "data", or the "previous run".
    """

    train: Integers
    validation: Integers
    test: Integers
    findings: tuple[Finding, ...] = ()
    origin: Literal["drawn", "data", "previous run"] = "drawn"

    def part(self, name: str) -> Integers:
        """Return the rows of "train", "validation" or "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes what the backbone was trained on; travels with the model.

    Attributes:
        size: S, the side of the square in pixels.
        crop: The fraction of the shorter side that a centre crop keeps, in (0, 1].
        interpolation: "bicubic", "bilinear", "lanczos", "box", "hamming" or "nearest".
        mean: Per channel (R, G, B), subtracted from values in [0, 1].
        std: Per channel, divided by.
        resize: "crop" (centre), "letterbox" (whole picture, padded) or "squash" (whole picture, aspect ratio lost).
        background: What shows through transparency and pads a letterbox, as 8-bit RGB.
    """

    size: int
    crop: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "crop"
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        """Refuse what no picture can be prepared by.

        Raises:
            ValueError: With the first value that is out of range.
        """
        checks = {
            "size": isinstance(self.size, int) and 1 <= self.size <= 8192,
            "crop": 0 < self.crop <= 1,
            "interpolation": self.interpolation in ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"),
            "mean": len(self.mean) == 3,
            "std": len(self.std) == 3 and min(self.std) > 0,
            "resize": self.resize in ("crop", "letterbox", "squash"),
            "background": len(self.background) == 3,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from what `dataclasses.asdict` gave, possibly by way of JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class ImageProperties:
    """What can be seen of each picture at a glance, without knowing what it shows; row i belongs to `dataset[i]`.

    Attributes:
        figures: (N, len(FIGURES)) float32, columns as named in `FIGURES`; NaN in rows that could not be read.
        thumbnails: (N, 32, 32) float32, luma 0 … 255, the whole picture squashed to a square; each number is the mean
            of exactly its part of the picture and is not rounded. Zeros in rows that could not be read.
        colours: (N, 8, 8, 2) float32, Cb and Cr (-128 … 128, grey is 0) of the parts of the same square.
    """

    figures: Floats
    thumbnails: Floats
    colours: Floats

    FIGURES: ClassVar[tuple[str, ...]] = (
        "width",  # pixels, upright
        "height",
        "bytes",  # of the file
        "format",  # 0 JPEG, 1 PNG, … as `images.FORMATS` has them
        "camera",  # a number for each make and model that EXIF names; 0 without
        "dark",  # luma that 5 % of the pixels are darker than, 0 … 255
        "luma",  # mean
        "bright",  # luma that 5 % of the pixels are brighter than
        "contrast",  # standard deviation of the luma
        "sharpness",  # variance of the Laplacian over the variance of the luma, both at 256 px; 0 without contrast
        "entropy",  # of the histogram of the luma in 64 steps, bits, 0 … 6
        "border_red",  # mean of the outermost 2 % of the picture, 0 … 255
        "border_green",
        "border_blue",
        "border_contrast",  # standard deviation of the luma of that border
        "border_step",  # how far the luma of the border is from that of the ring just inside it
    )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.figures)

    def figure(self, name: str) -> Floats:
        """Return one column, (N,)."""
        column: Floats = self.figures[:, self.FIGURES.index(name)]
        return column

    def select(self, rows: Integers) -> ImageProperties:
        """Return the properties of these rows; all of them in their order are these, and nothing is copied."""
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        return ImageProperties(self.figures[rows], self.thumbnails[rows], self.colours[rows])


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """The backbone's features of a dataset: row i belongs to `dataset[i]`.

    Attributes:
        values: (N, V, D) float32, or float16 mapped from a file where they are many; zeros in rows whose picture could
            not be used, see `failures`.
        digests: SHA-256 of each file's bytes; empty where the file could not be read.
        failures: Row → why its picture could not be used.
        encoded: How many pictures were encoded now rather than taken from the cache.
        changed: Names of pictures whose bytes changed while they were being read.
        observations: What was remarked of single pictures: remark → names.
        properties: What can be seen of each picture at a glance; None unless it was asked for.
    """

    values: Floats
    digests: tuple[str, ...]
    failures: Mapping[int, str]
    encoded: int = 0
    changed: tuple[str, ...] = ()
    observations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    properties: ImageProperties | None = None


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Usable pictures, encoded and labelled: what is learned from. It never changes; rows and groups are arguments.

    Attributes:
        dataset: N samples.
        values: (N, V, D) float32, the backbone's features of each view; beyond what memory is used for float16, mapped
            from a file: `arrays.take` gives rows of either.
        classes: K names.
        targets: (N,) the index of each label among the classes.
        digests: (N,) SHA-256 of each file's bytes.
    """

    dataset: Dataset
    values: Floats = field(repr=False)
    classes: ClassNames
    targets: Integers = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.targets)

    def names(self, rows: Integers) -> tuple[str, ...]:
        """Return the names of some pictures."""
        return tuple(self.dataset[row].name for row in rows)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a classifier comes from, for its card and for whoever must reproduce it; decides nothing.

    Attributes:
        created: Date and time, UTC, ISO 8601.
        versions: Package → version.
        data: Digest of the training pictures with their labels, of the split, and counts.
        training: What training decided: l2, temperature, what was refitted, matched names.
        engine: Its version and the measured difference from torch float32.
    """

    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)


def portion(part: int, pictures: int) -> str:
    """Return e.g. `1 of 36 pictures`."""
    return f"{part:,} of " + numbered("{n} [picture|pictures]", pictures)


def counted(pictures: int, classes: int) -> str:
    """Return e.g. `1 picture, 2 classes`."""
    return numbered("{n} [picture|pictures], ", pictures) + numbered("{n} [class|classes]", classes)


def listing(items: Sequence[str], most: int = 5, number: int | None = None) -> str:
    """Return the first few items in a line, and how many more there are: of those given, or of that `number`."""
    number = len(items) if number is None else number
    rest = f" … and {number - most} more" if number > most else ""
    return ("; " if any(" " in item for item in items[:most]) else ", ").join(items[:most]) + rest
