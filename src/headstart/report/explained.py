"""Explanations → pictures a person reads and one file a program reads; and what a run's files tell of the pictures that
its model learned from.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headstart import storage
from headstart.data import images
from headstart.data.pictures import Pictures
from headstart.encoding.cache import DEFAULT, CacheChoice
from headstart.errors import PictureError
from headstart.evaluation import explanation
from headstart.evaluation.explanation import NEAREST, Explanation, Neighbour
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.predictions import Prediction
from headstart.records import Floats, Pixels, Progress, silence
from headstart.report import origin, plots

NAME = "explanations.json"
SIDE = 220  # pixels at least, of the shorter side of pictures that are drawn beside the explained one


def explain(
    model: Classifier | str | Path, pictures: Pictures, *, cache: CacheChoice = DEFAULT, progress: Progress = silence
) -> list[Explanation]:
    """Return why each picture gets its answer, in their order; one that cannot be used keeps its place.

    Args:
        model: A folder that `headstart train` wrote, which tells what was learned from; or a classifier, of which that
            is not known, so that no picture is most alike.
        pictures: As `Classifier.predict_many` takes them.
        cache: The folder where the features of the pictures learned from were left.
        progress: Hears of every picture.

    Raises:
        ConfigError: Something is no picture, or one of the networks gives no heat map.
        ArtifactError: The folder is no model, or damaged.
    """
    if isinstance(model, Classifier):
        return explanation.explain(model, pictures, cache=cache, progress=progress)
    classifier = artifact.load_classifier(model)
    return explanation.explain(
        classifier, pictures, origin.learned(Path(model), classifier), cache=cache, progress=progress
    )


def save(explanations: Sequence[Explanation], folder: Path) -> list[Path]:
    """Write a PNG for each picture that could be used, and `explanations.json`; return their paths, the latter last.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    written, plain = [], []
    with storage.storage_errors(folder, "Name another folder with --out."):
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(explanations, start=1):
            target = folder / _file_name(number, len(explanations), one)
            if one.picture is not None:
                storage.write_whole(target, plots.png(draw(one)))
                written.append(target)
            plain.append(one.to_dict() | {"drawn": target.name if one.picture is not None else None})
        text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
        storage.write_whole(folder / NAME, text.encode("utf-8", "surrogateescape"))
    return [*written, folder / NAME]


def draw(one: Explanation) -> Figure:
    """Return a picture as the network sees it, what speaks for its answer and for the rival, and what is most alike."""
    if one.picture is None or one.heat is None or one.rival_heat is None:
        raise PictureError(f"{one.prediction.path}: {one.prediction.error}")
    (label, probability), (rival, second), *_ = one.prediction.top
    figure, near = plots.empty(10.5, 6.6), [f"near {place}" for place in range(NEAREST)]
    top: list[Any] = [name for name in ("seen", "for", "against") for _ in range(2 * NEAREST)]
    below: list[Any] = ["odds"] * 2 * NEAREST + [name for name in near for _ in range(4)]
    cells = figure.subplot_mosaic([top, below], height_ratios=[1.5, 1])
    _show(cells["seen"], one.picture, "As the network sees it")
    _show(cells["for"], overlay(one.picture, one.heat), f"Speaks for {plots.short(label)}")
    _show(cells["against"], overlay(one.picture, one.rival_heat), f"Speaks for {plots.short(rival, 26)} instead")
    _odds(cells["odds"], one.prediction)
    for name in near:
        cells[name].axis("off")
    for name, neighbour in zip(near, one.nearest, strict=False):
        _neighbour(cells[name], neighbour)
    if not one.nearest:
        cells[near[0]].text(
            0, 0.5, "The features of what was learned from are not at hand.", fontsize=9, in_layout=False
        )
    heading = f"{plots.short(label, 40)}, {probability:.1%}; then {plots.short(rival, 40)}, {second:.1%}"
    unknown = "; it looks like none of the classes" if one.prediction.known is False else ""
    figure.suptitle(heading + unknown, fontsize=13, x=0.004, ha="left")
    return figure


def _show(axis: Axes, picture: Pixels, title: str, size: int = 10) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=size, loc="left")
    axis.axis("off")
    axis.set_anchor("NW")


def _odds(axis: Axes, said: Prediction) -> None:
    """Draw the most probable classes as bars, each under its name."""
    shares = [share for _, share in said.top]
    places = np.arange(len(shares))
    axis.barh(places, shares, height=0.3, color=plots.COLOURS["validation"])
    axis.barh(places, [1.0] * len(shares), height=0.3, color=plots.COLOURS["reference"], alpha=0.2, zorder=0)
    for place, (name, share) in enumerate(said.top):
        axis.text(0, place - 0.26, plots.short(name), fontsize=9, va="bottom")
        axis.text(1, place - 0.26, f"{share:.1%}", fontsize=9, va="bottom", ha="right")
    axis.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.9))
    axis.set_title("What it thinks", fontsize=9, loc="left")
    axis.axis("off")


def _neighbour(axis: Axes, neighbour: Neighbour) -> None:
    """Draw a picture learned from, if it still is what it was; else its name alone."""
    told = f"{plots.short(str(neighbour.sample.label), 28)}\nlearned from, alike {neighbour.alike:.2f}"
    if (picture := _read(neighbour)) is not None:
        _show(axis, picture, told, 9)
        return
    axis.text(0, 0.5, f"{told}\n{plots.short(neighbour.sample.name, 28)}\n(not at hand)", fontsize=9)


def _read(neighbour: Neighbour) -> Pixels | None:
    """Return the picture of this digest that lies where it lay in training."""
    with contextlib.suppress(PictureError):
        if (path := origin.lies_at(neighbour.sample.path, neighbour.digest)) is not None:
            return images.decode(images.read_bytes(path), side=SIDE).pixels
    return None


def _file_name(number: int, count: int, one: Explanation) -> str:
    """Return e.g. `007_garden_fox.png`: in order, and whatever the picture is called no other folder."""
    stem = re.sub(r"(?:[^\w.-]|_)+", "_", Path(one.prediction.path).stem)[-60:].strip("._") or "picture"
    return f"{number:0{max(3, len(str(count)))}d}_{stem}.png"


def overlay(picture: Pixels, heat: Floats) -> Pixels:
    """Return a picture under its heat map: grey and dim where nothing speaks for the class, glowing where much does.

    Args:
        picture: (S, S, 3) uint8.
        heat: (S, S) in [0, 1].
    """
    grey = picture.mean(axis=2, keepdims=True)
    colour = matplotlib.colormaps["inferno"](0.25 + 0.7 * heat)[..., :3]
    glow = colour * (140 + 0.45 * grey)  # so that what is there stays visible
    weight = 0.85 * np.sqrt(heat)[..., None]
    shown: Pixels = (0.7 * grey * (1 - weight) + glow * weight).clip(0, 255).astype(np.uint8)
    return shown
