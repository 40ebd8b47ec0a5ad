"""When a page opens by itself: where somebody sits before a screen, unless they said no."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import pytest

from headstart.cli import places
from headstart.data import uris
from headstart.errors import ConfigError
from headstart.records import Locator


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", pages.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return pages


@pytest.mark.parametrize(
    ("asked", "system", "display", "terminal", "opens"),
    [
        (None, "linux", "DISPLAY", True, True),
        (None, "linux", "WAYLAND_DISPLAY", True, True),
        (None, "darwin", None, True, True),
        (None, "win32", None, True, True),
        (None, "linux", None, True, False),
        (None, "linux", "DISPLAY", False, False),
        (None, "darwin", None, False, False),
        (True, "linux", None, False, True),
        (False, "linux", "DISPLAY", True, False),
    ],
)
def test_a_page_opens_where_it_can_be_seen(
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: bool | None,
    system: str,
    display: str | None,
    terminal: bool,
    opens: bool,
):
    if display:
        monkeypatch.setenv(display, ":0")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    places.show(tmp_path / "report.html", asked)
    assert opened == [(tmp_path / "report.html").as_uri()] * opens


@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no such files")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ConfigError, match="is a device or a pipe"):
            places.check_out(out, [])


@pytest.mark.parametrize("kind", ["member", "cell"])
def test_a_file_is_not_replaced_whose_pictures_are_read(tmp_path: Path, kind: Literal["member", "cell"]):
    for name in ("other", "shard"):
        (tmp_path / name).write_bytes(b"pictures")
    read = [
        uris.within(tmp_path / name, "image", kind, row, size=1, mark=1)
        for name in ("other", "shard")
        for row in (0, 1)
    ]
    with pytest.raises(ConfigError, match="shard is one of the files that are read"):
        places.check_out(tmp_path / "shard", read)
    with pytest.raises(ConfigError, match="holds other, which is read"):
        places.check_folder(tmp_path, read)
    places.check_out(tmp_path / "answers", read)


def test_a_file_on_a_store_is_not_replaced_whose_pictures_are_read():
    for file in ("s3://bucket/photos.parquet", "https://host/photos.tar?sig=1"):
        out = uris.place(file)
        assert isinstance(out, Locator)
        for read in (out, uris.within(out, "image", "cell", 3, size=-1, mark=1)):
            with pytest.raises(ConfigError, match="is one of the files that are read"):
                places.outgoing(out, [Path("model.json"), read])
