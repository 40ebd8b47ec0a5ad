"""What the documentation tells a reader to do, done; what it points at is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_five_minutes_of_the_readme_run_as_written(tmp_path: Path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["HEADSTART_CACHE"] = str(tmp_path / "cache")
    for block in blocks(ROOT / "README.md", "sh"):
        subprocess.run(["sh", "-e", "-c", block], cwd=tmp_path, env=environment, check=True, timeout=300)
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

    commands = typer.main.get_command(cli.app).commands
    flags = {"--set", "--version", "--help"}
    for command in [*commands.values(), *commands["cache"].commands.values()]:
        flags |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    prose = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CONTRIBUTING.md")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose)) - flags == set()


def test_every_hostile_situation_has_a_test_that_carries_its_number():
    listed = set(re.findall(r"^\| ([A-E]\d+) \|", (ROOT / "docs/scenarios.md").read_text(encoding="utf-8"), re.M))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    carried = set(re.findall(r"def test_([A-E]\d+)_", tests))
    assert listed == carried
