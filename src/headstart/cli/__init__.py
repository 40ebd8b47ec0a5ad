"""The command line: one thin function per verb that parses, calls and prints, in modules by the moment they are needed.
Data goes to stdout, everything else to stderr. The only place that turns errors into exit codes: 0 done, 1 failed,
2 asked wrongly, 130 and 143 interrupted.

Nothing heavy is imported before a verb runs, so `--help` answers at once.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from headstart import terminal
from headstart.cli import housekeeping, judge, look, serve, train, use
from headstart.cli.options import explained, unfolded
from headstart.errors import HeadstartError, StorageError, asked_for

app = typer.Typer(
    help="From labelled photographs to an image classifier that can be trusted and used. Offline, in minutes.",
    epilog="Start with: headstart demo · then: headstart train photos/ --out runs/photos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
MOMENTS: dict[str, tuple[Callable[..., None], ...]] = {
    "Look at the pictures": (look.show, look.check, train.audit),
    "Train": (train.demo, look.models, train.train),
    "Judge": (judge.report, judge.evaluate, judge.compare, look.summary),
    "Use": (use.predict, use.explain, use.export, serve.serve),
    "Housekeeping": (look.settings,),
}
PATIENCE = 5.0  # seconds in which to stop; who tells it again afterwards does not want to wait for more

for moment, verbs in MOMENTS.items():
    for verb in verbs:
        about, examples = explained(verb)
        app.command(rich_help_panel=moment, help=about, epilog=examples)(unfolded(verb))
app.add_typer(housekeeping.app, name="cache", rich_help_panel=moment)


def _print_version(asked: bool) -> None:
    if asked:
        from headstart import __version__

        terminal.print_line(f"headstart {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Nothing is common to all verbs but the version."""


def main() -> None:
    """Run the command line and exit with its code."""
    _heed(_Stop())
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that cannot be shown ends nothing
    warnings.showwarning = terminal.show_warning
    warnings.filterwarnings("default", category=UserWarning, module=r"headstart\..*")
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # what matters in them is an error or a remark of ours
    try:
        with asked_for(" ".join(["headstart", *sys.argv[1:2]])):
            app()
    except HeadstartError as error:
        _fail(error)
    except _Stopped as stopped:
        _heed(signal.SIG_IGN)  # whoever tells it once more has been heard
        terminal.stderr.print("Interrupted. What was encoded is kept; the same command goes on from there.")
        sys.stderr.flush()
        os._exit(stopped.code)  # worker threads may be inside a long native call; there is nothing left to write
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(StorageError(f"{error.filename or 'A file'}: {error.strerror or error}."))


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.code = 128 + signal_number


def _heed(handler: Any) -> None:
    """Have something done, or nothing, when the process is told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


class _Stop:
    """Raises `_Stopped` when the process is told to stop; not once more while it puts away what it has."""

    def __init__(self) -> None:
        self._heard = -math.inf

    def __call__(self, number: int, _frame: object) -> None:
        if time.monotonic() - self._heard > PATIENCE:
            self._heard = time.monotonic()
            raise _Stopped(number)


def _fail(error: HeadstartError) -> None:
    terminal.print_error(error)
    sys.exit(error.exit_code)
