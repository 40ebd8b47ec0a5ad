"""Which pictures are worth looking at: the worst errors, what they resemble, both sides of a pair, doubtful labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.evaluation import showcase
from headstart.evaluation.showcase import Showcase
from headstart.predictions import Predictions
from headstart.records import ClassNames, Dataset, LabelledFeatures, Sample

CLASSES = ClassNames(["ash", "birch", "cedar"])


def found(sure: dict[int, float] | None = None, turns: int = 2) -> tuple[Showcase, LabelledFeatures]:
    """Return what is shown of 30 pictures, ten of a class, where some of `ash` are taken for `birch`, so surely."""
    targets = np.repeat([0, 1, 2], 10)
    values = np.random.default_rng(0).normal(0, 1, (30, 1, 8)).astype(np.float32) + 3 * np.eye(3, 8)[targets][:, None]
    samples = tuple(Sample(Path(f"{row}.png"), f"{row}.png", CLASSES[k]) for row, k in enumerate(targets))
    features = LabelledFeatures(Dataset(Path(), samples), values.astype(np.float32), CLASSES, targets, ("",) * 30)
    shares = np.full((30, 3), 0.05)
    shares[np.arange(30), targets] = 0.9
    for row, share in (sure or {}).items():
        shares[row] = [0.99 - share, share, 0.01]
    rows = np.arange(30)
    parts = [(rows[rows % turns == k], rows[rows % turns != k]) for k in range(turns)]
    order = np.concatenate([measured for measured, _ in parts])
    names, labels = features.names(order), tuple(CLASSES[k] for k in targets[order])
    said = Predictions(names, CLASSES, shares[order], targets=labels)
    return showcase.find(features, said, parts, rows), features


def test_the_least_probable_label_is_the_worst_error():
    shown, _ = found({3: 0.6, 4: 0.95, 7: 0.7})
    assert [one.row for one in shown.mistakes] == [4, 7, 3]
    assert shown.errors == 3
    assert shown.mistakes[0].top[0] == ("birch", pytest.approx(0.95))
    assert shown.mistakes[0].given == pytest.approx(0.04)


def test_what_an_error_resembles_is_nearest_among_those_its_head_learned_from():
    shown, features = found({4: 0.95})
    (one,) = shown.mistakes
    centred = features.values[:, 0] - features.values[:, 0].mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    alike = np.where(np.arange(30) % 2 == 1, centred @ centred[4], -np.inf)
    assert [row for row, _ in one.nearest] == np.argsort(-alike)[:3].tolist()
    assert [value for _, value in one.nearest] == pytest.approx(np.sort(-alike)[:3] * -1, abs=1e-4)


def test_a_pair_shows_both_sides_the_mistaken_first():
    shown, _ = found({3: 0.6, 4: 0.95})
    (pair,) = shown.pairs
    assert (pair.classes, pair.taken) == (("ash", "birch"), (2, 0))
    assert pair.rows[0][:2] == (4, 3)
    assert all(10 <= row < 20 for row in pair.rows[1])
    assert len(pair.rows[1]) == showcase.OF_EACH_SIDE


def test_a_doubtful_label_is_named_with_its_row():
    shown, _ = found({4: 0.985})
    row, suspect = shown.suspects[0]
    assert (row, suspect.label, suspect.suggested) == (4, "ash", "birch")


def test_where_nothing_is_wrong_there_is_nothing_to_show():
    assert found()[0] == Showcase()
