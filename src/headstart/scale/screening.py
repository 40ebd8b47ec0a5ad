"""Pictures that end the process that decodes them → which they are, found out by processes that may die of it.

A child decodes one picture after the other and says before each which one it is: where it dies, the next child goes on
behind. So each such picture costs one process, however many others stand around it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from headstart.encoding import reading
from headstart.errors import HeadstartError
from headstart.records import Place, Preprocess

PATIENCE = 120.0  # seconds in which a picture is decoded, or never


def deadly(paths: Sequence[Place], preprocesses: Sequence[Preprocess]) -> dict[int, str]:
    """Return place → why, of the pictures that cannot be decoded in any process.

    Args:
        paths: Files of pictures.
        preprocesses: What each network has them prepared by.

    Raises:
        HeadstartError: No process could begin, for whatever reason: no picture is to blame.
    """
    found: dict[int, str] = {}
    begin = 0
    while begin < len(paths):
        ended = _tried(paths[begin:], preprocesses)
        if ended is None:
            break
        place, why = ended
        found[begin + place] = f"decoding it {why}"
        begin += place + 1
    return found


def _tried(paths: Sequence[Place], preprocesses: Sequence[Preprocess]) -> tuple[int, str] | None:
    """Return at which picture a child ended, and how; None if it came to the end."""
    context = multiprocessing.get_context("spawn")  # threads of an engine do not survive a fork
    pipe, other = context.Pipe(duplex=False)
    child = context.Process(target=_decode, args=(other, list(paths), tuple(preprocesses)), daemon=True)
    child.start()
    other.close()  # so that the pipe ends when the child does
    place, why = None, ""
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll(PATIENCE):
            if (word := pipe.recv()) is None:
                child.join()
                return None
            place = word
        why = f"takes more than {PATIENCE:.0f} seconds"
        child.kill()
    child.join()
    pipe.close()
    why = why or f"ends its process: {_end(child.exitcode or 0)}"
    if place is None:
        raise HeadstartError(
            f"Of pictures that worker processes died of none could be tried: to begin {why}.",
            "Where memory runs out, take fewer workers a machine.",
        )
    return place, why


def _decode(pipe: Connection[Any, Any], paths: Sequence[Place], preprocesses: Sequence[Preprocess]) -> None:
    """Be such a child."""
    every = tuple((network, 0) for network in range(len(preprocesses)))
    for place, path in enumerate(paths):
        pipe.send(place)
        reading.load(path, preprocesses, lambda _: every, with_properties=True)
    pipe.send(None)


def _end(code: int) -> str:
    return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
