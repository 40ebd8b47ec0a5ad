"""Dataset → findings: the properties before any training. Files are read and hashed, not yet decoded.

What cannot be used is left out and named; nothing is repaired or guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from headstart.data import images, manifest, splits
from headstart.errors import DataError, PictureError
from headstart.packed import Digests, values_of
from headstart.records import Dataset, Finding, Place, Progress, found, silence
from headstart.threads import in_order

READERS, FAR_READERS = 4, 32  # files that are read at once: of this machine, and where answers take their time
Reading = Callable[..., tuple[Digests, dict[int, str]]]  # arguments as of `fingerprints`


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the look at the files gave.

    Attributes:
        dataset: The pictures that may be used, in the order of their names.
        digests: SHA-256 of each one's bytes.
        findings: What was found and left out.
    """

    dataset: Dataset
    digests: Digests
    findings: tuple[Finding, ...]


def fingerprints(
    dataset: Dataset, progress: Progress = silence, *, cache: Path | None = None
) -> tuple[Digests, dict[int, str]]:
    """Return the SHA-256 of every file ("" where it cannot be read), and row → why it cannot be read.

    Args:
        dataset: N samples.
        progress: Hears of every file.
        cache: Where it is kept what was read: a file is read again when it was changed; None: nowhere.
    """
    failures: dict[int, str] = {}

    def look(row: int) -> tuple[int, str, Place | None]:
        """Return a row, its digest, and the version that was read."""
        try:
            data, place = manifest.read(dataset[row].path)
            return row, images.digest(data), place
        except PictureError as error:
            failures[row] = error.message
            return row, "", None

    with manifest.Manifest(cache) as known:
        digests = known.recall(dataset)
        lacking = np.flatnonzero(~digests.known)
        before = len(dataset) - len(lacking)
        readers = FAR_READERS if dataset.packed.far[lacking].any() else READERS
        rows = lacking.tolist()
        with ThreadPoolExecutor(readers) as pool, closing(in_order(pool, look, rows, 8 * readers)) as looked:
            for done, (row, digest, place) in enumerate(looked, start=1):
                digests[row] = digest
                known.note(place, digest)
                if done % 256 == 0 or done == len(rows):
                    progress("Reading", before + done, len(dataset))
    return digests, failures


def inspect(
    dataset: Dataset,
    progress: Progress = silence,
    *,
    keep_conflicting: bool = False,
    cache: Path | None = None,
    read: Reading = fingerprints,
) -> Inspection:
    """Look at a labelled dataset and leave out what must not be learned from.

    The result is in the order of the names: the order in which a disk or a table gave them decides nothing.

    Args:
        dataset: With labels.
        progress: Hears of every file.
        keep_conflicting: Whether byte-identical pictures with different labels stay, for whoever wants to mend them.
        cache: As in `fingerprints`.
        read: What finds out the digests; `fingerprints`, or what does the same elsewhere.

    Raises:
        DataError: Fewer than two classes are left.
    """
    refuse_one_class(dataset, dataset.findings)
    dataset = dataset.select(sorted(range(len(dataset)), key=list(dataset.names).__getitem__))
    digests, failures = read(dataset, progress, cache=cache)
    copies = [rows for rows in splits.members(values_of(digests).codes) if digests[rows[0]]]
    label = dataset.labels.codes
    conflicting = [] if keep_conflicting else [rows for rows in copies if len(np.unique(label[rows])) > 1]
    out = np.array([*failures, *chain.from_iterable(conflicting)], dtype=np.int64)
    kept = np.setdiff1d(np.arange(len(dataset)), out)
    identical = np.setdiff1d(np.concatenate([out[:0], *copies]), out)
    findings = [
        *dataset.findings,
        *unusable(dataset, failures),
        *found(
            "conflicting-duplicates", "error",
            "{n} [group|groups] of byte-identical pictures [carries|carry] different labels and [is|are] left out",
            [" = ".join(f"{dataset[row].name} ({dataset[row].label})" for row in rows) for rows in conflicting],
            "Keep the right label of each, or remove them.",
        ),
        *found(
            "identical-pictures", "note",
            "{n} pictures are byte-identical to another; copies never stand on both sides of a split",
            dataset.select(identical).names,
        ),
    ]  # fmt: skip
    usable = dataset.select(kept)
    refuse_one_class(usable, findings)
    findings += _class_sizes(usable)
    return Inspection(usable, digests.select(kept), tuple(findings))


def correct(inspection: Inspection, digests: Sequence[str], cache: Path | None) -> None:
    """Forget what was known of pictures whose bytes, as they were read last, have another digest.

    Args:
        inspection: What was known.
        digests: Of the same pictures, as they were read last.
        cache: As in `fingerprints`.
    """
    rows = enumerate(zip(inspection.digests, digests, strict=True))
    manifest.forget([inspection.dataset[row].path for row, (known, now) in rows if known != now], cache)


def unusable(dataset: Dataset, failures: Mapping[int, str]) -> list[Finding]:
    """Return the finding that names pictures which cannot be used, each with its reason."""
    names = [f"{dataset[row].name} ({failures[row]})" for row in sorted(failures)]
    return found("unusable-pictures", "error", "{n} [picture|pictures] cannot be used and [is|are] left out", names,
                 "Replace or remove them.")  # fmt: skip


def remarks(observations: Mapping[str, Sequence[str]], unnamed: Mapping[str, int] | None = None) -> list[Finding]:
    """Return one finding per kind of remark that decoding made.

    Args:
        observations: Remark → names of the pictures that were remarked on.
        unnamed: Remark → how many more there are, where only the first are named.
    """
    texts: dict[str, tuple[Literal["warning", "note"], str]] = {
        "many-frames": ("note", "{n} [picture has|pictures have] several frames; the first is used"),
        "wrong-suffix": (
            "note",
            "{n} [picture is|pictures are] of another format than [its|their] suffix says; read all the same",
        ),
        "sixteen-bit": (
            "warning",
            "{n} [picture has|pictures have] over 8 bits a channel; 0…65535 (or 0…1) is scaled to 0…255",
        ),
        "changed-file": ("warning", "{n} [picture|pictures] changed while being read; the later content is used"),
    }
    return [
        finding
        for code, told in texts.items()
        for finding in found(code, *told, observations.get(code, ()), unnamed=(unnamed or {}).get(code, 0))
    ]


def refuse_one_class(dataset: Dataset, findings: Sequence[Finding]) -> None:
    """Raise a `DataError` if fewer than two classes are left, with the findings that made it so."""
    if len(dataset.classes) >= 2:
        return
    what = f"one class only ({dataset.classes[0]!r})" if dataset.classes else "no usable picture"
    why = "".join(f"\n- {finding.message}" for finding in findings if finding.severity == "error")
    raise DataError(
        f"{dataset.root} holds {what}; at least two classes are needed.{why}",
        "A classifier tells classes apart. Give pictures of the other classes too.",
    )


def _class_sizes(dataset: Dataset) -> list[Finding]:
    counts = Counter(str(label) for label in dataset.labels)
    few = [f"{label} ({count})" for label, count in sorted(counts.items()) if count < 5]
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    apart = [f"{name} ({counts[name]})" for name in (largest, smallest)]
    return [
        *found("tiny-classes", "warning", "{n} [class has|classes have] fewer than five pictures", few,
               "More pictures of these classes help most."),
        *found("imbalance", "warning", "the largest class has more than ten times the pictures of the smallest",
               apart if counts[largest] > 10 * counts[smallest] else [],
               "If rare classes matter as much, train with --set head.class_weight=balanced."),
    ]  # fmt: skip
