"""What the benchmarks compute themselves; what they measure is measured by running them."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_auroc_is_that_of_scikit_learn_and_lies_in_its_interval(benchmark_module):
    generator = np.random.default_rng(0)
    own, foreign = generator.normal(1, 1, 60).round(1), generator.normal(0, 1, 40).round(1)
    found = benchmark_module("unknown").auroc(own, foreign, np.arange(60), np.repeat(np.arange(8), 5))
    expected = roc_auc_score([1] * 60 + [0] * 40, np.concatenate([own, foreign]))
    assert found.value == pytest.approx(expected)
    assert 0.5 < found.low < found.value < found.high < 1


def test_a_section_measured_again_replaces_its_line_of_figures(benchmark_module, tmp_path):
    keep, file = benchmark_module("levels").keep, tmp_path / "levels.jsonl"
    for section, classes in (("dogs", 2), ("cats", 3), ("dogs", 4)):
        keep(file, {"section": section, "classes": classes})
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line["section"], line["classes"]) for line in lines] == [("cats", 3), ("dogs", 4)]
