"""What a training did → the `Provenance` of its classifier: plain values for the card and for whoever repeats it."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from headstart.learning.learner import Fitted
from headstart.plans import Plan
from headstart.records import SPLIT_NAMES, Integers, LabelledFeatures, Provenance, Splits
from headstart.workflows.prepare import Prepared

PACKAGES = ("headstart", "torch", "timm", "openvino", "numpy", "pillow", "scipy")


def describe(
    split: Splits,
    fitted: Fitted,
    saved: Integers | None,
    prepared: Prepared,
    rounds: int,
) -> Provenance:
    """Return where a classifier comes from.

    Args:
        split: Who learned last, and who measured.
        fitted: The head that was measured.
        saved: Rows that the saved head learned from; None: it is the one that was measured.
        prepared: How the pictures were encoded, by which plan.
        rounds: How many heads were measured.
    """
    compared = asdict(prepared.agreement) if prepared.agreement else None
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES},
        data=_data(prepared.features, split),
        training=_training(split, fitted, saved, prepared.plan, rounds),
        engine={"version": prepared.encoders[0].version, "difference_from_torch_float32": compared},
    )


def _data(features: LabelledFeatures, split: Splits) -> dict[str, Any]:
    known = zip(features.dataset.names, map(str, features.dataset.labels), features.digests, strict=True)
    parts = {name: split.part(name) for name in SPLIT_NAMES}
    return {
        "pictures": len(features),
        "classes": len(features.classes),
        "parts": {name: len(rows) for name, rows in parts.items()},
        "split": split.origin,
        "digest": _digest_of(known),
        "split_digest": _digest({name: sorted(features.names(rows)) for name, rows in parts.items()}),
    }


def _training(split: Splits, fitted: Fitted, saved: Integers | None, plan: Plan, rounds: int) -> dict[str, Any]:
    watched = fitted.provenance.get("watched", 0) if plan.head.watch == "training" else 0
    aside = ((watched, "stop"), (len(fitted.left_out), "calibrate"))
    learned = f"{len(split.train):,} training pictures"
    learned += "".join(f", {count:,} of them only to {why} it" for count, why in aside if count)
    return {
        **fitted.provenance,
        "fitted_on": learned if saved is None else _refitted_on(saved, split),
        "refitted": saved is not None,
        "figures_of": f"the head fitted on the {learned}"
        if rounds == 1
        else f"{rounds} heads fitted the same way, each measured on pictures left out for it",
    }


def _refitted_on(saved: Integers, split: Splits) -> str:
    return f"{len(saved):,} training{' and validation' if len(split.validation) else ''} pictures"


def _digest_of(rows: Iterable[Any]) -> str:
    """Return what `_digest` would of a list of the rows."""
    told = hashlib.sha256(b"[")
    for number, row in enumerate(rows):
        told.update(f"{', ' if number else ''}{json.dumps(row, ensure_ascii=False)}".encode("utf-8", "surrogatepass"))
    told.update(b"]")
    return told.hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
