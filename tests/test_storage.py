"""Reading files of others: only regular ones, of bounded size, and nothing that could hang."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from headstart import storage
from headstart.errors import StorageError


def test_a_regular_file_is_read_whole_up_to_the_bound(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"12345")
    assert storage.read_regular(tmp_path / "x", 5) == b"12345"


def test_a_file_above_the_bound_is_refused_with_both_numbers(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"123456")
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path / 'x'} is larger than 5 bytes")):
        storage.read_regular(tmp_path / "x", 5)


def test_a_file_that_grows_while_it_is_read_stays_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").write_bytes(b"123456")
    before = os.stat_result((0o100644, *[0] * 9))  # it was empty when it was looked at
    monkeypatch.setattr(storage.os, "fstat", lambda _: before)
    assert storage.read_regular(tmp_path / "x", 6) == b"123456"
    with pytest.raises(StorageError, match="larger than 5 bytes"):
        storage.read_regular(tmp_path / "x", 5)


@pytest.mark.timeout(10)
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(StorageError, match=f"^{re.escape(str(path))} is not a regular file"):
            storage.read_regular(path, 1 << 20)


@pytest.mark.timeout(10)
def test_a_file_that_turns_into_a_pipe_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "x")
    regular = os.stat_result((0o100644, *[0] * 9))
    monkeypatch.setattr(storage.os, "stat", lambda _: regular)
    with pytest.raises(StorageError, match="not a regular file"):
        storage.read_regular(tmp_path / "x", 1 << 20)


def test_what_the_operating_system_says_passes_through(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        storage.read_regular(tmp_path / "gone", 5)


def test_what_somebody_else_left_behind_stays_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("theirs", "ours"):
        (tmp_path / f".{name}.tmp").mkdir()
        os.utime(tmp_path / f".{name}.tmp", (0, 0))
    remove = shutil.rmtree

    def refused(path: Path) -> None:
        if "theirs" in path.name:
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path)

    monkeypatch.setattr(storage.shutil, "rmtree", refused)
    storage.remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".theirs.tmp"]
