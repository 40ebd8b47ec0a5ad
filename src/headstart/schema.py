"""Declarations of what a JSON file must hold → every problem in it at once, each with its place, its value and what was
expected there.

A check takes a value and its place, such as `rules.sets.level`, and returns the problems. The functions below make
checks; `record` and its like make larger ones of smaller ones, so that a declaration reads like the file.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import ArtifactError, StorageError
from headstart.storage import read_regular

Check = Callable[[Any, str], list[str]]

MOST_BYTES = 256 * 1024 * 1024  # of a JSON file; of a model of 10,000 classes it has about ten million
MOST_SHOWN = 20  # problems of one file

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 160


def read_json(path: Path, most: int = MOST_BYTES, *, names: bool = False) -> Any:
    """Return what a JSON file holds; numbers that are not finite, which JSON does not know, are damage.

    Args:
        path: The file.
        most: The most bytes that it may have.
        names: Whether it holds names of files, which may have bytes that are no UTF-8.

    Raises:
        FileNotFoundError: There is no such file; `NotADirectoryError` where its folder is a file.
        ArtifactError: It cannot be read, is no regular file, too large, or no JSON.
    """
    errors = "surrogateescape" if names else "strict"
    try:
        return json.loads(read_regular(path, most).decode(errors=errors), parse_constant=_refuse, parse_float=_finite)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except StorageError as error:
        raise ArtifactError(error.message) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}.") from error


def require(path: Path, problems: list[str], hint: str = "") -> None:
    """Raise an `ArtifactError` with all the problems of a file, if there are any."""
    if problems:
        rest = [f"and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
        raise ArtifactError(f"{path} is damaged: " + "\n  ".join(["", *problems[:MOST_SHOWN], *rest]), hint)


def wrong(where: str, value: Any, expected: str) -> str:
    """Return the sentence about one value."""
    return f"{where} is {_shown(value)}, but must be {expected}"


def text(pattern: str = ".*", about: str = "text", most: int = 100_000) -> Check:
    """Make the check of a text that a regular expression matches as a whole."""
    known = re.compile(pattern, re.DOTALL)

    def check(value: Any, where: str) -> list[str]:
        fine = isinstance(value, str) and len(value) <= most and known.fullmatch(value)
        return [] if fine else [wrong(where, value, about)]

    return check


def choice(*allowed: Any) -> Check:
    """Make the check of a value that is one of a few; true is not 1."""

    def check(value: Any, where: str) -> list[str]:
        fine = any(type(value) is type(one) and value == one for one in allowed)
        return [] if fine else [wrong(where, value, " or ".join(json.dumps(one) for one in allowed))]

    return check


def number(low: float, high: float, *, whole: bool = False) -> Check:
    """Make the check of a number in [low, high]; the bounds are finite, so NaN is outside."""
    kinds = (int,) if whole else (int, float)

    def check(value: Any, where: str) -> list[str]:
        fine = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
        return [] if fine else [wrong(where, value, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}")]

    return check


def nullable(inner: Check) -> Check:
    """Make the check of a value that may be missing."""
    return lambda value, where: [] if value is None else inner(value, where)


def listing(item: Check, fewest: int = 0, most: int = 1_000_000) -> Check:
    """Make the check of a list whose items all pass one check."""
    count = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"

    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, list) or not fewest <= len(value) <= most:
            return [wrong(where, value, f"a list of {count} values")]
        return [problem for row, one in enumerate(value) for problem in item(one, f"{where}[{row}]")]

    return check


def table(item: Check, names: Collection[str] | None = None) -> Check:
    """Make the check of an object with any names, or any of these, whose values all pass one check."""

    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [wrong(where, value, "a section")]
        unknown = [] if names is None else [_unknown(where, name) for name in value if name not in names]
        known = (problem for name, one in value.items() for problem in item(one, _inner(where, name)))
        return [*unknown, *known]

    return check


def record(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, extra: bool = False) -> Check:
    """Make the check of an object with these fields, perhaps those, and others only where `extra` says so."""
    checks = {**fields, **(optional or {})}

    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [wrong(where, value, "a section")]
        missing = [f"{_inner(where, name)} is missing" for name in fields if name not in value]
        unknown = [] if extra else [_unknown(where, name) for name in value if name not in checks]
        inner = [p for name, one in checks.items() if name in value for p in one(value[name], _inner(where, name))]
        return [*missing, *unknown, *inner]

    return check


def variants(key: str, kinds: Mapping[str, Check]) -> Check:
    """Make the check of an object whose field `key` says which of several records it is."""
    which = record({key: choice(*kinds)}, extra=True)

    def check(value: Any, where: str) -> list[str]:
        return which(value, where) or kinds[value[key]](value, where)

    return check


def either(*checks: Check) -> Check:
    """Make the check of a value that passes one of several; the problems are those of the last."""

    def check(value: Any, where: str) -> list[str]:
        problems: list[str] = []
        for one in checks:
            if not (problems := one(value, where)):
                break
        return problems

    return check


def both(*checks: Check) -> Check:
    """Make the check of a value that passes several; a later one sees only what passed those before it."""

    def check(value: Any, where: str) -> list[str]:
        return next((problems for one in checks if (problems := one(value, where))), [])

    return check


FLAG = choice(True, False)
TEXT = text()
ANYTHING: Check = lambda value, where: []  # noqa: E731  # a declaration like the others
SECTION = table(ANYTHING)
SHA256 = text("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")


def _inner(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unknown(where: str, name: str) -> str:
    return f"{_inner(where, _BRIEF.repr(name)[1:-1])} is not known here"


def _shown(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else _BRIEF.repr(value)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)
