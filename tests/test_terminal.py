"""What a person reads while a command runs."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from headstart import terminal
from headstart.config import TrainConfig, read_config
from headstart.learning.heads import Step
from headstart.plans import EncoderPlan, resolve
from headstart.records import Finding, Preprocess, numbered

FOUND = (
    Finding("blurry-pictures", "warning", "2 pictures are blurry", ("a.png", "b.png"), "Look at them."),
    Finding("same-object", "note", "many pictures show the same thing once more: " + 20 * "word ", ("all",), "Then."),
)


def printed(monkeypatch: pytest.MonkeyPatch, *, to_a_terminal: bool, brief: bool) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=to_a_terminal, color_system=None, highlight=False)
    monkeypatch.setattr(terminal, "stderr", console)
    terminal.print_findings(FOUND, brief=brief)
    return out.getvalue().splitlines()


def test_brief_findings_take_a_line_each_which_a_terminal_cuts(monkeypatch: pytest.MonkeyPatch):
    first, second = printed(monkeypatch, to_a_terminal=True, brief=True)
    assert first == "warning 2 pictures are blurry: a.png, b.png"
    assert len(second) == 80
    assert second.endswith("…")


def test_a_log_keeps_brief_findings_whole(monkeypatch: pytest.MonkeyPatch):
    _, second = printed(monkeypatch, to_a_terminal=False, brief=True)
    assert second.endswith("word : all")


@pytest.mark.parametrize("to_a_terminal", [False, True])
def test_other_findings_say_what_to_do(monkeypatch: pytest.MonkeyPatch, *, to_a_terminal: bool):
    first, second = printed(monkeypatch, to_a_terminal=to_a_terminal, brief=False)
    assert first == "warning 2 pictures are blurry: a.png, b.png. Look at them."
    assert second.endswith("word : all. Then.")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 rows name a file"), (1, "1 row names a file"), (2, "2 rows name a file"), (1234, "1,234 rows name a file")],
)
def test_a_number_and_its_words_agree(number: int, text: str):
    assert numbered("{n} [row names|rows name] a file", number) == text
    assert numbered("[a, b] stays", number) == "[a, b] stays"


def test_a_log_tells_once_that_a_stage_ended_the_same_way(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "stderr", Console(file=out, width=80))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: 0.0)
    with terminal.progress(quiet=False) as heard:
        for stage, total in (("Refitting", 1), ("Refitting", 1), ("Encoding", 3), ("Encoding", 5), ("Encoding", 5)):
            heard(stage, 0, total)
            heard(stage, total, total)
    assert out.getvalue().splitlines() == ["Refitting: 1 of 1", "Encoding: 3 of 3", "Encoding: 5 of 5"]


def test_a_log_tells_the_rate_since_it_began_and_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch):
    out, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(terminal, "stderr", Console(file=out, width=80))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.progress(quiet=False) as heard:
        for seconds, done in ((0, 400), (5, 450), (20, 600), (60, 1000)):  # 400 were done by an earlier command
            clock[0] = seconds
            heard("Predicting", done, 1000)
    assert out.getvalue().splitlines() == [
        "Predicting: 600 of 1000 10/s, 40 s left",
        "Predicting: 1000 of 1000 10/s",
    ]


def test_a_long_fit_tells_a_step_every_ten_seconds_and_a_short_one_none(monkeypatch: pytest.MonkeyPatch):
    out, clock = io.StringIO(), [1000.0]
    monkeypatch.setattr(terminal, "stderr", Console(file=out, width=80))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    preprocess = Preprocess(64, 1, "bicubic", (0.5,) * 3, (0.5,) * 3)
    plan = resolve(TrainConfig(), preprocess, EncoderPlan("x", "", "torch", "cpu", "f32"))
    listen = terminal.epochs(plan, quiet=False)
    for number in range(8):
        listen(Step(number, 0.5 / (1 + number), 0.9, 0.6, 0.8, seconds=4.0))
        clock[0] += 4
    assert out.getvalue().splitlines() == [
        f"Fitting: step {number}: loss {0.5 / (1 + number):.4f}, accuracy 0.9000; held out 0.6000, 0.8000; 4.0 s"
        for number in (3, 6)
    ]


def test_a_network_that_is_trained_tells_every_epoch_and_where_it_begins(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "stderr", Console(file=out, width=80))
    preprocess = Preprocess(64, 1, "bicubic", (0.5,) * 3, (0.5,) * 3)
    config = read_config(None, ["head.finetune=all", "finetune.epochs=3"])
    listen = terminal.epochs(resolve(config, preprocess, EncoderPlan("x", "", "torch", "cpu", "f32")), quiet=False)
    for number in range(3):
        listen(Step(number, 0.5, 0.9, math.nan, math.nan))
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == [
        f"epoch {number} of at most 3" for number in range(3)
    ]


def test_pictures_that_a_finding_does_not_name_are_counted(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "stderr", Console(file=out, width=200))
    terminal.print_findings([Finding("many-frames", "note", "9 pictures have several frames", ("a", "b"), unnamed=7)])
    assert out.getvalue() == "note 9 pictures have several frames: a, b, … 7 more.\n"
