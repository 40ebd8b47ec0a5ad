"""Killed anywhere, interrupted, or run twice at once: nothing half-done is ever taken for whole, and a repetition gives
what one undisturbed run would have given.

Most tests here run code in children of one process that has imported everything (`nursery`), since imports take
seconds; what concerns the command line itself is a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import contracts
import numpy as np
import pytest
import timm
from conftest import draw_folders
from safetensors.torch import save_file

from headstart.data import sources
from headstart.encoding import backbone as backbones
from headstart.encoding import cache as caches
from headstart.encoding import features, runtime
from headstart.inspection import files
from headstart.learning.rules import PredictionRules
from headstart.model import artifact
from headstart.model.artifact import load_classifier
from headstart.model.classifier import Classifier
from headstart.plans import EncoderPlan
from headstart.records import ClassNames, Dataset, FeatureTable

pytestmark = pytest.mark.slow  # trains, or kills what trains

NURSERY = """
import json, os, signal, sys, time, traceback
import cleanlab.count, matplotlib.backends.backend_agg, sklearn.linear_model, sklearn.tree  # what is imported late
import headstart.cli, headstart.workflows.train, headstart.report.run, headstart.terminal
from headstart.inspection import files
from headstart.data import sources
from headstart.encoding import cache as caches
from headstart.encoding import features, runtime
from headstart.model import artifact
import contracts, PIL.Image, timm, torch
import openvino.tools.ovc
PIL.Image.init()
torch.optim.Adam([torch.zeros(1)])  # brings its compiler along

def born(code, log):
    begun, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(begun)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code_of_exit = 0
        try:
            exec(code, {**globals(), "begin": lambda: os.write(tell, b".")})
        except SystemExit as ended:
            code_of_exit = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code_of_exit = 70
        sys.stdout.flush()
        os._exit(code_of_exit)
    os.close(tell)
    return child, begun

print("ready", flush=True)
for line in sys.stdin:
    codes, kill_after, log = json.loads(line)
    children = [born(code, log) for code in codes]
    for child, begun in children:
        if os.read(begun, 1) and kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        os.close(begun)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]), flush=True)
"""

PREPARE = """
caches.SHARD_ROWS = 8
def extract(photos, cache, progress=lambda *_: None):
    dataset = sources.read(photos)
    digests, _ = files.fingerprints(dataset)
    encoder = contracts.encoder("openvino-f32")
    return features.extract(dataset, digests, [encoder], cache=cache, progress=progress)
"""

Nursery = Callable[..., list[int]]
SMALL = ("--backbone", "lite0", "--set", "pictures.size=64")


@pytest.fixture(scope="module")
def _process() -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def nursery(_process: subprocess.Popen[str], tmp_path: Path) -> Nursery:
    """Run pieces of code at the same time, each in a child; kill each some seconds after it called `begin()`."""

    def run(*codes: str, kill_after: float | None = None) -> list[int]:
        header = f"from pathlib import Path\ntmp = Path({str(tmp_path)!r})\n"
        request = json.dumps([[header + code for code in codes], kill_after, str(tmp_path / "log.txt")])
        _process.stdin.write(request + "\n")
        _process.stdin.flush()
        return json.loads(_process.stdout.readline())

    return run


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "photos", each=20))


def extracted(dataset: Dataset, cache: Path | None) -> FeatureTable:
    digests, _ = files.fingerprints(dataset)
    return features.extract(dataset, digests, [contracts.encoder()], cache=cache).table


def log(tmp_path: Path) -> str:
    return (tmp_path / "log.txt").read_text()


def stored_rows(cache: Path) -> int:
    return sum(state.rows for state in caches.survey(cache, verify=True))


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A model of 2 MB, so that a moment is as likely to hit any other step of saving as the writing of weights."""
    module = timm.create_model("test_resnet")
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    backbone = backbones.load("test_resnet", str(tmp_path / "weights.safetensors"))
    encoders = runtime.build_all(backbone, EncoderPlan("test_resnet", "", "torch", "cpu", "f32"))
    artifact.save(
        Classifier(backbone, encoders, contracts.head(backbone.dim, 2), PredictionRules(), ClassNames("ab")),
        tmp_path / "small",
    )
    return tmp_path / "small"


def test_D1_model_survives_being_killed_while_it_is_rewritten(nursery: Nursery, small_model: Path, tmp_path: Path):
    code = """
classifier = artifact.load_classifier(tmp / "small")
for number in range(20):
    out = tmp / f"{number}" / "model"
    artifact.save(classifier, out)
    child = os.fork()
    while child == 0:
        artifact.save(classifier, out)
    time.sleep(0.003 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
    assert nursery(code) == [0], log(tmp_path)
    expected = (small_model / "head.safetensors").read_bytes()
    halves = 0
    for number in range(20):
        models = sorted((tmp_path / str(number)).glob("model*"))  # what anyone would take for a model
        assert models
        for folder in models:
            load_classifier(folder)
            assert (folder / "head.safetensors").read_bytes() == expected
        halves += len(list((tmp_path / str(number)).glob(".model.*.tmp")))
    assert halves > 0  # or nothing was ever killed in the midst of it


@pytest.mark.parametrize("moment", [1, 17, 59])
def test_D2_killed_extraction_goes_on_where_it_was(nursery: Nursery, dataset: Dataset, tmp_path: Path, moment: int):
    code = f"""{PREPARE}
def die(stage, done, total):
    if stage == "Encoding" and done == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)
extract(tmp / "photos", tmp / "cache", die)
"""
    assert nursery(code) == [-signal.SIGKILL], log(tmp_path)
    kept = stored_rows(tmp_path / "cache")
    assert kept == (moment - 1) // 8 * 8
    again = extracted(dataset, tmp_path / "cache")
    assert again.encoded == 60 - kept
    assert again.values.tobytes() == extracted(dataset, None).values.tobytes()
    assert stored_rows(tmp_path / "cache") == 60


def test_D2_extraction_killed_again_and_again_ends_in_the_same_features(
    nursery: Nursery, dataset: Dataset, tmp_path: Path
):
    code = f"""{PREPARE}
begin()
extract(tmp / "photos", tmp / "cache")
"""
    codes = [nursery(code, kill_after=0.5 * number)[0] for number in range(6)]
    assert codes.count(-signal.SIGKILL) >= 2, log(tmp_path)
    assert set(codes) <= {0, -signal.SIGKILL}, log(tmp_path)
    assert extracted(dataset, tmp_path / "cache").values.tobytes() == extracted(dataset, None).values.tobytes()


def test_D6_two_processes_with_one_cache_share_the_work(nursery: Nursery, tmp_path: Path):
    dataset = sources.read(draw_folders(tmp_path / "photos", each=80))
    code = f"""{PREPARE}
from headstart.data import limits
limits.available_cores = lambda: 2  # each works ahead of what it has committed, with more cores further
table = extract(tmp / "photos", tmp / "cache").table
(tmp / f"{{os.getpid()}}.bin").write_bytes(table.values.tobytes())
"""
    assert nursery(code, code) == [0, 0], log(tmp_path)
    first, second = [path.read_bytes() for path in tmp_path.glob("*.bin")]
    assert first == second == extracted(dataset, None).values.tobytes()
    assert len(dataset) <= stored_rows(tmp_path / "cache") < 1.7 * len(dataset)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def command(*arguments: object) -> str:
    return f"""
sys.argv = ["headstart", *{list(map(str, arguments))!r}]
os.environ["HEADSTART_CACHE"] = str(tmp / "cache")
caches.SHARD_ROWS = 8
begin()
headstart.cli.main()
"""


def train(photos: Path, out: Path, *more: object) -> str:
    return command("train", photos, "--out", out, *SMALL, *more)


def killed_with(pattern: str, count: int = 1) -> str:
    """Code of a child that is killed as soon as its cache holds so many files of this kind.

    That is some moment before it puts in place the next file or makes a folder: there it waits for who kills it, which
    may be long in coming where processors are busy.
    """
    return f"""
victim = os.getpid()
def many():
    try:
        return len(list((tmp / "cache").glob({pattern!r}))) >= {count}
    except FileNotFoundError:  # a folder that went while it was looked at
        return False
if os.fork() == 0:
    while os.getppid() == victim and not many():
        time.sleep(0.001)
    if os.getppid() == victim:
        os.kill(victim, signal.SIGKILL)
    os._exit(0)
def waiting(call):
    def wait(*given, **named):
        if many():
            time.sleep(60)
        return call(*given, **named)
    return wait
os.replace, os.mkdir = waiting(os.replace), waiting(os.mkdir)
"""


SHARDS = "features/*/*.safetensors"


def shards(cache: Path) -> dict[Path, int]:
    """Return the shards of a cache and when each was written."""
    return {path: path.stat().st_ino for path in cache.glob(SHARDS)}


def test_D3_killed_and_repeated_training_gives_the_same_head_to_the_byte(nursery: Nursery, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", each=20)
    model = train(photos, tmp_path / "model")
    before: dict[Path, int] = {}
    for count in (3, 7, 16):  # of the 16 shards for 60 pictures: eight of features and of properties
        assert nursery(killed_with(SHARDS, count) + model) == [-signal.SIGKILL], log(tmp_path)
        assert not list(tmp_path.glob("*model*"))
        after = shards(tmp_path / "cache")
        assert len(after) >= count
        assert sum(after[path] != when for path, when in before.items()) <= 2  # those that the kill parted
        before = after
    assert nursery(model) == [0], log(tmp_path)
    assert shards(tmp_path / "cache") == before  # all were there: nothing is computed twice
    shutil.rmtree(tmp_path / "cache")
    assert nursery(train(photos, tmp_path / "whole")) == [0], log(tmp_path)
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("whole", "model")]
    assert heads[0] == heads[1]
    assert "Traceback" not in log(tmp_path)


EPOCHS = """
from headstart.learning import sgd
import torch
sgd.SAVE_EVERY = 0
torch.set_num_threads(1)
save = sgd.Checkpoint.save
def noted(self, tensors, told):
    save(self, tensors, told)
    with open(tmp / "epochs.txt", "a") as file:
        print(len(told["history"]), file=file)
    if len(told["history"]) == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
sgd.Checkpoint.save = noted
"""


def epochs(last: int | None = None) -> str:
    """Code that keeps the state of each epoch and notes its number; of a child that dies after the last one."""
    return EPOCHS.replace("LAST", str(last))


def computed(tmp_path: Path) -> list[int]:
    """Return the numbers of the epochs that were computed."""
    return [int(line) for line in (tmp_path / "epochs.txt").read_text().splitlines()]


def train_in_epochs(photos: Path, out: Path, epochs: int) -> str:
    settings = ("head.hidden=[16]", f"head.epochs={epochs}", f"head.patience={epochs}")
    return train(photos, out, "--recipe", "tutorial", *(part for setting in settings for part in ("--set", setting)))


def test_D3_epochs_killed_again_and_again_end_in_the_same_head_to_the_byte(nursery: Nursery, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos")
    whole, model = (train_in_epochs(photos, tmp_path / name, 40) for name in ("whole", "model"))
    for epoch in (7, 39):
        assert nursery(epochs(epoch) + model) == [-signal.SIGKILL], log(tmp_path)
        assert len(list((tmp_path / "cache" / "fits").iterdir())) == 1
        assert not list(tmp_path.glob("*model*"))
    assert nursery(epochs() + model) == [0], log(tmp_path)
    assert computed(tmp_path)[:40] == list(range(1, 41))  # each once, over three processes
    assert not list((tmp_path / "cache" / "fits").iterdir())
    assert nursery(whole) == [0], log(tmp_path)
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("whole", "model")]
    assert heads[0] == heads[1]


def test_D3_epochs_killed_from_outside_end_in_the_same_head_to_the_byte(nursery: Nursery, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos")
    whole, model = (train_in_epochs(photos, tmp_path / name, 100) for name in ("whole", "model"))
    assert nursery(killed_with("fits/*.safetensors") + epochs() + model) == [-signal.SIGKILL], log(tmp_path)
    assert not list(tmp_path.glob("*model*"))
    (tmp_path / "epochs.txt").unlink(missing_ok=True)
    assert [nursery(epochs() + model), nursery(whole)] == [[0], [0]], log(tmp_path)
    assert computed(tmp_path)[0] > 1  # it went on from the state that was there
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("whole", "model")]
    assert heads[0] == heads[1]
    assert "Traceback" not in log(tmp_path)


PREDICT = """
from headstart.delivery import forms, parts
forms.BLOCK = 8
put = parts.Parts.put
def noted(self, one):
    put(self, one)
    if len(self) == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
parts.Parts.put = noted
"""


def predict(model: Path, photos: Path, out: Path, form: str, last: int | None = None) -> str:
    """Code that predicts in parts of eight pictures, and dies once there are so many."""
    arguments = ("predict", model, photos, "--out", out, "--format", form, "--no-cache")
    return PREDICT.replace("LAST", str(last)) + command(*arguments)


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_D2_killed_prediction_goes_on_where_it_was_and_ends_in_the_same_bytes(
    nursery: Nursery, model_folder: Path, tmp_path: Path, form: str
):
    photos = draw_folders(tmp_path / "photos")
    for last in (2, 4):
        assert nursery(predict(model_folder, photos, tmp_path / "out", form, last)) == [-signal.SIGKILL], log(tmp_path)
        assert not (tmp_path / "out").exists()
    assert nursery(predict(model_folder, photos, tmp_path / "out", form)) == [0], log(tmp_path)
    assert "Going on: 16 of 36" in log(tmp_path)
    assert "Going on: 32 of 36" in log(tmp_path)
    assert nursery(predict(model_folder, photos, tmp_path / "whole", form)) == [0], log(tmp_path)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not list(tmp_path.glob(".*.parts"))


@pytest.mark.parametrize(("limit", "kept"), [(100, 0), (1500, 36)])
def test_D4_prediction_with_no_room_left_keeps_what_it_has(
    nursery: Nursery, model_folder: Path, tmp_path: Path, limit: int, kept: int
):
    """A limit on the size of files stands for a full disk: 100 bytes stop the first part, 1,500 the whole file."""
    photos = draw_folders(tmp_path / "photos")
    (tmp_path / "out").write_text("what was there")
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    full, free = (begin + predict(model_folder, photos, tmp_path / "out", "table") for begin in (code, ""))
    assert nursery(full) == [1]
    assert (tmp_path / "out").read_text() == "what was there"
    assert not list(tmp_path.rglob("*.tmp"))
    assert nursery(free) == [0], log(tmp_path)
    assert ("Going on: 36 of 36" in log(tmp_path)) == bool(kept)
    assert len((tmp_path / "out").read_text().splitlines()) == 37
    assert not list(tmp_path.glob(".*.parts"))


@pytest.mark.parametrize("limit", [20_000, 2_000_000])
def test_D4_train_with_no_room_left_ends_with_an_error(nursery: Nursery, tmp_path: Path, limit: int):
    """A limit on the size of files stands for a full disk: 20 kB stops the cache, 2 MB the model."""
    photos = draw_folders(tmp_path / "photos")
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    assert nursery(code + train(photos, tmp_path / "model")) == [1], log(tmp_path)
    assert "error: " in log(tmp_path)
    assert "cannot be written" in log(tmp_path)
    assert "Traceback" not in log(tmp_path)
    assert not list(tmp_path.glob("*model*"))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("place", ["file/model", "/proc/headstart/model"])
def test_D5_train_into_a_place_that_cannot_be_written_fails_before_any_work(
    nursery: Nursery, tmp_path: Path, place: str
):
    (tmp_path / "file").write_text("a regular file")
    photos = draw_folders(tmp_path / "photos")
    assert nursery(train(photos, tmp_path / place)) == [1], log(tmp_path)
    assert "cannot be written" in log(tmp_path)
    assert not (tmp_path / "cache").exists()


@contextlib.contextmanager
def two_cores() -> Iterator[None]:
    """Leave two cores to what is started meanwhile, where the system can: with many, all is done in a moment."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start `headstart train` on 600 pictures, as a person would."""
    draw_folders(tmp_path / "photos", each=200)
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "headstart", "train", "photos", "--mirror", "--out", "model", *SMALL]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            with two_cores():
                process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
            return stack.enter_context(process)

        yield start


def wait_for(process: subprocess.Popen[str], cache: Path, pattern: str) -> None:
    """Wait until there is such a file in the cache."""
    for _ in range(10_000):
        if process.poll() is not None or list(cache.rglob(pattern)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} for 100 seconds")


def test_D13_interrupted_training_keeps_what_it_had_and_goes_on_from_there(
    started: Callable[[], subprocess.Popen[str]], tmp_path: Path
):
    process = started()
    wait_for(process, tmp_path / "cache", "*.safetensors")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert 256 <= stored_rows(tmp_path / "cache") < 1800
    again = started()
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert (
        stored_rows(tmp_path / "cache") == 1800
    )  # two views and the properties of each picture, nothing computed twice
    assert {path: path.read_bytes() for path in kept} == kept


def test_D13_terminated_training_stops_soon_and_clean_however_often_it_is_told(
    started: Callable[[], subprocess.Popen[str]], tmp_path: Path
):
    process = started()
    wait_for(process, tmp_path / "cache", "remembered.json")  # encoding begins
    time.sleep(0.3)
    begun = time.monotonic()
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (143, False), errors
    assert "Interrupted" in errors
    assert time.monotonic() - begun < 15
    assert list(tmp_path.glob("*model*")) == list((tmp_path / "cache").rglob("*.tmp")) == []
    assert stored_rows(tmp_path / "cache") > 0


def test_told_to_stop_once_more_while_it_says_so_it_ends_the_same_way():
    code = """
import os, signal
from headstart import cli, terminal

def told(*given, then=terminal.stderr.print, **how):
    os.kill(os.getpid(), signal.SIGTERM)
    then(*given, **how)

cli.app = terminal.stderr.print = told
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (143, False), ended.stderr
    assert "Interrupted" in ended.stderr


@pytest.mark.parametrize(("patience", "kept"), [("5.0", True), ("-1.0", False)])
def test_told_to_stop_once_more_it_first_puts_away_what_it_has(tmp_path: Path, patience: str, kept: bool):
    code = f"""
import os, pathlib, signal, sys
from headstart import cli

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        pathlib.Path(sys.argv[1]).touch()

cli.app, cli.PATIENCE = work, {patience}
cli.main()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "kept")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (143 if kept else 130, False), ended.stderr
    assert (tmp_path / "kept").exists() == kept


def test_contract_of_the_bundled_engine_holds_in_a_child(nursery: Nursery, tmp_path: Path):
    """The nursery itself: what its children compute is what this process computes."""
    code = """
import numpy
vectors = numpy.stack(list(contracts.encoder("openvino-f32").encode(contracts.noise(3))))
(tmp / "vectors.bin").write_bytes(vectors.tobytes())
"""
    assert nursery(code) == [0], log(tmp_path)
    own = np.stack(list(contracts.encoder().encode(contracts.noise(3))))
    assert (tmp_path / "vectors.bin").read_bytes() == own.tobytes()
