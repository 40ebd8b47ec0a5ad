"""Bars for whoever waits for a call from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import draw_folders

import headstart as hs


def test_every_stage_of_a_call_shows_a_bar_that_ends_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hs.check(draw_folders(tmp_path / "photos", ("ash", "birch"), each=6), cache=None, progress=hs.ProgressBar())
    told = capsys.readouterr()
    assert "Reading: 100%" in told.err
    assert "Encoding: 100%" in told.err
    assert "12/12" in told.err
    assert told.out == ""


def test_a_stage_that_comes_again_gets_another_bar_and_one_that_ended_is_not_drawn_twice(
    capsys: pytest.CaptureFixture[str],
):
    bar = hs.ProgressBar()
    for done in (0, 2, 4, 4):
        bar("Encoding", done, 4)
    told = capsys.readouterr().err
    assert "100%" in told
    assert told.count("\n") == 1  # a bar that waited is drawn more often, and ends its line once
    for done in (0, 6):
        bar("Encoding", done, 6)
    told = capsys.readouterr().err
    assert "6/6" in told
    assert "4/4" not in told
