"""How well a model tells pictures of none of its classes from its own: for `trust.py`, and each level of `levels.py`.

Near unknown classes are made by leaving classes out of training: nothing of them was learned, yet they are of the kind
of the others. Run as a script it judges one saved model in a process of its own, since the benchmarks that start it
must stay small (`side_by_side.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

from headstart import metrics
from headstart.data import sources
from headstart.predictions import Interval, Predictions
from headstart.records import Dataset, Integers

ROUNDS = 500  # resamples of an AUROC


def left_out(classes: Sequence[str], number: int, draw: int = 0) -> set[str]:
    """Return so many classes, drawn at random; the same ones for the same draw."""
    return set(np.random.default_rng(draw).permutation(list(classes))[:number].tolist())


def auroc(own: metrics.Array, foreign: metrics.Array, of_own: Integers, of_foreign: Integers) -> Interval:
    """Return how often an own picture scores above a foreign one, a tie for a half, with a bootstrap's interval.

    Args:
        own: (N,) scores, high for a picture of the model's own kind.
        foreign: (M,) scores of the others.
        of_own: (N,) groups of pictures that are drawn together.
        of_foreign: (M,) the same of the others.
    """
    above = (own[:, None] > foreign).astype(np.float32) + 0.5 * (own[:, None] == foreign).astype(np.float32)  # (N, M)
    ours, theirs = (
        np.concatenate([*metrics.resample(len(groups), groups, ROUNDS, seed)])
        for seed, groups in enumerate((of_own, of_foreign))
    )
    drawn = ((ours.astype(np.float32) @ above) * theirs).sum(axis=1) / (ours.sum(axis=1) * theirs.sum(axis=1))
    return Interval(float(above.mean(dtype=np.float64)), *(float(end) for end in np.percentile(drawn, [2.5, 97.5])))


@dataclass(frozen=True)
class Refusals:
    """How own and foreign pictures are told apart.

    Attributes:
        own: How many own pictures could be used.
        foreign: How many foreign ones.
        area: AUROC of the model's typicality.
        refused: Share of the foreign pictures that is refused at the model's threshold.
        wrongly: Share of the own ones.
    """

    own: int
    foreign: int
    area: Interval
    refused: float
    wrongly: Interval

    @classmethod
    def of(cls, own: Predictions, foreign: Predictions) -> Refusals:
        """Measure predictions; pictures that cannot be used are left aside, `groups` are drawn together."""
        if own.p_value is None or own.known is None or foreign.p_value is None or foreign.known is None:
            raise RuntimeError("the model refuses nothing (calibration.unknown=none), so there is nothing to judge")
        ours, theirs = (np.array([row not in said.errors for row in range(len(said))]) for said in (own, foreign))
        groups = own.grouped()[ours], foreign.grouped()[theirs]
        area = auroc(own.p_value[ours], foreign.p_value[theirs], *groups)
        wrongly = metrics.share_interval(~own.known[ours], groups[0])
        return cls(int(ours.sum()), int(theirs.sum()), area, float(1 - foreign.known[theirs].mean()), wrongly)


def by_class(said: Predictions, dataset: Dataset) -> Predictions:
    """Return predictions of classes left out with these as groups: another draw of classes is what may come."""
    return replace(said, groups=np.unique([str(label) for label in dataset.labels], return_inverse=True)[1])


def judge(model: Path, root: Path, own: Path, foreign: Path, cache: Path) -> Refusals:
    """Return how a saved model in a process of its own tells two tables of pictures apart.

    Raises:
        RuntimeError: It failed.
    """
    command = [sys.executable, str(Path(__file__).resolve()), *(str(path) for path in (model, root, own, foreign))]
    answer = side_by_side.run_child(command, cache).answer()
    return Refusals(**answer | {name: Interval(*answer[name]) for name in ("area", "wrongly")})


def _judged(model: str, root: str, own: str, foreign: str) -> dict[str, Any]:
    """Be that process."""
    from headstart.evaluation import measure
    from headstart.model.artifact import load_classifier

    classifier = load_classifier(Path(model))
    known, other = sources.read(root, own), sources.read(root, foreign)
    said = by_class(classifier.predict_many(other, cache=None), other)
    return asdict(Refusals.of(measure.predict_labelled(classifier, known), said))


if __name__ == "__main__":
    print(json.dumps(_judged(*sys.argv[1:])))
