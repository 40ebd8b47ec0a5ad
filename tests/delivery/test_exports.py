"""A model in another form: its own runtime gives the same answers, or nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
from conftest import Ran, scene

import headstart as hs
from headstart.delivery import exports
from headstart.delivery.exports import FORMS, Form
from headstart.errors import ArtifactError, ConfigError, ExportError
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.report import exported

Run = Callable[..., Ran]


def photos(folder: Path, count: int = 8) -> list[Path]:
    """Draw pictures of many sizes, a few as cameras and scanners leave them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image = scene(number, (70 + 23 * number, 60 + 31 * number))
        paths.append(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
        image.save(paths[-1])
    exif = scene(99).getexif()
    exif[274] = 6  # lies on its side
    scene(99).save(folder / "turned.jpg", exif=exif)
    scene(98).convert("L").save(folder / "grey.png")
    faded = scene(97).convert("RGBA")
    faded.putalpha(120)
    faded.save(folder / "faded.png")
    return [*paths, folder / "turned.jpg", folder / "grey.png", folder / "faded.png"]


def single(resize: str = "crop") -> Classifier:
    """Return Lite0 with a head of random weights."""
    backbone, encoder = contracts.lite0(resize=resize), contracts.encoder()
    own = contracts.toy_classifier(("original",))
    if resize != "crop":
        encoder = type(encoder)(backbone.networks[0], encoder.plan)
    return replace(own, backbone=backbone, encoders=(encoder,), head=contracts.head(backbone.dim, 2))


CASES: dict[str, Callable[[], Classifier]] = {
    "linear": single,
    "letterbox": lambda: single("letterbox"),
    "squash": lambda: single("squash"),
    "two-networks-two-views": contracts.toy_classifier,
    "hidden-layers": lambda: replace(single(), head=contracts.head(single().backbone.dim, 2, 9, batch_norm=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_an_export_answers_as_the_classifier(case: str, form: Form, tmp_path: Path):
    own, pictures = CASES[case](), photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    written = exports.write(own, form, tmp_path / "out")
    assert sorted(path.name for path in written) == sorted(exports.FILES[form])
    parity = exports.prove(own, form, tmp_path / "out", pictures)
    assert (parity.pictures, parity.flips) == (len(pictures), 0)
    assert parity.difference < 0.02
    assert parity.holds


@pytest.mark.slow
def test_timm_s_form_answers_as_the_classifier(tmp_path: Path):
    own, pictures = single(), photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    exports.write(own, "timm", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["label_names"] == list(own.classes)
    parity = exports.prove(own, "timm", tmp_path / "out", pictures)
    assert parity.pictures == len(pictures)
    assert parity.difference < 0.1  # it rounds the sides of the picture to whole pixels first


@pytest.mark.parametrize("case", ["two-networks-two-views", "hidden-layers", "letterbox"])
def test_timm_s_form_does_not_hold_every_model(case: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="timm's format holds one network") as told:
        exports.write(CASES[case](), "timm", tmp_path)
    assert "--to onnx" in told.value.hint
    assert not list(tmp_path.iterdir())


def test_a_form_that_there_is_not_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="one of onnx, openvino, timm"):
        exports.write(single(), "torchscript", tmp_path)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved toy."""
    folder = tmp_path_factory.mktemp("exported")
    artifact.save(contracts.toy_classifier(), folder / "model")
    photos(folder / "photos")
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_the_command_exports_proves_and_verifies(run: Run, model: Path, tmp_path: Path, form: str):
    given = ["export", model, "--to", form, "--out", tmp_path / "out", "--pictures", model.parent / "photos"]
    ran = run(*given)
    assert ran.code == 0, ran.err
    assert "0 other labels" in ran.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*exports.FILES[form], "parity.json", "README.md"}
    told = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert (told["form"], told["holds"], told["pictures"], told["flips"]) == (form, True, 11, 0)
    assert told["told"]["classes"] == ["a", "é\n,"]
    ran = run(*given, "--verify", "--json")
    assert (ran.code, json.loads(ran.out)["flips"]) == (0, 0)
    ran = run(*given)
    assert ran.code == 2
    assert "is there already, and is left alone" in ran.err
    file = tmp_path / "out" / exports.FILES[form][-1]
    file.write_bytes(file.read_bytes() + b" ")
    ran = run(*given, "--verify")
    assert ran.code == 1
    assert "changed or damaged" in ran.err or "cannot be run" in ran.err


def test_where_nothing_is_said_it_goes_beside_the_model(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(model)
    (model.parent / "model-onnx").mkdir(exist_ok=True)
    (model.parent / "model-onnx" / "taken").write_text("")
    for said in (".", model, "../model"):
        ran = run("export", said, "--to", "onnx")
        assert ran.code == 2
        assert "model-onnx is there already" in ran.err


@pytest.mark.slow
def test_beyond_its_bound_nothing_is_left(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exports, "ALLOWED", -0.01)
    with pytest.raises(ExportError, match="nothing was written"):
        hs.export(model, "openvino", tmp_path / "out", pictures=[model.parent / "photos"])
    assert not list(tmp_path.iterdir())


def test_pictures_of_the_training_are_found_where_they_lay(model_folder: Path, tmp_path: Path):
    classifier = artifact.load_classifier(model_folder)
    found = exported._pictures(model_folder, classifier, None)
    assert len(found) == 36
    assert all(path.is_file() for path in found)


def test_without_pictures_there_is_no_proof_and_no_export(model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="nothing to compare on") as told:
        hs.export(model, "openvino", tmp_path / "out")
    assert "--pictures" in told.value.hint
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export_cannot_be_verified(model: Path, tmp_path: Path):
    with pytest.raises(ArtifactError, match="is no export of Headstart"):
        exported.verify(model, tmp_path)


@pytest.mark.slow
def test_a_client_of_thirty_lines_gives_the_same_labels(model: Path, tmp_path: Path):
    """`docs/examples/onnx_client.py` needs onnxruntime, Pillow and the standard library."""
    hs.export(model, "onnx", tmp_path / "out", pictures=[model.parent / "photos"])
    client = Path(hs.__file__).parents[2] / "docs" / "examples" / "onnx_client.py"
    pictures = sorted((model.parent / "photos").iterdir())
    command = [sys.executable, str(client), str(tmp_path / "out" / "model.onnx"), *map(str, pictures)]
    code = "import sys, runpy\nfor name in ('headstart', 'torch', 'timm'):\n    sys.modules[name] = None\n"
    code += "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    ran = subprocess.run([command[0], "-c", code, *command[1:]], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    said = hs.load(model).predict_many(pictures)
    assert [json.loads(line)["label"] for line in ran.stdout.splitlines()] == [one.label for one in said]


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_in_the_files_is_json(form: Form):
    told: dict[str, Any] = json.loads(json.dumps(exports.told(contracts.toy_classifier())))
    assert told["known_from"] is None
    assert told["networks"][0]["preprocess"]["size"] == 64
    assert np.isfinite(told["temperature"])
