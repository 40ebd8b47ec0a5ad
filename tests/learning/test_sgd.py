"""Heads fitted in epochs: they learn, stop as Keras does, repeat to the bit, and go on where they were killed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import softmax

from headstart import arrays
from headstart.config import HeadConfig
from headstart.errors import ConfigError
from headstart.learning import calibration, checkpoint, sgd
from headstart.learning.heads import Head, Step
from headstart.learning.modules import loss_and_accuracy, measured
from headstart.learning.sgd import Rows, SgdFit
from headstart.plans import HeadPlan, resolve_head
from headstart.records import ClassNames, Dataset, LabelledFeatures

CLASSES, FEATURES = 3, 8
NONE = np.array([], dtype=np.int64)
OPTIMIZERS = ["adam", "adamw", "sgd"]
SCHEDULES = ["constant", "cosine", "step", "plateau"]


def clouds(rows: int = 90, views: int = 2, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return features (rows, views, FEATURES) around one centre a class, and the classes."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, CLASSES, rows)
    centres = generator.normal(0, 2, (CLASSES, FEATURES))
    noise = generator.normal(0, spread, (rows, views, FEATURES))
    return (centres[targets][:, None] + noise).astype(np.float32), targets


def plan(**settings: Any) -> HeadPlan:
    """Return the plan of a small head in few epochs; settings of `HeadConfig`."""
    return resolve_head(HeadConfig(**({"hidden": (6,), "optimizer": "adam", "epochs": 5, "batch": 16} | settings)))


def fit(
    given: HeadPlan,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    rows: Rows | None = None,
    seed: int = 0,
    **more: Any,
) -> SgdFit:
    """Fit: by default to two thirds of the clouds, a sixth is watched and a sixth shown."""
    features, targets = data or clouds()
    third = np.arange(len(targets)) % 6
    rows = rows or Rows(np.flatnonzero(third > 1), np.flatnonzero(third == 1), np.flatnonzero(third == 0))
    return sgd.fit(labelled(features, targets), rows, given, seed, **more)


def labelled(features: np.ndarray, targets: np.ndarray) -> LabelledFeatures:
    """Return features as those of pictures that nobody needs to look at."""
    return LabelledFeatures(Dataset(Path(), ()), features, ClassNames("abc"), targets, ())


def everything(data: tuple[np.ndarray, np.ndarray]) -> Rows:
    """Return all rows as those to learn from."""
    return Rows(np.arange(len(data[1])), NONE, NONE)


def same(one: Head, other: Head) -> bool:
    """Whether two heads are equal to the bit."""
    states = one.tensors, other.tensors
    return states[0].keys() == states[1].keys() and all(np.array_equal(v, states[1][k]) for k, v in states[0].items())


def accuracy(head: Head, features: np.ndarray, targets: np.ndarray) -> float:
    """Return the share that is right."""
    return float((head.logits(features).argmax(axis=1) == targets).mean())


# ── it learns ──


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_separable_clouds_are_learned(optimizer: str, hidden: tuple[int, ...]):
    features, targets = clouds()
    rate = 0.05 if optimizer == "sgd" else 0.01
    fitted = fit(plan(hidden=hidden, optimizer=optimizer, learning_rate=rate, epochs=30))
    assert accuracy(fitted.head, features[::6, 0], targets[::6]) == 1
    assert fitted.history[-1].validation_accuracy == 1
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_step_is_that_of_the_optimizer(optimizer: str):
    features, targets = clouds(rows=20, views=1)
    flat: dict[str, Any] = {"hidden": (), "batch_norm": False, "optimizer": optimizer, "epochs": 1, "batch": 20}
    rows = everything((features, targets))
    start, end = (
        fit(plan(**flat, learning_rate=rate, weight_decay=0.5), (features, targets), rows).head.weight
        for rate in (1e-30, 0.1)
    )
    slope = (softmax(features[:, 0] @ start.T, axis=1) - np.eye(CLASSES)[targets]).T @ features[:, 0] / 20
    decayed = slope + 0.5 * start
    step = {"sgd": decayed, "adam": np.sign(decayed), "adamw": np.sign(slope) + 0.5 * start}[optimizer]
    np.testing.assert_allclose(end, start - 0.1 * step, atol=1e-5)


def test_the_view_is_drawn_anew_in_each_epoch():
    generator = np.random.default_rng(0)
    features = generator.normal(0, 1, (40, 2, 64)).astype(np.float32)
    targets = generator.integers(0, CLASSES, 40)
    given = plan(hidden=(64,), dropout=0.0, learning_rate=0.01, epochs=60)
    head = fit(given, (features, targets), everything((features, targets))).head
    assert [accuracy(head, features[:, view], targets) for view in (0, 1)] == [
        1,
        1,
    ]  # each row by heart, from both sides


def test_the_figures_of_an_epoch_are_those_of_the_first_view():
    features, targets = clouds(spread=3)
    features[:, 1] = 100
    fitted = fit(plan(), (features, targets))
    loss, right = loss_and_accuracy(
        torch.from_numpy(fitted.head.logits(features[::6, 0])), torch.from_numpy(targets[::6])
    )
    assert fitted.history[fitted.best - 1].validation_loss == pytest.approx(loss, rel=1e-5)
    assert fitted.history[fitted.best - 1].validation_accuracy == right


@pytest.mark.parametrize("rows", [17, 33, 3])
def test_a_single_row_left_over_is_learned_with_the_last_batch(rows: int):
    data = clouds(rows=rows)
    fitted = fit(plan(batch=rows - 1 if rows == 3 else 16), data, everything(data))
    assert len(fitted.history) == 5
    assert np.isfinite(fitted.head.logits(data[0][:, 0])).all()


def test_balanced_weights_are_as_if_rare_rows_were_there_more_often():
    features, targets = clouds(rows=60, views=1, spread=3)
    rare, common = np.flatnonzero(targets == 0)[:5], [np.flatnonzero(targets == k)[:10] for k in (1, 2)]
    flat: dict[str, Any] = {"batch_norm": False, "dropout": 0.0, "optimizer": "sgd", "batch": 100}
    weighted = plan(**flat, class_weight="balanced")
    one = fit(weighted, (features, targets), Rows(np.concatenate([rare, *common]), NONE, NONE)).head
    two = fit(plan(**flat), (features, targets), Rows(np.concatenate([rare, rare, *common]), NONE, NONE)).head
    plain = fit(plan(**flat), (features, targets), Rows(np.concatenate([rare, *common]), NONE, NONE)).head
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-5)
    assert not np.allclose(one.weight, plain.weight, atol=1e-4)


# ── what decides it ──


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    one, two, other = (fit(plan(), seed=seed) for seed in (3, 3, 4))
    assert same(one.head, two.head)
    assert one.history == two.history
    assert not same(one.head, other.head)


def test_the_number_of_threads_decides_nothing_and_is_left_alone():
    data, heads, before = clouds(rows=600), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            heads.append(fit(plan(hidden=(256, 64)), data).head)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*heads)


def test_a_fit_neither_hears_nor_disturbs_other_random_numbers():
    torch.manual_seed(1)
    one = fit(plan()).head
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    assert same(fit(plan()).head, one)


def test_rows_that_are_shown_or_in_no_part_decide_nothing():
    features, targets = clouds()
    rows = Rows(np.arange(40), np.arange(40, 60), np.arange(60, 80))
    clean = fit(plan(), (features, targets), rows)
    features[60:], targets[60:] = 1000, 0
    poisoned = fit(plan(), (features, targets), rows)
    assert same(clean.head, poisoned.head)
    assert clean.history[-1].validation_loss != poisoned.history[-1].validation_loss


def test_what_was_given_stays_as_it_is():
    features, targets = clouds()
    fit(plan(), (features, targets))
    for given, fresh in zip((features, targets), clouds(), strict=True):
        np.testing.assert_array_equal(given, fresh)


# ── when it stops ──

NOISY = {"hidden": (16,), "learning_rate": 0.03, "schedule": "cosine", "epochs": 24}


def keras_stops(losses: list[float], patience: int, min_delta: float) -> tuple[int, int]:
    """Return the last epoch and the best one, as `keras.callbacks.EarlyStopping` would have it."""
    best, best_epoch, wait = float("inf"), 0, 0
    for epoch, loss in enumerate(losses, start=1):
        wait += 1
        if loss + min_delta < best:
            best, best_epoch, wait = loss, epoch, 0
        elif wait >= patience:
            return epoch, best_epoch
    return len(losses), best_epoch


@pytest.mark.parametrize("patience", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("min_delta", [0.0, 0.001, 0.02, 0.2])
def test_epochs_stop_as_keras_does(patience: int, min_delta: float):
    data = clouds(spread=4)
    whole = fit(plan(**NOISY, patience=24), data).history
    last, best = keras_stops([step.watched_loss for step in whole], patience, min_delta)
    fitted = fit(plan(**NOISY, patience=patience, min_delta=min_delta), data)
    assert (len(fitted.history), fitted.best) == (last, best)
    assert fitted.history == whole[:last]


@pytest.mark.parametrize("patience", [2, 24])
def test_the_weights_are_those_of_the_best_epoch(patience: int):
    features, targets = data = clouds(spread=4)
    fitted = fit(plan(**NOISY, patience=patience), data)
    watched = np.flatnonzero(np.arange(len(targets)) % 6 == 1)
    logits = torch.from_numpy(fitted.head.logits(features[watched, 0]))
    loss, _ = loss_and_accuracy(logits, torch.from_numpy(targets[watched]))
    assert fitted.best < len(fitted.history)
    assert fitted.history[fitted.best - 1].watched_loss == pytest.approx(loss, rel=1e-5)


def test_the_weights_of_the_best_epoch_are_those_of_a_fit_that_ends_there():
    data = clouds(spread=4)
    settings = NOISY | {"schedule": "constant"}  # one that does not depend on the number of epochs
    fitted = fit(plan(**settings), data)
    rows = Rows(np.flatnonzero(np.arange(len(data[1])) % 6 > 1), NONE, NONE)
    assert same(fit(plan(**settings | {"epochs": fitted.best}), data, rows).head, fitted.head)


def test_the_watched_loss_of_many_rows_is_that_after_temperature_scaling():
    features, targets = clouds(rows=240, spread=4)
    fitted = fit(plan(**NOISY), (features, targets))
    watched = np.flatnonzero(np.arange(len(targets)) % 6 == 1)
    _, loss = calibration.fit_temperature(fitted.head.logits(features[watched, 0]), targets[watched])
    assert fitted.history[fitted.best - 1].watched_loss == pytest.approx(loss, rel=1e-4)


def test_features_in_half_precision_in_a_file_are_learned_as_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    features, targets = clouds()
    halved = np.memmap(tmp_path / "features", np.float16, "w+", shape=features.shape)
    halved[:] = features
    monkeypatch.setattr(arrays, "BLOCK", 16)
    for hidden in ((), (8,)):
        given = plan(hidden=hidden, epochs=3)
        whole = fit(given, (halved.astype(np.float32), targets))
        assert same(fit(given, (halved, targets)).head, whole.head)


def test_figures_in_blocks_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    scores, targets = generator.normal(size=(100, 3)).astype(np.float32), generator.integers(0, 3, 100)
    rows = np.arange(1, 100, 2)
    whole = loss_and_accuracy(torch.from_numpy(scores[rows]), torch.from_numpy(targets[rows]))
    assert measured(torch.from_numpy, scores, rows, targets[rows]) == whole
    monkeypatch.setattr(arrays, "BLOCK", 7)
    assert measured(torch.from_numpy, scores, rows, targets[rows]) == pytest.approx(whole, abs=1e-6)
    assert np.isnan(measured(torch.from_numpy, scores, rows[:0], targets[:0])).all()


def test_without_watched_rows_all_epochs_run():
    fitted = fit(plan(patience=1, min_delta=5.0), rows=Rows(np.arange(60), NONE, NONE))
    assert [step.number for step in fitted.history] == [1, 2, 3, 4, 5]
    assert fitted.best == 5
    assert np.isnan([fitted.history[0].watched_loss, fitted.history[0].validation_loss]).all()


def test_each_epoch_is_heard_of_as_it_ends():
    heard: list[Step] = []
    stages: list[tuple[str, int, int]] = []
    fitted = fit(plan(), listen=heard.append, progress=lambda *stage: stages.append(stage))
    assert tuple(heard) == fitted.history
    assert stages == [("Training the head", done, 5) for done in (0, 1, 2, 3, 4, 5)]


# ── how fast it goes ──


def plateau(losses: list[float], patience: int, min_delta: float) -> list[float]:
    """Return by what the rate was divided in each epoch, if it falls when half of the patience is used up."""
    best, wait, factor, factors = float("inf"), 0, 1.0, []
    for loss in losses:
        factors.append(factor)
        wait += 1
        if loss < best - min_delta:
            best, wait = loss, 0
        elif wait >= patience // 2:
            factor, wait = factor / 10, 0
    return factors


@pytest.mark.parametrize("epochs", [3, 7, 8])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rate_of_each_epoch_is_that_of_the_schedule(optimizer: str, epochs: int):
    third = -(-epochs // 3)
    expected = {
        "constant": [1.0] * epochs,
        "cosine": [(1 + np.cos(np.pi * done / epochs)) / 2 for done in range(epochs)],
        "step": [0.1 ** (done // third) for done in range(epochs)],
    }
    for schedule, factors in expected.items():
        given = plan(optimizer=optimizer, schedule=schedule, learning_rate=0.02, epochs=epochs)
        rates = [step.learning_rate for step in fit(given).history]
        assert rates == pytest.approx([0.02 * factor for factor in factors])


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("patience", [2, 4, 6])
def test_the_rate_falls_on_a_plateau_when_half_of_the_patience_is_used_up(patience: int, min_delta: float):
    given = plan(**NOISY | {"schedule": "plateau", "patience": patience, "min_delta": min_delta})
    history = fit(given, clouds(spread=4)).history
    factors = plateau([step.watched_loss for step in history], patience, min_delta)
    assert [step.learning_rate for step in history] == pytest.approx([0.03 * factor for factor in factors])
    assert factors[-1] < 1


def test_a_plateau_without_watched_rows_is_one_of_the_rows_learned_from():
    data = clouds(spread=4)
    given = plan(**NOISY | {"schedule": "plateau", "epochs": 20}, patience=4)
    history = fit(given, data, everything(data)).history
    factors = plateau([step.train_loss for step in history], 4, given.min_delta)
    assert [step.learning_rate for step in history] == pytest.approx([0.03 * factor for factor in factors])
    assert factors[-1] < 1


def test_a_rate_with_which_the_fit_diverges_is_named():
    features, targets = clouds()
    given = plan(optimizer="sgd", learning_rate=100.0, batch_norm=False, hidden=(64, 64), epochs=50)
    with pytest.raises(ConfigError, match=r"After epoch \d+ the loss is (nan|inf)") as refused:
        fit(given, (1e6 * features, targets))
    assert refused.value.hint == "Lower head.learning_rate, which is 100."


def test_a_watched_loss_that_is_no_number_is_named():
    features, targets = clouds()
    features[0] = 3e38
    with pytest.raises(ConfigError, match="the fit has diverged"):
        fit(plan(), (features, targets), Rows(np.arange(1, 60), np.array([0]), NONE))


# ── killed, and going on ──


class Killed(KeyboardInterrupt):
    """Somebody ended the process."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the state after every epoch."""
    monkeypatch.setattr(sgd, "SAVE_EVERY", 0)


def killed(epoch: int, folder: Path, given: HeadPlan, **more: Any) -> None:
    """Begin a fit and kill it when it tells of this epoch: what is kept is the state after the one before."""

    def listen(step: Step) -> None:
        if step.number == epoch:
            raise Killed

    with pytest.raises(Killed):
        fit(given, folder=folder, listen=listen, **more)


@pytest.mark.slow
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_D3_a_fit_killed_in_any_epoch_goes_on_to_the_same_bits(optimizer: str, schedule: str, tmp_path: Path):
    stop = {"epochs": 6, "patience": 3, "min_delta": 0.0}  # most get worse from the third on
    given = plan(hidden=(32,), optimizer=optimizer, schedule=schedule, learning_rate=0.05, **stop)
    data = clouds(spread=6)
    whole = fit(given, data)
    for epoch in range(1, len(whole.history) + 1):
        killed(epoch, tmp_path, given, data=data)
        assert len(list(tmp_path.iterdir())) == (epoch > 1)
        begun: list[int] = []
        again = fit(given, data, folder=tmp_path, progress=lambda _, done, __, begun=begun: begun.append(done))
        assert begun[0] == epoch - 1  # nothing is done twice
        assert same(again.head, whole.head)
        assert (again.history, again.best) == (whole.history, whole.best)
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("often")
def test_D3_a_fit_killed_in_every_epoch_goes_on_to_the_same_bits(tmp_path: Path):
    whole = fit(plan())
    for epoch in (2, 3, 4, 5):
        killed(epoch, tmp_path, plan())
    heard: list[Step] = []
    begun: list[int] = []
    again = fit(plan(), folder=tmp_path, listen=heard.append, progress=lambda _, done, __: begun.append(done))
    assert begun[0] == 4  # the epochs before the last kill are not computed again
    assert same(again.head, whole.head)
    assert tuple(heard) == whole.history  # the earlier epochs once more
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_D3_a_fit_without_watched_rows_goes_on_as_well(momentum: float, tmp_path: Path):
    rows = Rows(np.arange(60), NONE, NONE)
    given = plan(optimizer="sgd", momentum=momentum, hidden=(), batch_norm=False)
    killed(4, tmp_path, given, rows=rows)
    begun: list[int] = []
    again = fit(given, rows=rows, folder=tmp_path, progress=lambda _, done, __: begun.append(done))
    assert begun[0] == 3  # nothing is done twice
    assert same(again.head, fit(given, rows=rows).head)


def changed_data(which: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the clouds with one number (0) or one label (1) changed."""
    features, targets = clouds()
    features[2, 1, 0] += 1e-3 * (which == 0)
    targets[2] = (targets[2] + (which == 1)) % CLASSES
    return features, targets


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"given": plan(learning_rate=0.001)},
        {"given": plan(epochs=6)},
        {"data": changed_data(0)},
        {"data": changed_data(1)},
        {"rows": Rows(np.arange(60), np.arange(60, 90), NONE)},
        {"rows": Rows(np.arange(60), NONE, np.arange(60, 90))},
    ],
    ids=["seed", "rate", "epochs", "features", "labels", "rows", "watched"],
)
def test_the_state_of_another_fit_is_not_taken(other: dict[str, Any], tmp_path: Path):
    killed(4, tmp_path, plan())
    (kept,) = tmp_path.iterdir()
    given = {"given": plan()} | other
    assert same(fit(**given, folder=tmp_path).head, fit(**given).head)
    assert list(tmp_path.iterdir()) == [kept]
    assert same(fit(plan(), folder=tmp_path).head, fit(plan()).head)


def test_a_state_is_named_after_some_views_as_after_a_copy_of_them_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = np.arange(2_000_000, dtype=np.float32).reshape(2000, 2, 500)
    alone, names = np.ascontiguousarray(values[:, :1]), []
    monkeypatch.setattr(arrays, "BLOCK", 64)
    for some in (alone, values[:, :1]):
        tracemalloc.start()
        names.append(checkpoint.Checkpoint(tmp_path, {}, {"features": some})._path)
        assert tracemalloc.get_traced_memory()[1] < alone.nbytes / 4
        tracemalloc.stop()
    assert names[0] == names[1]


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_a_damaged_state_is_passed_over(damage: str, tmp_path: Path):
    killed(4, tmp_path, plan())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2]}.get(damage, b"garbage" * 1000))
    begun: list[int] = []
    again = fit(plan(), folder=tmp_path, progress=lambda _, done, __: begun.append(done))
    assert begun[0] == 0
    assert same(again.head, fit(plan()).head)


@pytest.mark.usefixtures("often")
def test_a_state_with_a_flipped_bit_is_passed_over(tmp_path: Path):
    killed(4, tmp_path, plan())
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    begun: list[int] = []
    assert same(fit(plan(), folder=tmp_path, progress=lambda _, done, __: begun.append(done)).head, fit(plan()).head)
    assert begun[0] == 0


@pytest.mark.usefixtures("often")
def test_a_state_of_another_content_is_passed_over(tmp_path: Path):
    killed(4, tmp_path, plan())
    (file,) = tmp_path.iterdir()
    save_file({"a": torch.zeros(1)}, file, {"state": "{}"})
    assert same(fit(plan(), folder=tmp_path).head, fit(plan()).head)


def test_nothing_is_kept_of_a_fit_of_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sgd, "SAVE_EVERY", 3600)
    fit(plan(), folder=tmp_path / "fits")
    assert not (tmp_path / "fits").exists()


@pytest.mark.usefixtures("often")
def test_the_kept_state_is_for_its_owner_alone(tmp_path: Path):
    killed(3, tmp_path / "fits", plan())
    assert (tmp_path / "fits").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("often")
def test_keeping_the_state_changes_nothing(tmp_path: Path):
    assert same(fit(plan(), folder=tmp_path).head, fit(plan()).head)
