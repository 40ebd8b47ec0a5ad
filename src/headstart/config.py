"""What was asked (`TrainConfig`, a field may say "auto") and what was decided (`Plan`, nothing says "auto"), both from
and to TOML. A file, `--set` pairs and flags end in the same `TrainConfig`; every problem in it is reported at once.
Nothing here looks at pictures or at the machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from headstart.errors import ConfigError
from headstart.records import Preprocess

DEFAULT_BACKBONE = "tf_efficientnet_lite2"

# Strengths of the penalty, strongest first. Measured on dogs (prior, 0.3 to 1 best) and grocery (no prior, 0.003 best).
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)

Auto = Literal["auto"]


def _setting(default: Any, about: str, low: float = -math.inf, high: float = math.inf) -> Any:
    return field(default=default, metadata={"about": about, "low": low, "high": high})


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """How pictures are shown to the backbone."""

    size: int | Auto = _setting("auto", "side in pixels; auto: what the backbone was trained on", 16, 2048)
    resize: Literal["crop", "letterbox", "squash"] = _setting("crop", "what becomes of the aspect ratio")
    mirror: bool = _setting(True, "learn from each picture and from its mirror image")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which backbone computes the features, and how."""

    backbone: str = _setting(DEFAULT_BACKBONE, "a name from `headstart models`, or local-dir:FOLDER")
    weights: str = _setting("", "a .safetensors or .pth file with the backbone's weights instead of its own")
    engine: Literal["auto", "openvino", "torch"] = _setting("auto", "auto: OpenVINO on a CPU, else torch")
    device: Literal["auto", "cpu", "cuda", "mps"] = _setting("auto", "auto: cuda, else mps, else cpu")
    precision: Literal["auto", "f32", "bf16"] = _setting("auto", "auto: bf16 where the processor has it")


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How much is held out to measure."""

    validation: float = _setting(0.2, "share of each class held out, where the data brings no split", 0.01, 0.9)
    folds: int = _setting(5, "folds of the training part that choose the strength and the temperature", 2, 50)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """How the head is fitted."""

    l2: float | tuple[float, ...] | Auto = _setting(
        "auto", "penalty strength: a number, a list to choose from, or auto", 1e-8, 1e6
    )
    prior: Literal["names", "none"] = _setting("names", "names: pull towards pre-trained rows of the same name")
    class_weight: Literal["none", "balanced"] = _setting("none", "balanced: rare classes count as much as common ones")
    max_iterations: int = _setting(200, "L-BFGS iterations at most, per strength", 1, 100_000)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What the user asks of `train`; every field has a default."""

    pictures: PictureConfig = field(default_factory=PictureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    seed: int = _setting(0, "of every random choice", 0, 2**32 - 1)
    refit: bool = _setting(True, "after measuring, fit once more on training and validation pictures together")

    def __post_init__(self) -> None:
        """Refuse values of the wrong type or out of range, all in one message."""
        if problems := _problems(self, ""):
            raise ConfigError("\n".join(problems), "`headstart settings` lists them all.")


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """`PictureConfig`, decided."""

    size: int
    resize: Literal["crop", "letterbox", "squash"]
    mirror: bool


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """`EncoderConfig`, decided."""

    backbone: str
    weights: str
    engine: Literal["openvino", "torch"]
    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["f32", "bf16"]


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """`HeadConfig`, decided: `l2` lists the strengths to choose from."""

    l2: tuple[float, ...]
    prior: Literal["names", "none"]
    class_weight: Literal["none", "balanced"]
    max_iterations: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What `train` will do. Its TOML is a valid configuration that asks for exactly this."""

    pictures: PicturePlan
    encoder: EncoderPlan
    split: SplitConfig
    head: HeadPlan
    seed: int
    refit: bool

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """Return the text that `--config` takes back."""
        return tomli_w.dumps(self.to_dict())


def resolve(config: TrainConfig, preprocess: Preprocess, encoder: EncoderPlan) -> Plan:
    """Decide what was left open.

    Args:
        config: What was asked.
        preprocess: How the pictures will be prepared, already with the size and resize policy asked for.
        encoder: What the machine and the backbone decided.
    """
    l2 = config.head.l2
    strengths = STRENGTHS if l2 == "auto" else tuple(sorted(set(l2), reverse=True)) if isinstance(l2, tuple) else (l2,)
    return Plan(
        pictures=PicturePlan(preprocess.size, config.pictures.resize, config.pictures.mirror),
        encoder=encoder,
        split=config.split,
        head=HeadPlan(strengths, config.head.prior, config.head.class_weight, config.head.max_iterations),
        seed=config.seed,
        refit=config.refit,
    )


def read_config(file: Path | None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration of a TOML file, overridden by `a.b=value` settings, overridden by flags.

    Args:
        file: A TOML file, e.g. the `plan.toml` of an earlier run; None: defaults.
        settings: Texts such as `head.l2=0.1`; the value is TOML, or else a bare string.
        flags: Dotted name → value; None values are left out.

    Raises:
        ConfigError: With every unknown key (and the closest known one) and every value out of range.
    """
    asked: dict[str, Any] = {}
    if file is not None:
        try:
            asked = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"The configuration {file} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"The configuration {file} is not TOML: {error}.") from error
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, e.g. head.l2=0.1; {text!r} has no '='.")
        _put(asked, name.strip(), _toml_value(value.strip()))
    for name, value in (flags or {}).items():
        if value is not None:
            _put(asked, name, value)
    problems: list[str] = []
    config = _build(TrainConfig, asked, "", problems)
    if problems:
        raise ConfigError("\n".join(problems), "`headstart settings` lists them all.")
    return typing.cast(TrainConfig, config)


def settings_table() -> list[tuple[str, Any, str]]:
    """Return (dotted name, default, what it is) of every setting, for help texts."""
    rows: list[tuple[str, Any, str]] = []
    for outer in dataclasses.fields(TrainConfig):
        if "about" in outer.metadata:
            rows.append((outer.name, outer.default, outer.metadata["about"]))
        else:
            section = typing.cast(Any, outer.default_factory)
            rows += [(f"{outer.name}.{f.name}", f.default, f.metadata["about"]) for f in dataclasses.fields(section)]
    return rows


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # `--set head.prior=none` reads better than `--set 'head.prior="none"'`


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}: {section} is a value, not a section.")
    tree[name] = value


def _build(kind: type, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """Return the dataclass of these values; what is wrong goes into `problems`."""
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            problems.append(f"{prefix}{name} is not a setting{_guess(prefix, name, known)}")
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(value, Mapping):
                arguments[name] = _build(hints[name], value, f"{prefix}{name}.", problems)
            else:
                problems.append(f"{prefix}{name} is a section, so it cannot be {value!r}")
        else:
            value = tuple(value) if isinstance(value, list) else value
            if problem := _problem(hints[name], known[name].metadata, value):
                problems.append(f"{prefix}{name} is {value!r}, but must be {problem}")
            else:
                arguments[name] = value
    return kind(**arguments)


def _guess(prefix: str, name: str, known: Iterable[str]) -> str:
    """Return what may have been meant: the same name in another section, a similar one here, a similar one anywhere."""
    every = [row[0] for row in settings_table()]
    close = (
        [setting for setting in every if setting.endswith(f".{name}")]
        or [prefix + near for near in difflib.get_close_matches(name, known, n=1, cutoff=0.5)]
        or difflib.get_close_matches(name, every, n=1, cutoff=0.4)
    )
    return f"; did you mean {close[0]}?" if close else ""


def _problems(config: Any, prefix: str) -> list[str]:
    hints = typing.get_type_hints(type(config))
    found: list[str] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(hints[f.name]):
            found += _problems(value, f"{prefix}{f.name}.")
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
            if isinstance(value, tuple) and value and all(_number(float, v) and low <= v <= high for v in value):
                return ""
            allowed.append(f"a list of numbers from {low:g} to {high:g}")
    return " or ".join(allowed)


def _number(kind: type, value: Any) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
