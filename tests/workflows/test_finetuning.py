"""A network trained with its head, through the command line: plan, lines, card, plots, and a model that loads."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import timm
import torch
from conftest import Ran
from PIL import Image
from safetensors.torch import save_file

from headstart.cli.train import Patience
from headstart.learning.clock import STAGE
from headstart.model import artifact
from headstart.records import silence

SIDE = 32


def striped(root: Path, each: int = 300) -> Path:
    """Draw stripes across and down that are hard to tell apart by features that mean nothing."""
    for k, name in enumerate(("across", "down")):
        (root / name).mkdir(parents=True)
        for number in range(each):
            drawn = np.random.default_rng([k, number])
            stripes = (np.arange(SIDE) + drawn.integers(6)) // 3 % 2 - 0.5
            plane = np.broadcast_to(stripes[:, None] if k == 0 else stripes[None], (SIDE, SIDE))
            pixels = drawn.integers(90, 160, 3) + plane[..., None] * 15 + drawn.normal(0, 20, (SIDE, SIDE, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{name}{number:03d}.png")
    return root


@pytest.mark.slow
def test_a_fine_tuned_model_tells_what_it_is_and_answers_as_it_was_measured(tmp_path: Path, run: Callable[..., Ran]):
    photos, out, weights = striped(tmp_path / "photos"), tmp_path / "model", tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    asked = [
        "head.finetune=all",
        "finetune.learning_rate=0.003",
        "finetune.epochs=5",
        "finetune.patience=5",
        "pictures.size=32",
    ]
    network = ["--backbone", "test_resnet", "--weights", weights, "--no-mirror", "--engine", "torch"]
    settings = [part for one in asked for part in ("--set", one)]
    ran = run("train", photos, *network, *settings, "--no-refit", "--out", out)
    assert ran.code == 0, ran.err
    assert "network    trained with that head, at most 5 epochs in batches of 16" in ran.err
    assert "epoch 5 of at most 5: loss" in ran.err
    assert "a trained network beside the frozen gave log-loss" in ran.err
    assert "trained with the head" in (out / "README.md").read_text("utf-8")
    told = json.loads((out / "model.json").read_text("utf-8"))["training"]
    assert told["finetune"]["kept"]
    with open(out / "history.csv", newline="", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2", "3", "4", "5"]
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = artifact.load_classifier(out).predict_many([photos / row["path"] for row in rows])
    measured = np.array([[float(row[f"probability:{name}"]) for name in ("across", "down")] for row in rows])
    np.testing.assert_allclose(said.probabilities, measured, atol=1e-6)
    assert (out / "plots" / "training.png").is_file()


class Ended(BaseException):
    """An interrupt arrived where it would without a training of networks."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], bool]]:
    """Interrupt a training in some stage so often, and return whether its networks are told that it is enough.

    What an interrupt does otherwise is set here: a process in the background may have been started without heeding any.
    Handlers are called, no signal is sent: after some other tests the kernel finds no room for a handler on the stack
    that pytest's faulthandler sets up for signals, and the process dies. `test_crash` sends some to processes without.
    """

    def ended(*_: object) -> None:
        raise Ended

    def call(stage: str, times: int) -> bool:
        patience = Patience(silence)
        patience.enough = Event()
        try:
            with patience.heeding_interrupts():
                patience(stage, 1, 10)
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
        finally:
            assert signal.getsignal(signal.SIGINT) is ended
        return patience.enough.is_set()

    monkeypatch.setattr(signal, "raise_signal", lambda number: signal.getsignal(number)(number, None))
    before = signal.signal(signal.SIGINT, ended)
    yield call
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_while_a_network_trains_ends_only_that_and_the_second_everything(
    interrupt: Callable[[str, int], bool],
):
    assert interrupt(STAGE, 1)
    with pytest.raises(Ended):
        interrupt(STAGE, 2)


def test_an_interrupt_while_no_network_trains_ends_everything(interrupt: Callable[[str, int], bool]):
    with pytest.raises(Ended):
        interrupt("Encoding", 1)


@pytest.mark.slow
def test_an_interrupted_training_of_a_network_ends_with_a_saved_model(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    photos, out, weights = striped(tmp_path / "photos"), tmp_path / "model", tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    heard = Patience.__call__

    def interrupted(patience: Patience, stage: str, done: int, total: int) -> None:
        heard(patience, stage, done, total)
        if stage.startswith(STAGE) and done == 5 and patience.enough is not None:
            patience.enough.set()  # what the handler does, which `run` leaves to the test runner

    monkeypatch.setattr(Patience, "__call__", interrupted)
    network = ["--backbone", "test_resnet", "--weights", weights, "--no-mirror", "--engine", "torch"]
    ran = run("train", photos, *network, "--set", "head.finetune=all", "--set", "pictures.size=32", "--out", out)
    assert ran.code == 0, ran.err
    assert "so it is left out: no epoch came to its end; it was stopped" in ran.err
    assert artifact.load_classifier(out).classes == ("across", "down")
