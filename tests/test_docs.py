"""What the documentation tells a reader to do, done; what it points at is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HUES, picture, write_table

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def thin_out(photos: Path, most: int = 30) -> None:
    """Leave so many pictures of each class: what follows the demo does the same with fewer of them, and sooner."""
    for folder in photos.iterdir():
        for path in sorted(folder.iterdir())[most:]:
            path.unlink()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_five_minutes_of_the_readme_run_as_written(tmp_path: Path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["HEADSTART_CACHE"] = str(tmp_path / "cache")
    for block in blocks(ROOT / "README.md", "sh"):
        subprocess.run(["sh", "-e", "-c", block], cwd=tmp_path, env=environment, check=True, timeout=300)
        thin_out(tmp_path / "headstart-demo" / "photos")
    for block in blocks(ROOT / "README.md", "python"):
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, check=True, timeout=300)
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert rows[0] == "image_id,label"
    assert len(rows) == 298
    made = {"digits.png", "batch.png", "probabilities.csv", "predictions.jsonl", "runs", "digits-model"}
    assert made <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_setting_in_the_pages_exists():
    from headstart.config import settings_table

    known = {name for name, *_ in settings_table()}
    named = {name for page in PAGES for name in re.findall(r"--set ([a-z_0-9.]+)=", page.read_text(encoding="utf-8"))}
    assert named - known == set()
    assert named


def test_every_flag_in_the_pages_exists():
    import typer

    from headstart import cli

    program = typer.main.get_command(cli.app)
    commands = program.commands
    flags = {"--set", "--version", "--help"}
    for command in [program, *commands.values(), *commands["cache"].commands.values()]:
        flags |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    prose = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CONTRIBUTING.md")
    prose = re.sub(r"ray (start|get-auth-token) .*", "", prose)  # another program's
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose)) - flags == set()


def test_every_hostile_situation_has_a_test_that_carries_its_number():
    listed = set(
        re.findall(r"^\| ([A-F]\d+|G[1-5]) \|", (ROOT / "docs/scenarios.md").read_text(encoding="utf-8"), re.M)
    )
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    carried = set(re.findall(r"def test_([A-F]\d+|G[1-5])_", tests))
    assert listed == carried


TUTORIAL = ROOT / "docs/concepts/tutorial.md"
STEPS = (
    "load `labels.csv`",
    "show the first rows",
    "add `.jpg`",
    "augment",
    "one batch and its shape",
    "25 pictures",
    "the model",
    "compile",
    "early stopping",
    "fit",
    "save",
    "summary",
    "curves",
    "evaluate",
    "show a test picture",
    "predict the test folder",
    "write `submission.csv`",
    "its first rows",
)
SMALL = 'recipe="tutorial", encoder=EncoderConfig("lite0"), pictures=PictureConfig(64), head=HeadConfig(epochs=2)'


def tutorial() -> list[tuple[str, str, str]]:
    """Return step, command and call of each row of the tutorial's table, without their backticks."""
    rows = re.findall(r"^\| (?!the tutorial)(.*?) \| (.*?) \| (.*?) \| (.*?) \|$", TUTORIAL.read_text("utf-8"), re.M)
    return [(step, command.strip("`–"), call.strip("`–")) for step, command, call, _ in rows]


def test_the_tutorials_table_has_its_steps_in_order():
    assert len(tutorial()) == len(STEPS)
    assert all(step.startswith(begin) for (step, *_), begin in zip(tutorial(), STEPS, strict=True))


@pytest.mark.slow
def test_every_command_and_call_of_the_tutorials_table_runs(tmp_path: Path):
    """As written, but for the backbone, whose weights do not come along, and the size of things."""
    draw_competition(tmp_path / "dog-breed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HEADSTART_CACHE": str(tmp_path / "cache")}
    small = "--recipe tutorial --backbone lite0 --set pictures.size=64 --set head.epochs=2"
    commands = [command.replace("--recipe tutorial", small) for _, command, _ in tutorial() if command]
    subprocess.run(["sh", "-e", "-c", "\n".join(commands)], cwd=tmp_path, env=environment, check=True, timeout=250)
    calls = [call.replace('recipe="tutorial"', SMALL) for *_, call in tutorial() if call]
    program = "\n".join(["from headstart.config import EncoderConfig, HeadConfig, PictureConfig", *calls])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=250)
    made = {"batch.png", "pictures.png", "test.png", "labels.csv", "submission.csv", "runs"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert len((tmp_path / "submission.csv").read_text().splitlines()) == 7
    assert len((tmp_path / "runs/dogs/history.csv").read_text().splitlines()) == 3


def draw_competition(root: Path) -> None:
    """Write a small competition: two classes of twelve pictures, and six to predict."""
    (root / "train").mkdir(parents=True)
    (root / "test").mkdir()
    names = [(f"{breed}{index:02d}", breed) for breed in ("ash", "birch") for index in range(12)]
    write_table(root / "labels.csv", "id,breed", *map(",".join, names))
    for seed, (name, breed) in enumerate(names):
        picture(HUES[breed], seed).save(root / "train" / f"{name}.jpg")
    for index in range(6):
        picture(HUES["ash"], 500 + index).save(root / "test" / f"new{index}.jpg")
    write_table(root / "sample_submission.csv", "id,ash,birch", *(f"new{index},0.5,0.5" for index in range(6)))
