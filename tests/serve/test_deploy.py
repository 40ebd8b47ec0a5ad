"""How a server is run elsewhere: what the files for Docker and systemd ask for is what there is."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from serving import MODEL, Server, drawn, loopback

from headstart import cli
from headstart.errors import TRAINING

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
BLOCKED = "import sys\nfor name in {!r}:\n    sys.modules[name] = None\n"
READ_ONLY = """
import os, sys
def watch(event, arguments):
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "shutil.copyfile"):
        raise OSError(30, f"Read-only file system: {event} {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and os.fsdecode(path) not in ("/dev/null", "/dev/tty"):
            raise OSError(30, f"Read-only file system: {path}")
sys.addaudithook(watch)
"""

pytestmark = pytest.mark.usefixtures("_this_machine_only")
_this_machine_only = pytest.fixture(loopback)


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile in their order."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line and not line.startswith("#")]  # type: ignore[misc]


def parsed(words: list[str]) -> dict[str, object]:
    """What our command line makes of an order to serve."""
    assert words[:2] == ["headstart", "serve"]
    return COMMANDS["serve"].make_context("serve", words[2:]).params


def test_the_image_serves_as_nobody_and_without_what_trains():
    found = dict(instructions())  # of each kind the last
    assert re.fullmatch(r"\d+:\d+", found["USER"])
    assert "0" not in found["USER"].split(":")
    asked = parsed(json.loads(found["ENTRYPOINT"]))
    assert (str(asked["model"]), asked["host"], asked["no_cache"]) == ("/model", "0.0.0.0", True)
    assert found["EXPOSE"] == str(asked["port"])
    assert f":{asked['port']}/health/live" in found["HEALTHCHECK"]
    install = next(words for kind, words in instructions() if "pip install" in words)
    assert install.endswith("'.[serve]'")
    stages = [words for kind, words in instructions() if kind == "FROM"]
    assert len(stages) == 2
    assert all(re.match(r"python:3\.\d+-slim", stage) for stage in stages)


def test_what_the_image_copies_is_there_and_sent_to_the_builder():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for kind, words in instructions():
        if kind == "COPY" and not words.startswith("--from"):
            for name in words.split()[:-1]:
                assert (ROOT / name).exists()
                assert name in sent


def test_compose_adds_what_the_command_line_takes():
    text = (ROOT / "docs/examples/compose.yaml").read_text()
    entry = json.loads(dict(instructions())["ENTRYPOINT"])
    added = json.loads(re.search(r"command: (\[.*\])", text)[1])  # type: ignore[index]
    asked = parsed([*entry, *added])
    assert asked["name"] == ["photos.example.org"]
    for line in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"):
        assert line in text


def test_the_unit_of_systemd_serves_and_lets_it_finish():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(ROOT / "docs/examples/headstart.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    asked = parsed([Path(program).name, *words])
    assert asked["host"] == "127.0.0.1"
    assert float(service["TimeoutStopSec"]) > 30  # what is in flight may take so long
    assert service["KillMode"] == "mixed"  # the process that answers is ended by the server, after its last answer
    assert service["Restart"] == "on-failure"


def sitecustomize(folder: Path, code: str) -> dict[str, str]:
    """Have every process of a server begin with this code."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(code)
    source = Path(cli.__file__).parents[2]
    return {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{source}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
def test_it_writes_nothing_and_needs_nothing_that_trains(tmp_path: Path):
    environment = sitecustomize(tmp_path, BLOCKED.format(sorted(TRAINING)) + READ_ONLY)
    server = Server(tmp_path / "log", MODEL, "--port", 0, "--no-cache", environment=environment).wait()
    try:
        assert server.predict(drawn(1)).status == 200
        assert server.ask("GET", "/").status == 200
        refused = server.ask("POST", "/explain", drawn(1), {"content-type": "image/png"})
        assert refused.status == 501
        assert "needs an optional part" in refused.json["detail"]
        assert server.predict(drawn(1)).status == 200
    finally:
        assert server.stop() == 0, server.written
    assert "Read-only" not in server.written


def test_without_the_extra_the_verb_says_what_to_install(tmp_path: Path):
    environment = os.environ | sitecustomize(tmp_path, BLOCKED.format(["fastapi"]))
    command = [sys.executable, "-m", "headstart", "serve", str(MODEL)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "headstart serve needs an optional part that is not installed (fastapi)" in ran.stderr
    assert "pip install 'headstart[serve]'" in ran.stderr
