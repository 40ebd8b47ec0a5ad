"""What a person writes to say where something lies, a path or a URI → its place; and what of it may be shown.

Nothing is asked of any store here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from headstart.errors import ConfigError
from headstart.records import Locator, Place

SCHEMES = ("s3", "gs", "az", "https", "file")

URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?#]*)(.*)", re.S)
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
_LOGIN = re.compile(r"(://)(?:[^/\s?#@:]*:(?!\d+(?:/|$))[^\s@]*|[^/\s?#@]*)@")  # a secret key may hold a slash
_QUERY = re.compile(r"(https?://[^?\"'\n]*)\?[^\s\"']*|(://[^?\"'\n]*)\?[^\s\"']*=[^\s\"']*")


def is_uri(text: str) -> bool:
    """Return whether a text is `scheme://…`; a drive of Windows is none."""
    return URI.match(text) is not None


def is_read(text: str) -> bool:
    """Return whether a text is a URI of a kind that is read here."""
    told = URI.match(text)
    return told is not None and _is_known(told[1].lower(), told[2])


def _is_known(scheme: str, owner: str) -> bool:
    return scheme in SCHEMES or (scheme == "http" and _LOOPBACK.fullmatch(owner) is not None)


def is_web(place: Place) -> bool:
    """Return whether something lies on a web server, which does not tell what lies beside it."""
    return isinstance(place, Locator) and place.file.startswith("http")


def shown(text: str) -> str:
    """Return a text whose URIs are without the credentials and queries that they hold.

    >>> shown("train https://host/a.csv?sig=1 --images s3://key:word@bucket/b")
    'train https://host/a.csv --images s3://bucket/b'
    """
    return _QUERY.sub(r"\1\2", _LOGIN.sub(r"\1", text))


def place(given: str | os.PathLike[str] | Locator) -> Place:
    """Return where something lies: of `file://…` and of what is no URI a path, of another URI a locator.

    Raises:
        ConfigError: The URI is of a kind that is not read, or holds what should be told by the environment.
    """
    if isinstance(given, Locator):
        return given
    told = URI.match(given) if isinstance(given, str) else None
    if told is None or not isinstance(given, str):
        return Path(given)
    scheme, owner, rest = told[1].lower(), told[2], told[3]
    if not _is_known(scheme, owner):
        raise ConfigError(f"{shown(given)} is {scheme}://…; {', '.join(f'{one}://' for one in SCHEMES)} are read.")
    if scheme != "file" and (_LOGIN.match(given, given.index("://")) or shown(given) != given and scheme[:4] != "http"):
        raise ConfigError(
            f"{shown(given)} was given with credentials or a query in it, which would be written down with it.",
            "Leave them out: credentials are taken from the environment, e.g. AWS_ACCESS_KEY_ID.",
        )
    if scheme == "file":
        if owner.lower() not in ("", "localhost"):
            raise ConfigError(f"{given} names the host {owner}.", f"A file of this machine is file:///{owner}{rest}.")
        return Path(re.sub("^/(?=[A-Za-z]:)", "", unquote(rest)))  # a drive of Windows
    if not owner:
        raise ConfigError(f"{shown(given)} names no {'host' if scheme.startswith('http') else 'bucket'}.")
    if scheme in ("https", "http"):
        rest, _, query = rest.partition("#")[0].partition("?")
        if "%2f" in rest.lower():  # the library that asks would ask for another file
            raise ConfigError(
                f"{shown(given)} holds an encoded slash, %2F, which cannot be asked for.", "Copy it here."
            )
        return Locator(f"{scheme}://{owner}{rest}", query=query)
    return Locator(f"{scheme}://{owner}{rest.rstrip('/')}")


def within(file: Place, inner: str, kind: Literal["member", "cell"], number: int, *, size: int, mark: int) -> Locator:
    """Return the place of something in a file; see `Locator`."""
    return Locator(str(file), inner, kind, number, size, mark, "" if isinstance(file, Path) else file.query)


def holder(place: Place) -> Place:
    """Return the file that something is, or lies in."""
    if isinstance(place, Path) or place.kind == "object":
        return place
    return Locator(place.base, query=place.query) if is_uri(place.base) else Path(place.base)


def owner(uri: str) -> str:
    """Return what asks for a key are made to, e.g. `s3://bucket`."""
    told = URI.match(uri)
    return f"{told[1]}://{told[2]}" if told else uri
