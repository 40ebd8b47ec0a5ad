"""Runs side by side: the same pictures by their bytes, who is right on them, what is left out, what is shown."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from test_page import Tags

from headstart.errors import ArtifactError, ConfigError, HeadstartError
from headstart.report import page, runs

Rows = list[list[str]]


def change(folder: Path, name: str, edit: Callable[[Rows], Rows]) -> None:
    """Change the rows of a run's table, the header left as it is."""
    with open(folder / name, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *edit(rows)])


@pytest.fixture
def first(model_folder: Path, tmp_path: Path) -> Path:
    """A run that is right on all of its 36 pictures."""
    return shutil.copytree(model_folder, tmp_path / "first", ignore=shutil.ignore_patterns("*.png", "*.html"))


@pytest.fixture
def second(first: Path, tmp_path: Path) -> Path:
    """The same run, seven pictures of birch taken for ash, and with another setting."""
    folder = shutil.copytree(first, tmp_path / "second")

    def mistaken(rows: Rows) -> Rows:
        birches = [row for row in rows if row[2] == "birch"][:7]
        return [[*row[:3], "ash", *row[4:]] if row in birches else row for row in rows]

    change(folder, "predictions.csv", mistaken)
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    model["plan"]["head"]["prior"] = "none"
    (folder / "model.json").write_text(json.dumps(model), encoding="utf-8")
    return folder


def compared(*folders: Path) -> dict:
    return runs.of_runs([runs.read(folder) for folder in folders])


def test_who_is_right_is_tested_in_pairs_and_told(first: Path, second: Path):
    told = compared(first, second)
    (pair,) = told["comparisons"]
    every, worst, *_ = pair["changes"]
    assert (every["lost"], every["won"], every["p_value"]) == (7, 0, 2 * 0.5**7)
    assert (worst["name"], worst["adjusted"]) == ("birch", pytest.approx(3 * 2 * 0.5**7))
    assert runs.sentence(pair) == (
        "Run 2 is right on 29 and run 1 on 36 of the same 36 pictures: 0 won, 7 lost. "
        "That is more than chance explains (p = 0.016)."
    )


def test_what_changed_sides_is_named_with_both_answers(first: Path, second: Path):
    changed = compared(first, second)["comparisons"][0]["changed"]
    assert {(one["label"], one["before"], one["after"], one["won"]) for one in changed} == {
        ("birch", "birch", "ash", False)
    }
    assert [one["won"] for one in compared(second, first)["comparisons"][0]["changed"]] == [True] * 7


def test_only_settings_that_differ_are_told(first: Path, second: Path):
    assert compared(first, second)["settings"] == [{"name": "head.prior", "values": ["names", "none"]}]


def test_several_runs_are_each_compared_with_the_first_and_corrected_for_their_number(first: Path, second: Path):
    told = compared(first, second, second)
    pairs = told["comparisons"]
    assert runs.headline(told).startswith("Right, of the same 36 pictures: run 1 on 36, run 2 on 29, run 3 on 29.")
    assert [(pair["before"], pair["after"]) for pair in pairs] == [(1, 2), (1, 3)]
    assert [pair["changes"][0]["adjusted"] for pair in pairs] == [2 * 2 * 0.5**7] * 2
    assert runs.sentence(pairs[1]).endswith("(p = 0.031, corrected for comparing several runs).")


def test_the_same_run_changed_nothing(first: Path):
    pair = compared(first, first)["comparisons"][0]
    assert pair["changed"] == []
    assert runs.sentence(pair).endswith("No picture changed sides.")


def test_pictures_are_known_by_their_bytes_not_by_their_names(first: Path, second: Path):
    for name in ("predictions.csv", "pictures.csv"):
        change(second, name, lambda rows: [[f"elsewhere/{row[0]}", *row[1:]] for row in rows])
    told = compared(first, second)
    assert told["pictures"] == 36
    assert all(one["picture"].startswith("elsewhere/birch/") for one in told["comparisons"][0]["changed"])


def test_what_only_one_run_measured_is_left_out_and_counted(first: Path, second: Path):
    change(second, "predictions.csv", lambda rows: [row for row in rows if row[2] != "cedar"])
    told = compared(first, second)
    assert [one["left_out"] for one in told["runs"]] == [12, 0]
    assert runs.remarks(told) == [
        "Compared on the 24 pictures that all of them measured; run 1 measured 12 more, which are left out"
    ]


def test_labels_of_the_last_run_count_and_the_others_are_told(first: Path, second: Path):
    change(
        second, "pictures.csv", lambda rows: [[row[0], "ash", *row[2:]] if row[1] == "birch" else row for row in rows]
    )
    told = compared(first, second)
    assert told["labels_that_differ"] == 12
    assert (told["comparisons"][0]["changes"][0]["won"], told["comparisons"][0]["changes"][0]["lost"]) == (7, 0)
    assert "12 labels differ between them; those of the last run count" in runs.remarks(told)


def rename_classes(folder: Path, names: dict[str, str]) -> None:
    for name, columns in (("pictures.csv", (1,)), ("predictions.csv", (2, 3))):
        change(
            folder,
            name,
            lambda rows, columns=columns: [
                [names.get(cell, cell) if place in columns else cell for place, cell in enumerate(row)] for row in rows
            ],
        )
    text = (folder / "predictions.csv").read_text(encoding="utf-8")
    for old, new in names.items():
        text = text.replace(f"probability:{old}", f"probability:{new}")
    (folder / "predictions.csv").write_text(text, encoding="utf-8")


def test_classes_that_not_all_runs_know_are_left_out(first: Path, second: Path):
    rename_classes(second, {"cedar": "larch"})
    told = compared(first, second)
    assert (told["pictures"], told["of_other_classes"]) == (24, 12)
    assert any("of classes that not all of them know" in line for line in runs.remarks(told))


def no_run(first: Path, second: Path) -> None:
    shutil.rmtree(second)
    second.mkdir()


def other_classes(first: Path, second: Path) -> None:
    rename_classes(second, {"ash": "oak", "birch": "pine", "cedar": "larch"})


def other_pictures(first: Path, second: Path) -> None:
    change(second, "pictures.csv", lambda rows: [[*row[:3], row[3][::-1]] for row in rows])
    change(second, "predictions.csv", lambda rows: rows[:20])


def no_plan(first: Path, second: Path) -> None:
    (second / "model.json").write_text('{"created": 3}', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (no_run, ArtifactError, r"second cannot be compared: there is no file .*pictures\.csv"),
        (other_classes, ConfigError, r"no class in common.*first: ash, birch, cedar; .*second: oak, pine, larch"),
        (other_pictures, ConfigError, r"No picture was measured by all of these runs: .*first 36, .*second 20"),
        (no_plan, ArtifactError, r"(?s)model\.json.*plan is missing.*created is 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: Path, second: Path, spoil: Callable[[Path, Path], None], error: type[HeadstartError], message: str
):
    spoil(first, second)
    with pytest.raises(error, match=message):
        compared(first, second)


def test_one_run_alone_is_refused(first: Path):
    with pytest.raises(ConfigError, match="1 run was named; two or more"):
        compared(first)


def test_B11_hostile_names_are_shown_in_the_page_and_not_run(first: Path, second: Path):
    second = second.rename(second.with_name("<b onclick=alert(1)>"))
    hostile = {"ash": "<script>alert(1)</script>", "birch": 'x"onerror="alert(1)'}
    for folder in (first, second):
        rename_classes(folder, hostile)
        for name in ("predictions.csv", "pictures.csv"):
            change(folder, name, lambda rows: [[f"<img src=x onerror=alert(1)>{row[0]}", *row[1:]] for row in rows])
    read = [runs.read(folder) for folder in (first, second)]
    text = page.render_comparison(runs.of_runs(read), runs.thumbnails(read))
    seen = Tags(text)
    assert sum(tag == "script" for tag, _ in seen.tags) == 1
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in seen.text
    assert "<img src=x onerror=alert(1)>" in seen.text


def test_the_page_shows_the_pictures_that_the_runs_keep(first: Path, second: Path):
    album = json.loads((first / "album.json").read_text(encoding="utf-8"))
    lost = next(one for one in compared(first, second)["comparisons"][0]["changed"])
    album["pictures"].append({"name": lost["picture"], "label": "birch", "webp": "UklGRg=="})
    (first / "album.json").write_text(json.dumps(album), encoding="utf-8")
    read = [runs.read(folder) for folder in (first, second)]
    text = page.render_comparison(runs.of_runs(read), runs.thumbnails(read))
    assert text.count("data:image/webp;base64,UklGRg==") == 1
    assert "Run 2 is right on 29 and run 1 on 36" in Tags(text).text


def test_the_command_prints_and_writes_the_page(run: Callable[..., Ran], first: Path, second: Path, tmp_path: Path):
    ran = run("compare", first, second, "--out", tmp_path / "compare.html")
    assert ran.code == 0
    assert "0 won, 7 lost" in ran.out
    assert "head.prior" in ran.out
    assert (tmp_path / "compare.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(run("compare", first, second, "--json").out)["pictures"] == 36
    assert run("compare", first).code == 2
    assert run("compare", first, tmp_path / "nothing").code == 1
    assert "would be lost" in run("compare", first, second, "--out", second / "model.json").err


@pytest.mark.slow
def test_neither_torch_nor_pictures_are_needed(first: Path, second: Path):
    for name in ("backbone.safetensors", "head.safetensors"):
        (second / name).unlink()
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm', 'openvino', 'sklearn'])); "
        f"sys.argv = ['headstart', 'compare', {str(first)!r}, {str(second)!r}, '--out', {str(second / 'c.html')!r}]; "
        "from headstart.cli import main; main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (second / "c.html").is_file()
