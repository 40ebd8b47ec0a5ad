"""What `--help` shows: verbs and options where one looks for them, whole in eighty columns, and examples to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest
import typer.main
from rich.console import Console
from typer import rich_utils

from headstart import cli
from headstart.cli import options

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return the help of a verb on a terminal of eighty columns."""
    monkeypatch.setattr(rich_utils, "_get_rich_console", lambda stderr=False: Console(width=80, color_system=None))

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            cli.app([*arguments, "--help"], prog_name="headstart")
        return capsys.readouterr().out

    return call


def panels(text: str) -> list[str]:
    return re.findall(r"^╭─ (.*?) ─+╮$", text, re.M)


def test_verbs_stand_by_the_moment_they_are_needed(shown: Callable[..., str]):
    text = shown()
    assert panels(text)[1:] == ["Look at the pictures", "Train", "Judge", "Use", "Housekeeping"]
    order = re.findall(rf"^│ ({'|'.join(COMMANDS)}) +\S", text, re.M)
    assert sorted(order) == sorted(COMMANDS)
    assert order.index("check") < order.index("train") < order.index("compare") < order.index("predict")


def test_the_options_of_train_stand_in_groups(shown: Callable[..., str]):
    assert panels(shown("train")) == [
        "Arguments",
        "Options",
        "Which labelled pictures",
        "How much work a picture is worth, and what looks at it",
        "What is asked of a training",
        "What computes the features",
        "What a training does besides, and where it tells of it",
    ]


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_eighty_columns_suffice(shown: Callable[..., str], verb: str):
    lines = shown(verb).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    about = [re.split(r" {2,}", line.strip("│ "))[-1] for line in lines if line.startswith("│ --")]
    assert min(map(len, about), default=30) >= 15, "the help of an option is squeezed"


@pytest.mark.parametrize("verb", [verb for verbs in cli.MOMENTS.values() for verb in verbs], ids=lambda v: v.__name__)
def test_examples_can_be_typed(verb: Callable[..., None]):
    lines = options.explained(verb)[1].splitlines()[1:]
    for line in lines:
        program, name, *arguments = shlex.split(line.split("   ")[0].split("  ")[0])
        assert (program, name) == ("headstart", verb.__name__)
        COMMANDS[name].make_context(name, arguments)
    assert bool(lines) == (verb.__name__ in ("train", "compare", "serve"))


def test_lines_of_a_docstring_flow():
    def verb() -> None:
        """One.

        Two and
        three.

        Examples:
            headstart verb
        """

    assert options.explained(verb) == ("One.\n\nTwo and three.", "For example:\nheadstart verb")
