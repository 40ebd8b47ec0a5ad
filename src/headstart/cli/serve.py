"""The verb that answers over HTTP."""

from __future__ import annotations

import logging
import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart import terminal
from headstart.cli import places
from headstart.cli.options import Engine, Model, NoCache, Open, Quiet
from headstart.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from headstart.serve.limits import Limits

TOKEN = "HEADSTART_TOKEN"  # noqa: S105  # the name of a variable
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Where:
    """Where it listens, and to whom."""

    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every network of this machine.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000
    name: Annotated[
        list[str] | None,
        typer.Option(help="A name that the server is called by, besides localhost and addresses; repeat for several."),
    ] = None
    token_file: Annotated[
        Path | None, typer.Option(help="A file whose first line clients must show; or set HEADSTART_TOKEN.")
    ] = None

    def token(self) -> str | None:
        """Return what clients must show; None: nothing.

        Raises:
            ConfigError: The file cannot be read, or holds none.
        """
        if self.token_file is None:
            return os.environ.get(TOKEN) or None
        try:
            first = self.token_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--token-file {self.token_file} cannot be read: {error}.") from error
        if not first:
            raise ConfigError(f"--token-file {self.token_file} has nothing on its first line; a token was expected.")
        return first


@dataclass(frozen=True)
class Bounds:
    """What it bears."""

    most_megabytes: Annotated[float, typer.Option(help="Of a request; more is refused before it is decoded.")] = 32
    most_pictures: Annotated[int, typer.Option(help="Of a request.")] = 32
    queue: Annotated[int, typer.Option(help="Pictures that may wait; more are told to come again.")] = 128
    batch: Annotated[int, typer.Option(help="Pictures that are computed together.")] = 16
    deadline: Annotated[float, typer.Option(help="Seconds after which an answer is given up.")] = 10
    patience: Annotated[float, typer.Option(help="Seconds that a client may take to ask, more if it sends much.")] = 10
    drain: Annotated[
        float, typer.Option(help="Seconds between not being ready and not listening, when it is told to stop.")
    ] = 0.5

    def limits(self) -> Limits:
        """Return them checked.

        Raises:
            ConfigError: One of them leaves nothing to serve.
        """
        from headstart.serve.limits import MEGABYTE, Limits

        size = round(self.most_megabytes * MEGABYTE)
        return Limits(
            size,
            self.most_pictures,
            self.queue,
            self.batch,
            self.deadline,
            self.patience,
            drain=self.drain,
            held=max(512 * MEGABYTE, size),
        )


def serve(
    model: Model,
    *,
    where: Where,
    bounds: Bounds,
    engine: Engine,
    hide_learned: Annotated[
        bool, typer.Option("--hide-learned", help="Show nobody the pictures that the model learned from.")
    ] = False,
    browser: Open = False,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP: a page for people at /, POST /predict for programs. Ctrl-C stops it.

    A picture goes there as the body of a request, or several as the files of a form; see http://127.0.0.1:8000/openapi.json.

    Examples:
      headstart serve runs/photos
      headstart serve runs/photos --host 0.0.0.0 --token-file token.txt --name photos.example.org
    """
    places.check_model(model)
    limits, token = bounds.limits(), where.token()
    try:
        from headstart.serve import server
    except ModuleNotFoundError as error:
        raise MissingExtraError("headstart serve", "serve", str(error.name)) from error
    from headstart.serve.inference import Served

    address = server.listen(where.host, where.port)
    host, port = address.getsockname()[:2]
    link = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if where.host not in LOOPBACK and token is None:
        terminal.say(False, f"warning: whoever reaches {link} may ask; --token-file FILE asks for a token.")
    _log(quiet)

    def begun() -> None:
        terminal.say(quiet, f"Serving {model} at {link}. Ctrl-C stops it.")
        if browser:
            webbrowser.open(link)

    served = Served(model, engine.asked(), learned=not hide_learned, cache=places.cache(no_cache))
    server.serve(served, address, limits, token=token, names=where.name or (), begun=begun)
    terminal.say(quiet, "Stopped; what was asked was answered.")


def _log(quiet: bool) -> None:
    """Have the server tell of every request on stderr, or of mistakes only."""
    log, handler = logging.getLogger("headstart.serve"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
