"""What many tests share: pictures drawn on the fly, one small trained model, and a command line in this process."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# Before anything loads OpenMP: small matrices are fitted faster by one thread, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "200"  # read once, by whichever test prints first

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from bucket import Bucket

HUES = {"ash": (60, 60, 60), "birch": (200, 190, 60), "cedar": (60, 140, 220), "elm": (210, 70, 160)}
SMALL = {"encoder.backbone": "tf_efficientnet_lite0", "pictures.size": 64}
LONGEST = (
    "test_cluster.py",
    *("test_docs.py", "test_server.py", "test_crash.py", "test_cli.py", "test_exports.py", "test_page_for_people.py"),
    *("test_tutorial.py", "test_cli_trust.py", "test_finetune.py", "test_train.py"),
)

# Begins a script that measures itself. On Linux `ru_maxrss` would begin with the most that its parent ever had.
PEAK = """
import resource, sys
from pathlib import Path
def peak():
    told = Path("/proc/self/status")
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights that a test or what it is given draws are the same, whatever ran before it in this process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one of them at the end."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may open a connection, and nothing may try."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache folder of its own; the folder is made when it is first used."""
    folder = tmp_path / "cache-of-this-test"
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    return folder


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Draw a noisy picture of one colour, different for every seed."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def draw_folders(root: Path, classes: tuple[str, ...] = ("ash", "birch", "cedar"), each: int = 12) -> Path:
    """Write a folder of PNG pictures per class; classes without a hue of their own get a random one."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        hue = HUES.get(name) or tuple(np.random.default_rng(number).integers(40, 215, 3).tolist())
        for index in range(each):
            picture(hue, 1000 * number + index).save(root / name / f"{name}_{index:02d}.png")
    return root


def write_table(path: Path, *rows: str) -> Path:
    """Write a table line by line."""
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of twelve pictures."""
    return draw_folders(tmp_path / "photos")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in this process; arguments as they would be typed."""
    from headstart import cli

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the test runner keeps its own
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with warnings.catch_warnings():
            monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        captured = capfd.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A `TrainingResult` on three classes of twelve pictures, Lite0 at 64 px: some seconds, once a session."""
    from headstart.config import read_config
    from headstart.data import sources
    from headstart.workflows import train

    folder = tmp_path_factory.mktemp("small")
    dataset = sources.read(draw_folders(folder / "photos"))
    return train.train(dataset, read_config(None, flags=SMALL), cache=folder / "cache")


@pytest.fixture(scope="session")
def model_folder(small_result: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as `headstart train` saves it. Copy it before changing anything in it."""
    from headstart.report import run

    folder = tmp_path_factory.mktemp("saved") / "model"
    run.save(small_result, folder)
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An object store on loopback, with the environment that leads to it; who asks in vain is not patient."""
    from bucket import environment, serving

    from headstart.data import stores

    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in {"PAUSE": 0.001, "TIMEOUT": 30.0, "RETRIES": 3}.items():
        monkeypatch.setattr(stores, name, value)
    with serving() as served:
        for name, value in environment(served.url).items():
            monkeypatch.setenv(name, value)
        stores.forget_connections()
        yield served
    stores.forget_connections()


def scene(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Draw soft patches of colour, a picture unlike that of any other seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (7, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hugging Face hub that holds the weights of timm's toy `test_vit`, and what is of no use here."""
    import huggingface_hub.constants
    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "hub"

    def held(repository: str, name: str, revision: str = "main") -> Path:
        files = folder / repository / "snapshots" / "a1b2"
        files.mkdir(parents=True)
        (folder / repository / "refs").mkdir()
        (folder / repository / "refs" / revision).write_text("a1b2")
        (files / name).write_bytes(b"{}")
        return files / name

    weights = held("models--timm--test_vit.r160_in1k", "model.safetensors")
    save_file(timm.create_model("test_vit").state_dict(), weights)
    held("models--timm--test_vit2.r160_in1k", "config.json")  # begun only
    held("models--timm--test_vit3.r160_in1k", "model.safetensors", "refs-of-a-pull-request")
    held("models--timm--tf_efficientnet_lite0.in1k", "model.safetensors")  # comes with the installation
    held("models--somebody--something", "model.safetensors")
    held("datasets--timm--test_resnet.r160_in1k", "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder
