"""A `TrainingResult` → the pictures that its page shows, small, stripped of all but their pixels, in one bounded file.

Made once, while the pictures are at hand; a page that is drawn later needs neither them nor what trained the model. The
worst errors have heat maps of the heads that made them, as many as a small share of the time of the training allows.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from PIL import Image

from headstart.data import images
from headstart.errors import ConfigError, PictureError
from headstart.records import Pixels, Place
from headstart.report import summary

if TYPE_CHECKING:
    from headstart.evaluation.showcase import Showcase
    from headstart.workflows.train import TrainingResult

SIDE = 160  # pixels of the longer side
MOST_HEAT_MAPS, SHARE = 48, 0.05  # and for how much of the training's time at most
MOST_BYTES = 8_000  # of one; a picture of noise is kept with less detail
QUALITIES = (70, 40, 15, 1)
WORKERS = 4


def of(result: TrainingResult) -> dict[str, Any]:
    """Return plain values: the pictures, and by their places in that list what is shown of them.

    A picture that is not what it was during the training any more, or cannot be read, is left out.
    """
    shown, places = result.showcase, {name: row for row, name in enumerate(result.dataset.names)}
    findings = [summary.examples(finding, places) for finding in result.findings]
    rows = list(dict.fromkeys([*_rows(shown), *(row for examples in findings for row in examples)]))
    with images.quiet_pillow(), ThreadPoolExecutor(WORKERS) as pool:
        made = pool.map(lambda row: thumbnail(result.dataset[row].path, result.digests[row]), rows)
        thumbnails = dict(zip(rows, made, strict=True))
        heated = dict(_heat_maps(result))
    kept = [(row, thumbnails[row]) for row in rows if thumbnails[row]]
    place = {row: number for number, (row, _) in enumerate(kept)}
    heat = {row: number for number, row in enumerate(heated, start=len(kept))}
    return {
        "pictures": [
            {"name": result.dataset[row].name, "label": result.dataset[row].label, "webp": webp}
            for row, webp in (*kept, *heated.items())
        ],
        **_plain(shown, place, heat),
        "findings": [[place[row] for row in examples if row in place] for examples in findings],
    }


def _plain(shown: Showcase, place: Mapping[int, int], heat: Mapping[int, int]) -> dict[str, Any]:
    suggested = {row: suspect.suggested for row, suspect in shown.suspects if suspect.is_likely}
    return {
        "errors": shown.errors,
        "mistakes": [
            {
                "picture": place[one.row],
                "top": [[name, round(probability, 4)] for name, probability in one.top],
                "given": round(one.given, 6),
                "nearest": [[place[row], alike] for row, alike in one.nearest if row in place],
                "suggested": suggested.get(one.row),
            }
            | ({"heat_map": heat[one.row]} if one.row in heat else {})
            for one in shown.mistakes
            if one.row in place
        ],
        "pairs": [
            {
                "classes": list(pair.classes),
                "taken": list(pair.taken),
                "pictures": [[place[row] for row in side if row in place] for side in pair.rows],
            }
            for pair in shown.pairs
        ],
        "doubtful": shown.doubtful,
        "suspects": [
            {
                "picture": place[row],
                "suggested": suspect.suggested,
                "confidence": round(suspect.confidence, 4),
                "likely": suspect.is_likely,
                "duplicate_of": suspect.duplicate_of,
            }
            for row, suspect in shown.suspects
            if row in place
        ],
    }


def _rows(shown: Showcase) -> Iterable[int]:
    for one in shown.mistakes:
        yield one.row
        yield from (row for row, _ in one.nearest)
    for pair in shown.pairs:
        yield from (row for side in pair.rows for row in side)
    yield from (row for row, _ in shown.suspects)


def thumbnail(path: Place, digest: str = "") -> str:
    """Return a small WebP in base64; empty where the picture is not to be had any more, or has not that digest."""
    try:
        data = images.read_bytes(path)
        if digest and images.digest(data) != digest:
            return ""
        return webp(images.decode(data, side=SIDE).pixels)
    except PictureError:
        return ""


def _heat_maps(result: TrainingResult) -> Iterator[tuple[int, str]]:
    """Yield rows of the worst errors, each with where its head looked, as a small WebP in base64."""
    # and with them torch, which a thumbnail in a notebook does not need
    from headstart.model import attribution
    from headstart.report.explained import overlay

    classes, views = result.classifier.classes, result.classifier.views
    until = time.monotonic() + SHARE * result.seconds
    for one in result.showcase.mistakes[:MOST_HEAT_MAPS]:
        backbone, head = result.showcase.heads[one.turn]
        answer = attribution.for_class([classes.index(one.top[0][0])])
        try:
            seen = attribution.prepared(backbone, [result.dataset[one.row].path])
            heat = attribution.heat_maps(backbone, head, views, seen, [answer])[0][0]
        except PictureError:
            continue
        except ConfigError:  # nothing can be said of this network
            return
        yield one.row, webp(overlay(seen[attribution.widest(backbone)][0], heat))
        if time.monotonic() > until:
            return


def webp(pixels: Pixels, side: int = SIDE, most_bytes: int = MOST_BYTES) -> str:
    """Return a picture as WebP in base64, no side longer than this, with as much detail as so many bytes hold."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), reducing_gap=2.0)
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=quality, method=2)
        if file.tell() <= most_bytes:
            break
    return base64.b64encode(file.getvalue()).decode()
