"""What was asked (`TrainConfig`, a field may say "auto") and what was decided (`Plan`, nothing says "auto"), both from
and to TOML. A file, `--set` pairs and flags end in the same `TrainConfig`; every problem in it is reported at once.
Nothing here looks at pictures or at the machine.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from headstart.errors import ConfigError
from headstart.levels import LEVELS, RECIPES, USUAL, Quality
from headstart.records import Preprocess
from headstart.settings import EPOCHS, build, problems, put, read_toml, setting, table, toml_value

# What a plan says of settings of the head that its optimizer does not use, where that is not their default.
_UNUSED: Mapping[str, Any] = {"l2": (), "prior": "none", "dropout": 0.0, "learning_rate": 0.0003, "weight_decay": 0.0}

# l2 penalties, strongest first. Measured on dogs (prior, 0.3 to 1 best) and grocery (no prior, 0.003 best).
L2_CANDIDATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)

Auto = Literal["auto"]

# Settings that were once called otherwise: a plan.toml of that time is still good.
FORMER_NAMES: Mapping[str, str] = {
    "split.copies": "split.near_duplicates",
    "split.look_alikes": "split.same_object",
}

_HINT = "`headstart settings` lists them all."


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """How pictures are shown to the backbone."""

    size: int | Auto = setting(
        "auto",
        "side in pixels, where encoder.backbone names none; auto: the recipe's or the level's",
        16,
        2048,
    )
    resize: Literal["crop", "letterbox", "squash"] = setting("crop", "what becomes of the aspect ratio")
    mirror: bool | Auto = setting(
        "auto", "learn from each picture and from its mirror image; false: a mirror image shows something else"
    )


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """What a prediction looks at."""

    views: Literal["auto", "original", "mirror"] = setting(
        "auto",
        "mirror: features are the mean over each picture and its mirror image, at twice the cost; auto: the level's",
    )


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which backbone computes the features, and how."""

    backbone: str = setting(
        "auto",
        "names from `headstart models`, or local-dir:FOLDER, each with @SIZE or @SIZE/CROP if need be, joined by +; "
        "auto: the recipe's",
    )
    weights: str = setting("", "a .safetensors or .pth file with the backbone's weights instead of its own")
    engine: Literal["auto", "openvino", "torch"] = setting("auto", "auto: OpenVINO on a CPU, else torch")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto: cuda, else mps, else cpu")
    precision: Literal["auto", "f32", "bf16"] = setting("auto", "auto: bf16 where the processor has it")


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """What is held out to measure."""

    validation: float = setting(0.2, "share of each class held out, where the data brings no split", 0.01, 0.9)
    folds: int | Auto = setting(
        "auto",
        "cross-validation: so many folds are held out in turn and every picture is measured; 0: one share; auto: 5 "
        "where that costs little",
        0,
        50,
    )
    repeats: int = setting(1, "how often that is done, each time with other pictures held out", 1, 100)
    near_duplicates: Literal["together", "apart"] = setting(
        "together", "near-duplicates: on one side of a split, or wherever"
    )
    same_object: Literal["if-it-matters", "together", "apart"] = setting(
        "if-it-matters", "further photographs of one thing: on one side of a split if else the figures would flatter"
    )


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """How the head is fitted: by L-BFGS to the end (a linear head), or in epochs by another optimizer (any head)."""

    hidden: tuple[int, ...] | Auto = setting(
        "auto", "widths of hidden layers, [] for none; auto: the recipe's", 1, 65536, fewest=0
    )
    optimizer: Literal["auto", "lbfgs", "adam", "adamw", "sgd"] = setting(
        "auto", "auto: lbfgs for a head without hidden layers, else adam; the recipe may say otherwise"
    )
    class_weight: Literal["none", "balanced"] = setting("none", "balanced: rare classes count as much as common ones")
    l2: float | tuple[float, ...] | Auto = setting(
        "auto", "l2 penalty, a number, a list to choose from, or auto", 1e-8, 1e6, fewest=0, only_for=("lbfgs",)
    )
    prior: Literal["auto", "names", "none"] = setting(
        "auto", "names pulls towards pre-trained rows of the same name; auto: names", only_for=("lbfgs",)
    )
    folds: int = setting(5, "folds of the training part that choose the l2 penalty", 2, 50, only_for=("lbfgs",))
    max_iterations: int = setting(200, "iterations at most, per l2", 1, 100_000, only_for=("lbfgs",))
    dropout: float | Auto = setting(
        "auto",
        "share of units dropped before the last hidden layer; auto: 0.5, or 0 without one",
        0,
        0.99,
        only_for=EPOCHS,
    )
    batch_norm: bool = setting(True, "batch normalisation of the features", only_for=EPOCHS)
    learning_rate: float | Auto = setting(
        "auto", "at their beginning; auto: 0.0003, sgd 0.01", 1e-8, 100, only_for=EPOCHS
    )
    schedule: Literal["constant", "cosine", "step", "plateau"] = setting(
        "cosine",
        "cosine falls to 0 at the last one, step by ten at each third of them, plateau by ten "
        "when half of the patience is used up",
        only_for=EPOCHS,
    )
    momentum: float = setting(0.9, "momentum", 0, 0.9999, only_for=("sgd",))
    weight_decay: float | Auto = setting("auto", "auto: 0.01 for adamw, else 0", 0, 100, only_for=EPOCHS)
    epochs: int = setting(25, "at most", 1, 100_000, only_for=EPOCHS)
    batch: int = setting(32, "pictures a step", 2, 1_000_000, only_for=EPOCHS)
    patience: int = setting(
        10, "stop after so many without improvement, keep the best weights", 1, 100_000, only_for=EPOCHS
    )
    min_delta: float = setting(
        0.001, "the fall of the watched loss that counts as improvement", 0, 100, only_for=EPOCHS
    )
    watch: Literal["training", "validation"] = setting(
        "training",
        "what stops them, a tenth of the training part or (flattering the figures) validation",
        only_for=EPOCHS,
    )


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """What is made of logits, and at which rates; "best" is the method that wins on held-out training pictures."""

    scaling: Literal["best", "temperature", "vector"] = setting("best", "of the logits: one number, or two a class")
    sets: Literal["lac", "aps"] = setting("lac", "conformal sets: lac, the smallest; aps, larger for hard pictures")
    level: float = setting(0.9, "share of pictures whose set shall hold the true class", 0.5, 0.999)
    unknown: Literal["best", "energy", "neighbours", "mahalanobis", "none"] = setting(
        "best", "what tells a picture of none of the classes; none: nothing is ever refused"
    )
    refused: float = setting(0.05, "share of pictures of the classes that may be refused wrongly", 0.001, 0.5)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What the user asks of `train`; every field has a default."""

    recipe: Literal["headstart", "tutorial"] = setting("headstart", "what each `auto` stands for")
    quality: Quality | Auto = setting(
        "auto", "fast, balanced or best: how much work an answer is worth; auto: balanced, or what the budget allows"
    )
    budget: float = setting(
        0.0, "seconds that a training may take: the best level that fits is taken; 0: no matter", 0, 1e8
    )
    pictures: PictureConfig = field(default_factory=PictureConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    seed: int = setting(0, "of every random choice", 0, 2**32 - 1)
    refit: bool | Auto = setting(
        "auto", "after measuring, fit once more on training and validation pictures together; auto: the recipe's"
    )

    def __post_init__(self) -> None:
        """Refuse values of the wrong type or out of range, all in one message."""
        if wrong := problems(self):
            raise ConfigError("\n".join(wrong), _HINT)


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """`PictureConfig`, decided."""

    size: int
    resize: Literal["crop", "letterbox", "squash"]
    mirror: bool


@dataclass(frozen=True, slots=True)
class PredictPlan:
    """`PredictConfig`, decided."""

    views: Literal["original", "mirror"]


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """`EncoderConfig`, decided."""

    backbone: str
    weights: str
    engine: Literal["openvino", "torch"]
    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["f32", "bf16"]


@dataclass(frozen=True, slots=True)
class SplitPlan(SplitConfig):
    """`SplitConfig`, decided."""

    folds: int = 0


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """`HeadConfig`, decided: `l2` lists the l2s to choose from."""

    hidden: tuple[int, ...]
    optimizer: Literal["lbfgs", "adam", "adamw", "sgd"]
    class_weight: Literal["none", "balanced"]
    l2: tuple[float, ...]
    prior: Literal["names", "none"]
    folds: int
    max_iterations: int
    dropout: float
    batch_norm: bool
    learning_rate: float
    schedule: Literal["constant", "cosine", "step", "plateau"]
    momentum: float
    weight_decay: float
    epochs: int
    batch: int
    patience: int
    min_delta: float
    watch: Literal["training", "validation"]

    @property
    def in_epochs(self) -> bool:
        """Whether it is fitted in epochs, and not to its end by L-BFGS."""
        return self.optimizer != "lbfgs"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `train` will do. Its TOML is a valid configuration that asks for exactly this."""

    recipe: Literal["headstart", "tutorial"]
    quality: Quality
    pictures: PicturePlan
    predict: PredictPlan
    encoder: EncoderPlan
    split: SplitPlan
    head: HeadPlan
    calibration: CalibrationConfig
    seed: int
    refit: bool

    @property
    def predicted(self) -> tuple[str, ...]:
        """The views whose mean features a prediction takes."""
        return ("original", "mirror") if self.predict.views == "mirror" else ("original",)

    @property
    def views(self) -> tuple[str, ...]:
        """What is encoded of each picture."""
        both = self.pictures.mirror or self.predict.views == "mirror"
        return ("original", "mirror") if both else ("original",)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """Return the text that `--config` takes back."""
        return tomli_w.dumps(self.to_dict())


def quality_of(config: TrainConfig) -> Quality:
    """Return the level of quality that is meant where no budget decides."""
    return USUAL if config.quality == "auto" else config.quality


def apply_recipe(config: TrainConfig) -> TrainConfig:
    """Put the recipe's values, or else the level's, in the place of each "auto" that they decide."""
    views = config.predict.views
    if views == "auto" and (config.pictures.mirror is False or config.recipe == "tutorial"):
        config = dataclasses.replace(config, predict=PredictConfig("original"))
    for values in (RECIPES[config.recipe], LEVELS[quality_of(config)]):
        config = _fill(config, values)
    return config


def _fill(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Put these values in the place of each "auto"."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        asked = getattr(config, name)
        if not dataclasses.is_dataclass(asked):
            changes[name] = value if asked == "auto" else asked
        else:
            open_ones = {key: one for key, one in value.items() if getattr(asked, key) == "auto"}
            changes[name] = dataclasses.replace(typing.cast(Any, asked), **open_ones)
    return dataclasses.replace(config, **changes)


def resolve(config: TrainConfig, preprocess: Preprocess, encoder: EncoderPlan, folds: int = 0) -> Plan:
    """Decide what was left open.

    Args:
        config: What was asked.
        preprocess: How the pictures will be prepared, already with the size and resize policy asked for.
        encoder: What the machine and the backbone decided.
        folds: What the data decided, where that was left open.

    Raises:
        ConfigError: Settings of the head that exclude each other.
    """
    config = apply_recipe(config)
    refuse_contradictions(config)
    return Plan(
        recipe=config.recipe,
        quality=quality_of(config),
        pictures=PicturePlan(preprocess.size, config.pictures.resize, config.pictures.mirror is True),
        predict=PredictPlan("mirror" if config.predict.views == "mirror" else "original"),
        encoder=encoder,
        split=SplitPlan(
            **dataclasses.asdict(config.split) | ({"folds": folds} if config.split.folds == "auto" else {})
        ),
        head=resolve_head(config.head),
        calibration=config.calibration,
        seed=config.seed,
        refit=config.refit is True,
    )


def _resolve_split(split: SplitConfig, folds: int) -> SplitPlan:
    return SplitPlan(**dataclasses.asdict(split) | ({"folds": folds} if split.folds == "auto" else {}))


def refuse_contradictions(config: TrainConfig) -> None:
    """Refuse settings that exclude each other, before anything is read or fetched.

    Args:
        config: With its recipe applied.

    Raises:
        ConfigError: With what excludes what.
    """
    split = config.split
    resolve_head(config.head)
    if split.folds == 1:
        raise ConfigError("split.folds is 1; one fold leaves nothing to learn from.", "Take 5, or 0 for one share.")
    folds = 0 if split.folds == "auto" else split.folds
    if config.head.watch == "validation" and (folds or split.repeats > 1):
        name, value = ("split.folds", folds) if folds else ("split.repeats", split.repeats)
        raise ConfigError(
            f"head.watch is 'validation' and {name} is {value}: the head that is saved then learns from every picture, "
            "and none is left to watch.",
            "With head.watch=training a tenth of the training part is watched.",
        )


def resolve_head(head: HeadConfig) -> HeadPlan:
    """Decide what was left open of the head.

    Raises:
        ConfigError: Settings that exclude each other, all in one message.
    """
    optimizer = head.optimizer if head.optimizer != "auto" else "adam" if head.hidden else "lbfgs"
    decided: dict[str, Any] = {"optimizer": optimizer}
    wrong = []
    if optimizer == "lbfgs" and head.hidden:
        wrong.append(f"head.optimizer is 'lbfgs', which fits no hidden layers; head.hidden is {list(head.hidden)}")
    if optimizer == "lbfgs" and head.l2 == ():
        wrong.append("head.l2 is an empty list")
    for f in dataclasses.fields(head):
        asked, default = getattr(head, f.name), f.default
        if f.metadata["only_for"] and optimizer not in f.metadata["only_for"]:
            neutral = _UNUSED.get(f.name, default)
            if asked not in (default, neutral):
                wrong.append(f"head.{f.name} is {asked!r}, which head.optimizer {optimizer!r} does not use")
            decided[f.name] = neutral
    if wrong:
        raise ConfigError("\n".join(wrong), _HINT)
    l2s = L2_CANDIDATES if head.l2 == "auto" else head.l2 if isinstance(head.l2, tuple) else (head.l2,)
    automatic = {
        "l2": tuple(sorted(set(l2s), reverse=True)),
        "prior": "names" if head.prior == "auto" else head.prior,
        "dropout": (0.5 if head.hidden else 0.0) if head.dropout == "auto" else head.dropout,
        "learning_rate": {"sgd": 0.01}.get(optimizer, 0.0003) if head.learning_rate == "auto" else head.learning_rate,
        "weight_decay": {"adamw": 0.01}.get(optimizer, 0.0) if head.weight_decay == "auto" else head.weight_decay,
    }
    return HeadPlan(**dataclasses.asdict(head) | automatic | decided)


def read_config(file: Path | None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration of a TOML file, overridden by `a.b=value` settings, overridden by flags.

    Args:
        file: A TOML file, e.g. the `plan.toml` of a previous run; None: defaults.
        settings: Texts such as `head.l2=0.1`; the value is TOML, or else a bare string.
        flags: Dotted name → value; None values are left out.

    Raises:
        ConfigError: With every unknown key (and the closest known one) and every value out of range.
    """
    asked = {} if file is None else read_toml(file, FORMER_NAMES)
    recipe = asked.get("recipe")
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes name=value, e.g. head.l2=0.1; {text!r} has no '='.")
        put(asked, FORMER_NAMES.get(name.strip(), name.strip()), toml_value(value.strip()))
    for name, value in (flags or {}).items():
        if value is not None:
            put(asked, name, value)
    wrong: list[str] = []
    config: TrainConfig = build(TrainConfig, asked, wrong, [row[0] for row in settings_table()])
    if wrong:
        raise ConfigError("\n".join(wrong), _HINT)
    if file is not None and isinstance(recipe, str):
        _check_recipe(config, recipe, file)
    return config


def _check_recipe(config: TrainConfig, recipe: str, file: Path) -> None:
    """Refuse another recipe than that of the file where nothing of it would be heeded."""
    if config.recipe == recipe or recipe not in RECIPES:
        return
    before = apply_recipe(dataclasses.replace(config, recipe=typing.cast(Any, recipe)))
    if dataclasses.replace(before, recipe=config.recipe) == apply_recipe(config):
        raise ConfigError(
            f"recipe is {config.recipe!r}, but {file} was made by {recipe!r} and leaves nothing open that a recipe "
            "decides: only the name would change.",
            "Leave out the recipe, or the file; single settings are changed with --set.",
        )


def settings_table() -> list[tuple[str, Any, str]]:
    """Return (dotted name, default, what it is) of every setting, for help texts."""
    return table(TrainConfig)
