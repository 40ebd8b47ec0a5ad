"""The pictures that come with the installation, for trying everything without any data of one's own.

scikit-learn carries 1,797 scans of handwritten digits, 8×8 pixels each (Alpaydin and Kaynak 1998, UCI repository).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from headstart import storage
from headstart.data import folders

NEW = 297  # of 1,797 are kept away to be predicted
_SCAN = r"(photos/\d|new)/scan_\d{4}\.png"
_TABLE = rb"id,label\n(scan_\d{4},\d\n)*"


class DemoData(NamedTuple):
    """Where the demo's pictures are: one folder per class, unlabelled ones, and a table of what those truly are."""

    photos: Path
    new: Path
    targets: Path


def write_digits(folder: Path) -> DemoData:
    """Write the digits as PNG files: 1,500 in one folder per class, 297 unlabelled with a table of their labels."""
    data = DemoData(folder / "photos", folder / "new", folder / "new_labels.csv")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    data.new.mkdir(parents=True, exist_ok=True)
    rows = ["id,label\n"]
    for position, index in enumerate(order.tolist()):
        label = str(digits.target[index])
        name = f"scan_{index:04d}"
        target = data.new if position < NEW else data.photos / label
        target.mkdir(parents=True, exist_ok=True)
        # the scans have 17 grey levels, 0 for paper and 16 for ink
        picture = 255 - np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(picture).save(target / f"{name}.png")
        if position < NEW:
            rows.append(f"{name},{label}\n")
    storage.write_whole(data.targets, "".join(rows).encode())
    return data


def others(folder: Path) -> list[str]:
    """Return what lies where the demo writes its pictures and is none of them, in order."""
    inside = [path for part in ("photos", "new") for path in (folder / part).rglob("*") if not path.is_dir()]
    names = sorted(path.relative_to(folder).as_posix() for path in inside)
    found = [name for name in names if not (re.fullmatch(_SCAN, name) or folders.is_hidden(name))]
    table = folder / "new_labels.csv"
    if table.exists() and not (table.is_file() and re.fullmatch(_TABLE, table.read_bytes())):
        found.append(table.name)
    return found
