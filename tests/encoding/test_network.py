"""Backbones: whatever file the weights come from, it runs no code, and what does not fit is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import contracts
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from headstart.encoding import pretrained, runtime
from headstart.encoding.network import Network
from headstart.errors import BackboneError, ConfigError, HeadstartError
from headstart.plans import EncoderPlan

TOYS = ["test_vit", "test_resnet", "test_efficientnet"]


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def toy(name: str, folder: Path, **options: object) -> tuple[torch.nn.Module, Path]:
    """A small timm network with random weights, and the file they are written to."""
    torch.manual_seed(0)
    module = timm.create_model(name, **options)
    file = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, file)
    return module.eval(), file


def local_dir(folder: Path, name: str = "test_resnet") -> Path:
    """A folder as timm's `save_for_hf` writes it."""
    _, file = toy(name, folder)
    file.rename(folder / "model.safetensors")
    config = {"architecture": name, "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.5}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def altered(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Weights of `test_resnet` with some tensors replaced (None: left out); two underscores stand for a dot."""
    module, file = toy("test_resnet", folder)
    state = dict(module.state_dict())
    for key, value in tensors.items():
        state.pop(key.replace("__", "."), None)
        if value is not None:
            state[key.replace("__", ".")] = value
    save_file(state, file)
    return file


@pytest.mark.parametrize("suffix", ["pth", "bin", "ckpt"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_C1_pickle_in_weights_runs_no_code(tmp_path: Path, suffix: str, form: str):
    file, mark = tmp_path / f"weights.{suffix}", tmp_path / "ran"
    content = {"state_dict": {"conv_stem.weight": Hostile(mark)}}
    if form == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(BackboneError) as refused:
        pretrained.load("lite0", str(file), size=64)
    assert not mark.exists()
    assert str(file) in str(refused.value)
    assert "mkdir" in str(refused.value)  # the blocked global, by name
    assert "weights_only" not in str(refused.value)  # and no advice to switch the protection off


def test_C1_pickle_named_safetensors_runs_no_code(tmp_path: Path):
    file, mark = tmp_path / "weights.safetensors", tmp_path / "ran"
    file.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(BackboneError, match="no safetensors file"):
        pretrained.load("lite0", str(file), size=64)
    assert not mark.exists()


def test_C1_pickle_in_a_local_dir_runs_no_code(tmp_path: Path):
    folder, mark = local_dir(tmp_path), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"conv1.weight": Hostile(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError):
        pretrained.load(f"local-dir:{folder}")
    assert not mark.exists()


@pytest.mark.parametrize("forged", contracts.FORGED)
def test_C3_hostile_safetensors_as_weights_is_refused_at_once(tmp_path: Path, forged: str):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(contracts.FORGED[forged])
    begun = time.process_time()
    with pytest.raises(BackboneError, match="no safetensors file"):
        pretrained.load("test_resnet", str(file))
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_C4_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    bad = toy("test_resnet", tmp_path)[0].state_dict()["conv1.0.weight"].clone()
    bad[-1, -1, -1, -1] = value
    with pytest.raises(BackboneError, match=r"conv1\.0\.weight holds numbers that are not finite"):
        pretrained.load("test_resnet", str(altered(tmp_path, conv1__0__weight=bad)))


def test_C5_weights_of_another_network_name_a_tensor(tmp_path: Path):
    _, file = toy("test_efficientnet", tmp_path)
    with pytest.raises(BackboneError, match=r"conv1\.0\.weight is missing.*and \d+ more"):
        pretrained.load("test_resnet", str(file))


def test_C5_weights_of_the_wrong_shape_name_the_tensor(tmp_path: Path):
    file = altered(tmp_path, conv1__0__weight=torch.zeros(1, 2, 3, 4))
    with pytest.raises(BackboneError, match=r"conv1\.0\.weight has the shape \(1, 2, 3, 4\) instead of"):
        pretrained.load("test_resnet", str(file))


def test_C5_weights_with_a_tensor_left_out_name_it(tmp_path: Path):
    with pytest.raises(BackboneError, match=r"bn1\.running_var is missing"):
        pretrained.load("test_resnet", str(altered(tmp_path, bn1__running_var=None)))


def test_C5_weights_with_a_tensor_too_many_name_it(tmp_path: Path):
    with pytest.raises(BackboneError, match="smuggled is unknown"):
        pretrained.load("test_resnet", str(altered(tmp_path, smuggled=torch.zeros(1))))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_C5_truncated_weights_are_refused(tmp_path: Path, suffix: str):
    module, file = toy("test_resnet", tmp_path)
    if suffix == "pth":
        file = tmp_path / "weights.pth"
        torch.save(module.state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BackboneError, match=file.name):
        pretrained.load("test_resnet", str(file))


def test_weights_may_be_a_plain_pth(tmp_path: Path):
    module, file = toy("test_resnet", tmp_path)
    torch.save({"state_dict": {f"module.{key}": value for key, value in module.state_dict().items()}}, file)
    file = file.rename(tmp_path / "weights.pth")
    assert pretrained.load("test_resnet", str(file)).dim == module.num_features


def test_weights_with_another_classifier_lose_it(tmp_path: Path):
    _, file = toy("test_resnet", tmp_path, num_classes=7)
    backbone = pretrained.load("test_resnet", str(file))
    assert (backbone.labels, backbone.rows.size, backbone.offsets.size) == ((), 0, 0)


def test_missing_weights_file_is_named(tmp_path: Path):
    with pytest.raises(BackboneError, match="nowhere.pth is not there"):
        pretrained.load("lite0", str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    "name", ["lite3x", "tf_eficientnet_lite2", "resnt50", "hf-hub:somebody/something", "", "lite2:x"]
)
def test_unknown_name_is_answered_with_the_closest_ones(name: str):
    with pytest.raises(BackboneError) as refused:
        pretrained.load(name)
    assert repr(name) in refused.value.message
    assert "tf_efficientnet_lite0" in refused.value.hint
    if name in ("lite3x", "tf_eficientnet_lite2", "resnt50"):
        close = {"lite3x": "lite", "tf_eficientnet_lite2": "tf_efficientnet_lite2", "resnt50": "resnet50"}[name]
        assert close in refused.value.message.split("closest names:")[1]


@pytest.mark.parametrize("name", TOYS)
def test_timm_network_with_a_weights_file_is_a_backbone(tmp_path: Path, name: str):
    module, file = toy(name, tmp_path)
    backbone = pretrained.load(name, str(file))
    pictures = torch.randn(2, 3, backbone.preprocess.size, backbone.preprocess.size)
    with torch.inference_mode():
        expected = module.forward_head(module.forward_features(pictures), pre_logits=True)
        assert torch.allclose(backbone.module(pictures), expected, atol=1e-5)
    assert backbone.dim == expected.shape[1]
    assert backbone.rows.shape == (1000, backbone.dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_timm_network_keeps_the_encoder_contract(tmp_path: Path, name: str):
    backbone = pretrained.load(name, str(toy(name, tmp_path)[1]))
    encoder = runtime.build(backbone, EncoderPlan(name, "", "openvino", "cpu", "f32"))
    pictures = contracts.noise(34, backbone.preprocess.size)
    contracts.check_encoder(encoder, pictures)
    assert runtime.verified(encoder, pictures[:8])[0] is encoder


@pytest.mark.parametrize("name", TOYS)
def test_weights_file_serves_other_picture_sizes(tmp_path: Path, name: str):
    backbone = pretrained.load(name, str(toy(name, tmp_path)[1]), size=96)
    assert backbone.preprocess.size == 96
    assert backbone.module(torch.zeros(1, 3, 96, 96)).shape == (1, backbone.dim)


def test_local_dir_is_a_backbone(tmp_path: Path):
    backbone = pretrained.load(f"local-dir:{local_dir(tmp_path)}")
    assert backbone.name == "test_resnet"
    assert (backbone.preprocess.size, backbone.preprocess.crop) == (96, 0.5)
    assert backbone.digest == pretrained.load("test_resnet", str(tmp_path / "model.safetensors")).digest


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_incomplete_local_dir_is_refused_with_its_path(tmp_path: Path, missing: str):
    (local_dir(tmp_path) / missing).unlink()
    with pytest.raises(BackboneError) as refused:
        pretrained.load(f"local-dir:{tmp_path}")
    assert str(tmp_path) in refused.value.message
    assert "hub" not in refused.value.message  # nothing was sought there


def test_local_dir_with_a_broken_config_is_refused(tmp_path: Path):
    (local_dir(tmp_path) / "config.json").write_text("{")
    with pytest.raises(HeadstartError, match="config|local-dir"):
        pretrained.load(f"local-dir:{tmp_path}")


def test_bundled_backbone_knows_its_labels():
    backbone = contracts.lite0().networks[0]
    assert backbone.name == "tf_efficientnet_lite0"
    assert len(backbone.labels) == len(backbone.rows) == len(backbone.offsets) == 1000
    assert any("tabby" in label for label in backbone.labels)
    assert backbone.rows.shape == (1000, backbone.dim)


def test_digest_tells_weights_apart(tmp_path: Path):
    module, file = toy("test_resnet", tmp_path)
    before = pretrained.load("test_resnet", str(file)).digest
    changed = module.state_dict()["bn1.weight"].clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(2.0))
    assert pretrained.load("test_resnet", str(altered(tmp_path))).digest == before
    assert pretrained.load("test_resnet", str(altered(tmp_path, bn1__weight=changed))).digest != before


def test_rebuilt_backbone_computes_the_same_bits():
    own = contracts.lite0().networks[0]
    back = pretrained.rebuild(own.name, own.module.state_dict(), own.preprocess, own.arguments)
    picture = torch.randn(1, 3, 64, 64)
    np.testing.assert_array_equal(back.module(picture), own.module(picture))
    assert (back.digest, back.dim) == (own.digest, own.dim)


@pytest.mark.slow
def test_D18_without_home_and_network_the_bundled_backbone_works(tmp_path: Path):
    code = """
from headstart.encoding import pretrained
from headstart.errors import BackboneError
print(pretrained.load("lite0", size=64).dim)
try:
    pretrained.load("resnet18")
except BackboneError as error:
    print(error)
"""
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    first, _, text = ran.stdout.partition("\n")
    assert first == "1280"
    assert "timm/resnet18" in text  # the file sought
    assert str(tmp_path / "hub") in text  # where
    assert "tf_efficientnet_lite0" in text  # what works without it
    assert ran.stderr == ""


def test_same_tensors_in_another_architecture_have_another_digest(tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("efficientnet_b0", num_classes=0).state_dict(), file)
    plain, padded = (pretrained.load(name, str(file), size=64) for name in ("efficientnet_b0", "tf_efficientnet_b0"))
    assert plain.digest != padded.digest


def test_arguments_of_a_local_folder_survive_rebuilding(tmp_path: Path):
    save_for_hf(timm.create_model("test_resnet", global_pool="max"), tmp_path, model_args={"global_pool": "max"})
    own = pretrained.load(f"local-dir:{tmp_path}", size=64)
    back = pretrained.rebuild(own.name, own.module.state_dict(), own.preprocess, own.arguments)
    picture = torch.randn(1, 3, 64, 64)
    assert own.arguments["global_pool"] == "max"
    np.testing.assert_array_equal(back.module(picture), own.module(picture))


# ── the tutorial's backbone, and files of another library ──


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """InceptionResNetV2 at 331 px from a file of random weights, as `--weights FILE` loads it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # many times faster where cores are shared
    file = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("inception_resnet_v2").state_dict(), file)
    backbone = pretrained.load("inception_resnet_v2", str(file), size=331)
    file.unlink()  # 220 MB
    yield backbone
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_tutorial_s_backbone_comes_from_a_file_at_its_size(inception: Network):
    assert (inception.name, inception.dim, inception.preprocess.size) == ("inception_resnet_v2", 1536, 331)
    assert (inception.rows.shape, inception.offsets.shape) == ((1000, 1536), (1000,))
    assert sum(weight.numel() for weight in inception.module.parameters()) == 54_306_464
    assert not inception.module.training


@pytest.mark.slow
def test_the_tutorial_s_backbone_gives_the_mean_over_nine_by_nine_positions(inception: Network):
    maps: list[torch.Tensor] = []
    hook = inception.module.global_pool.register_forward_hook(lambda _, given, __: maps.append(given[0]))
    encoder = runtime.build(inception, EncoderPlan(inception.name, "", "torch", "cpu", "f32"))
    (vector,) = encoder.encode(contracts.noise(1, 331))
    hook.remove()
    assert maps[-1].shape[1:] == (1536, 9, 9)  # before it, the encoder tries the size
    np.testing.assert_allclose(vector, maps[-1][0].mean(dim=(1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_weights_of_another_network_are_refused_for_the_tutorial_s(tmp_path: Path):
    _, file = toy("test_resnet", tmp_path)
    with pytest.raises(BackboneError, match=r"do not fit the network: conv2d_1a\.\S+ is missing") as refused:
        pretrained.load("inception_resnet_v2", str(file), size=331)
    assert "--backbone" in refused.value.hint


def keras_file(folder: Path, suffix: str) -> Path:
    """A file that begins as Keras writes it."""
    file = folder / f"x.{suffix}"
    if suffix == "keras":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    else:
        file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    return file


@pytest.mark.parametrize("suffix", ["h5", "keras", "weights.h5", "hdf5", "pth", "safetensors"])
def test_a_file_of_keras_is_refused_as_one_whatever_its_name(tmp_path: Path, suffix: str):
    file = keras_file(tmp_path, suffix)
    with pytest.raises(BackboneError, match="Keras") as refused:
        pretrained.load("test_resnet", str(file))
    assert str(file) in refused.value.message
    assert "timm" in refused.value.hint


def test_a_zip_of_keras_is_refused_as_one_whatever_its_name(tmp_path: Path):
    file = keras_file(tmp_path, "keras").rename(tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="Keras"):
        pretrained.load("test_resnet", str(file))


def test_safetensors_with_the_names_of_keras_name_what_is_missing(tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file({"conv2d/kernel:0": torch.zeros(3, 3, 3, 32), "conv2d/bias:0": torch.zeros(32)}, file)
    with pytest.raises(BackboneError, match=r"conv1\.0\.weight is missing.*and \d+ more"):
        pretrained.load("test_resnet", str(file))


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_how_pictures_are_wanted_is_known_without_the_weights(name: str):
    assert pretrained.preprocessing(name) == pretrained.load(name).preprocess
    assert pretrained.preprocessing(name, 331, "squash") == pretrained.load(name, size=331, resize="squash").preprocess


def test_how_an_absent_network_wants_its_pictures_needs_no_network():
    wanted = pretrained.preprocessing("inception_resnet_v2", 331)
    assert (wanted.size, wanted.crop, wanted.mean) == (331, 0.8975, (0.5, 0.5, 0.5))


def test_size_that_the_patches_do_not_divide_is_refused_at_once(tmp_path: Path):
    _, file = toy("test_vit", tmp_path)
    with pytest.raises(ConfigError, match=r"test_vit cannot take pictures of 100 pixels \(pictures\.size\): .*16"):
        pretrained.load("test_vit", str(file), size=100)
    assert pretrained.load("test_vit", str(file), size=96).preprocess.size == 96


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_saved_size_that_the_network_cannot_take_is_an_error_of_ours(tmp_path: Path, engine: str):
    _, file = toy("test_vit", tmp_path)
    whole = pretrained.load("test_vit", str(file))
    edited = replace(whole, preprocess=replace(whole.preprocess, size=100))
    encoder = runtime.build(edited, EncoderPlan("test_vit", "", engine, "cpu", "f32"))
    with pytest.raises(ConfigError, match=r"pictures\.size"):
        list(encoder.encode(contracts.noise(1, 100)))
