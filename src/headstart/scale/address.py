"""What `--cluster` was given → which cluster is meant. Nothing here needs Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.errors import ConfigError

MOST_WORKERS = 256  # on one machine


@dataclass(frozen=True, slots=True)
class Address:
    """Which cluster.

    Attributes:
        place: Where it is, as Ray takes it; empty: one of this machine alone is begun, and ended afterwards.
        workers: How many such a one has.
    """

    place: str = ""
    workers: int = 0


def parse(text: str) -> Address:
    """Return which cluster a text means: `auto`, `HOST:PORT`, or `local:N`.

    Raises:
        ConfigError: It is none of these.

    >>> parse("local:2"), parse("10.0.0.7:6379").place
    (Address(place='', workers=2), '10.0.0.7:6379')
    """
    kind, _, number = text.partition(":")
    if kind == "local" and number.isascii() and number.isdigit() and 1 <= int(number) <= MOST_WORKERS:
        return Address(workers=int(number))
    if text == "auto" or (kind != "local" and re.fullmatch(r"[\w.-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", text)):
        return Address(text)
    hint = "Run Headstart on a node of it, with --cluster auto." if text.startswith("ray://") else ""
    raise ConfigError(
        f"--cluster is {text!r}; it is auto, the HOST:PORT of a Ray cluster that this machine is a node of, or "
        f"local:N, N workers on this machine (1 to {MOST_WORKERS}).",
        hint or "--cluster local:2",
    )
