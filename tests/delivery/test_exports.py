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
import onnx
import pytest
from conftest import Ran, draw_folders, scene
from onnx import numpy_helper
from PIL import Image

import headstart as hs
from headstart.data import images
from headstart.delivery import exports, parity, runtimes
from headstart.delivery.exports import FORMS, Form, Target
from headstart.encoding import backbone as backbones
from headstart.encoding import runtime
from headstart.encoding.backbone import Backbone
from headstart.errors import ArtifactError, ConfigError, ExportError, MissingExtraError
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.model.portable import Input
from headstart.report import exported, usage

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
    deep = np.asarray(scene(96).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    return [*paths, *(folder / name for name in ("turned.jpg", "grey.png", "faded.png", "deep.png"))]


def single(resize: str = "crop") -> Classifier:
    """Return Lite0 with a head of random weights."""
    backbone, encoder = contracts.lite0(resize=resize), contracts.encoder()
    own = contracts.toy_classifier(("original",))
    if resize != "crop":
        encoder = type(encoder)(backbone.networks[0], encoder.plan)
    return replace(own, backbone=backbone, encoders=(encoder,), head=contracts.head(backbone.dim, 2))


def of(backbone: Backbone) -> Classifier:
    """Return one network with a head of random weights, on PyTorch in float32."""
    own, plan = contracts.toy_classifier(("original",)), contracts.toy_encoders()[0].plan
    encoders = runtime.build_all(backbone, plan)
    return replace(own, backbone=backbone, encoders=encoders, head=contracts.head(backbone.dim, 2))


CASES: dict[str, Callable[[], Classifier]] = {
    "linear": single,
    "letterbox": lambda: single("letterbox"),
    "squash": lambda: single("squash"),
    "two-networks-two-views": contracts.toy_classifier,
    "hidden-layers": lambda: replace(single(), head=contracts.head(single().backbone.dim, 2, 9, batch_norm=True)),
    "lite1": lambda: of(backbones.load("lite1", size=64)),
    "lite2": lambda: of(backbones.load("lite2", size=64)),
    "vit": lambda: of(contracts.toy("test_vit", 160)),
    "resnet": lambda: of(contracts.toy("test_resnet", 64)),
}


def made(own: Classifier, target: Target, folder: Path) -> Path:
    """Write an export in float32 into a folder of its own."""
    folder.mkdir()
    written = exports.write(own, target, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(exports.FILES[target.form])
    assert {path.parent for path in written} == {folder}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_an_export_answers_as_the_classifier(case: str, form: Form, tmp_path: Path):
    own, pictures, target = CASES[case](), photos(tmp_path / "photos"), Target(form)
    proof = parity.prove(own, target, made(own, target, tmp_path / "out"), pictures)
    (against,) = proof.compared  # it runs in float32, so there is one comparison
    assert (against.pictures, against.flips, against.allowed) == (len(pictures), 0, parity.EXACT)
    assert against.difference < 0.02
    assert proof.holds


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("case", ["letterbox", "two-networks-two-views"])
def test_an_export_of_tensors_is_closer_still(case: str, form: Form, tmp_path: Path):
    own, pictures, target = CASES[case](), photos(tmp_path / "photos"), Target(form, "tensors")
    proof = parity.prove(own, target, made(own, target, tmp_path / "out"), pictures)
    assert proof.compared[0].flips == 0
    assert proof.compared[0].difference < 1e-4  # nothing is left to differ but sums


def test_what_an_export_takes_is_told():
    own = contracts.toy_classifier()
    told = exports.told(own, "tensors")
    assert told["inputs"]["tensors_1"].startswith("float32 (N, 3, 64, 64)")
    assert told["inputs"]["tensors_2"].startswith("float32 (N, 3, 48, 48)")
    assert list(exports.told(single(), "tensors")["inputs"]) == ["tensors"]
    assert list(exports.told(own)["inputs"]) == ["pictures"]
    assert {"size", "mean", "std", "resize", "crop"} <= told["networks"][1]["preprocess"].keys()


@pytest.mark.slow
def test_what_a_model_runs_on_has_a_bound_of_its_own(tmp_path: Path):
    own, target = single(), Target("openvino")
    plan = replace(own.encoders[0].plan, precision="bf16")
    own = replace(own, encoders=(runtime.by_plan(own.encoders[0], plan),))
    proof = parity.prove(own, target, made(own, target, tmp_path / "out"), photos(tmp_path / "photos"))
    assert [one.allowed for one in proof.compared] == [parity.EXACT, parity.ALLOWED]
    precise, rough = proof.compared
    assert precise.engine == "openvino f32"
    assert precise.difference < 0.02


@pytest.mark.slow
def test_a_model_in_int8_is_bound_to_float32_alone(tmp_path: Path):
    own, target = contracts.quantized_toy_classifier(), Target("openvino")
    proof = parity.prove(own, target, made(own, target, tmp_path / "out"), photos(tmp_path / "photos"))
    assert [(one.engine, one.allowed) for one in proof.compared] == [("openvino f32", 0.002), ("openvino int8", None)]
    assert proof.holds


@pytest.mark.slow
def test_timm_s_form_answers_as_the_classifier(tmp_path: Path):
    own, pictures, target = single(), photos(tmp_path / "photos"), Target("timm")
    folder = made(own, target, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == list(own.classes)
    exact, through = parity.prove(own, target, folder, pictures).compared
    assert exact.pictures == through.pictures == len(pictures)
    assert (exact.allowed, through.allowed) == (parity.EXACT, parity.RESIZED)
    assert exact.difference < 1e-4
    assert exact.difference < through.difference < 0.1  # it rounds the sides of the picture to whole pixels first
    assert "timm's transform" in str(through)


@pytest.mark.parametrize("case", ["two-networks-two-views", "hidden-layers", "letterbox"])
def test_timm_s_form_does_not_hold_every_model(case: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="timm's format holds one network") as told:
        exports.write(CASES[case](), Target("timm"), tmp_path)
    assert "--to onnx" in told.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("torchscript",), "one of onnx, openvino, timm"),
        (("onnx", "files"), "one of pictures, tensors"),
        (("onnx", "pictures", "int4"), "one of none, int8"),
        (("timm", "tensors"), "--input does not go with --to timm"),
        (("timm", "pictures", "int8"), "--quantize does not go with --to timm"),
    ],
)
def test_what_there_is_not_is_refused(asked: tuple[Any, ...], told: str):
    with pytest.raises(ConfigError, match=told):
        Target(*asked)


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
    assert "0 of 12 labels differ from Headstart's in torch f32 (0.2 % may)" in ran.err
    assert "The proof rests on 12 pictures only." in ran.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*exports.FILES[form], "parity.json", "README.md"}
    told = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert (told["form"], told["holds"], told["input"], told["quantize"]) == (form, True, "pictures", "none")
    (compared,) = told["compared"]
    assert (compared["pictures"], compared["flips"], compared["allowed"]) == (12, 0, 0.002)
    assert told["told"]["classes"] == ["a", "é\n,"]
    ran = run(*given, "--verify", "--json")
    assert (ran.code, json.loads(ran.out)["holds"]) == (0, True)
    ran = run(*given)
    assert ran.code == 2
    assert "is there already, and is left alone" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_damaged_and_missing_files_are_named(tmp_path: Path, form: Form):
    own, pictures = single(), photos(tmp_path / "photos")
    artifact.save(own, tmp_path / "model")
    out = tmp_path / "out"
    folder = made(own, Target(form), out)
    proof = parity.prove(own, Target(form), folder, pictures[:2])
    exported._tell(out, tmp_path / "model", own, proof)
    for name in exports.FILES[form]:
        kept = (out / name).read_bytes()
        for content in (kept[: len(kept) // 2], b"", kept + b" "):
            (out / name).write_bytes(content)
            with pytest.raises(ArtifactError, match=f"{name} is not the file that parity.json tells of"):
                exported.verify(tmp_path / "model", out, pictures=pictures)
        (out / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} cannot be read: No such file"):
            exported.verify(tmp_path / "model", out, pictures=pictures)
        (out / name).write_bytes(kept)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"form": "onnx", "input": "pictures", "quantize": "none", "files": 3}']
)
def test_a_proof_that_tells_of_nothing_is_none(tmp_path: Path, text: str):
    (tmp_path / "parity.json").write_text(text)
    with pytest.raises(ArtifactError, match="is no export of Headstart"):
        exported._read(tmp_path)


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
    monkeypatch.setattr(parity, "EXACT", -0.01)
    with pytest.raises(ExportError, match="Nothing was written") as told:
        hs.export(model, "openvino", tmp_path / "out", pictures=[model.parent / "photos"])
    assert "0 of 12 labels differ" in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_says_what_it_costs(run: Run, model_folder: Path, tmp_path: Path, form: str):
    given = ["export", model_folder, "--to", form, "--quantize", "int8", "--out", tmp_path / "out"]
    ran = run(*given)
    assert ran.code == 0, ran.err
    told = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    accuracy = told["accuracy"]
    assert (accuracy["pictures"], accuracy["most"], accuracy["holds"]) == (18, 0.01, True)
    assert accuracy["learned"] == 18  # of so few the head learned from all; half of them calibrate
    assert accuracy["lost"][1] < 0 < accuracy["lost"][2]  # so few prove little, and the interval says so
    assert all(one["allowed"] is None for one in told["compared"])
    assert told["bytes"] < 0.6 * told["unquantized"]["bytes"]
    assert "on 18 labelled pictures, all of which the head had learned from" in ran.err
    assert "Removing initializer" not in ran.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*exports.FILES[form], "parity.json", "README.md"}
    assert run(*given, "--verify").code == 0
    if form == "onnx":
        held = onnx.load(str(tmp_path / "out" / "model.onnx")).graph.initializer
        weights = [numpy_helper.to_array(one) for one in held if one.data_type == onnx.TensorProto.INT8]
        dense = [
            one.astype(int) for one in weights if one.ndim == 4 and one.shape[1] > 1
        ]  # others are not added in pairs
        assert dense
        assert max(np.abs(one).max() for one in dense) <= 64


@pytest.mark.slow
def test_int8_that_loses_too_much_is_not_left(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = runtimes.opened

    def opened(target: Target, folder: Path) -> runtimes.Runtime:
        return replace(real(target, folder), run=lambda given: np.array([0.0, 0.0, 1.0], np.float32))

    monkeypatch.setattr(runtimes, "opened", opened)
    with pytest.raises(ExportError, match="accuracy .* before int8") as told:
        hs.export(model_folder, "openvino", tmp_path / "out", quantize="int8")
    assert "--quantize" in told.value.hint
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_int8_without_nncf_says_which_line_to_type(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match="--quantize int8 needs") as told:
        hs.export(model, "openvino", tmp_path / "out", quantize="int8")
    assert "headstart[int8]" in told.value.hint


def test_int8_is_calibrated_with_nothing_that_it_is_measured_on(model_folder: Path, tmp_path: Path):
    classifier = artifact.load_classifier(model_folder)
    chosen = exported._choose(model_folder, classifier, Target("onnx", quantize="int8"), None, None)
    calibrated = exported._calibrated(model_folder, classifier, chosen)
    measured = {one.path for one in chosen.labelled.dataset}
    assert not measured & set(calibrated)
    assert set(chosen.compared) <= measured
    assert len(calibrated) == len(measured) == 18


def test_labelled_pictures_can_be_named(model_folder: Path, tmp_path: Path):
    draw_folders(tmp_path / "new", each=4)  # the first of those that were learned from, so that these do not calibrate
    classifier = artifact.load_classifier(model_folder)
    chosen = exported._choose(model_folder, classifier, Target("onnx", quantize="int8"), None, tmp_path / "new")
    assert (len(chosen.labelled.dataset), chosen.labelled.learned) == (12, 12)
    known = {images.digest(path.read_bytes()) for path in (tmp_path / "new").rglob("*.png")}
    calibrated = exported._calibrated(model_folder, classifier, chosen)
    assert not known & {images.digest(path.read_bytes()) for path in calibrated}
    with pytest.raises(ConfigError, match="--labelled is what the accuracy"):
        exported._choose(model_folder, classifier, Target("onnx"), None, tmp_path / "new")


TYPED = [("onnx", "pictures", "crop"), *(("openvino", "tensors", resize) for resize in ("crop", "letterbox", "squash"))]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "taken", "resize"), TYPED)
def test_what_the_card_says_can_be_typed(
    form: Form, taken: Input, resize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own, target = single(resize), Target(form, taken)
    monkeypatch.chdir(made(own, target, tmp_path / "out"))
    scene(1, (130, 90)).save("picture.jpg")
    names: dict[str, Any] = {}
    exec(usage.code(own, target), names)  # noqa: S102
    said = own.predict("picture.jpg").top
    found = dict(zip(own.classes, np.ravel(names["probabilities"]).tolist(), strict=True))
    assert found == pytest.approx(dict(said), abs=0.01)


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
