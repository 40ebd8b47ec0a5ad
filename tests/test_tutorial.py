"""The tutorial's recipe from pictures to predictions, as Python and as it is typed, and the logs that hear of it."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
import torch
from conftest import Ran, draw_folders, picture, write_table
from safetensors.torch import load_file

import headstart as hs
from headstart import cli
from headstart.config import EncoderConfig, HeadConfig, PictureConfig
from headstart.model import layers

pytestmark = pytest.mark.slow  # trains, or kills what trains

Run = Callable[..., Ran]
TUTORIAL = ("--recipe", "tutorial", "--backbone", "lite0", "--set", "pictures.size=64", "--set", "head.epochs=2")
EPOCH = r"epoch (\d)/2: loss \d+\.\d{4}, accuracy [01]\.\d{4}; held out \d+\.\d{4}, [01]\.\d{4}; watched \d+\.\d{4}; "
FIT = {
    f"fit/{name}"
    for name in (
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "watched_loss",
        "learning_rate",
        "seconds",
    )
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices are fitted faster without threads, above all where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: most pictures are encoded once."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture
def _warm_cache(_own_cache: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(warm))


def config(refit: bool = False, **head: Any) -> hs.TrainConfig:
    """Return the tutorial's recipe on Lite0 at 64 px with a small head; settings of the head."""
    return hs.TrainConfig(
        recipe="tutorial",
        encoder=EncoderConfig("tf_efficientnet_lite0"),
        pictures=PictureConfig(size=64),
        head=HeadConfig(**({"epochs": 3, "hidden": (16,), "learning_rate": 0.01} | head)),
        refit=refit,
    )


@pytest.fixture(scope="module")
def result(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> hs.TrainingResult:
    """What the recipe gives on three classes of twelve pictures."""
    photos = draw_folders(tmp_path_factory.mktemp("drawn") / "photos")
    return hs.train(hs.read(photos), config(epochs=15), cache=warm)


@pytest.fixture(scope="module")
def trained(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """What `headstart train PHOTOS --out MODEL --recipe tutorial` says, and the model."""
    folder = tmp_path_factory.mktemp("trained")
    photos = draw_folders(folder / "photos")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("HEADSTART_CACHE", str(warm))
        patch.setenv("COLUMNS", "200")
        cli.app(["train", str(photos), "--out", str(folder / "out" / "model"), *TUTORIAL], standalone_mode=False)
    return Ran(0, out.getvalue(), err.getvalue()), folder / "out" / "model"


def told(model: Path) -> dict[str, Any]:
    """Return what a model's JSON file holds."""
    return json.loads((model / "model.json").read_text(encoding="utf-8"))


def history(model: Path) -> list[dict[str, str]]:
    """Return the rows of a run's history."""
    with open(model / "history.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ── as Python ──


def test_the_drawn_classes_are_learned(result: hs.TrainingResult):
    assert result.evaluation.overall["accuracy"].value == 1
    assert result.plan.head.hidden == (16,)
    assert result.plan.refit is False


def test_a_classifier_with_hidden_layers_keeps_the_contract(result: hs.TrainingResult, photos: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    contracts.check_classifier(result.classifier, sorted(photos.rglob("*.png"))[::5], tmp_path / "broken.png")


def test_an_artifact_with_hidden_layers_keeps_the_contract(result: hs.TrainingResult, tmp_path: Path):
    pictures = hs.read(draw_folders(tmp_path / "new", each=2))
    contracts.check_artifact(result.classifier, tmp_path / "model", pictures)


def test_the_run_comes_back_from_its_folder(result: hs.TrainingResult, tmp_path: Path):
    hs.save(result, tmp_path / "model")
    back, pictures = hs.load(tmp_path / "model"), hs.read(draw_folders(tmp_path / "new", each=2))
    said, before = (one.predict_many(pictures).probabilities for one in (back, result.classifier))
    np.testing.assert_array_equal(said, before)
    assert back.head.shape.describe() == {
        "kind": "multilayer",
        "features": 1280,
        "hidden": [16],
        "dropout": 0.5,
        "batch_norm": True,
    }


def test_the_saved_head_is_the_one_that_was_measured(photos: Path, warm: Path):
    dataset = hs.read(photos)
    result = hs.train(dataset, config(), cache=warm)
    again = result.classifier.predict_many(dataset.select(result.splits.validation))
    np.testing.assert_array_equal(again.probabilities, result.predictions["validation"].probabilities)


def test_the_history_has_one_row_an_epoch(result: hs.TrainingResult, tmp_path: Path):
    hs.save(result, tmp_path / "model")
    rows = history(tmp_path / "model")
    assert list(rows[0]) == [
        "step",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "watched_loss",
        "learning_rate",
        "seconds",
    ]
    assert [row["step"] for row in rows] == [str(number) for number in range(1, len(result.history) + 1)]
    assert all(float(value) >= 0 for row in rows for value in row.values())


def test_each_step_is_heard(photos: Path, warm: Path):
    heard: list[Any] = []
    result = hs.train(hs.read(photos), config(), cache=warm, listen=heard.append)
    assert tuple(heard) == result.history
    assert [step.number for step in heard] == [1, 2, 3]


def test_the_refit_is_of_all_pictures_and_says_so(photos: Path, warm: Path):
    plain, again = (hs.train(hs.read(photos), config(refit=refit), cache=warm) for refit in (False, True))
    training = again.classifier.provenance.training
    assert training["fitted_on"] == "36 training and validation pictures"
    assert training["figures_of"] == "the head fitted on the 30 training pictures, 3 of them only to stop it"
    assert plain.classifier.provenance.training["fitted_on"] == "30 training pictures, 3 of them only to stop it"
    assert again.evaluation.overall == plain.evaluation.overall
    assert not np.array_equal(again.classifier.head.weight, plain.classifier.head.weight)


def test_pixels_of_validation_pictures_decide_nothing(photos: Path, warm: Path):
    dataset = hs.read(photos)
    clean = hs.train(dataset, config(), cache=warm)
    for row in clean.splits.validation:
        picture((250, 10, 10), 5000 + int(row)).save(dataset[row].path)
    poisoned = hs.train(dataset, config(), cache=warm)
    assert clean.history != poisoned.history
    assert np.array_equal(clean.classifier.head.weight, poisoned.classifier.head.weight)


def test_watching_validation_is_said_to_flatter(photos: Path, warm: Path):
    result = hs.train(hs.read(photos), config(watch="validation"), cache=warm)
    assert "watched-validation" in [finding.code for finding in result.findings]
    assert result.classifier.provenance.training["watched"] == len(result.splits.validation) == 6
    assert result.classifier.provenance.training["fitted_on"] == "30 training pictures"


def test_the_same_seed_gives_the_same_head_to_the_bit(photos: Path, warm: Path, tmp_path: Path):
    first, second = (
        hs.train(hs.read(photos), config(), cache=cache).classifier.head.tensors for cache in (warm, tmp_path)
    )
    assert all(np.array_equal(value, second[name]) for name, value in first.items())


def test_the_order_of_the_rows_decides_nothing(photos: Path, warm: Path):
    dataset = hs.read(photos)
    shuffled = dataset.select(np.random.default_rng(0).permutation(len(dataset)))
    first, second = (hs.train(rows, config(), cache=warm).classifier.head for rows in (dataset, shuffled))
    assert np.array_equal(first.weight, second.weight)


def test_the_layers_of_the_head_are_listed_in_their_order(result: hs.TrainingResult):
    rows = [row for row in layers.layers(result.classifier) if row["name"].startswith("head.")]
    assert [(row["name"], row["output"], row["parameters"]) for row in rows] == [
        ("head.norm", [1, 1280], 2 * 1280),
        ("head.dense1", [1, 16], 1281 * 16),
        ("head.relu1", [1, 16], 0),
        ("head.dropout", [1, 16], 0),
        ("head.linear", [1, 3], 17 * 3),
    ]


# ── as it is typed ──


def test_train_prints_a_line_an_epoch_on_stderr_alone(trained: tuple[Ran, Path]):
    ran, out = trained
    assert re.findall(EPOCH, ran.err) == ["1", "2"]
    assert "epoch 1/2" not in ran.out
    assert len(history(out)) == 2


def test_train_says_what_the_recipe_is_going_to_do(trained: tuple[Ran, Path]):
    err = " ".join(trained[0].err.split())
    assert "head dense 512, 256, 128, dropout 0.5; by adam, learning rate 0.0003 (cosine)," in err
    assert "at most 2 epochs in batches of 32, stopped by a tenth of the training part" in err
    assert "then keep the measured head" in err
    assert "Training the head: 2 of 2" in err


def test_the_model_says_what_was_fitted(trained: tuple[Ran, Path]):
    ran, out = trained
    content = told(out)
    assert content["plan"]["recipe"] == "tutorial"
    assert content["head"]["hidden"] == [512, 256, 128]
    assert content["training"]["head"].startswith("dense 512 → 256 → 128 → 3, adam, epoch ")
    assert content["training"]["head"] in ran.out
    assert content["training"]["head"] in (out / "README.md").read_text(encoding="utf-8")


def test_the_head_s_file_holds_every_layer(trained: tuple[Ran, Path]):
    shapes = {name: tuple(value.shape) for name, value in load_file(trained[1] / "head.safetensors").items()}
    weights = {name: shape for name, shape in shapes.items() if name.endswith("weight")}
    assert weights == {
        "norm.weight": (1280,),
        "dense1.weight": (512, 1280),
        "dense2.weight": (256, 512),
        "dense3.weight": (128, 256),
        "linear.weight": (3, 128),
    }


@pytest.mark.usefixtures("_warm_cache")
def test_quiet_training_prints_no_epochs(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert "epoch 1/2" not in ran.out


@pytest.mark.usefixtures("_warm_cache")
def test_the_plan_of_a_run_gives_the_same_head(run: Run, photos: Path, trained: tuple[Ran, Path], tmp_path: Path):
    assert run("train", photos, "--out", tmp_path / "model", "--config", trained[1] / "plan.toml", "-q").code == 0
    for name in ("plan.toml", "head.safetensors", "predictions.csv"):
        assert (tmp_path / "model" / name).read_bytes() == (trained[1] / name).read_bytes(), name


@pytest.mark.usefixtures("_warm_cache")
def test_the_other_verbs_take_the_model(run: Run, photos: Path, trained: tuple[Ran, Path]):
    rows = run("predict", trained[1], photos, "-q")
    assert (rows.code, len(rows.out.splitlines())) == (0, 37)
    assert json.loads(run("evaluate", trained[1], photos, "--json", "-q").out)["pictures"] == 36
    names = [row["name"] for row in json.loads(run("summary", trained[1], "--json").out)]
    assert names[-2:] == ["head.linear", "calibration"]
    assert [name for name in names if "dense" in name] == ["head.dense1", "head.dense2", "head.dense3"]


def test_the_summary_counts_every_layer_of_the_head_as_fitted(run: Run, trained: tuple[Ran, Path]):
    weights = load_file(trained[1] / "head.safetensors")
    fitted = sum(value.numel() for name, value in weights.items() if name.endswith(("weight", "bias")))
    assert f"of which {fitted + 1:,} were fitted (head and temperature)" in run("summary", trained[1]).out


@pytest.mark.usefixtures("_warm_cache")
def test_the_usual_recipe_prints_no_epochs(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL[2:6])
    assert ran.code == 0
    assert "epoch" not in ran.err


def test_settings_that_exclude_each_other_are_refused_before_any_work(run: Run, photos: Path, tmp_path: Path):
    wrong = ("--set", "head.l2=1", "--set", "head.momentum=0.5")
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, *wrong)
    assert ran.code == 2
    assert "head.l2 is 1" in ran.err
    assert "head.momentum is 0.5" in ran.err
    assert not (tmp_path / "cache-of-this-test").exists()


def test_an_unknown_recipe_is_asked_wrongly(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", "--recipe", "kaggle")
    assert ran.code == 2
    assert "recipe is 'kaggle', but must be 'headstart' or 'tutorial'" in ran.err


# settings under which no fit stays finite
WILD = ("head.optimizer=sgd", "head.learning_rate=100", "head.weight_decay=100", "head.epochs=30")


@pytest.mark.usefixtures("_warm_cache")
def test_a_fit_that_diverges_names_the_rate_and_leaves_no_model(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, *(part for s in WILD for part in ("--set", s)))
    assert ran.code == 2
    assert "the fit has diverged" in ran.err
    assert "hint: Lower head.learning_rate, which is 100." in ran.err
    assert not (tmp_path / "model").exists()


# ── logs ──


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag → (step, value) of the event files under a folder, read record by record."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        content = io.BytesIO(file.read_bytes())
        while header := content.read(12):  # length and its checksum; after the record another checksum
            event = Event.FromString(content.read(struct.unpack("<Q", header[:8])[0]))
            content.read(4)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Have MLflow keep its runs in a folder; gives a function that returns the one run and its metrics."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def read() -> Any:
        client = importlib.import_module("mlflow").MlflowClient()
        (kept,) = client.search_runs([client.get_experiment_by_name("headstart").experiment_id])
        metrics = {name: client.get_metric_history(kept.info.run_id, name) for name in kept.data.metrics}
        return kept, {name: [(point.step, point.value) for point in points] for name, points in metrics.items()}

    return read


@pytest.mark.usefixtures("_warm_cache")
def test_tensorboard_hears_every_epoch_and_the_final_figures(run: Run, photos: Path, tmp_path: Path):
    out = tmp_path / "runs" / "model"
    ran = run("train", photos, "--out", out, *TUTORIAL, "--log", "tensorboard")
    assert ran.code == 0
    assert f"Logs: tensorboard --logdir {tmp_path / 'runs' / 'tensorboard'}\n" in ran.err
    heard, rows = scalars(tmp_path / "runs" / "tensorboard"), history(out)
    assert {tag for tag in heard if tag.startswith("fit/")} == FIT
    for tag in FIT:
        expected = [(int(row["step"]), float(row[tag.removeprefix("fit/")])) for row in rows]
        assert heard[tag] == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]
    accuracy = json.loads((out / "evaluation.json").read_text())["validation"]["overall"]["accuracy"][0]
    assert heard["validation/accuracy"] == [(2, pytest.approx(accuracy, abs=1e-6))]


@pytest.mark.usefixtures("_warm_cache")
def test_tensorboard_hears_the_iterations_of_the_usual_recipe(run: Run, photos: Path, tmp_path: Path):
    assert run("train", photos, "--out", tmp_path / "model", *TUTORIAL[2:6], "--log", "tensorboard", "-q").code == 0
    heard = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in heard["fit/train_loss"]] == [int(row["step"]) for row in history(tmp_path / "model")]
    assert "fit/learning_rate" not in heard  # there is none


@pytest.mark.usefixtures("_warm_cache")
def test_two_runs_are_two_in_tensorboard(run: Run, photos: Path, tmp_path: Path):
    for name in ("one", "two"):
        assert run("train", photos, "--out", tmp_path / name, *TUTORIAL, "--log", "tensorboard", "-q").code == 0
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "tensorboard").iterdir()) == ["one", "two"]


@pytest.mark.usefixtures("_warm_cache")
def test_mlflow_gets_parameters_a_metric_a_step_and_an_end(
    run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any]
):
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "mlflow")
    assert ran.code == 0, ran.err
    kept, metrics = tracked()
    assert "experiment headstart" in ran.err
    assert (kept.info.status, kept.info.run_name.split("-")[0]) == ("FINISHED", "model")
    assert kept.data.params["head.hidden"] == "(512, 256, 128)"
    assert (kept.data.params["recipe"], kept.data.params["head.epochs"], kept.data.params["seed"]) == (
        "tutorial",
        "2",
        "0",
    )
    assert {name for name in metrics if name.startswith("fit/")} == FIT
    rows = history(tmp_path / "model")
    expected = [(int(row["step"]), pytest.approx(float(row["train_loss"]), rel=1e-6)) for row in rows]
    assert metrics["fit/train_loss"] == expected
    assert [step for step, _ in metrics["validation/accuracy"]] == [2]


@pytest.mark.usefixtures("_warm_cache")
def test_mlflow_is_told_that_a_training_failed(run: Run, tmp_path: Path, tracked: Callable[[], Any]):
    photos = draw_folders(tmp_path / "photos", ("ash", "birch"), each=6)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    parts = [f"{name},{name.split('/')[0]},{'test' if row % 3 == 0 else 'train'}" for row, name in enumerate(names)]
    labels = write_table(tmp_path / "labels.csv", "file,label,split", *parts)
    given = ("--labels", labels, "--images", photos, "--out", tmp_path / "model", *TUTORIAL)
    ran = run("train", *given, *(part for s in WILD for part in ("--set", s)), "--log", "mlflow")
    assert ran.code == 2
    assert "the fit has diverged" in ran.err
    assert tracked()[0].info.status == "FAILED"


@pytest.mark.usefixtures("_warm_cache")
@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_logging_that_fails_in_the_middle_warns_and_the_training_ends_well(
    run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, kind: str
):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    for module, owner, name in (
        ("tensorboardX", "SummaryWriter", "add_scalar"),
        ("mlflow", "MlflowClient", "log_metric"),
    ):
        monkeypatch.setattr(getattr(importlib.import_module(module), owner), name, refuse)
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", kind)
    assert ran.code == 0
    assert ran.err.count("warning: Logging to ") == 1
    assert "ended: OSError: No space left on device" in ran.err
    assert told(tmp_path / "model")["training"]["epochs"] == 2


@pytest.mark.usefixtures("_warm_cache")
def test_one_log_that_fails_leaves_the_other(
    run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(importlib.import_module("tensorboardX").SummaryWriter, "add_scalar", refuse)
    logs = ("--log", "tensorboard", "--log", "mlflow", "--log", "mlflow")
    assert run("train", photos, "--out", tmp_path / "model", *TUTORIAL, *logs, "-q").code == 0
    kept, metrics = tracked()  # of two equal wishes one run
    assert kept.info.status == "FINISHED"
    assert len(metrics["fit/train_loss"]) == 2


def test_an_unknown_log_is_answered_with_those_that_there_are(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "wandb")
    assert ran.code == 2
    assert "--log is 'wandb'; it is one of tensorboard, mlflow." in ran.err
    assert not (tmp_path / "cache-of-this-test").exists()


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_a_log_whose_client_is_not_installed_says_how_to_install_it(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
):
    monkeypatch.setitem(sys.modules, module, None)
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", kind)
    assert ran.code == 2
    assert f"--log {kind} needs an optional part that is not installed" in ran.err
    assert f"hint: pip install 'headstart[{kind}]'" in ran.err
    assert not (tmp_path / "cache-of-this-test").exists()


def refuse_connections(*_: object) -> None:
    """Answer as a machine on which nobody listens: a client closes its socket then, which it would not otherwise."""
    raise ConnectionRefusedError("Connection refused")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nowhere://at/all"])
def test_a_tracking_server_that_cannot_be_reached_is_said_before_anything_is_encoded(
    run: Run, photos: Path, tmp_path: Path, tracked: object, monkeypatch: pytest.MonkeyPatch, address: str
):
    monkeypatch.setattr(socket.socket, "connect", refuse_connections)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "mlflow")
    assert ran.code == 2
    assert f"error: MLflow cannot log to {address}: " in ran.err
    assert "hint: MLFLOW_TRACKING_URI names the server" in ran.err
    assert not (tmp_path / "cache-of-this-test" / "features").exists()


@pytest.mark.usefixtures("_warm_cache")
def test_no_name_of_a_picture_is_logged(run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any]):
    logs = ("--log", "tensorboard", "--log", "mlflow")
    assert run("train", photos, "--out", tmp_path / "model", *TUTORIAL, *logs, "-q").code == 0
    tracked()
    kept = [path for place in ("tensorboard", "mlruns") for path in (tmp_path / place).rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if b"birch_" in path.read_bytes() or str(photos).encode() in path.read_bytes()]


@pytest.mark.usefixtures("_warm_cache")
def test_a_log_that_cannot_be_closed_costs_no_training(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    writer = importlib.import_module("tensorboardX").SummaryWriter
    close = writer.close

    def refuse(self: Any) -> None:
        close(self)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "close", refuse)
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "tensorboard")
    assert ran.code == 0
    assert "could not be closed" in ran.err
    assert (tmp_path / "model" / "model.json").is_file()


@pytest.mark.usefixtures("_warm_cache")
def test_mlflow_is_told_that_its_log_is_not_whole(
    run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(importlib.import_module("mlflow").MlflowClient, "log_metric", refuse)
    assert run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "mlflow", "-q").code == 0
    assert tracked()[0].info.status == "FAILED"


@pytest.mark.usefixtures("_warm_cache")
def test_a_second_log_that_cannot_be_opened_ends_the_first(
    run: Run, photos: Path, tmp_path: Path, tracked: Callable[[], Any]
):
    (tmp_path / "tensorboard").write_text("in the way")
    logs = ("--log", "mlflow", "--log", "tensorboard")
    assert run("train", photos, "--out", tmp_path / "model", *TUTORIAL, *logs, "-q").code == 1
    assert tracked()[0].info.status == "FAILED"


def test_passwords_in_an_address_are_not_printed(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket.socket, "connect", refuse_connections)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ran = run("train", photos, "--out", tmp_path / "model", *TUTORIAL, "--log", "mlflow")
    assert ran.code == 2
    assert "127.0.0.1:9" in ran.err
    assert "s3cret" not in ran.err
