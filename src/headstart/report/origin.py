"""A run → the pictures that its model came from: which it learned from, which it did not, and where they lie now."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Collection
from pathlib import Path

from headstart.data import images, uris
from headstart.errors import ArtifactError, MissingExtraError, PictureError, StorageError
from headstart.model.classifier import Classifier
from headstart.records import SPLIT_NAMES, Dataset, Learned, Locator, Place, Sample, listing
from headstart.report import stored


def learned(run: Path, classifier: Classifier) -> Learned | None:
    """Return what the classifier of a run learned from, each picture where it lay then; None where that was not kept.

    Raises:
        ArtifactError: What was kept is damaged.
    """
    return _of_parts(run, _learned_parts(classifier))


def learned_digests(run: Path, classifier: Classifier) -> set[str]:
    """Return the digests of what the classifier of a run learned from, as `learned` does; empty where it kept none."""
    return {row[3] for row in _rows(run, _learned_parts(classifier))}


def held_out(run: Path, classifier: Classifier) -> Learned | None:
    """Return what the classifier of a run did not learn from, as `learned` does; empty where it learned from all."""
    return _of_parts(run, set(SPLIT_NAMES) - _learned_parts(classifier))


def _learned_parts(classifier: Classifier) -> set[str]:
    return {"train", "validation"} if classifier.provenance.training.get("refitted") else {"train"}


def _of_parts(run: Path, parts: Collection[str]) -> Learned | None:
    if not (run / stored.PICTURES).is_file():
        return None
    rows = _rows(run, parts)
    root = Path((stored.read_journal(run) or {}).get("source", ""))
    samples = tuple(Sample(_place(root, name, place), name, label) for name, label, _, _, place in rows)
    return Learned(Dataset(root, samples), tuple(digest for _, _, _, digest, _ in rows))


def _rows(run: Path, parts: Collection[str]) -> list[tuple[str, ...]]:
    """Return what a run kept of the pictures of some parts; nothing where it kept nothing."""
    path = run / stored.PICTURES
    try:
        rows = stored.read_pictures(path) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{run} does not tell what it learned from: {error}") from error
    rows = [row for row in rows if row[2] in parts]
    if wrong := [digest for _, _, _, digest, _ in rows if not re.fullmatch("[0-9a-f]{64}", digest)]:
        raise ArtifactError(f"{path} is damaged: {listing(wrong)} is no SHA-256.")
    return rows


def _place(root: Path, name: str, place: str) -> Place:
    """Return where a picture lay: below the folder of the data, if nothing else is told."""
    if not place:
        return root / name
    told = Locator.from_text(place)
    return told if told.kind != "object" or uris.is_read(place) else Path(place)


def lies_at(path: Place, digest: str) -> Place | None:
    """Return the file of this digest that lies at a place in a run; ids of tables may leave out its suffix."""
    longer = sorted(path.parent.glob(f"{glob.escape(path.name)}.*")) if isinstance(path, Path) else []
    for candidate in (path, *longer):
        # a store that is not to be had is as good as none
        with contextlib.suppress(PictureError, StorageError, MissingExtraError):
            if images.digest(images.read_bytes(candidate)) == digest:
                return candidate
    return None
