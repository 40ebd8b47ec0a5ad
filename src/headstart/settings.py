"""Dataclasses whose fields are settings: what each is for, which values it takes; from nested plain values and back to
a table. Which settings there are is none of its business: that is `config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from headstart.errors import ConfigError

EPOCHS = ("adam", "adamw", "sgd")  # optimizers that fit in epochs


def setting(
    default: Any,
    about: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    fewest: int = 1,
    only_for: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that is a setting.

    Args:
        default: Its value where nothing is said.
        about: What it is, for help texts.
        low: The least number that it takes.
        high: The largest.
        fewest: How long a list must be at least.
        only_for: The optimizers that heed it; empty: it is not about optimizers, or all do.
    """
    limits = {"about": about, "low": low, "high": high, "fewest": fewest, "only_for": only_for}
    return field(default=default, metadata=limits)


def table(kind: type) -> list[tuple[str, Any, str]]:
    """Return (dotted name, default, what it is and for which optimizers) of every setting, for help texts."""
    rows: list[tuple[str, Any, str]] = []
    for outer in dataclasses.fields(kind):
        if "about" in outer.metadata:
            rows.append((outer.name, outer.default, _about(outer.metadata)))
        else:
            section = typing.cast(Any, outer.default_factory)
            rows += [(f"{outer.name}.{f.name}", f.default, _about(f.metadata)) for f in dataclasses.fields(section)]
    return rows


def _about(metadata: Mapping[str, Any]) -> str:
    only = metadata["only_for"]
    prefix = "" if not only else "epochs: " if only == EPOCHS else f"{', '.join(only)}: "
    return f"{prefix}{metadata['about']}"


def read_toml(file: Path, former: Mapping[str, str]) -> dict[str, Any]:
    """Return what a TOML file says.

    Args:
        file: Where it lies.
        former: Dotted former name → today's, which it gets unless that is given as well.

    Raises:
        ConfigError: It cannot be read or is not TOML.
    """
    try:
        asked = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration {file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {file} is not TOML: {error}.") from error
    for once, today in former.items():
        (section, old), new = once.split("."), today.rpartition(".")[2]
        values = asked.get(section)
        if isinstance(values, dict) and old in values and new not in values:
            values[new] = values.pop(old)
    return asked


def toml_value(text: str) -> Any:
    """Return what a text means as TOML, or else the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # `--set head.prior=none` reads better than `--set 'head.prior="none"'`


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value into nested sections under its dotted name.

    Raises:
        ConfigError: What should be a section is a value.
    """
    *sections, name = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}: {section} is a value, not a section.")
    tree[name] = value


def build(kind: type, values: Mapping[str, Any], wrong: list[str], every: Iterable[str], prefix: str = "") -> Any:
    """Return the dataclass of these values; what is wrong goes into `wrong`.

    Args:
        kind: The dataclass.
        values: Name → value, or → the values of a section.
        wrong: Where every problem goes, a line each.
        every: The dotted names of all settings, to guess what was meant by an unknown one.
        prefix: The section that this is, with its dot.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            wrong.append(f"{prefix}{name} is not a setting{_guess(prefix, name, known, every)}")
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(value, Mapping):
                arguments[name] = build(hints[name], value, wrong, every, f"{prefix}{name}.")
            else:
                wrong.append(f"{prefix}{name} is a section, so it cannot be {value!r}")
        else:
            value = tuple(value) if isinstance(value, list) else value
            if problem := _problem(hints[name], known[name].metadata, value):
                wrong.append(f"{prefix}{name} is {value!r}, but must be {problem}")
            else:
                arguments[name] = value
    return kind(**arguments)


def _guess(prefix: str, name: str, known: Iterable[str], every: Iterable[str]) -> str:
    """Return what may have been meant: the same name in another section, a similar one here, a similar one anywhere."""
    close = (
        [setting for setting in every if setting.endswith(f".{name}")]
        or [prefix + near for near in difflib.get_close_matches(name, known, n=1, cutoff=0.5)]
        or difflib.get_close_matches(name, every, n=1, cutoff=0.4)
    )
    return f"; did you mean {close[0]}?" if close else ""


def problems(config: Any, prefix: str = "") -> list[str]:
    """Return what is wrong with the values of a dataclass of settings, a line each."""
    hints = typing.get_type_hints(type(config))
    found: list[str] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(hints[f.name]):
            found += problems(value, f"{prefix}{f.name}.")
        elif problem := _problem(hints[f.name], f.metadata, value):
            found.append(f"{prefix}{f.name} is {value!r}, but must be {problem}")
    return found


def _problem(hint: Any, limits: Mapping[str, Any], value: Any) -> str:
    """Return what the value should have been, or nothing if it is fine."""
    low, high = limits["low"], limits["high"]
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    allowed: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            if isinstance(value, str) and value in typing.get_args(option):
                return ""
            allowed += [repr(choice) for choice in typing.get_args(option)]
        elif option is str or option is bool:
            if isinstance(value, option):
                return ""
            allowed.append("text" if option is str else "true or false")
        elif option in (int, float):
            if _number(option, value) and low <= value <= high:
                return ""
            allowed.append(f"{'a whole number' if option is int else 'a number'} from {low:g} to {high:g}")
        else:  # a tuple of numbers
            kind = typing.get_args(option)[0]
            listed = value if isinstance(value, tuple) and len(value) >= limits["fewest"] else [None]
            if all(_number(kind, each) and low <= each <= high for each in listed):
                return ""
            allowed.append(f"a list of {'whole ' if kind is int else ''}numbers from {low:g} to {high:g}")
    return " or ".join(allowed)


def _number(kind: type, value: Any) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
