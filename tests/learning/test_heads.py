"""The head: its layers in their order, a description that brings it back, and logits that depend on the row alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.learning import modules
from headstart.learning.heads import Head, Shape, averaged
from headstart.learning.modules import HeadModule, loss_and_accuracy

FEATURES, CLASSES = 12, 4
LAYERS = {  # widths of hidden layers → what a row passes in training
    (): ["norm", "dropout", "linear"],
    (7,): ["norm", "dense1", "relu1", "dropout", "linear"],
    (7, 5): ["norm", "dense1", "relu1", "dropout", "dense2", "relu2", "linear"],
    (7, 5, 3): ["norm", "dense1", "relu1", "dense2", "relu2", "dropout", "dense3", "relu3", "linear"],
}


def module_of(
    hidden: tuple[int, ...], *, dropout: float = 0.5, batch_norm: bool = True, features: int = FEATURES
) -> HeadModule:
    """Return a head that looks fitted: no weight and no statistic is what a new head has."""
    torch.manual_seed(0)
    module = HeadModule(Shape(features, CLASSES, hidden, dropout, batch_norm))
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.3 if "var" in name else torch.randn_like(value) * 0.5)
    return module


def head_of(hidden: tuple[int, ...], **shape: Any) -> Head:
    """Return `module_of` in numbers."""
    return module_of(hidden, **shape).numbers()


def rows(number: int, features: int = FEATURES) -> np.ndarray:
    """Return features."""
    return np.random.default_rng(1).normal(1, 2, (number, features)).astype(np.float32)


def by_hand(head: Head, values: np.ndarray) -> np.ndarray:
    """Return the logits as numpy computes them in double precision."""
    state = {name: value.astype(np.float64) for name, value in head.tensors.items()}
    values = values.astype(np.float64)
    if "norm.weight" in state:
        values = (values - state["norm.running_mean"]) / np.sqrt(state["norm.running_var"] + 1e-3)
        values = values * state["norm.weight"] + state["norm.bias"]
    for number in range(1, 4):
        if f"dense{number}.weight" in state:
            values = values @ state[f"dense{number}.weight"].T + state[f"dense{number}.bias"]
            values = np.maximum(values, 0)
    return values @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("hidden", LAYERS)
def test_the_layers_come_in_their_order_with_dropout_before_the_last_hidden_one(hidden: tuple[int, ...]):
    assert [name for name, _ in module_of(hidden).named_children()] == LAYERS[hidden]


@pytest.mark.parametrize("hidden", LAYERS)
def test_without_dropout_and_normalisation_there_is_neither(hidden: tuple[int, ...]):
    module = module_of(hidden, dropout=0, batch_norm=False)
    assert [name for name, _ in module.named_children()] == [n for n in LAYERS[hidden] if n not in ("norm", "dropout")]


@pytest.mark.parametrize("hidden", LAYERS)
def test_the_widths_are_those_that_were_asked_for(hidden: tuple[int, ...]):
    layers = [layer for layer in module_of(hidden) if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [FEATURES, *hidden]
    assert [layer.out_features for layer in layers] == [*hidden, CLASSES]


@pytest.mark.parametrize("hidden", LAYERS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_description_brings_back_a_head_that_takes_the_same_weights(hidden: tuple[int, ...], batch_norm: bool):
    head = head_of(hidden, batch_norm=batch_norm)
    shape = Shape.from_description(head.shape.describe(), CLASSES)
    assert shape == (head.shape if not head.shape.linear else Shape(FEATURES, CLASSES))
    assert {name: (value.shape, value.dtype) for name, value in head.tensors.items()} == shape.tensors()
    again = modules.of(Head(shape, head.tensors)).numbers()
    np.testing.assert_array_equal(again.logits(rows(5)), head.logits(rows(5)))


def test_a_linear_head_is_described_in_two_words():
    assert head_of((), dropout=0, batch_norm=False).shape.describe() == {"kind": "linear", "features": FEATURES}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kind", "convolutional"),
        ("features", 0),
        ("features", -1),
        ("features", 2.5),
        ("features", "12"),
        ("features", 2**20),
        ("hidden", [0]),
        ("hidden", [7, -5]),
        ("hidden", [7.0]),
        ("hidden", ["7"]),
        ("hidden", "7"),
        ("hidden", [2**20]),
        ("dropout", 1),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("dropout", "half"),
    ],
)
def test_a_description_of_no_head_is_refused(setting: str, value: Any):
    with pytest.raises(ValueError, match=r"no head of|could not convert"):
        Shape.from_description(head_of((7, 5)).shape.describe() | {setting: value}, CLASSES)


@pytest.mark.parametrize("hidden", LAYERS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_logits_are_those_computed_by_hand(hidden: tuple[int, ...], batch_norm: bool):
    head = head_of(hidden, batch_norm=batch_norm)
    np.testing.assert_allclose(head.logits(rows(300)), by_hand(head, rows(300)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [1, 3, 255, 256, 257, 600])
def test_the_logits_of_a_row_do_not_depend_on_its_company(number: int):
    head, values = head_of((64, 32), features=333), rows(700, 333)
    np.testing.assert_array_equal(head.logits(values[50 : 50 + number]), head.logits(values)[50 : 50 + number])


def test_the_logits_of_a_row_do_not_depend_on_the_others_values():
    head, values = head_of((7, 5)), rows(9)
    other = np.concatenate([values[:1], 1000 * values[1:]])
    np.testing.assert_array_equal(head.logits(values)[0], head.logits(other)[0])


def test_numbers_go_their_own_way():
    module = module_of((7,))
    head = module.numbers()
    before = head.logits(rows(3))
    nn.init.zeros_(module.linear.weight)
    nn.init.zeros_(modules.of(head).linear.weight)
    np.testing.assert_array_equal(head.logits(rows(3)), before)
    assert not np.allclose(module.numbers().logits(rows(3)), before)


def test_many_threads_get_the_same_logits():
    head, values = head_of((64, 32), features=333), rows(40, 333)
    wanted = head_of((64, 32), features=333).logits(values)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: head.logits(values[row : row + 1])[0], range(40)))
    np.testing.assert_array_equal(found, wanted)


def test_the_mean_of_two_heads_is_that_of_their_logits_as_they_are_weighed():
    first, second = head_of((), batch_norm=False), head_of((), batch_norm=False, features=3)
    left, right = rows(5), rows(5, 3)
    both = averaged(first, second, 0.6)
    expected = 0.6 * first.logits(left) + 0.4 * second.logits(right)
    np.testing.assert_allclose(both.logits(np.concatenate([left, right], axis=1)), expected, atol=1e-6)


def test_no_rows_have_no_logits():
    assert head_of((7,)).logits(rows(0)).shape == (0, CLASSES)


@pytest.mark.parametrize("hidden", LAYERS)
def test_the_module_of_a_head_says_what_the_head_says(hidden: tuple[int, ...]):
    head, values = head_of(hidden), rows(20)
    with torch.no_grad():
        said = modules.of(head)(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(said, head.logits(values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden", LAYERS)
def test_normalisation_behind_the_pooling_computes_what_it_does_before(hidden: tuple[int, ...]):
    head = module_of(hidden).double().eval()
    maps = torch.randn(5, FEATURES, 3, 4, dtype=torch.float64) * 3 + 1
    before = nn.BatchNorm2d(FEATURES, eps=1e-3).double().eval()
    before.load_state_dict(head.norm.state_dict())
    with torch.no_grad():
        wanted = nn.Sequential(*list(head)[1:])(before(maps).mean(dim=(2, 3)))
        torch.testing.assert_close(head(maps.mean(dim=(2, 3))), wanted)


def test_training_drops_units_and_judging_does_not():
    head, values = module_of((64,)), torch.from_numpy(rows(8))
    head.train()
    assert not torch.equal(head(values), head(values))
    head.eval()
    assert torch.equal(head(values), head(values))


def test_loss_and_accuracy_are_those_of_the_textbook():
    scores, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, accuracy = loss_and_accuracy(scores, targets)
    assert loss == pytest.approx((np.log(1 + np.exp(-2)) + np.log(1 + np.exp(-1)) + np.log(1 + np.exp(3))) / 3)
    assert accuracy == pytest.approx(2 / 3)


def test_no_rows_have_no_loss():
    assert np.isnan(loss_and_accuracy(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))).all()
