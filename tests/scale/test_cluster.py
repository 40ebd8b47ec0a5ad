"""A cluster of Ray on this machine whose nodes, workers and drivers are killed: the same results, at last."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contracts
import numpy as np
import psutil
import pytest
from conftest import HUES, SMALL, draw_folders, picture
from PIL.PngImagePlugin import PngInfo
from serving import loopback

import headstart
from headstart.config import read_config
from headstart.data import listings, sources
from headstart.delivery import forms, streaming
from headstart.encoding import features
from headstart.encoding.cache import survey
from headstart.errors import ConfigError, StorageError
from headstart.inspection import files
from headstart.learning import problem, spread
from headstart.learning.spread import Spread
from headstart.model.artifact import load_classifier
from headstart.records import Dataset, silence
from headstart.scale import filling, hand
from headstart.scale.filling import Filling

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("_this_machine_only")]
_this_machine_only = pytest.fixture(loopback)

# what the processes of the cluster begin with: a decoder that some pictures kill
PLANTED = """
import os, signal
from PIL import ImageFile
load = ImageFile.ImageFile.load
def deadly(image):
    if image.info.get("fate") == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return load(image)
ImageFile.ImageFile.load = deadly
"""
DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import contracts
from headstart.data import sources
from headstart.inspection import files
from headstart.scale.filling import Filling
def die(stage, done, total):
    if stage == "Encoding" and done >= total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
dataset = sources.read({photos!r})
with Filling({address!r}, Path({cache!r})) as fill:
    fill(dataset, files.fingerprints(dataset)[0], [contracts.encoder()], views=("original",), progress=die)
"""
HERE = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two machines, which are processes here; each has a processor."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "sitecustomize.py").write_text(PLANTED)
    (folder / "token").write_text(os.urandom(32).hex())
    (folder / "token").chmod(0o600)
    home = str(Path(headstart.__file__).parents[1])
    surroundings = {
        "PYTHONPATH": os.pathsep.join([str(folder), home]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three hundred pictures."""
    return sources.read(draw_folders(tmp_path_factory.mktemp("drawn") / "photos", each=100))


def fill(dataset: Dataset, cluster: str, cache: Path, progress: Any = silence) -> dict[int, str]:
    """Have a cluster compute what a cache lacks."""
    digests, _ = files.fingerprints(dataset)
    asked: Any = {"views": ("original",), "with_properties": True, "progress": progress}
    with Filling(cluster, cache) as fill_it:
        return fill_it(dataset, digests, [contracts.encoder()], **asked)


def extracted(dataset: Dataset, cache: Path | None) -> Any:
    digests, _ = files.fingerprints(dataset)
    return features.extract(dataset, digests, [contracts.encoder()], with_properties=True, cache=cache).table


def content(dataset: Dataset, cache: Path | None) -> str:
    """Return the digest of all features and properties, in the order of the pictures."""
    table = extracted(dataset, cache)
    parts = table.values, table.properties.figures, table.properties.thumbnails, table.properties.colours
    return hashlib.sha256(b"".join(np.nan_to_num(part).tobytes() for part in parts)).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what this process computes alone."""
    return content(dataset, None)


def answers(processes: Iterable[psutil.Process], question: str, *arguments: Any) -> dict[psutil.Process, Any]:
    """What processes say of themselves, without those that have ended meanwhile."""
    said = {}
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            said[one] = getattr(one, question)(*arguments)
    return said


def workers() -> list[psutil.Process]:
    """The processes that work for a cluster of this process."""
    inner = answers(psutil.Process().children(recursive=True), "cmdline")
    return [one for one, words in inner.items() if "".join(words[:1]).startswith("ray::Station")]


def test_G1_a_node_and_a_worker_are_killed_and_nothing_is_missing(
    machines: Any, dataset: Dataset, undisturbed: str, tmp_path: Path
):
    killed: list[Any] = []

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "Encoding" and 0 < done < total and len(killed) < 2:
            if not killed:
                killed.append(workers()[0])
                killed[0].kill()
            else:
                killed.append(machines.worker_nodes and next(iter(machines.worker_nodes)))
                machines.remove_node(killed[1], allow_graceful=False)

    assert fill(dataset, machines.address, tmp_path / "cache", kill) == {}
    machines.add_node(num_cpus=1)
    assert len(killed) == 2
    again = extracted(dataset, tmp_path / "cache")
    assert again.encoded == 0
    assert content(dataset, tmp_path / "cache") == undisturbed


def test_G2_a_driver_is_killed_at_half_and_little_is_done_twice(machines: Any, dataset: Dataset, tmp_path: Path):
    cache = tmp_path / "cache"
    told = {"tests": HERE, "photos": str(dataset.root), "address": machines.address, "cache": str(cache)}
    ran = subprocess.run([sys.executable, "-c", DRIVER.format(**told)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    psutil.wait_procs(workers(), 60)  # which Ray ends, since their driver has gone
    before = stored(cache)
    assert len(dataset) / 2 <= before < len(dataset)
    assert fill(dataset, machines.address, cache) == {}
    assert extracted(dataset, cache).encoded == 0
    assert stored(cache) - len(dataset) <= 2 * 37  # a block of each of two workers


def stored(cache: Path) -> int:
    """Return how many rows of features lie in a cache, those that are there twice counted twice."""
    digest = contracts.encoder().dim
    return sum(one.rows for one in survey(cache, verify=True) if width(one.path) == digest)


def width(shard: Path) -> int:
    from safetensors import safe_open

    with safe_open(shard, framework="numpy") as file:
        return int(file.get_slice("values").get_shape()[1])


def test_G3_three_of_a_thousand_pictures_kill_whoever_decodes_them(machines: Any, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", tuple(HUES), each=250)
    fate = PngInfo()
    fate.add_text("fate", "poison")
    poisoned = {"ash/ash_07.png", "birch/birch_00.png", "elm/elm_249.png"}
    for name in poisoned:
        picture((9, 9, 9), hash(name) % 1000).save(photos / name, pnginfo=fate)
    begun = time.monotonic()
    found = headstart.check(photos, read_config(None, flags=SMALL), cache=tmp_path / "cache", cluster=machines.address)
    assert time.monotonic() - begun < 120
    (unusable,) = (one for one in found if one.code == "unusable-pictures")
    assert {name.partition(" ")[0] for name in unusable.names} == poisoned
    assert all("signal 9" in name for name in unusable.names)
    rows = [one.rows for one in survey(tmp_path / "cache", verify=True) if width(one.path) == contracts.encoder().dim]
    assert sum(rows) == 997


def test_G4_a_cluster_of_another_version_is_refused(
    machines: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def version(name: str) -> str:
        return "11.0.0" if name == "pillow" else importlib.metadata.version(name)

    monkeypatch.setattr(hand, "importlib", SimpleNamespace(metadata=SimpleNamespace(version=version)))
    with pytest.raises(ConfigError, match=r"the version of pillow is 1[2-9]\S* there and 11.0.0 here"):
        fill(dataset, machines.address, tmp_path / "cache")
    assert stored(tmp_path / "cache") == 0


def test_a_head_trained_with_a_cluster_is_that_trained_without(
    machines: Any, small_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(filling, "MANY", 1)  # files are read there, too
    asked = read_config(None, flags=SMALL)
    result = headstart.train(small_result.dataset, asked, cache=tmp_path / "cache", cluster=machines.address)
    theirs, ours = (one.classifier.head.tensors for one in (result, small_result))
    assert theirs.keys() == ours.keys()
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in ours)
    assert result.digests == small_result.digests
    assert result.evaluation.overall == small_result.evaluation.overall


def test_a_head_that_a_cluster_fits_is_that_fitted_here_whoever_dies(
    machines: Any, small_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spread, "FEW", 20)
    monkeypatch.setattr(problem, "STRETCH", 16)
    said, asked, killed = Spread.said, [], []

    def counted(self: Spread, given: Any) -> Any:
        asked.extend(given)
        if len(asked) > 60 and not killed:
            killed.append(workers()[0])
            killed[0].kill()
        return said(self, given)

    monkeypatch.setattr(Spread, "said", counted)
    config, cache = read_config(None, flags=SMALL), tmp_path / "cache"
    result = headstart.train(small_result.dataset, config, cache=cache, cluster=machines.address)
    assert killed
    assert {one.turn is None for one in asked} == {True, False}
    theirs, ours = (one.predictions["validation"].probabilities for one in (result, small_result))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    theirs, ours = (one.evaluation.overall["log_loss"].value for one in (result, small_result))
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert not list(cache.glob(f"{spread.FOLDER}*"))


def test_rows_predicted_with_a_cluster_are_those_predicted_without(
    machines: Any, model_folder: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forms, "BLOCK", 64)
    classifier = load_classifier(model_folder)
    listed = listings.of([dataset.root])
    form = forms.Lines("table", classifier.classes)
    alone = streaming.Request(model_folder, None, classifier, listed, form)
    shared = replace(alone, cluster=machines.address)
    streaming.to_file(alone, tmp_path / "alone.csv", silence, print)
    expected = (tmp_path / "alone.csv").read_bytes()

    def stop(stage: str, done: int, total: int) -> None:
        if done > 64:
            raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        streaming.to_file(shared, tmp_path / "shared.csv", stop, said.append)
    streaming.to_file(shared, tmp_path / "shared.csv", silence, said.append)
    assert (tmp_path / "shared.csv").read_bytes() == expected
    assert "Going on: " in said[-1]
    lines: list[bytes] = []
    streaming.to_stream(shared, lines.append, silence)
    assert b"".join(lines) == expected


def test_a_cluster_that_sees_another_folder_is_refused(dataset: Dataset, tmp_path: Path):
    with pytest.raises(ConfigError, match="A cluster brings features through the cache"):
        Filling("local:1", None)
    job = hand_that_sees(tmp_path)
    with pytest.raises(StorageError, match="does not see the cache folder"):
        job.begin()


def hand_that_sees(folder: Path) -> Any:
    from headstart.scale.encoding import Encoding

    return Encoding((), contracts.encoder().plan, ("original",), False, folder, ".cluster.of-somebody-else.tmp")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_cluster_of_this_machine_has_a_token_of_its_own_whatever_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    with Filling("local:1", tmp_path / "cache") as fill_it:
        fill_it.opened(silence)
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert len(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()) == 64
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("disabled", "of another cluster")


@pytest.fixture
def begin(tmp_path: Path, dataset: Dataset) -> Callable[[], tuple[subprocess.Popen[str], Path]]:
    """Begin `headstart check --cluster local:1`, and wait until its worker works."""

    def call() -> tuple[subprocess.Popen[str], Path]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"TMPDIR": tempfile.gettempdir(), "PYTHONPATH": str(Path(headstart.__file__).parents[1])}
        command = [sys.executable, "-m", "headstart", "check", str(dataset.root), "--backbone", "lite0"]
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen([*command, "--cluster", "local:1"], stdout=file, stderr=file, env=environment)
        while ["ray::Station.do"] not in [words[:1] for words in answers(family(process), "cmdline").values()]:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        return process, log

    return call


def test_G5_nobody_but_this_machine_is_listened_to_and_an_interrupt_leaves_nothing(
    begin: Callable[[], tuple[subprocess.Popen[str], Path]],
):
    process, log = begin()
    inner = family(process)
    sockets = [one for each in answers(inner, "net_connections", "inet").values() for one in each]
    heard = {one.laddr.ip for one in sockets if one.status == "LISTEN"}
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    surroundings = answers(inner, "environ").values()
    (token,) = {Path(one["RAY_AUTH_TOKEN_PATH"]) for one in surroundings if "RAY_AUTH_TOKEN_PATH" in one}
    secret = token.read_text()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert not any(secret in " ".join(words) for words in answers(inner, "cmdline").values())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    psutil.wait_procs(inner, 10)
    left = answers([one for one in inner if one.is_running()], "status")
    assert set(left.values()) <= {psutil.STATUS_ZOMBIE}  # which nobody may come to collect
    assert not token.parent.exists()
    told = log.read_text()
    assert "Starting workers" in told
    assert "Interrupted" in told
    assert secret not in told
    assert "Traceback" not in told
    assert "raylet" not in told
