"""An export and its classifier → how far their answers to the same files are apart, each from the bytes to the label.

An export in float32 is bound by its labels: they are compared with those of the classifier's own engine, and with those
of that engine in float32, to which it has to be closer. One in 8-bit integers is bound by its accuracy on labelled
pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headstart import metrics
from headstart.delivery import runtimes
from headstart.delivery.exports import FILES, Target
from headstart.delivery.runtimes import Runtime
from headstart.encoding import runtime as engines
from headstart.errors import ConfigError, PictureError
from headstart.evaluation import comparison
from headstart.model.classifier import Classifier
from headstart.model.portable import Input
from headstart.predictions import Interval
from headstart.records import Dataset, Floats, Place, Progress, Sample, numbered, silence

EXACT, ALLOWED = 0.002, 0.01  # shares of labels that may differ: from float32, and from what the model runs on
RESIZED = 0.05  # and where a runtime prepares pictures by rules of its own
MOST_LOST = 0.01  # of the accuracy, by 8-bit integers
FEW = 200  # pictures below which a share of labels says little
TIMED = 20  # pictures


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the labels of an export compare with those of one engine.

    Attributes:
        engine: E.g. `openvino f32`.
        pictures: How many were compared.
        flips: Pictures whose label differs.
        difference: The largest difference of a probability.
        allowed: The share of labels that may differ; None: any, something else is bound.
    """

    engine: str
    pictures: int
    flips: int
    difference: float
    allowed: float | None

    @property
    def holds(self) -> bool:
        """Whether no more labels differ than may."""
        return self.allowed is None or self.flips <= self.allowed * self.pictures

    def __str__(self) -> str:
        """Return e.g. `0 of 400 labels differ from openvino f32 (0.2 % may), probabilities by 0.0012 at most`."""
        bound = "" if self.allowed is None else f" ({100 * self.allowed:g} % may)"
        labels = numbered(f"{self.flips} of {{n}} [label|labels]", self.pictures)
        labels += " differs" if self.flips == 1 else " differ"
        return f"{labels} from Headstart's in {self.engine}{bound}, probabilities by {self.difference:.4f} at most"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What 8-bit integers cost on labelled pictures: the export beside the classifier as it runs.

    Attributes:
        pictures: How many.
        learned: How many of them the head had learned from, which flatters both.
        before: The share that the classifier gets right.
        after: The share that the export gets right.
        lost: The former minus the latter, of the same pictures.
        p_value: Of McNemar's test.
        log_loss: Before and after, in nats.
        added: The latter minus the former.
        most: How much accuracy may be lost.
    """

    pictures: int
    learned: int
    before: float
    after: float
    lost: Interval
    p_value: float
    log_loss: tuple[float, float]
    added: Interval
    most: float = MOST_LOST

    @property
    def holds(self) -> bool:
        """Whether no more accuracy is lost than may be."""
        return self.lost.value <= self.most

    def __str__(self) -> str:
        """Return it in a sentence without its end."""
        of = numbered("{n} labelled [picture|pictures]", self.pictures)
        known = "all" if self.learned == self.pictures else f"{self.learned:,}"
        seen = f", {known} of which the head had learned from" if self.learned else ""
        return (
            f"accuracy {self.before:.3f} before int8 and {self.after:.3f} after on {of}{seen}: {self.lost} lost "
            f"({self.most:g} may be); log-loss {self.log_loss[0]:.3f} and {self.log_loss[1]:.3f}: {self.added} added"
        )


@dataclass(frozen=True, slots=True)
class Parity:
    """How an export compares with its classifier on the same files.

    Attributes:
        target: What the classifier became.
        runtime: What ran it, and its version.
        compared: With the engine in float32, then, where it is another one, with what the classifier runs on.
        accuracy: Of one in 8-bit integers.
        milliseconds: Of one picture in the runtime, decoding left out; the median.
        files: Name → bytes and SHA-256 of each file.
        unquantized: Of one in 8-bit integers what it would be in float32: milliseconds and bytes, timed in turn with
            `milliseconds`.
    """

    target: Target
    runtime: str
    compared: tuple[Comparison, ...]
    accuracy: Accuracy | None
    milliseconds: float
    files: Mapping[str, Mapping[str, Any]]
    unquantized: Mapping[str, float] | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one["bytes"] for one in self.files.values())

    @property
    def holds(self) -> bool:
        """Whether it is within every bound."""
        return all(one.holds for one in self._parts())

    def broken(self) -> str:
        """Return what is beyond its bound, in a sentence without its end; "" if nothing is."""
        return "; ".join(str(one) for one in self._parts() if not one.holds)

    def lines(self) -> list[str]:
        """Return what a person wants to know of it, in sentences without their ends."""
        speed = f"{self.runtime}: {self.milliseconds:.0f} ms a picture, {self.size / 1e6:.1f} MB"
        if self.unquantized is not None:
            before = self.unquantized
            speed += f"; in float32 {before['milliseconds']:.0f} ms, {before['bytes'] / 1e6:.1f} MB"
        fewest = min(one.pictures for one in self._parts())
        few = [f"The proof rests on {numbered('{n} [picture|pictures]', fewest)} only"] * (fewest < FEW)
        said = (str(one) for one in self._parts())
        return [speed, *(f"{text[0].upper()}{text[1:]}" for text in said), *few]

    def __str__(self) -> str:
        """Return all of it in one line."""
        return ". ".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        plain = asdict(self)
        target: dict[str, Any] = plain.pop("target")
        plain["compared"] = [asdict(one) | {"holds": one.holds} for one in self.compared]
        if self.accuracy is not None:
            plain["accuracy"] |= {"holds": self.accuracy.holds}
        return target | plain | {"bytes": self.size, "holds": self.holds}

    def _parts(self) -> list[Comparison | Accuracy]:
        return [*self.compared, *([] if self.accuracy is None else [self.accuracy])]


class Labelled(NamedTuple):
    """Labelled pictures that accuracy is measured on, and how many of them the head had learned from."""

    dataset: Dataset
    learned: int = 0


def prove(
    classifier: Classifier,
    target: Target,
    folder: Path,
    pictures: Sequence[Place],
    labelled: Labelled | None = None,
    progress: Progress = silence,
) -> Parity:
    """Compare an export with its classifier, each from the bytes of the same files.

    Args:
        classifier: Of which it was made.
        target: What it became.
        folder: Where it lies.
        pictures: Files that labels are compared on; those that cannot be used are left out.
        labelled: Those that accuracy is measured on, for an export in 8-bit integers.
        progress: Hears of every picture.

    Raises:
        ConfigError: None of the pictures can be used.
        DataError: A label is none of the classes.
        MissingExtraError: The runtime is not installed.
        ArtifactError: The runtime cannot run the files.
    """
    dataset = None if labelled is None else labelled.dataset
    if dataset is not None:
        classifier.classes.encode(dataset.labels)
    everything = list(dict.fromkeys([*pictures, *(one.path for one in dataset or ())]))
    runtime = runtimes.opened(target, folder)
    given, milliseconds = answers(classifier, target.input, runtime, everything, progress)
    own = _said(classifier, everything, progress)
    if target.form == "timm":
        compared = _through_timm(classifier, runtime, given, pictures, progress)
    else:
        compared = _labels(classifier, given, own, pictures, progress)
    if labelled is not None:  # then accuracy is bound
        compared = [replace(one, allowed=None) for one in compared]
    accuracy = None if labelled is None else _accuracy(classifier, labelled, own, given)
    return Parity(target, runtime.name, tuple(compared), accuracy, milliseconds, listed(folder, FILES[target.form]))


def _labels(
    classifier: Classifier,
    given: Mapping[Place, Floats],
    own: Mapping[Place, Floats],
    pictures: Sequence[Place],
    progress: Progress,
) -> list[Comparison]:
    """Compare with the engine in float32 and, where that is another one, with what the classifier runs on."""
    precise = in_float32(classifier)
    if precise is classifier:
        return [_compared(classifier, own, given, pictures, EXACT)]
    allowed = ALLOWED if classifier.encoders[0].plan.precision == "bf16" else None
    said = _said(precise, pictures, progress)
    return [_compared(precise, said, given, pictures, EXACT), _compared(classifier, own, given, pictures, allowed)]


def _through_timm(
    classifier: Classifier,
    runtime: Runtime,
    given: Mapping[Place, Floats],
    pictures: Sequence[Place],
    progress: Progress,
) -> list[Comparison]:
    """Compare with the engine in float32: the network and head alone, then with timm's own way to prepare a picture."""
    precise = in_float32(classifier)
    said = _said(precise, pictures, progress)
    prepared, _ms = answers(classifier, "tensors", runtime, pictures, progress)
    whole = _compared(precise, said, given, pictures, RESIZED)
    return [
        _compared(precise, said, prepared, pictures, EXACT),
        replace(whole, engine=f"{whole.engine}, pictures prepared by timm's transform"),
    ]


def in_float32(classifier: Classifier) -> Classifier:
    """Return the classifier on the same engine in float32: itself, where that is what it runs in."""
    if classifier.encoders[0].plan.precision == "f32":
        return classifier
    encoders = tuple(engines.by_plan(one, replace(one.plan, precision="f32")) for one in classifier.encoders)
    return replace(classifier, encoders=encoders)


def answers(
    classifier: Classifier, taken: Input, runtime: Runtime, paths: Sequence[Place], progress: Progress = silence
) -> tuple[dict[Place, Floats], float]:
    """Return what an export says of files, (K,) probabilities each, and the median of its milliseconds.

    Files that cannot be used, e.g. because they have changed since, are left out.

    Raises:
        ConfigError: None of them can be used.
    """
    given, seconds = dict[Place, Floats](), list[float]()
    for row, path in enumerate(paths):
        progress("Running the export", row, len(paths))
        try:
            tensors = runtimes.fed(classifier, taken, path)
        except PictureError:
            continue
        begun = time.perf_counter()
        given[path] = runtime.run(tensors)
        seconds.append(time.perf_counter() - begun)
    progress("Running the export", len(paths), len(paths))
    if not given:
        raise ConfigError(f"None of {len(paths)} pictures can be used.", "Name some with --pictures.")
    return given, 1000 * statistics.median(seconds)


def timed(classifier: Classifier, target: Target, folders: Sequence[Path], paths: Iterable[Place]) -> list[float]:
    """Return the median milliseconds of a picture of each of several exports, which take turns.

    Args:
        classifier: Of which they were made.
        target: What they became.
        folders: Where each lies.
        paths: Pictures; at least one of them can be used.
    """
    seconds, opened = [list[float]() for _ in folders], [runtimes.opened(target, folder) for folder in folders]
    for path in paths:
        with contextlib.suppress(PictureError):
            given = runtimes.fed(classifier, target.input, path)
            for runtime, own in zip(opened, seconds, strict=True):
                begun = time.perf_counter()
                runtime.run(given)
                own.append(time.perf_counter() - begun)
    return [1000 * statistics.median(own) for own in seconds]


def listed(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return bytes and SHA-256 of files."""
    contents = {name: (folder / name).read_bytes() for name in names}
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}


def _said(classifier: Classifier, paths: Sequence[Place], progress: Progress) -> dict[Place, Floats]:
    dataset = Dataset(Path(), tuple(Sample(path, str(path)) for path in paths))
    said = classifier.predict_many(dataset, progress=progress)
    return {path: said.probabilities[row] for row, path in enumerate(paths) if row not in said.errors}


def _compared(
    classifier: Classifier,
    said: Mapping[Place, Floats],
    given: Mapping[Place, Floats],
    paths: Iterable[Place],
    allowed: float | None,
) -> Comparison:
    usable = [path for path in paths if path in said and path in given]
    if not usable:
        raise ConfigError("None of the pictures can be used.", "Name some with --pictures.")
    used = [one if one.trusted is None else one.trusted[0] for one in classifier.encoders]  # it may have fallen back
    plan = engines.safest(used)
    flips = sum(int(given[path].argmax() != said[path].argmax()) for path in usable)
    difference = max(float(np.abs(given[path] - said[path]).max()) for path in usable)
    return Comparison(f"{plan.engine} {plan.precision}", len(usable), flips, difference, allowed)


def _accuracy(
    classifier: Classifier, labelled: Labelled, said: Mapping[Place, Floats], given: Mapping[Place, Floats]
) -> Accuracy:
    kept = [one for one in labelled.dataset if one.path in said and one.path in given]
    if not kept:
        raise ConfigError("None of the labelled pictures can be used.", "Name some with --labelled.")
    targets = classifier.classes.encode([one.label for one in kept])
    before, after = (np.stack([answers[one.path] for one in kept]).astype(np.float64) for answers in (said, given))
    right = [probabilities.argmax(axis=1) == targets for probabilities in (before, after)]
    change = comparison.compare(right[0], right[1], ["" for _ in kept])[0]
    gained = metrics.change_interval(right[0], right[1])
    losses = [metrics.losses(probabilities, targets) for probabilities in (before, after)]
    return Accuracy(
        pictures=len(kept),
        learned=min(labelled.learned, len(kept)),
        before=change.before,
        after=change.after,
        lost=Interval(-gained.value, -gained.high, -gained.low),
        p_value=change.p_value,
        log_loss=(float(losses[0].mean()), float(losses[1].mean())),
        added=metrics.mean_interval(losses[1] - losses[0]),
    )
