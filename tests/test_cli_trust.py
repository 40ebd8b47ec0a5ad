"""The commands that tell how far a figure can be believed: check, audit, --corrections, --from, --learning-curve."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, draw_folders, picture, scene
from PIL import Image, ImageOps

pytestmark = pytest.mark.slow  # trains, or kills what trains

Run = Callable[..., Ran]
SMALL = ("--backbone", "lite0", "--set", "pictures.size=64", "--engine", "torch")
QUICK = ("--backbone", "lite0", "--engine", "torch")  # of verbs without --set: the size is the backbone's own


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(autouse=True)
def _warm_cache(_own_cache: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HEADSTART_CACHE", str(warm))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """Three classes of twelve; an ash and a cedar lie in the other's folder, and one picture has a mirrored copy."""
    root = draw_folders(tmp_path / "photos")
    one, other = root / "ash" / "ash_03.png", root / "cedar" / "cedar_05.png"
    aside = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(aside)
    scene(1).save(root / "birch" / "seen.png")
    ImageOps.mirror(scene(1)).save(root / "birch" / "seen again.jpg")
    return root


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two classes of two."""
    return draw_folders(tmp_path / "few", ("ash", "birch"), each=2)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def trust(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trust.json").read_text(encoding="utf-8"))


def test_check_prints_a_table_with_examples_and_advice(run: Run, doubtful: Path, tmp_path: Path):
    ran = run("check", doubtful, *QUICK, "--quiet", "--out", tmp_path / "check.png")
    assert (ran.code, ran.err) == (0, "")
    with Image.open(tmp_path / "check.png") as drawn:
        assert drawn.width > 1000
    assert "38 pictures of 3 classes" in ran.out
    assert "birch/seen again.jpg = birch/seen.png" in ran.out
    assert "2 pictures, in 1 group, look like one photograph each" in " ".join(ran.out.replace("│", " ").split())


def test_check_as_json_has_every_name_and_what_to_do(run: Run, doubtful: Path):
    told = json.loads(run("check", doubtful, *QUICK, "--json").out)
    finding = next(f for f in told["findings"] if f["code"] == "near-duplicates")
    assert (told["pictures"], told["classes"]) == (38, 3)
    assert finding["names"] == ["birch/seen again.jpg = birch/seen.png"]
    assert all(f["severity"] in ("error", "warning", "note") for f in told["findings"])


def test_audit_writes_a_sheet_and_what_is_filled_in_trains(run: Run, doubtful: Path, tmp_path: Path):
    sheet = tmp_path / "suspects.csv"
    ran = run("audit", doubtful, "--out", sheet, *QUICK)
    assert ran.code == 0
    assert f"look at {sheet.with_suffix('.png')}" in ran.out.replace("\n", " ")
    with Image.open(sheet.with_suffix(".png")) as drawn:
        assert drawn.width > 1000
    found = rows(sheet.read_text(encoding="utf-8"))
    assert {row["path"]: row["suggested"] for row in found[:2]} == {
        "ash/ash_03.png": "cedar",
        "cedar/cedar_05.png": "ash",
    }
    for row in found:
        row["correction"] = "accept" if row["path"] == "ash/ash_03.png" else ""
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows(found)
    trained = run("train", doubtful, "--out", tmp_path / "model", "--corrections", sheet, *SMALL)
    assert trained.code == 0
    assert "ash/ash_03.png: ash -> cedar" in trained.err
    pictures = {row["path"]: row["label"] for row in rows((tmp_path / "model" / "pictures.csv").read_text())}
    assert pictures["ash/ash_03.png"] == "cedar"


def test_a_sheet_that_nobody_filled_in_is_refused(run: Run, doubtful: Path, tmp_path: Path):
    run("audit", doubtful, "--out", tmp_path / "suspects.csv", *QUICK)
    ran = run("train", doubtful, "--out", tmp_path / "model", "--corrections", tmp_path / "suspects.csv", *SMALL)
    assert ran.code != 0
    assert "accept" in ran.err
    assert not (tmp_path / "model").exists()


def test_no_sheet_is_written_over_by_pictures(run: Run, doubtful: Path, tmp_path: Path):
    assert "is a sheet of text" in run("audit", doubtful, "--out", tmp_path / "suspects.png", *QUICK).err
    assert "is a folder" in run("audit", doubtful, "--out", ".", *QUICK).err
    sheet = tmp_path / "sheet.png"  # whatever it is called
    sheet.write_text("path,label,suggested,correction\n")
    ran = run("check", doubtful, "--corrections", sheet, "--out", sheet, *QUICK)
    assert ran.code == 2
    assert "it would be lost" in ran.err
    assert "must end in .png" in run("check", doubtful, "--out", tmp_path / "labels.csv", *QUICK).err


def test_audit_leaves_a_sheet_alone_that_is_there(run: Run, doubtful: Path, tmp_path: Path):
    for name in ("suspects.csv", "drawn.png"):
        (tmp_path / name).write_text("an afternoon's work")
        ran = run("audit", doubtful, "--out", (tmp_path / name).with_suffix(".csv"), *QUICK)
        assert ran.code == 2
        assert (tmp_path / name).read_text() == "an afternoon's work"


@pytest.mark.parametrize(
    ("settings", "parts", "compared"),
    [(("--set", "split.folds=0"), {"train", "validation"}, 12), ((), {"train"}, 60)],  # one share; each in its turn
)
def test_from_encodes_only_new_pictures_and_tells_what_changed(
    run: Run, tmp_path: Path, settings: tuple[str, ...], parts: set[str], compared: int
):
    photos = draw_folders(tmp_path / "photos", each=20)
    run("train", photos, "--out", tmp_path / "first", *SMALL, *settings)
    for index in range(10):
        (photos / "elm").mkdir(exist_ok=True)
        picture((210, 70, 160), 9000 + index).save(photos / "elm" / f"elm_{index}.png")
    ran = run("train", photos, "--from", tmp_path / "first", "--out", tmp_path / "second")
    assert ran.code == 0
    assert "10 pictures are new" in ran.err
    assert "1 class is new since the previous run: elm" in ran.err
    before, after = (
        {row["path"]: row["split"] for row in rows((tmp_path / name / "pictures.csv").read_text())}
        for name in ("first", "second")
    )
    assert {path: part for path, part in after.items() if path in before} == before
    assert {part for path, part in after.items() if path.startswith("elm")} == parts
    changes = trust(tmp_path / "second")["changes"]
    assert (changes[0]["name"], changes[0]["pictures"]) == ("", compared)
    assert {change["name"] for change in changes[1:]} == {"ash", "birch", "cedar"}


def test_from_a_run_of_other_pictures_is_refused(run: Run, model_folder: Path, tmp_path: Path):
    others = tmp_path / "others"
    for index in range(8):
        (others / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        scene(index).save(others / "ab"[index % 2] / f"{index}.png")
    ran = run("train", others, "--from", model_folder, "--out", tmp_path / "model")
    assert ran.code == 2
    assert "None of the 36 pictures of the previous run" in ran.err


def test_from_a_folder_that_is_no_run_is_refused(run: Run, doubtful: Path, tmp_path: Path):
    ran = run("train", doubtful, "--from", tmp_path, "--out", tmp_path / "model")
    assert ran.code != 0
    assert "plan.toml" in ran.err


def test_a_learning_curve_is_told_drawn_and_kept(run: Run, tmp_path: Path):
    photos = draw_folders(tmp_path / "photos", each=20)
    ran = run("train", photos, "--learning-curve", "--out", tmp_path / "model", *SMALL)
    assert "Twice as many pictures would bring about" in ran.out
    assert trust(tmp_path / "model")["learning_curve"]["points"]
    assert (tmp_path / "model" / "plots" / "learning_curve.png").stat().st_size > 5000


def test_folds_are_told_in_plan_and_card(run: Run, doubtful: Path, tmp_path: Path):
    ran = run("train", doubtful, "--folds", 3, "--out", tmp_path / "model", *SMALL)
    assert "3 folds held out in turn" in ran.err
    assert "Validation: 38 pictures, held out" in ran.out
    assert "3 heads fitted the same way" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def strangers(tmp_path: Path, model_folder: Path) -> Path:
    """One picture of a class that the model knows, and nine that are like none."""
    folder = tmp_path / "new"
    folder.mkdir()
    picture((60, 60, 60), 77).save(folder / "ash.png")
    for index in range(9):
        scene(index).save(folder / f"scene_{index}.png")
    return folder


def test_predict_says_which_pictures_are_like_none_of_the_classes(run: Run, model_folder: Path, strangers: Path):
    ran = run("predict", model_folder, strangers, "--format", "table")
    said = {row["image_id"]: row for row in rows(ran.out)}
    assert said["ash.png"]["known"] == "yes"
    assert "ash" in said["ash.png"]["set"].split("|")
    unknown = [name for name, row in said.items() if row["known"] == "no"]
    assert len(unknown) >= 7
    assert f"{len(unknown)} of 10 pictures look like none of the model's classes: row " in ran.err
    assert all(0 < float(row["p_value"]) < 1 for row in said.values())


def test_json_lines_carry_set_known_and_p_value(run: Run, model_folder: Path, strangers: Path):
    first = json.loads(run("predict", model_folder, strangers, "--json").out.splitlines()[0])
    assert first["label"] in first["set"]
    assert first["known"] is True
    assert 0 < first["p_value"] < 1


def test_a_model_without_the_rule_refuses_nothing(run: Run, doubtful: Path, tmp_path: Path):
    run("train", doubtful, "--out", tmp_path / "model", "--set", "calibration.unknown=none", *SMALL)
    ran = run("predict", tmp_path / "model", doubtful / "ash", "--format", "table")
    assert {row["known"] for row in rows(ran.out)} == {""}
    assert "It answers with one of its classes whatever it is shown" in (tmp_path / "model" / "README.md").read_text()


def test_check_with_mirror_images_encodes_each_picture_twice(
    run: Run, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cold"))
    run("check", few, *QUICK)
    once = json.loads(run("cache", "--json").out)["vectors"]
    run("check", few, "--mirror", *QUICK)
    assert json.loads(run("cache", "--json").out)["vectors"] == once + 4


def test_check_without_a_cache_keeps_nothing(run: Run, doubtful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cold"))
    assert run("check", doubtful, "--no-cache", *QUICK).code == 0
    assert not (tmp_path / "cold").exists()


def test_no_command_writes_to_the_pictures(run: Run, doubtful: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in doubtful.rglob("*") if path.is_file()}
    run("check", doubtful, *QUICK)
    run("audit", doubtful, "--out", tmp_path / "suspects.csv", *QUICK)
    assert {path: path.read_bytes() for path in doubtful.rglob("*") if path.is_file()} == before
    shutil.rmtree(doubtful)
