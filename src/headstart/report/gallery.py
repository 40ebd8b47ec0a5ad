"""Datasets → figures of their pictures: as they are, as the network sees them, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from headstart.data import images, shards, sources
from headstart.data.images import Picture
from headstart.data.shapes import Cropped, cropped
from headstart.data.tables import read_table
from headstart.errors import ConfigError, DataError, PictureError
from headstart.evaluation.label_errors import Suspect
from headstart.records import Dataset, Finding, Pixels, Place, Preprocess, Sample
from headstart.report import plots, summary

GRID, BATCH, SHEET = 25, 16, 36
_THUMBNAIL = Preprocess(220, 1.0, "bicubic", (0, 0, 0), (1, 1, 1), resize="letterbox", background=(255, 255, 255))
_BLANK: Pixels = np.full((_THUMBNAIL.size, _THUMBNAIL.size, 3), 255, np.uint8)


def open_any(root: Place, table: Place | None) -> Dataset:
    """Return the labelled dataset at this place, or its pictures where there are no labels.

    Raises:
        ConfigError: There are no pictures at all.
    """
    if table is not None and table.suffix.lower() in images.SUFFIXES:
        return sources.read_pictures([table])
    try:
        return sources.read(root, table, missing="drop")
    except DataError:
        if table is not None or (isinstance(root, Path) and (root / "labels.csv").is_file()):
            raise
        return sources.read_pictures([root])


def rows(root: Place, table: Place | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows: of a table as they stand in the file, else of the pictures that were found."""
    if table is not None:
        read = shards.from_tables(shards.shards(table))[0] if shards.is_shard(table) else read_table(table)
        return read.header, list(read.rows)
    return ("name", "label", "file"), [(s.name, s.label or "", str(s.path)) for s in open_any(root, table)]


def grid(dataset: Dataset, seed: int) -> Figure:
    """Return 25 pictures with their labels (or names), drawn at random."""
    drawn = _draw(dataset, GRID, seed, _THUMBNAIL)
    labelled = f", {len(dataset.classes)} classes" if dataset.classes else ""
    return plots.grid(
        [p.pixels for _, p in drawn],
        [s.label or s.name for s, _ in drawn],
        f"{len(drawn)} of {len(dataset)} pictures{labelled}",
    )


def suspects(dataset: Dataset, doubtful: Sequence[Suspect]) -> Figure:
    """Return the pictures with the most doubtful labels, each under its label and the one that is suggested."""
    place = {name: row for row, name in enumerate(dataset.names)}
    shown = doubtful[:SHEET]
    titles = [f"{one.label}\n→ {one.suggested}" for one in shown]
    heading = f"{len(shown)} of {len(doubtful)} pictures with a doubtful label → the one that is suggested"
    return plots.grid([_thumbnail(dataset[place[one.name]]) for one in shown], titles, heading, columns=6)


def findings(dataset: Dataset, told: Sequence[Finding]) -> Figure:
    """Return the first pictures that each finding names, in rows of their own."""
    place = {name: row for row, name in enumerate(dataset.names)}
    pictures, titles = [], []
    named = [(finding.code, rows) for finding in told if (rows := summary.examples(finding, place))]
    for code, rows in named:
        blank = summary.OF_A_FINDING - len(rows)
        pictures += [*(_thumbnail(dataset[row]) for row in rows), *[_BLANK] * blank]
        titles += [*(f"{code}\n{dataset[row].label or dataset[row].name}" for row in rows), *[""] * blank]
    heading = "The first pictures of each finding" if named else "No finding names a picture"
    return plots.grid(pictures, titles, heading, columns=summary.OF_A_FINDING)


def _thumbnail(sample: Sample) -> Pixels:
    """Return a picture as it is, or an empty one where it cannot be decoded."""
    try:
        return images.load(images.read_bytes(sample.path), _THUMBNAIL).pixels
    except PictureError:
        return _BLANK


class Batch(NamedTuple):
    """What the network sees at once.

    Attributes:
        figure: Its pictures.
        shapes: (B, S, S, 3), of each network.
        cropped: What the crop cuts away; None where nothing is cropped.
    """

    figure: Figure
    shapes: tuple[tuple[int, ...], ...]
    cropped: Cropped | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, S, S, 3), of the first network."""
        return self.shapes[0]


def batch(dataset: Dataset, preprocesses: Sequence[Preprocess], seed: int, *, mirror: bool = True) -> Batch:
    """Return 16 prepared pictures, each followed by its mirror image unless there shall be none.

    Of several networks, each gets its share of the 16, the same pictures.
    """
    count = max(1, BATCH // len(preprocesses))
    drawn = [_draw(dataset, count, seed, preprocess) for preprocess in preprocesses]
    pictures, titles, told = [], [], []
    for preprocess, samples in zip(preprocesses, drawn, strict=True):
        views = [view for _, p in samples for view in (p.pixels, p.pixels[:, ::-1])[: 1 + mirror]]
        titles += [title for s, _ in samples for title in (s.label or s.name, "its mirror image")[: 1 + mirror]]
        told.append(((len(views), *views[0].shape), f"{preprocess.resize}, {preprocess.size} px"))
        pictures += views
    seen = " + ".join(f"{shape} as the network sees it ({how})" for shape, how in told)
    figure = plots.grid(pictures, titles, f"A batch of shape {seen}", columns=8 if mirror else 4)
    sizes = ((p.facts.width, p.facts.height) for _, p in drawn[0])
    return Batch(figure, tuple(shape for shape, _ in told), cropped(sizes, preprocesses[0]))


def _draw(dataset: Dataset, number: int, seed: int, preprocess: Preprocess) -> list[tuple[Sample, Picture]]:
    drawn: list[tuple[Sample, Picture]] = []
    for index in np.random.default_rng(seed).permutation(len(dataset)):
        sample = dataset[int(index)]
        try:
            drawn.append((sample, images.load(images.read_bytes(sample.path), preprocess)))
        except PictureError:
            continue  # `train` names the pictures that cannot be used
        if len(drawn) == number:
            break
    if not drawn:
        raise ConfigError(f"None of the {len(dataset)} pictures of {dataset.root} can be shown.")
    return drawn
