"""What runs in a process of its own: a model is loaded there, and pictures come to it as bytes.

A picture that crashes a decoder, a leak, an operating system that ends what takes too much memory: all of it ends this
process and not the server. Every function here is called by name from the other side, see `processes`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.config import EncoderConfig
from headstart.data import images
from headstart.errors import HeadstartError, asked_for
from headstart.model import artifact
from headstart.predictions import Prediction
from headstart.records import Pixels

if TYPE_CHECKING:
    from headstart.evaluation.explanation import Explanation, Known
    from headstart.model.classifier import Classifier

AT_ONCE = 2  # while one batch is decoded the other is encoded
SIDE, MOST_BYTES = 512, 60_000  # of the longer side of a picture that is explained, in pixels, and of its file
_WEBP = "data:image/webp;base64,"


@dataclass(frozen=True, slots=True)
class Served:
    """What a process loads.

    Attributes:
        model: A folder that `headstart train` wrote.
        encoder: What it shall run on; None: as it was saved.
        learned: Whether pictures that it learned from may be shown.
        cache: Where their features lie; None: nowhere.
    """

    model: Path
    encoder: EncoderConfig | None = None
    learned: bool = True
    cache: Path | None = None


class _Loaded:
    """What the process holds: set by `load`, once."""

    served: Served
    classifier: Classifier
    digest: str
    known: Known | None
    album: Mapping[str, str]


def work(pipe: Connection[Any, Any]) -> None:
    """Be such a process: answer questions, `AT_ONCE` of them at a time, until the pipe ends as the other side does."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which reach the whole family; the other side ends in order
        signal.signal(number, signal.SIG_IGN)
    speaking = threading.Lock()
    with images.quiet_pillow(), ThreadPoolExecutor(AT_ONCE) as pool:
        with contextlib.suppress(EOFError, OSError):
            while True:
                pool.submit(_answer, pipe, speaking, *pipe.recv())
        os._exit(0)  # nobody waits for what is still computed


def _answer(
    pipe: Connection[Any, Any],
    speaking: threading.Lock,
    number: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    answer: Any = None
    failed: Exception | None = None
    try:
        answer = function(*arguments)
    except HeadstartError as error:
        failed = error
    except Exception as error:  # a mistake of ours, whose class may not travel
        failed = RuntimeError(f"{type(error).__name__} in {function.__name__}")
    with speaking, contextlib.suppress(OSError):
        pipe.send((number, answer, failed))


def load(served: Served) -> dict[str, Any]:
    """Load and warm up the model, and return what there is to tell of it, as plain values.

    Raises:
        ArtifactError: It is no model, or damaged.
        ConfigError: It cannot run as asked here.
    """
    classifier = artifact.load_classifier(served.model, served.encoder)
    side = classifier.preprocess.size
    classifier.predict_many([np.full((side, side, 3), 127, dtype=np.uint8)])  # compiles, and compares the engine
    _Loaded.served, _Loaded.classifier = served, classifier
    _Loaded.digest = images.digest((served.model / artifact.MODEL).read_bytes())
    return _told(served, classifier) | {"digest": _Loaded.digest}


def predict(pictures: Sequence[bytes]) -> tuple[str, list[Prediction]]:
    """Return the digest of the model, and what it says of each picture."""
    return _Loaded.digest, list(_Loaded.classifier.predict_many(list(pictures)))


def prepare_to_explain() -> None:
    """Import what draws heat maps and recall what was learned from; where something is missing, `explain` says so."""
    with contextlib.suppress(HeadstartError, ImportError):
        importlib.import_module("headstart.report.album")
        _known()
        for network in _Loaded.classifier.backbone.networks:
            _ = network.module


def explain(picture: bytes) -> tuple[str, dict[str, Any]]:
    """Return the digest of the model, and why a picture gets its answer, as plain values with pictures as data URIs.

    Raises:
        MissingExtraError: What draws heat maps is not installed.
        ConfigError: The network gives no heat map.
    """
    with asked_for("Explaining a picture"):
        from headstart.evaluation import explanation

        (one,) = explanation.explain(_Loaded.classifier, [picture], _known())
        return _Loaded.digest, _drawn(one)


def _told(served: Served, classifier: Classifier) -> dict[str, Any]:
    rule, plan = classifier.rules.out_of_distribution, classifier.encoders[0].plan
    sets = classifier.rules.sets
    return {
        "name": served.model.resolve().name,
        "classes": list(classifier.classes),
        "networks": [
            {"name": one.name, "size": one.preprocess.size, "resize": one.preprocess.resize}
            for one in classifier.backbone.networks
        ],
        "views": list(classifier.views),
        "engine": f"{plan.engine} {plan.precision} on {plan.device}",
        "refuses": rule is not None,
        "coverage": None if sets is None else sets.level,
        "created": classifier.provenance.created,
        "versions": dict(classifier.provenance.versions),
    }


def _known() -> Known | None:
    """Return what the model learned from, found out when it is first asked for."""
    from headstart.evaluation import explanation
    from headstart.report import origin, stored

    served = _Loaded.served
    if not hasattr(_Loaded, "known"):
        learned = origin.learned(served.model, _Loaded.classifier) if served.learned else None
        _Loaded.known = explanation.recalled(_Loaded.classifier, learned, served.cache)
        shown = stored.read_album(served.model) or {"pictures": ()}
        _Loaded.album = {one["name"]: one["webp"] for one in shown["pictures"]}
    return _Loaded.known


def _drawn(one: Explanation) -> dict[str, Any]:
    from headstart.report import album, explained

    def drawn(pixels: Pixels) -> str:
        return _WEBP + album.webp(pixels, SIDE, MOST_BYTES)

    said = one.prediction
    if one.picture is None or one.heat is None or one.rival_heat is None:
        return said.to_dict()
    heat = {"label": said.label, "picture": drawn(explained.overlay(one.picture, one.heat))}
    rival = {"label": one.rival, "picture": drawn(explained.overlay(one.picture, one.rival_heat))}
    return said.to_dict() | {
        "seen": drawn(one.picture),
        "speaks_for": heat,
        "speaks_for_rival": rival,
        "nearest": list(_nearest(one)),
    }


def _nearest(one: Explanation) -> Iterator[dict[str, Any]]:
    """Yield the pictures learned from that are most like it, each with a small picture where one is to be had."""
    from headstart.report import album, origin

    for neighbour in one.nearest:
        lay = neighbour.sample.path  # a server asks nothing of any store
        path = origin.lies_at(lay, neighbour.digest) if isinstance(lay, Path) else None
        small = album.thumbnail(path) if path is not None else _Loaded.album.get(neighbour.sample.name, "")
        yield {
            "label": neighbour.sample.label,
            "similarity": neighbour.alike,
            "picture": _WEBP + small if small else None,
        }
