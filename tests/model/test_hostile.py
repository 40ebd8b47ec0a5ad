"""A folder that somebody prepared: loading opens nothing outside, asks nobody, never hangs, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from contracts import rewrite

import headstart
from headstart import storage
from headstart.encoding import pretrained
from headstart.errors import ArtifactError, BackboneError
from headstart.model import artifact
from headstart.model.artifact import load_classifier

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(ARTIFACTS / "v4", tmp_path / "model")


WATCH = """
import os, sys, warnings
import torch, timm, headstart.model.artifact  # whatever importing opens is no matter of the model
places = [sys.argv[1], sys.prefix, sys.base_prefix, *filter(None, sys.path), "/proc", "/sys"]
allowed = [os.path.realpath(place) for place in places]
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.system", "urllib.")):
        raise AssertionError(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        place = os.path.realpath(os.fsdecode(arguments[0]))
        if place != os.devnull and not any(place == one or place.startswith(one + os.sep) for one in allowed):
            raise AssertionError(f"{event} {place}")
sys.addaudithook(watch)
try:
    print("LOADED", headstart.model.artifact.load_classifier(sys.argv[1]).classes)
except headstart.errors.ArtifactError as error:
    print("REFUSED", error.message)
"""


def watched(folder: Path) -> str:
    """Load in a process that ends as soon as anything outside the folder is opened or anybody is asked."""
    environment = os.environ | {"PYTHONPATH": str(Path(headstart.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_loading_opens_nothing_outside_and_asks_nobody(folder: Path):
    assert "LOADED" in watched(folder)


ARGUMENTS = {
    "pretrained": True,
    "checkpoint_path": "/etc/passwd",
    "pretrained_cfg": {"file": "/etc/passwd"},
    "pretrained_cfg_overlay": {"url": "https://example.org/weights.pth"},
    "cache_dir": "/tmp",
    "features_only": True,
    "num_classes": 5,
    "embed_dim": 10**9,
    "act_layer": "../../etc/passwd",
    "global_pool": float("inf"),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_arguments_that_lead_elsewhere_are_refused(folder: Path, argument: str):
    rewrite(folder, networks__0__arguments={argument: ARGUMENTS[argument]})
    with pytest.raises(ArtifactError, match=f"{argument}|Infinity"):
        load_classifier(folder)
    own = load_classifier(ARTIFACTS / "v3").backbone.networks[0]
    with pytest.raises(BackboneError, match=argument):
        pretrained.rebuild(own.name, own.module.state_dict(), own.preprocess, {argument: ARGUMENTS[argument]})


@pytest.mark.parametrize(
    ("name", "place"), [("v2", "backbone"), ("v3", "backbone"), ("v4", "networks__0"), ("v4", "networks__1")]
)
def test_another_pooling_is_noticed(name: str, place: str, tmp_path: Path):
    folder = shutil.copytree(ARTIFACTS / name, tmp_path / "model")
    rewrite(folder, **{f"{place}__arguments": {"global_pool": "avg"}})
    with pytest.raises(ArtifactError, match="another digest for its backbone"):
        load_classifier(folder)


def test_a_value_that_is_changed_by_hand_is_noticed(folder: Path):
    path = folder / "model.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"crop": 0.95', '"crop": 0.85'), encoding="utf-8")
    with pytest.raises(ArtifactError, match="does not have the digest that it gives for itself"):
        load_classifier(folder)


@pytest.mark.parametrize("name", ["model.json", "head.safetensors", "backbone.safetensors", "backbone.2.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path, name: str):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} is not a regular file"):
        load_classifier(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "../elsewhere"])
@pytest.mark.parametrize("name", ["model.json", "head.safetensors", "out_of_distribution.safetensors"])
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, name: str, target: str):
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(target)
    with pytest.raises(ArtifactError, match=f"{name} is a link to .*outside the folder"):
        load_classifier(folder)


def test_a_link_within_the_folder_and_to_it_is_followed(folder: Path, tmp_path: Path):
    (folder / "head.safetensors").rename(folder / "real")
    (folder / "head.safetensors").symlink_to("real")
    (tmp_path / "link").symlink_to(folder)
    assert load_classifier(tmp_path / "link").classes == load_classifier(ARTIFACTS / "v3").classes


@pytest.mark.parametrize("known", [True, False], ids=["exchange", "no-exchange"])
def test_a_model_takes_the_place_of_another(folder: Path, known: bool, monkeypatch: pytest.MonkeyPatch):
    if not known:
        monkeypatch.setattr(artifact, "exchange", lambda *_: False)
    (folder / "mark").touch()
    artifact.save(load_classifier(folder), folder)
    assert ((folder / "mark").exists(), (folder.with_name("model.1") / "mark").exists()) == (False, True)
    assert not list(folder.parent.glob(".*.tmp"))


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="other systems know no exchange")
def test_a_kill_between_the_steps_leaves_both_models(folder: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        pass

    def kill(*_: object) -> bool:
        raise Killed

    monkeypatch.setattr(artifact, "exchange", kill)
    with pytest.raises(Killed):
        artifact.save(load_classifier(folder), folder)
    assert [load_classifier(folder.with_name(name)).classes[0] for name in ("model", "model.1")] == ["ash", "ash"]


def test_two_folders_change_names_in_one_step(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if storage.exchange(tmp_path / "a", tmp_path / "b"):
        assert ((tmp_path / "a" / "b").exists(), (tmp_path / "b" / "a").exists()) == (True, True)
        with pytest.raises(FileNotFoundError):
            storage.exchange(tmp_path / "a", tmp_path / "none")


def test_a_place_whose_model_was_put_aside_says_how_to_get_it_back(folder: Path):
    folder.rename(folder.with_name("model.1"))
    with pytest.raises(ArtifactError, match="There is no model at") as refused:
        load_classifier(folder)
    assert f"rename {folder}.1 back" in refused.value.hint
