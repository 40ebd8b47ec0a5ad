"""The nouns that travel between the rooms: plain, frozen, numpy only. Nothing here reads files or computes anything.

Letters used in shapes: N images, K classes, D features, V views of each image, S side in pixels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError
from headstart.packed import Digests, Texts, Values, values_of
from headstart.samples import Locator as Locator
from headstart.samples import Place as Place
from headstart.samples import Sample as Sample
from headstart.samples import Samples

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


def instead(findings: Sequence[Finding]) -> tuple[str, str]:
    """Return what was met where nothing was found, to stand behind that in an error, and what to do about it."""
    messages = "; ".join(one.message for one in findings)
    advice = "".join(f"{one.advice} " for one in findings if one.advice and one.severity != "note")
    return f": {messages}" if messages else "", advice


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
        column = values_of(labels)
        position: dict[str | None, int] = {name: index for index, name in enumerate(self)}
        if unknown := sorted(repr(label) for label in column.occurring() if label not in position):
            raise DataError(
                numbered("{n} [label is|labels are]", len(unknown))
                + f" none of the model's {len(self)} classes: {listing(unknown)}.\n"
                f"The model's classes: {listing([repr(name) for name in self], 12)}",
                "Correct the labels, leave those pictures out, or train a model that has these classes.",
            )
        places = np.array([position.get(label, -1) for label in column.distinct], dtype=np.int64)
        encoded: Integers = places[column.codes]
        return encoded


@dataclass(frozen=True, slots=True)
class Dataset(Displayable):
    """Pictures with names and, where known, labels, in a stable order.

    Attributes:
        root: The folder that every picture lies under, or the file that holds them.
        samples: One per picture; whatever is given is kept in columns, see `Samples`.
        findings: What was met while reading.
        layout: "folders", "table", "kaggle" or "pictures".
    """

    root: Place
    samples: Sequence[Sample]
    findings: tuple[Finding, ...] = ()
    layout: str = "pictures"

    def __post_init__(self) -> None:
        """Keep the pictures in columns."""
        object.__setattr__(self, "samples", Samples.of(self.samples))

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
    def packed(self) -> Samples:
        """The pictures in columns: what is known of all of them, without making any."""
        return cast(Samples, self.samples)

    @property
    def names(self) -> Texts:
        """The name of each picture."""
        return self.packed.names

    @property
    def labels(self) -> Values[str | None]:
        """The label of each picture."""
        return self.packed.labels

    @property
    def classes(self) -> ClassNames:
        """The distinct labels in code-point order."""
        return ClassNames(sorted(label for label in self.labels.occurring() if label is not None))

    def select(self, indices: Sequence[int] | Integers) -> Dataset:
        """Return the dataset of these rows, in this order; the findings stay."""
        return dataclasses.replace(self, samples=self.packed.select(np.asarray(indices, dtype=np.int64)))


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
    digests: Digests
    failures: Mapping[int, str]
    encoded: int = 0
    changed: tuple[str, ...] = ()
    observations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    properties: ImageProperties | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """Pictures that a classifier learned from: N samples, and the SHA-256 of the bytes of each."""

    dataset: Dataset
    digests: tuple[str, ...] = field(repr=False)


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
    digests: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.targets)

    def names(self, rows: Integers) -> Texts:
        """Return the names of some pictures."""
        return self.dataset.names.select(rows)


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
