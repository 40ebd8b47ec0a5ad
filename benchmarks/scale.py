"""Whether a million pictures can be worked with, on one machine and on many.

Sections, each run by its name, every measurement in a process of its own:

- `check` (`scale_check`): the look at features and properties that `headstart check` takes once both are computed.
- `train` (`scale_train`): what `headstart train` does once features are there, at a quarter, a half and the whole of
  the pictures; `--whole` measures the whole alone.
- `warm` (`scale_train`): what a second `headstart train` does before that, and a `headstart predict` after it.
- `ray` (`scale_ray`): what a cluster costs that encodes, and how far it goes.
- `fit` (`scale_fit`): a head that workers of a cluster fit together, against one fitted by this process.

Features and properties are drawn, not computed, and lie in files that are mapped into memory, as they do in a training
of that size. `predict_scale.py` measures predictions.

    python benchmarks/scale.py SECTION [--pictures N] [--classes N] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scale_check
import scale_fit
import scale_ray
import scale_train
import side_by_side

SECTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], int, int]] = {  # with pictures and classes
    "check": (scale_check.measure, 1_000_000, 1000),
    "train": (scale_train.measure_training, 1_000_000, 100),
    "warm": (scale_train.measure_warm, 1_000_000, 100),
    "ray": (scale_ray.measure, 10_000, 2),
    "fit": (scale_fit.measure, 250_000, 100),
}
CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    **scale_check.CHILDREN,
    **scale_train.CHILDREN,
    **scale_ray.CHILDREN,
    **scale_fit.CHILDREN,
}


def main() -> int:
    """Run a section."""
    parser = argparse.ArgumentParser(description="Whether a million pictures can be worked with.")
    parser.add_argument("section", choices=list(SECTIONS))
    parser.add_argument("--pictures", type=int, help="how many (default: " + _usual(1) + ")")
    parser.add_argument("--classes", type=int, help="how many (default: " + _usual(2) + ")")
    parser.add_argument("--whole", action="store_true", help="of train: no quarter and no half")
    parser.add_argument("--work", type=Path, help="where files go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    asked = parser.parse_args()
    measure, pictures, classes = SECTIONS[asked.section]
    asked.pictures, asked.classes = asked.pictures or pictures, asked.classes or classes
    return measure(asked)


def _usual(place: int) -> str:
    return ", ".join(f"{name} {known[place]:,}" for name, known in SECTIONS.items())


if __name__ == "__main__":
    if sys.argv[1:2] == [side_by_side.CHILD]:
        print(json.dumps(CHILDREN[sys.argv[2]](*map(json.loads, sys.argv[3:]))))
    else:
        sys.exit(side_by_side.guarded(main))
