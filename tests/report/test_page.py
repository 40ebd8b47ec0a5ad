"""The page of a run: drawn from its files alone, bounded, and whatever names stand in it are shown, not run."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran
from huggingface_hub import ModelCard
from PIL import Image

from headstart.errors import ArtifactError
from headstart.report import album, card, page, stored, story
from headstart.workflows.train import TrainingResult

HOSTILE = [
    "<script>alert(1)</script>",
    "../x",
    'CON"onerror="alert(1)',
    "\u202eevil",
    "שלום",
    "x" * 300,
    "a/b",
    "{{ 7*7 }}",
]


class Tags(HTMLParser):
    """Collects the tags of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def told_of(model_folder: Path, classes: list[str], pictures: int, wrong: int = 1) -> dict[str, Any]:
    """Return what a run would tell whose model has these classes and took each for the next one now and then."""
    told = stored.read_run(model_folder)
    interval, each = [0.9, 0.85, 0.95], pictures // len(classes)
    figures = told["evaluations"]["validation"]
    following = dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    figures |= {
        "pictures": pictures,
        "classes": classes,
        "per_class": {
            name: {"pictures": each, "recall": [k / len(classes), 0.0, 1.0], "precision": interval, "f1": interval}
            for k, name in enumerate(classes)
        },
        "confusion": [{"given": a, "predicted": b, "pictures": wrong} for a, b in following.items()],
        "most_confused": [{"given": a, "predicted": b, "pictures": wrong} for a, b in list(following.items())[:40]],
    }
    told["model"]["classes"] = classes
    return told


def with_album(told: dict[str, Any], classes: list[str], size: int = 20) -> dict[str, Any]:
    """Add an album of as many pictures as there may be."""
    webp = base64.b64encode(bytes(size)).decode()
    kept = [
        {"name": f"{classes[k % len(classes)]}.png", "label": classes[k % len(classes)], "webp": webp}
        for k in range(1000)
    ]
    mistake = {"top": [[classes[1], 0.9], [classes[0], 0.1]], "given": 0.1, "suggested": classes[1]}
    suspect = {"suggested": classes[1], "confidence": 0.9, "likely": True, "duplicate_of": classes[0]}
    told["album"] = {
        "pictures": kept,
        "errors": 100_000,
        "mistakes": [
            mistake | {"picture": k, "nearest": [[200 + 3 * k + n, 0.5] for n in range(3)]} for k in range(200)
        ],
        "pairs": [{"classes": classes[:2], "taken": [3, 2], "pictures": [[0, 1], [2]]}] * 12,
        "doubtful": 5,
        "suspects": [suspect | {"picture": 900 + k} for k in range(60)],
        "findings": [[0]] * len(told["findings"]),
    }
    return told


def test_training_writes_the_page_and_its_album(model_folder: Path):
    text = (model_folder / "report.html").read_text(encoding="utf-8")
    assert "Right on 100 of 100 new pictures" in Tags(text).text
    assert stored.read_run(model_folder)["album"]["errors"] == 0


def test_the_page_says_who_measured_whom(model_folder: Path):
    told = stored.read_run(model_folder)
    turns = Tags(page.render(told)).text
    assert "Measured on 36 pictures, each by a model that had learned from others only" in turns
    assert "36 that it was made from, of which 36 measured it, each in its turn." in turns
    told["model"]["data"]["parts"] = {"train": 24, "validation": 12}
    told["evaluations"]["validation"]["pictures"] = 12
    held_out = Tags(page.render(told)).text
    assert "Measured on 12 pictures that it had not learned from" in held_out
    assert "of which 12 measured it." in held_out


def test_long_names_break_at_their_words_and_figures_stay_with_their_sign(model_folder: Path):
    names = ["rhodesian_ridgeback", "dogs/soft_coated", "_private"]
    text = page.render(with_album(told_of(model_folder, names, 300), names))
    assert ">rhodesian_<wbr>ridgeback</bdi>" in text
    assert ">dogs/<wbr>soft_<wbr>coated</bdi>" in text
    assert ">_<wbr>private</bdi>" in text
    assert "90\N{NO-BREAK SPACE}%" in text


def test_the_page_is_drawn_again_without_pictures_and_without_torch(model_folder: Path, tmp_path: Path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    for name in ("backbone.safetensors", "head.safetensors", "predictions.csv"):
        (folder / name).unlink()
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm', 'openvino', 'sklearn'])); "
        f"sys.argv = ['headstart', 'report', {str(folder)!r}]; from headstart.cli import main; main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (folder / "report.html").read_bytes() == before


def test_B11_hostile_names_are_shown_in_the_page_and_not_run(model_folder: Path):
    told = with_album(told_of(model_folder, HOSTILE, 800), HOSTILE)
    text = page.render(told)
    seen = Tags(text)
    assert sum(tag == "script" for tag, _ in seen.tags) == 1
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in seen.text
    assert "{{ 7*7 }}" in seen.text
    assert "שלום" in seen.text
    assert "x" * 300 in seen.text
    assert "\u202e" not in text


def test_G8_nothing_in_the_page_points_to_another_place(model_folder: Path):
    text = page.render(with_album(told_of(model_folder, ["a", "b", "c"], 800), ["a", "b", "c"]))
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    for _, attributes in Tags(text).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_id_of_the_page_is_there_once(model_folder: Path):
    ids = [
        attributes["id"]
        for _, attributes in Tags((model_folder / "report.html").read_text("utf-8")).tags
        if "id" in attributes
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_B14_G9_ten_thousand_classes_and_a_million_pictures_stay_under_20_MB(model_folder: Path):
    classes = [f"{'species ' * 8}{k:05d}" for k in range(10_000)]
    text = page.render(with_album(told_of(model_folder, classes, 1_000_000), classes, album.MOST_BYTES))
    assert len(text.encode()) < 20e6
    seen = Tags(text)
    assert "Of 10,000 classes the 500 that are found least are listed" in seen.text
    assert sum(tag == "tr" for tag, _ in seen.tags) == 501


def test_a_class_of_the_table_says_what_it_is_taken_for(model_folder: Path):
    rows = page._classes(told_of(model_folder, ["a", "b", "c"], 30, wrong=4)["evaluations"]["validation"])
    assert [(row["name"], row["taken"]) for row in rows] == [("a", (4, "b")), ("b", (4, "c")), ("c", (4, "a"))]


def test_a_run_without_an_album_has_a_page_without_pictures(model_folder: Path):
    told = stored.read_run(model_folder) | {"album": None, "journal": None}
    assert "webp" not in page.render(told)


def test_an_album_that_shows_what_it_does_not_hold_is_damaged(model_folder: Path):
    told = with_album(told_of(model_folder, ["a", "b"], 20), ["a", "b"])
    told["album"]["pictures"] = told["album"]["pictures"][:5]
    with pytest.raises(ArtifactError, match=r"album\.json is damaged: it shows picture \d+ and holds 5"):
        page.render(told)


@pytest.mark.parametrize("name", ["album.json", "journal.json", "findings.json"])
def test_a_damaged_file_of_the_page_is_named(model_folder: Path, tmp_path: Path, name: str):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).write_text('{"pictures": 3}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=name):
        stored.read_run(folder)


def test_what_is_doubtful_and_what_was_pretrained_is_said_at_the_top(model_folder: Path):
    told = with_album(told_of(model_folder, ["a", "b"], 20), ["a", "b"])
    told["findings"] = [
        {
            "code": "pre-training-overlap",
            "severity": "note",
            "message": "2 of 2 classes",
            "names": [],
            "advice": "Mind.",
        }
    ]
    cautions = story.of_run(told)["cautions"]
    assert cautions[0] == "2 of 2 classes. Mind."
    assert any("About 5 of the 20 measured labels" in line for line in cautions)


def test_the_card_is_one_that_the_hub_reads(model_folder: Path):
    told = told_of(model_folder, HOSTILE, 800)
    read = ModelCard(card.of(told)).data
    assert (read.library_name, read.pipeline_tag) == ("headstart", "image-classification")
    assert {one.metric_type for one in read.eval_results} == {"accuracy", "f1"}
    assert "<script>" not in card.of(told)


def test_thumbnails_are_small_bounded_and_carry_nothing_else(small_result: TrainingResult, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=exif)
    from headstart.data import images

    digest = images.digest((tmp_path / "a.jpg").read_bytes())
    data = base64.b64decode(album.thumbnail(tmp_path / "a.jpg", digest))
    assert len(data) <= album.MOST_BYTES
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (160, 107)
        assert not image.getexif()
    assert album.thumbnail(tmp_path / "a.jpg", "0" * 64) == ""


def test_the_command_writes_opens_and_tells(
    run: Callable[..., Ran], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    out = tmp_path / "page.html"
    assert run("report", model_folder, "--out", out, "--open").out.strip() == str(out)
    assert opened == [out.as_uri()]
    assert json.loads(run("report", model_folder, "--json").out)["answer"].startswith("Right on 100 of 100")
    assert run("report", tmp_path / "nothing").code == 1
