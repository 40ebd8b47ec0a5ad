"""From decoded pictures to probabilities in one module: resampled as Pillow does, and otherwise as the classifier."""

from __future__ import annotations

from dataclasses import replace

import contracts
import numpy as np
import pytest
import torch
from PIL import Image

from headstart.data import images
from headstart.learning import out_of_distribution
from headstart.learning.calibration import Calibration
from headstart.learning.out_of_distribution import SCORES, Score
from headstart.learning.prior import LabelRows
from headstart.learning.rules import PredictionRules
from headstart.model.classifier import Classifier
from headstart.model.portable import Portable, Resampled
from headstart.records import Pixels, Preprocess

SIZES = [(224, 224), (375, 500), (500, 333), (100, 37), (321, 320), (61, 160), (160, 160), (900, 1201)]


def photograph(height: int, width: int) -> Pixels:
    """Return soft patches of colour with grain."""
    generator = np.random.default_rng(height)
    patches = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(soft + generator.integers(-20, 20, soft.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "hamming"])
def test_pictures_are_resampled_as_pillow_does_it(interpolation: str, resize: str, size: tuple[int, int]):
    given = photograph(*size)
    preprocess = Preprocess(160, 0.9, interpolation, (0.5,) * 3, (0.5,) * 3, resize=resize, background=(200, 100, 0))
    wanted = images.prepare(given, preprocess).astype(int)
    found = Resampled(preprocess)(torch.from_numpy(given[None]))[0].permute(1, 2, 0).numpy()
    assert np.abs(found - wanted).max() <= 2  # of 255; where a sum is a half but for rounding
    assert (found != wanted).mean() < 0.1
    assert (np.abs(found - wanted) > 1).mean() < 1e-3


def judged(score: Score | None, calibration: Calibration = Calibration(1.5)) -> Classifier:  # noqa: B008
    """Return two networks and two views with a rule by this score."""
    own = contracts.toy_classifier()
    if score is None:
        return replace(own, rules=PredictionRules(calibration))
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, own.backbone.dim)).astype(np.float32)
    foreign = LabelRows(("x", "y"), features[:2] / 50, np.zeros(2, np.float32))
    arrays = out_of_distribution.learn(score, features, np.arange(60) % 2, foreign=foreign)
    pictures = [photograph(90, 80 + number) for number in range(30)]
    seen = own.embed(pictures)
    scores = out_of_distribution.familiarity(score, own.head_logits(seen), seen, arrays)
    rule = out_of_distribution.fit(score, 0.2, scores, arrays)
    return replace(own, rules=PredictionRules(calibration, out_of_distribution=rule))


@pytest.mark.parametrize("score", [None, *SCORES])
def test_it_says_what_the_classifier_says(score: Score | None):
    own = judged(score, Calibration(0.7, (1.0, 1.2), (0.1, -0.1)))
    pictures = np.stack([photograph(90, 81 + number)[:, :81] for number in range(6)])
    said = own.predict_many(pictures)
    with torch.inference_mode():
        probabilities, *more = Portable(own)(torch.from_numpy(pictures))
    np.testing.assert_allclose(probabilities.numpy(), said.probabilities, atol=0.01)
    assert len(more) == (score is not None)
    if score is not None:
        limit = own.rules.out_of_distribution.limit
        assert ((more[0].numpy() >= limit) == said.known).mean() > 0.8  # one may lie at the limit


def test_a_rule_that_refuses_nothing_has_no_limit():
    few = out_of_distribution.fit("logit", 0.05, np.arange(5.0), {})
    assert few.limit == -np.inf


@pytest.mark.parametrize("count", [25, 5000])
def test_the_limit_is_where_the_rule_begins_to_refuse(count: int):
    rule = out_of_distribution.fit("logit", 0.05, np.random.default_rng(0).normal(size=count), {})
    limit = rule.limit
    below, above = (np.full((1, 2), limit + step, np.float32) for step in (-1e-3, 1e-3))
    assert rule.p_value(below, below)[0] < rule.refused <= rule.p_value(above, above)[0] + 1e-9
