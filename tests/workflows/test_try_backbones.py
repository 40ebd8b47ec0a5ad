"""Backbones on drawn pictures: what is measured, what is kept for a training, what is left out and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import draw_folders, write_table

import headstart as hs
from headstart.config import EncoderConfig, TrainConfig
from headstart.data import sources
from headstart.encoding import backbone, features, runtime
from headstart.errors import BackboneError, DataError

pytestmark = pytest.mark.slow  # encodes pictures and fits heads

TORCH = TrainConfig(encoder=EncoderConfig(engine="torch"))  # starts at once; OpenVINO compiles first


def test_backbones_are_ranked_with_what_they_cost(photos: Path):
    best, other = hs.try_backbones(photos, ["lite0@64", "lite1@32"], TORCH)
    assert {best.candidate, other.candidate} == {"lite0@64", "lite1@32"}
    assert best.log_loss.value <= other.log_loss.value
    small = next(one for one in (best, other) if one.candidate == "lite0@64")
    assert (small.pictures, small.classes, small.cost.sizes, small.cost.timed) == (36, 3, (64,), 36)
    assert 3.3e6 < small.cost.parameters < 3.5e6
    assert 13 < small.cost.megabytes < 14
    assert small.cost.pictures_per_second > 0
    assert not small.cost.again


def test_several_networks_are_tried_together_from_what_is_kept_of_each(photos: Path, tmp_path: Path):
    names = ["lite0@64", "lite1@32", "lite0@64+lite1@32"]
    trials = {one.candidate: one for one in hs.try_backbones(photos, names, TORCH, cache=tmp_path / "kept")}
    both = trials["lite0@64+lite1@32"].cost
    assert both.sizes == (64, 32)
    assert both.again  # nothing had to be encoded for it
    assert both.parameters == sum(trials[name].cost.parameters for name in names[:2])


def test_what_was_encoded_is_kept_for_a_training_and_for_the_next_time(photos: Path, tmp_path: Path):
    folder = tmp_path / "kept"
    first = hs.try_backbones(photos, ["lite0@64"], TORCH, cache=folder)
    again = hs.try_backbones(photos, ["lite0@64"], TORCH, cache=folder)
    assert again[0].cost.again
    assert (first[0].accuracy, first[0].log_loss) == (again[0].accuracy, again[0].log_loss)
    encoders = runtime.build_all(backbone.load("lite0", size=64), runtime.choose(TORCH.encoder))
    assert features.extract(sources.read(photos), None, encoders, cache=folder).table.encoded == 0


def test_without_a_cache_nothing_is_left_behind(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hs.try_backbones(photos, ["lite0@32"], TORCH, cache=None)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_size_that_a_network_cannot_take_is_left_out_and_told(photos: Path, hub: Path):
    names = ["test_vit.r160_in1k@100", "test_vit.r160_in1k@96"]
    with pytest.warns(UserWarning, match=r"test_vit\S+@100 is left out\. .* cannot take pictures of 100 pixels"):
        trials = hs.try_backbones(photos, names, TORCH)
    assert [one.candidate for one in trials] == ["test_vit.r160_in1k@96"]


def test_the_only_backbone_that_cannot_be_tried_is_an_error(photos: Path, hub: Path):
    with pytest.raises(BackboneError, match="cannot be had"):
        hs.try_backbones(photos, ["test_resnet.r160_in1k@64"], TORCH)


def test_unknown_names_are_refused_before_a_picture_is_read(photos: Path):
    shutil.rmtree(photos)
    with pytest.raises(BackboneError, match="no backbone 'lite3'"):
        hs.try_backbones(photos, ["lite0", "lite3"], TORCH)
    with pytest.raises(BackboneError, match="no backbone was named"):
        hs.try_backbones(draw_folders(photos), [], TORCH)


def test_one_class_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="one class only"):
        hs.try_backbones(draw_folders(tmp_path / "photos", ("ash",)), ["lite0@32"], TORCH)


def test_only_the_training_part_is_looked_at(photos: Path):
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    rows = [f"{name},{Path(name).parent},{'test' if index % 3 else 'train'}" for index, name in enumerate(names)]
    table = write_table(photos / "labels.csv", "id,label,split", *rows)
    assert hs.try_backbones(table, ["lite0@32"], TORCH)[0].pictures == 12


def test_pictures_that_cannot_be_used_are_told(photos: Path):
    (photos / "ash" / "ash_00.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 of 36 pictures cannot be used; `headstart check` names them"):
        assert hs.try_backbones(photos, ["lite0@32"], TORCH)[0].pictures == 35


def test_a_sample_is_no_larger_than_asked_for(photos: Path):
    assert hs.try_backbones(photos, ["lite0@32"], TORCH, pictures=24)[0].pictures == 24
