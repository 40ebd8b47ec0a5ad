"""The command line as it is typed: verbs, exit codes, stdout and stderr, and what is never written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, draw_folders, picture, write_table
from PIL import Image

import headstart
from headstart import cli, demo
from headstart.data import images, sources

pytestmark = pytest.mark.slow  # trains, and starts programs

Run = Callable[..., Ran]
SMALL = ("--backbone", "lite0", "--set", "pictures.size=64")
TORCH = ("--engine", "torch")  # starts faster than OpenVINO, which compiles first
RUN_FOLDER = {
    "README.md",
    "album.json",
    "backbone.safetensors",
    "evaluation.json",
    "findings.json",
    "head.safetensors",
    "history.csv",
    "journal.json",
    "model.json",
    "graph.safetensors",
    "out_of_distribution.safetensors",
    "plan.toml",
    "plots/confusion.png",
    "plots/per_class.png",
    "plots/reliability.png",
    "plots/risk_coverage.png",
    "plots/similarity.png",
    "plots/training.png",
    "pictures.csv",
    "predictions.csv",
    "report.html",
    "trust.json",
}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: most pictures are encoded once."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def trained(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """What `headstart train PHOTOS --out MODEL` says, and the model."""
    folder = tmp_path_factory.mktemp("trained")
    photos = draw_folders(folder / "photos")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("HEADSTART_CACHE", str(warm))
        patch.setenv("COLUMNS", "200")
        cli.app(["train", str(photos), "--out", str(folder / "out" / "model"), *SMALL], standalone_mode=False)
    return Ran(0, out.getvalue(), err.getvalue()), folder / "out" / "model"


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go back to an empty cache."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cold"))
    return tmp_path / "cold"


@pytest.fixture(autouse=True)
def _warm_cache(_own_cache: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HEADSTART_CACHE", str(warm))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices are fitted faster so, above all where cores are shared
    yield
    torch.set_num_threads(before)


def tree(folder: Path) -> dict[str, str]:
    """Return everything under a folder with its digest."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def table(text: str) -> list[list[str]]:
    """Return the cells of a CSV text."""
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def told(folder: Path) -> dict[str, Any]:
    """Return what a model's JSON file holds."""
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Four pictures: figures of many take seconds."""
    return draw_folders(tmp_path / "few", ("ash", "birch"), each=2)


# ── at the door ──


def test_the_version_goes_to_stdout(run: Run):
    assert run("--version") == Ran(0, f"headstart {headstart.__version__}\n", "")


def test_help_lists_every_verb(run: Run):
    ran = run("--help")
    assert ran.code == 0
    assert all(
        verb in ran.out for verb in ("demo", "train", "evaluate", "predict", "show", "summary", "models", "cache")
    )


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("train", "--colour", "red"), ("predict",)])
def test_asked_wrongly_is_two_with_nothing_on_stdout(run: Run, arguments: tuple[str, ...]):
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.out == "" or not arguments


def test_train_without_data_says_how_to_name_it(run: Run):
    ran = run("train")
    assert (ran.code, ran.out) == (2, "")
    assert "hint: headstart train photos/" in ran.err


def test_completion_can_be_installed(run: Run):
    assert "--install-completion" in run("--help").out


# ── train ──


def test_train_writes_the_folder_of_a_run_and_nothing_beside_it(trained: tuple[Ran, Path]):
    ran, out = trained
    assert set(tree(out)) == RUN_FOLDER
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert "accuracy" in ran.out
    assert f"Saved: {out}\n" in ran.out


def test_train_says_its_plan_and_its_progress_on_stderr_alone(trained: tuple[Ran, Path]):
    ran, _ = trained
    for text in (
        "Plan: 36 pictures of 3 classes",
        "64 px",
        "the crop cuts away 36% of a picture (median of 36)",
        "tf_efficientnet_lite0",
        "Encoding: 36 of 36",
    ):
        assert text in ran.err
        assert text not in ran.out


def test_the_refit_is_said_in_the_output_the_model_and_the_card(run: Run, photos: Path, tmp_path: Path):
    out = tmp_path / "model"
    ran = run("train", photos, "--out", out, *SMALL, "--set", "split.folds=0")
    text = "fitted on 36 training and validation pictures"
    assert text in ran.out
    assert text in (out / "README.md").read_text(encoding="utf-8")
    assert told(out)["training"]["refitted"] is True
    assert "then       fit once more" in ran.err


def test_json_of_quiet_training_is_all_there_is(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *SMALL, "--json", "--quiet")
    content = json.loads(ran.out)
    assert content["model"] == str(tmp_path / "model")
    assert content["evaluation"]["validation"]["overall"]["accuracy"][0] == 1
    assert content["data"]["pictures"] == 36
    assert (ran.code, ran.err) == (0, "")


def test_no_refit_is_said_in_the_output_the_model_and_the_card(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", *SMALL, "--no-refit")
    text = "fitted on 30 training pictures"
    assert text in ran.out
    assert text in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert told(tmp_path / "model")["training"]["refitted"] is False
    assert "then       keep the measured head" in ran.err


def test_a_second_training_keeps_the_first_model(run: Run, photos: Path, trained: tuple[Ran, Path], tmp_path: Path):
    assert "the model that was there" not in trained[0].out
    out = tmp_path / "model"
    shutil.copytree(trained[1], out)
    ran = run("train", photos, "--out", out, *SMALL, "--no-refit")
    assert f"the model that was there is now {out}.1" in ran.out
    assert tree(tmp_path / "model.1") == tree(trained[1])
    assert told(out)["training"]["refitted"] is False


def test_a_model_that_was_moved_by_somebody_else_is_not_claimed(run: Run, photos: Path, tmp_path: Path):
    (tmp_path / "model.1").mkdir()
    ran = run("train", photos, "--out", tmp_path / "model", *SMALL)
    assert ran.code == 0
    assert "the model that was there" not in ran.out


def test_the_default_place_is_named_after_the_data(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run("train", "photos", *SMALL, "--quiet").code == 0
    assert set(tree(tmp_path / "runs" / "photos")) == RUN_FOLDER


def test_the_plan_of_a_run_gives_the_same_model(run: Run, photos: Path, trained: tuple[Ran, Path], tmp_path: Path):
    first, again = trained[1], tmp_path / "again"
    assert run("train", photos, "--out", again, "--config", first / "plan.toml").code == 0
    for name in ("plan.toml", "head.safetensors", "backbone.safetensors", "predictions.csv", "evaluation.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_flags_are_kept_in_the_plan(run: Run, photos: Path, tmp_path: Path):
    flags = ("--seed", 3, "--no-mirror", "--resize", "squash", "--set", "head.l2=[0.1, 1]", "--engine", "torch")
    assert run("train", photos, "--out", tmp_path / "model", *SMALL, *flags).code == 0
    plan = told(tmp_path / "model")["plan"]
    assert (plan["seed"], plan["head"]["l2"], plan["encoder"]["engine"]) == (3, [1.0, 0.1], "torch")
    assert (plan["pictures"]["mirror"], plan["pictures"]["resize"]) == (False, "squash")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_model_is_never_overwritten(run: Run, photos: Path, tmp_path: Path, kind: str):
    out = tmp_path / "precious"
    (write_table(out, "text") if kind == "file" else draw_folders(out, ("ash",), each=1))
    before = tree(tmp_path)
    ran = run("train", photos, "--out", out, *SMALL)
    assert ran.code == 2
    assert f"{out} exists and is not a model" in ran.err
    assert tree(tmp_path) == before


def test_the_pictures_themselves_are_no_place_for_the_model(run: Run, photos: Path):
    before = tree(photos)
    assert run("train", photos, "--out", photos, *SMALL).code == 2
    assert tree(photos) == before


def test_an_impossible_place_is_found_out_before_anything_is_read(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    ran = run("train", photos, "--out", ".", *SMALL)
    assert ran.code in (0, 2)
    assert ran.code == 0 or "Reading" not in ran.err


def test_a_data_folder_that_is_not_there_is_asked_wrongly(run: Run, tmp_path: Path):
    ran = run("train", tmp_path / "phtoos", "--out", tmp_path / "model")
    assert ran.code == 2
    assert f"{tmp_path / 'phtoos'} is not there" in ran.err
    assert "hint:" in ran.err


def test_a_wrong_setting_is_shown_with_all_others_and_a_hint(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "m", "--resize", "stretch", "--set", "seed=-4", "--set", "hed.l2=1")
    assert (ran.code, ran.out) == (2, "")
    for text in ("pictures.resize is 'stretch'", "seed is -4", "hed is not a setting; did you mean head?", "hint:"):
        assert text in ran.err


def test_an_unknown_backbone_is_answered_with_the_closest(run: Run, photos: Path, tmp_path: Path):
    ran = run("train", photos, "--out", tmp_path / "model", "--backbone", "lite9")
    assert ran.code == 1
    assert "no backbone 'lite9'" in ran.err
    assert "lite0" in ran.err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "phtoos"),
        ("check", "phtoos"),
        ("audit", "phtoos"),
        ("show", "phtoos"),
        ("predict", "nosuch", "x.jpg"),
        ("evaluate", "nosuch"),
        ("evaluate", "nosuch", "."),
        ("summary", "nosuch"),
        ("show", ".", "--batch", "--model", "nosuch"),
    ],
)
def test_a_mistyped_path_is_refused_before_anything_heavy_is_imported(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    for name in [name for name in sys.modules if name.split(".")[0] == "headstart"]:
        if name.startswith(("headstart.model", "headstart.workflows", "headstart.learning", "headstart.evaluation")):
            monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    monkeypatch.chdir(photos)
    ran = run(*arguments)
    assert ran.code in (1, 2)
    assert "phtoos is not there" in ran.err or "no model at nosuch" in ran.err


@pytest.mark.parametrize("there", ["nothing", "a model"])
def test_the_place_of_tensorboard_is_no_place_for_a_model(
    run: Run, photos: Path, model_folder: Path, tmp_path: Path, there: str
):
    out = tmp_path / ("tensorboard" if there == "nothing" else "other")
    if there == "a model":
        shutil.copytree(model_folder, tmp_path / "tensorboard")
    ran = run("train", photos, "--out", out, "--log", "tensorboard", *SMALL)
    assert (ran.code, ran.out) == (2, "")
    assert f"--log tensorboard writes its files to {tmp_path / 'tensorboard'}" in ran.err
    assert "Reading" not in ran.err


def test_commands_to_copy_are_quoted_for_the_shell(run: Run, few: Path, tmp_path: Path):
    ran = run("train", few, "--out", tmp_path / "my model", *SMALL, "--set", "calibration.unknown=none")
    assert f"Next: headstart predict '{tmp_path / 'my model'}' PICTURES" in ran.out


def test_what_is_held_out_is_an_intention_before_and_a_count_after(run: Run, few: Path, tmp_path: Path):
    ran = run("train", few, "--out", tmp_path / "model", *SMALL, "--set", "split.folds=0")
    assert "about 20% of each class, at least one picture, held out" in ran.err
    assert "Validation: 2 pictures, held out (50% of 4)" in ran.out
    assert "Sets list all 2 classes: there are too few" in ran.out


# ── data in all its shapes ──


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Thirty-six pictures in one folder, and beside it their labels."""
    draw_folders(tmp_path / "by class")
    (tmp_path / "loose").mkdir()
    rows = []
    for index, file in enumerate(sorted((tmp_path / "by class").rglob("*.png"))):
        file.rename(tmp_path / "loose" / file.name)
        part = ("val", "test", "train", "train", "train", "train")[index % 6]
        rows.append(f"{file.stem},{file.stem.split('_')[0]},{part},g{index // 2}")
    write_table(tmp_path / "labels.csv", "key,sort,part,owner", *rows)
    return tmp_path / "loose"


COLUMNS = ("--id-column", "key", "--label-column", "sort")


@pytest.mark.parametrize("form", ["labels and data", "labels and images", "table as data"])
def test_a_table_can_be_named_in_three_ways(run: Run, model_folder: Path, loose: Path, tmp_path: Path, form: str):
    labels = tmp_path / "labels.csv"
    data = {
        "labels and data": (loose, "--labels", labels),
        "labels and images": ("--labels", labels, "--images", loose),
        "table as data": (labels, "--images", loose),
    }[form]
    content = json.loads(run("evaluate", model_folder, *data, *COLUMNS, "--json").out)
    assert (content["pictures"], content["overall"]["accuracy"][0]) == (36, 1)


def test_a_table_beside_its_pictures_needs_no_more(run: Run, model_folder: Path, loose: Path, tmp_path: Path):
    (tmp_path / "labels.csv").rename(loose / "labels.csv")
    assert json.loads(run("evaluate", model_folder, loose / "labels.csv", *COLUMNS, "--json").out)["pictures"] == 36


def test_a_split_column_is_honoured(run: Run, loose: Path, tmp_path: Path):
    columns = (*COLUMNS, "--split-column", "part")
    ran = run("train", loose, "--labels", tmp_path / "labels.csv", *columns, "--out", tmp_path / "model", *SMALL)
    data = told(tmp_path / "model")["data"]
    assert (data["parts"], data["split"]) == ({"train": 24, "validation": 6, "test": 6}, "data")
    assert "Validation: 6 pictures" in ran.out
    assert "Test: 6 pictures" in ran.out


def test_evaluate_can_look_at_one_part_only(run: Run, model_folder: Path, loose: Path, tmp_path: Path):
    columns = (*COLUMNS, "--split-column", "part")
    where = (model_folder, loose, "--labels", tmp_path / "labels.csv", *columns)
    assert json.loads(run("evaluate", *where, "--split", "test", "--json").out)["pictures"] == 6
    ran = run("evaluate", *where, "--split", "tset")
    assert ran.code == 2
    assert "'tset'" in ran.err


def test_a_group_column_is_honoured(run: Run, loose: Path, tmp_path: Path):
    columns = (*COLUMNS, "--group-column", "owner")
    run("train", loose, "--labels", tmp_path / "labels.csv", *columns, "--out", tmp_path / "model", *SMALL, "-q")
    owner = {row[0]: row[3] for row in table((tmp_path / "labels.csv").read_text())[1:]}
    held = [row[0] for row in table((tmp_path / "model" / "predictions.csv").read_text())[1:]]
    assert {name for name in owner if owner[name] in {owner[row] for row in held}} == set(held)


def test_a_column_that_is_not_there_is_answered_with_those_that_are(run: Run, loose: Path, tmp_path: Path):
    ran = run("train", loose, "--labels", tmp_path / "labels.csv", "--id-column", "kye", "--out", tmp_path / "model")
    assert ran.code == 2
    assert "no column 'kye'; its columns are 'key', 'sort', 'part', 'owner'" in ran.err


def test_two_tables_are_one_too_many(run: Run, loose: Path, tmp_path: Path):
    labels = tmp_path / "labels.csv"
    ran = run("train", labels, "--labels", labels, "--out", tmp_path / "model")
    assert ran.code == 2
    assert "one is enough" in ran.err


def test_missing_files_are_refused_or_dropped_as_asked(run: Run, model_folder: Path, loose: Path, tmp_path: Path):
    (loose / "ash_03.png").unlink()
    where = (model_folder, loose, "--labels", tmp_path / "labels.csv", *COLUMNS, "--json")
    refused = run("evaluate", *where)
    assert (refused.code, refused.out) == (1, "")
    assert "'ash_03'" in refused.err
    assert "--missing drop" in refused.err
    assert json.loads(run("evaluate", *where, "--missing", "drop").out)["pictures"] == 35


def test_unreadable_pictures_are_listed_and_counted(run: Run, photos: Path, tmp_path: Path):
    (photos / "ash" / "ash_03.png").write_bytes(b"")
    (photos / "birch" / "birch_01.png").write_bytes(b"no picture")
    ran = run("train", photos, "--out", tmp_path / "model", *SMALL)
    assert ran.code == 0
    assert "ash/ash_03.png (the file is empty)" in ran.err
    assert "birch/birch_01.png (not one of JPEG" in ran.err
    assert "1 picture cannot be used" in ran.err
    assert told(tmp_path / "model")["data"]["pictures"] == 34


def test_B13_a_single_class_is_refused_with_the_reason(run: Run, tmp_path: Path):
    ran = run("train", draw_folders(tmp_path / "photos", ("ash",)), "--out", tmp_path / "model")
    assert (ran.code, ran.out) == (1, "")
    assert "one class only ('ash')" in ran.err
    assert "hint: A classifier tells classes apart" in ran.err


def test_B13_no_picture_at_all_is_refused_with_the_reason(run: Run, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    ran = run("train", tmp_path / "photos", "--out", tmp_path / "model")
    assert ran.code == 1
    assert "No labelled picture" in ran.err
    assert not (tmp_path / "model").exists()


def test_B13_a_class_of_one_picture_is_named_as_not_measured(run: Run, photos: Path, tmp_path: Path):
    draw_folders(photos, ("elm",), each=1)
    ran = run("train", photos, "--out", tmp_path / "model", *SMALL)
    assert ran.code == 0
    assert "cannot be measured: elm" in ran.err
    assert "elm" in told(tmp_path / "model")["classes"]


def test_B11_class_names_are_never_paths(run: Run, tmp_path: Path):
    names = ("<script>alert(1)</script>", "../x", "CON", "x" * 300, "a/b", "[red]$5$")
    (tmp_path / "in").mkdir()
    rows = []
    for number, name in enumerate(names):
        for index in range(6):
            picture((40 * number, 200 - 30 * number, 90), 100 * number + index).save(
                tmp_path / "in" / f"{number}_{index}.png"
            )
            rows.append(f"{number}_{index},{name}")
    labels = write_table(tmp_path / "labels.csv", "id,label", *rows)
    before = set(tree(tmp_path))
    ran = run("train", tmp_path / "in", "--labels", labels, "--out", tmp_path / "model", *SMALL)
    assert ran.code == 0
    assert set(tree(tmp_path)) - before == {f"model/{name}" for name in RUN_FOLDER}
    assert told(tmp_path / "model")["classes"] == sorted(names)


def test_B10_a_name_that_is_no_utf_8_survives_the_whole_way(run: Run, photos: Path, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    for index in range(12):
        (photos / "ash" / f"ash_{index:02d}.png").rename(photos / "ash" / f"{name}_{index}.png")
    assert run("train", photos, "--out", tmp_path / "model", *SMALL, "-q").code == 0
    held = (tmp_path / "model" / "predictions.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert any(row[0].startswith(f"ash/{name}") for row in table(held))


# ── predict ──


def test_predict_prints_a_table_and_nothing_else_on_stdout(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, photos)
    header, *rows = table(ran.out)
    assert (ran.code, header, len(rows)) == (0, ["image_id", "label"], 36)
    assert all(name.split("/")[0] == label for name, label in rows)


def test_predict_follows_the_order_given(run: Run, model_folder: Path, photos: Path):
    files = [photos / "cedar" / "cedar_01.png", photos / "ash" / "ash_05.png"]
    rows = table(run("predict", model_folder, *files).out)[1:]
    assert [label for _, label in rows] == ["cedar", "ash"]


def test_predict_writes_a_file_and_says_how_many_rows(run: Run, model_folder: Path, photos: Path, tmp_path: Path):
    ran = run("predict", model_folder, photos, "--out", tmp_path / "p.csv", "--format", "probabilities")
    assert (ran.code, ran.out) == (0, "")
    assert f"Wrote 36 rows to {tmp_path / 'p.csv'}" in ran.err
    assert table((tmp_path / "p.csv").read_text())[0] == ["image_id", "ash", "birch", "cedar"]


def test_json_of_predict_is_one_object_a_line(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, photos, "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert len(lines) == 36
    assert {line["status"] for line in lines} == {"ok"}
    assert ran.out == run("predict", model_folder, photos, "--format", "jsonl").out


def test_quiet_prediction_says_nothing_but_the_rows(run: Run, model_folder: Path, photos: Path):
    (photos / "notes.txt").write_text("no picture")
    assert run("predict", model_folder, photos, "--quiet").err == ""
    assert "notes" not in run("predict", model_folder, photos).out


@pytest.mark.parametrize("form", ["labels", "probabilities", "jsonl"])
def test_A3_a_bad_picture_keeps_its_row_and_changes_no_other(run: Run, model_folder: Path, photos: Path, form: str):
    files = sorted((photos / "ash").iterdir())[:3]
    clean = run("predict", model_folder, *files, "--format", form, *TORCH)
    files.insert(1, photos / "bad.png")
    files[1].write_bytes(b"no picture")
    ran = run("predict", model_folder, *files, "--format", form, *TORCH)
    lines = ran.out.splitlines(keepends=True)
    bad = lines.pop(1 if form == "jsonl" else 2)
    assert "".join(lines) == clean.out
    assert "bad" in bad
    assert (clean.code, ran.code) == (0, 1)


def test_A3_a_bad_picture_is_named_with_its_reason_even_when_quiet(run: Run, model_folder: Path, photos: Path):
    (photos / "ash" / "ash_00.png").write_bytes(b"")
    ran = run("predict", model_folder, photos, "--quiet", *TORCH)
    assert "error: ash/ash_00.png: the file is empty" in ran.err
    assert "1 of 36 pictures could not be used" in ran.err
    assert ran.code == 1


def test_a_picture_that_is_not_there_keeps_its_row(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, photos / "none.png", photos / "ash" / "ash_00.png", *TORCH)
    assert ran.code == 1
    assert [row[1] for row in table(ran.out)[1:]] == ["", "ash"]
    assert "none.png" in ran.err


def test_a_sample_submission_gives_order_and_columns(run: Run, model_folder: Path, photos: Path, tmp_path: Path):
    like = write_table(tmp_path / "sample.csv", "id,cedar,birch,ash", "birch_03,0,0,0", "ash_07,0,0,0")
    header, *rows = table(run("predict", model_folder, photos, "--like", like).out)
    assert header == ["id", "cedar", "birch", "ash"]
    assert [row[0] for row in rows] == ["birch_03", "ash_07"]
    assert [max(range(1, 4), key=lambda k, row=row: float(row[k])) for row in rows] == [2, 3]


def test_a_sample_of_other_classes_is_refused_before_anything_is_encoded(
    run: Run, model_folder: Path, photos: Path, tmp_path: Path
):
    like = write_table(tmp_path / "sample.csv", "id,ash,oak", "ash_07,0,0")
    ran = run("predict", model_folder, photos, "--like", like)
    assert (ran.code, ran.out) == (1, "")
    assert "Only in the sample (1): 'oak'" in ran.err
    assert "Only in the model (2): 'birch', 'cedar'" in ran.err
    assert "Encoding" not in ran.err


def test_an_out_that_is_the_sample_is_refused(run: Run, model_folder: Path, photos: Path, tmp_path: Path):
    like = write_table(tmp_path / "sample.csv", "id,ash,birch,cedar", "ash_07,0,0,0")
    before = tree(tmp_path)
    ran = run("predict", model_folder, photos, "--like", like, "--out", like)
    assert ran.code == 2
    assert "it would be lost" in ran.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("given", ["file", "folder"])
def test_A4_an_out_that_is_a_picture_is_refused(run: Run, model_folder: Path, photos: Path, given: str):
    file = photos / "ash" / "ash_00.png"
    before = tree(photos)
    ran = run("predict", model_folder, file if given == "file" else photos, "--out", file)
    assert ran.code == 2
    assert tree(photos) == before


def test_A4_a_figure_never_replaces_a_picture_that_is_shown(run: Run, few: Path):
    before = tree(few)
    ran = run("show", few, "--out", few / "ash" / "ash_00.png")
    assert ran.code == 2
    assert tree(few) == before


@pytest.mark.parametrize("out", ["folder", "folder/none/p.csv"])
def test_an_out_that_cannot_be_a_file_is_refused_at_once(
    run: Run, model_folder: Path, photos: Path, tmp_path: Path, out: str
):
    (tmp_path / "folder").mkdir()
    ran = run("predict", model_folder, photos, "--out", tmp_path / out)
    assert ran.code == 2
    assert str(tmp_path / "folder") in ran.err
    assert "Encoding" not in ran.err


@pytest.mark.parametrize("content", ["a picture", "nothing"])
def test_a_picture_can_come_from_standard_input(
    run: Run, model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, content: str
):
    data = (photos / "birch" / "birch_00.png").read_bytes() if content == "a picture" else b""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    ran = run("predict", model_folder, "-", *TORCH)
    assert table(ran.out)[1] == ["-", "birch" if data else ""]
    assert (ran.code, "error: -: " in ran.err) == ((0, False) if data else (1, True))


def test_standard_input_goes_alone(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, "-", photos)
    assert (ran.code, ran.out) == (2, "")
    assert "goes alone" in ran.err


def test_an_unknown_format_is_refused(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, photos, "--format", "xml")
    assert ran.code == 2
    assert "'xml'; it is one of labels, probabilities, table, jsonl" in ran.err


def test_a_pattern_that_matches_nothing_is_asked_wrongly(run: Run, model_folder: Path, photos: Path):
    ran = run("predict", model_folder, photos / "*.jpg")
    assert ran.code == 2
    assert "*.jpg" in ran.err


def test_what_is_known_is_a_column_if_asked_and_has_no_place_in_a_sample(run: Run, model_folder: Path, photos: Path):
    header, row = table(run("predict", model_folder, photos / "ash" / "ash_00.png", "--known").out)
    assert header == ["image_id", "label", "known"]
    assert row[-1] in ("yes", "no")
    like = write_table(photos / "sample.csv", "id,ash,birch,cedar", "ash_00,0,0,0")
    refused = run("predict", model_folder, photos, "--like", like, "--known")
    assert (refused.code, "no place for a column 'known'" in refused.err) == (2, True)


def test_classes_of_a_sample_that_the_model_does_not_know_are_filled_on_demand(
    run: Run, model_folder: Path, photos: Path
):
    like = write_table(photos / "sample.csv", "id,ash,birch,cedar,yew", "ash_00,0,0,0,0")
    assert "--fill-missing" in run("predict", model_folder, photos, "--like", like).err
    assert table(run("predict", model_folder, photos, "--like", like, "--fill-missing").out)[1][-1] == "0.0"
    refused = run("predict", model_folder, photos, "--fill-missing")
    assert (refused.code, "--like" in refused.err) == (2, True)


def test_B9_formulas_are_defused_on_demand(run: Run, model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(photos / "ash" / "ash_00.png", photos / "=1+1.png")
    monkeypatch.chdir(photos)
    assert table(run("predict", model_folder, "=1+1.png").out)[1] == ["=1+1.png", "ash"]
    assert table(run("predict", model_folder, "=1+1.png", "--spreadsheet-safe").out)[1] == ["'=1+1.png", "ash"]
    ran = run("predict", model_folder, "=1+1.png", "--spreadsheet-safe", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "does not go with --json" in ran.err


def test_B10_odd_names_come_back_as_they_are(run: Run, model_folder: Path, tmp_path: Path):
    names = ["two\nlines", "carriage\rreturn", "🐕", 'ünï, "quoted"', "[bold]", ":dog:", " x "]
    (tmp_path / "odd").mkdir()
    for seed, name in enumerate(names):
        picture((60, 60, 60), seed).save(tmp_path / "odd" / f"{name}.png")
    rows = table(run("predict", model_folder, tmp_path / "odd", *TORCH).out)[1:]
    assert sorted(name for name, _ in rows) == sorted(f"{name}.png" for name in names)


def test_B10_rows_are_counted_not_lines(run: Run, model_folder: Path, tmp_path: Path):
    (tmp_path / "odd").mkdir()
    picture((60, 60, 60), 1).save(tmp_path / "odd" / "two\nlines.png")
    assert "Wrote 1 rows" in run("predict", model_folder, tmp_path / "odd", "--out", tmp_path / "p.csv").err


@pytest.mark.parametrize("out", [True, False])
def test_B10_a_name_that_is_no_utf_8_can_be_predicted(run: Run, model_folder: Path, tmp_path: Path, out: bool):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "odd").mkdir()
    picture((60, 60, 60), 1).save(tmp_path / "odd" / name)
    assert run("predict", model_folder, tmp_path / "odd", *(("--out", tmp_path / "p.csv") if out else ())).code == 0
    assert not out or b"caf\xe9.png,ash" in (tmp_path / "p.csv").read_bytes()


def test_a_place_with_an_emoji_code_in_its_name_is_printed_as_it_is(run: Run, few: Path, tmp_path: Path):
    out = tmp_path / ":dog: [red].png"
    assert run("show", few, "--out", out).out == f"{out}\n"


def test_a_model_that_is_not_there_is_said_to_be_missing(run: Run, photos: Path, tmp_path: Path):
    ran = run("predict", tmp_path / "none", photos)
    assert ran.code == 1
    assert f"no model at {tmp_path / 'none'}" in ran.err
    assert "hint:" in ran.err


# ── evaluate, show, summary ──


def test_evaluate_prints_figures_with_intervals(run: Run, model_folder: Path, photos: Path):
    ran = run("evaluate", model_folder, photos)
    assert ran.code == 0
    assert "36 pictures of" in ran.out
    assert "accuracy" in ran.out
    assert "1.0000" in ran.out


def test_json_of_evaluate_is_alone_on_stdout(run: Run, model_folder: Path, photos: Path):
    content = json.loads(run("evaluate", model_folder, photos, "--json").out)
    assert content["pictures"] == 36
    assert content["overall"]["accuracy"][0] == 1


def test_pictures_that_were_learned_from_are_told_for_they_flatter(
    run: Run, model_folder: Path, photos: Path, tmp_path: Path
):
    told = "36 of these pictures the model has learned from, so that the figures flatter"
    assert told in run("evaluate", model_folder, photos).err
    new = draw_folders(tmp_path / "new", each=3)
    for path in new.rglob("*.png"):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(path)
    assert "learned from" not in run("evaluate", model_folder, new).err
    codes = [one["code"] for one in json.loads(run("evaluate", model_folder, photos, "--json").out)["findings"]]
    assert "learned-pictures" in codes
    model = shutil.copytree(model_folder, tmp_path / "model")
    (model / "pictures.csv").write_text("id;label\n")  # saved anew by a spreadsheet
    ran = run("evaluate", model, photos)
    assert ran.code == 0
    assert "accuracy" in ran.out
    assert "Whether the model has learned from some of these pictures is not known" in ran.err


def test_evaluate_reads_each_picture_once(run: Run, model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    read = list[Path]()
    monkeypatch.setattr(images, "fetch", lambda place, then=images.fetch: read.append(place) or then(place))
    assert "learned from" in run("evaluate", model_folder, photos, "--no-cache").err
    assert len(read) == len(set(read)) == 36


def test_evaluate_counts_what_it_could_not_use(run: Run, model_folder: Path, photos: Path):
    (photos / "ash" / "ash_00.png").write_bytes(b"no picture")
    ran = run("evaluate", model_folder, photos)
    assert "35 pictures of" in ran.out
    assert "1 picture cannot be used and is left out: ash/ash_00.png (not one of" in ran.err


def test_evaluate_draws_plots_where_told(run: Run, model_folder: Path, photos: Path, tmp_path: Path):
    assert run("evaluate", model_folder, photos, "--plots", tmp_path / "plots").code == 0
    assert set(tree(tmp_path / "plots")) == {"confusion.png", "reliability.png", "risk_coverage.png", "per_class.png"}


def test_B16_a_class_the_model_does_not_have_is_refused_with_both_lists(run: Run, model_folder: Path, tmp_path: Path):
    ran = run("evaluate", model_folder, draw_folders(tmp_path / "photos", ("ash", "oak"), each=2))
    assert (ran.code, ran.out) == (1, "")
    assert "'oak'" in ran.err
    assert "'ash', 'birch', 'cedar'" in ran.err
    assert "Encoding" not in ran.err


def test_show_draws_a_grid(run: Run, few: Path, tmp_path: Path):
    ran = run("show", few, "--out", tmp_path / "grid.png")
    assert ran == Ran(0, f"{tmp_path / 'grid.png'}\n", "")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size[0] > 500


def test_show_draws_the_same_pictures_for_the_same_seed(run: Run, few: Path, tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("show", few, "--out", tmp_path / f"{name}.png", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_show_draws_a_batch_as_the_model_sees_it(run: Run, few: Path, model_folder: Path, tmp_path: Path):
    ran = run("show", few, "--batch", "--model", model_folder, "--out", tmp_path / "batch.png")
    assert ran.code == 0
    assert "One batch: (4, 64, 64, 3)" in ran.err
    assert "Here the crop cuts away 36% of a picture (median of 4)." in ran.err
    assert (tmp_path / "batch.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "unheeded"),
    [
        (("--size", 64, "--no-mirror"), "--size, --no-mirror: without --batch"),
        (("--model", "m", "--backbone", "lite0", "--resize", "crop"), "--model, --backbone, --resize: without --batch"),
        (("--rows", 2, "--batch", "--out", "x.png", "--seed", 1), "--out, --seed, --batch: --rows prints rows"),
        (("--batch", "--model", "m", "--size", 64), "--size: --model decides"),
    ],
)
def test_show_refuses_flags_that_it_would_not_heed(run: Run, few: Path, flags: tuple[object, ...], unheeded: str):
    ran = run("show", few, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert unheeded in ran.err


def test_rows_of_a_picture_are_refused(run: Run, few: Path):
    ran = run("show", few / "ash" / "ash_00.png", "--rows", 3)
    assert (ran.code, ran.out) == (2, "")
    assert "is a picture" in ran.err


def test_a_batch_has_mirror_images_where_they_are_asked_for(run: Run, few: Path, tmp_path: Path):
    ran = run("show", few, "--batch", "--mirror", "--size", 64, "--out", tmp_path / "batch.png")
    assert "One batch: (8, 64, 64, 3)" in ran.err


def test_a_batch_shows_what_each_of_several_networks_sees(run: Run, few: Path, tmp_path: Path):
    ran = run("show", few, "--batch", "--backbone", "lite0@64+lite1@48/1.0", "--out", tmp_path / "batch.png")
    assert "One batch: (4, 64, 64, 3) + (4, 48, 48, 3)" in ran.err
    assert (tmp_path / "batch.png").stat().st_size > 10_000


@pytest.mark.parametrize("verb", ["train", "check", "audit"])
@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("lite0@64+lite0@64", "tf_efficientnet_lite0@64 is asked for twice"),
        ("lite0@9", "not a whole number in 16"),
        ("lite0+lite9", "lite0"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(run: Run, few: Path, verb: str, backbone: str, said: str):
    ran = run(verb, few, "--backbone", backbone)
    assert (ran.code != 0, ran.out) == (True, "")
    assert said in ran.err


def test_show_writes_png_only(run: Run, photos: Path, tmp_path: Path):
    ran = run("show", photos, "--out", tmp_path / "grid.jpg")
    assert ran.code == 2
    assert "must end in .png" in ran.err


def test_summary_lists_the_layers_and_what_was_fitted(run: Run, model_folder: Path):
    ran = run("summary", model_folder)
    assert ran.code == 0
    assert "backbone.conv_stem" in ran.out
    assert "of which 3,844 were fitted" in ran.out


def test_json_of_summary_is_a_list_of_layers(run: Run, model_folder: Path):
    rows = json.loads(run("summary", model_folder, "--json").out)
    assert rows[0]["name"] == "preprocess"
    assert rows[-1] == {"name": "calibration", "type": rows[-1]["type"], "output": [1, 3], "parameters": 1}


# ── models, settings, cache ──


def test_models_lists_what_works_without_a_download(run: Run):
    ran = run("models")
    assert ran.code == 0
    assert all(f"tf_efficientnet_lite{n}" in ran.out for n in (0, 1, 2))
    assert "260 px" in ran.out


def test_models_searches_and_says_where_weights_come_from(run: Run):
    ran = run("models", "*dinov2*")
    assert "vit_small_patch14_dinov2.lvd142m  (from the Hugging Face hub or its cache)" in ran.out
    assert "matches 'xyzzy*'" in run("models", "xyzzy*").err


def test_json_of_models_is_alone_on_stdout(run: Run):
    content = json.loads(run("models", "--json").out)
    assert [row["name"] for row in content["bundled"]] == [f"tf_efficientnet_lite{n}" for n in (0, 1, 2)]


def test_models_can_be_tried_on_the_users_pictures(run: Run, photos: Path, tmp_path: Path):
    drawing = tmp_path / "tried.png"
    names = ("--backbone", "lite0@64", "--backbone", "lite1@32")
    ran = run("models", "--try", photos, *names, *TORCH, "--out", drawing)
    assert ran.code == 0
    assert ran.out.startswith("36 of 36 pictures, 3 classes; each answered by heads that had not learned from it\n")
    assert re.search(r"1[* ] +lite\d@\d\d +[01]\.\d{3} \[", ran.out)
    assert re.search(rf"Next: headstart train {photos} --backbone lite\d@\d\d", ran.out.splitlines()[-1])
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert "Encoding with lite0@64: 36 of 36" in ran.err


def test_json_of_tried_models_is_alone_on_stdout(run: Run, photos: Path, tmp_path: Path):
    table = write_table(tmp_path / "labels.csv", "id,kind", *(f"{p.parent.name}/{p.name},{p.parent.name}"
                        for p in photos.rglob("*.png")))  # fmt: skip
    out = ("--out", tmp_path / "tried.png", "--json", "--no-cache", "--quiet")
    ran = run("models", "--try", table, "--images", photos, "--label-column", "kind", "--backbone", "lite0@32", *out)
    told = json.loads(ran.out)
    assert (ran.err, told["best"], told["fastest_not_surely_worse"]) == ("", "lite0@32", "lite0@32")
    assert told["trials"][0]["difference"] == [0, 0, 0]
    assert told["trials"][0]["on_front"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "lite0", "--seed", 0, "--engine", "torch"), "--backbone, --seed, --engine: without --try"),
        (("*vit*", "--try", "photos"), "'*vit*': --try takes backbones by --backbone NAME"),
        (("--try", "phtoos"), "phtoos is not there"),
        (("--try", "photos", "--out", "tried.jpg"), "must end in .png"),
        (("--try", "photos", "--out", "nowhere/tried.png"), "there is no folder nowhere"),
    ],
)
def test_models_asked_wrongly(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], message: str
):
    monkeypatch.chdir(photos.parent)
    ran = run("models", *arguments)
    assert ran.code == 2
    assert message in ran.err


def test_settings_lists_every_setting_with_its_default(run: Run):
    ran = run("settings")
    assert 'head.l2 = "auto"   lbfgs: l2 penalty' in ran.out
    names = [row["name"] for row in json.loads(run("settings", "--json").out)]
    assert [line.split(" = ")[0] for line in ran.out.splitlines()] == names


def test_the_cache_tells_its_size_and_can_be_cleared(run: Run, model_folder: Path, photos: Path, cold: Path):
    run("predict", model_folder, photos)
    content = json.loads(run("cache", "--json").out)
    assert (content["folder"], content["vectors"], content["files"]) == (str(cold), 36, 1)
    assert f"{cold}: 36 feature vectors in 1 files" in run("cache").out
    assert run("cache", "trim", "--to", "0").out.startswith("Removed 0 files, 0.0 MB; ")
    ran = run("cache", "trim", "--to", "five")
    assert ran.code == 2
    assert "--to is 'five'" in ran.err
    for shard in cold.rglob("*.safetensors"):
        os.utime(shard, (0, 0))
    assert run("cache", "trim", "--to", "1GB").out.startswith("Removed 0 files")
    assert run("cache", "trim", "--to", "1kB").out.startswith("Removed 1 files")
    run("predict", model_folder, photos)
    assert run("cache", "clear", "--yes").code == 0
    assert json.loads(run("cache", "--json").out)["vectors"] == 0


def test_a_damaged_cache_is_found_and_mended(run: Run, model_folder: Path, photos: Path, cold: Path):
    run("predict", model_folder, photos)
    assert run("cache", "verify").out == "1 files, 0 damaged.\n"
    (shard,) = cold.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    ran = run("cache", "verify")
    assert ran.code == 1
    assert str(shard) in ran.out
    assert run("cache", "verify", "--remove").code == 0
    assert not shard.exists()


def test_without_cache_nothing_is_kept(run: Run, model_folder: Path, photos: Path, cold: Path):
    assert run("predict", model_folder, photos, "--no-cache").code == 0
    assert not cold.exists()


# ── what is never written ──


@pytest.mark.parametrize(
    ("verb", "code"), [("train", 0), ("evaluate", 0), ("predict", 1), ("show", 0), ("summary", 0), ("cache", 0)]
)
def test_A4_no_verb_touches_pictures_or_model(
    run: Run, few: Path, model_folder: Path, tmp_path: Path, verb: str, code: int
):
    (few / "ash" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (few / "ash" / "notes.txt").write_text("text")
    before = tree(few), tree(model_folder)
    arguments = {
        "train": (few, "--out", tmp_path / "model", *SMALL),
        "evaluate": (model_folder, few),
        "predict": (model_folder, few, "--out", tmp_path / "p.csv"),
        "show": (few, "--out", tmp_path / "s.png"),
        "summary": (model_folder,),
        "cache": ("verify",),
    }[verb]
    assert run(verb, *arguments).code == code
    assert (tree(few), tree(model_folder)) == before


def test_nothing_temporary_is_left_beside_what_was_written(run: Run, few: Path, model_folder: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    run("predict", model_folder, few, "--out", tmp_path / "out" / "p.csv")
    run("show", few, "--out", tmp_path / "out" / "s.png")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p.csv", "s.png"]


def test_the_pictures_of_the_demo_come_with_their_labels(tmp_path: Path):
    data = demo.write_digits(tmp_path)
    labelled = sources.read(data.photos)
    assert (len(labelled), labelled.classes) == (1500, tuple("0123456789"))
    assert len(sources.read(data.new, data.targets)) == demo.NEW == 297
    assert not {file.read_bytes() for file in data.new.iterdir()} & {s.path.read_bytes() for s in labelled}


def test_a_demo_that_was_interrupted_is_no_obstacle_and_other_files_are(tmp_path: Path):
    assert demo.others(tmp_path) == []
    demo.write_digits(tmp_path)
    assert demo.others(tmp_path) == []
    (tmp_path / "photos" / "cats").mkdir()
    for name in ("photos/cats/1.jpg", "new/mine.png"):
        (tmp_path / name).touch()
    (tmp_path / "photos" / ".DS_Store").touch()  # somebody looked at it
    assert demo.others(tmp_path) == ["new/mine.png", "photos/cats/1.jpg"]


def test_a_table_that_is_not_the_demos_is_not_overwritten(run: Run, tmp_path: Path):
    (tmp_path / "new_labels.csv").write_text("id,label\n17,cat\n")
    ran = run("demo", "--out", tmp_path)
    assert ran.code == 2
    assert "holds files that are not the demo's: new_labels.csv" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["new_labels.csv"]


def test_a_file_of_the_run_is_not_overwritten_by_answers(run: Run, model_folder: Path, few: Path):
    before = (model_folder / "predictions.csv").read_bytes()
    ran = run("predict", model_folder, few, "--out", model_folder / "predictions.csv")
    assert ran.code == 2
    assert "it would be lost" in ran.err
    assert (model_folder / "predictions.csv").read_bytes() == before
    for _ in range(2):  # answers may lie there, and be written again
        assert run("predict", model_folder, few, "--out", model_folder / "answers.csv").code == 0


def test_stored_figures_are_those_of_the_training(run: Run, model_folder: Path):
    stored = json.loads((model_folder / "evaluation.json").read_text())
    assert json.loads(run("evaluate", model_folder, "--json").out) == stored
    accuracy = stored["validation"]["overall"]["accuracy"][0]
    assert f"Accuracy {100 * accuracy:.2f} %, loss " in run("evaluate", model_folder).out


def test_flags_that_stored_figures_would_not_heed_are_refused(run: Run, model_folder: Path, tmp_path: Path):
    for flags in (("--plots", tmp_path / "plots"), ("--split", "test"), ("--precision", "f32")):
        ran = run("evaluate", model_folder, *flags)
        assert ran.code == 2
        assert "Without pictures" in ran.err


def test_a_model_without_figures_says_how_to_get_some(run: Run, tmp_path: Path):
    (tmp_path / "model").mkdir()
    ran = run("evaluate", tmp_path / "model")
    assert ran.code == 1
    assert "headstart evaluate MODEL DATA" in ran.err


def test_first_rows_are_those_of_the_table_or_of_the_pictures(run: Run, photos: Path, tmp_path: Path):
    table = write_table(tmp_path / "sample.csv", "id,a,b,c,d,e,f,g", *(f"x{row},1,2,3,4,5,6,7" for row in range(9)))
    ran = run("show", table, "--rows", "2")
    assert ran.out.splitlines()[0].split() == ["id", "a", "b", "c", "d", "e"]
    assert ran.out.splitlines()[-1] == "(2 of 9 rows, 2 more columns)"
    assert "ash/ash_00.png" in run("show", photos, "--rows", "3").out


def test_one_picture_can_be_shown(run: Run, photos: Path, tmp_path: Path):
    out = tmp_path / "one.png"
    assert run("show", photos / "ash" / "ash_00.png", "--out", out).code == 0
    assert out.is_file()


def test_show_writes_its_picture_whole_or_not_at_all(
    run: Run, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "grid.png"
    out.write_bytes(b"what was there")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert run("show", few, "--out", out).code == 1
    assert out.read_bytes() == b"what was there"
