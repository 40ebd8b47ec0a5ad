"""What was asked (`TrainConfig`, a field may say "auto") and what was decided (`Plan`, nothing says "auto"), both from
and to TOML. A file, `--set` pairs and flags end in the same `TrainConfig`; every problem in it is reported at once.
Nothing here looks at pictures or at the machine.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headstart.errors import ConfigError
from headstart.levels import LEVELS, QUALITIES, RECIPES, USUAL, Quality
from headstart.settings import EPOCHS, build, problems, put, read_toml, setting, table, toml_value

Auto = Literal["auto"]

# Settings that were once called otherwise: a plan.toml of that time is still good.
FORMER_NAMES: Mapping[str, str] = {
    "split.copies": "split.near_duplicates",
    "split.look_alikes": "split.same_object",
}

HINT = "`headstart settings` lists them all."


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
    crops: int | Literal["auto", "if-better"] = setting(
        "auto",
        "learn from so many random parts of each picture too, encoded once; if-better: from 4 if that surely wins, out "
        "of fold on a sample; auto: the level's, or 0",
        0,
        8,
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
    precision: Literal["auto", "f32", "bf16", "int8"] = setting(
        "auto",
        "auto: bf16 where the processor has it; int8: calibrated with training pictures, if heads lose nothing by it",
    )


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """What is held out to measure."""

    validation: float = setting(
        0.2,
        "share of each class held out, where the data brings no split; if not 0.2, instead of five folds",
        0.01,
        0.9,
    )
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
    finetune: Literal["auto", "none", "if-new", "all"] = setting(
        "auto",
        "all trains the network too, and keeps it if it proves better than the frozen one; if-new does so where the "
        "network was not pre-trained on most of the classes; auto: the level's, or none",
        only_for=("lbfgs",),
    )
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
class FineTuneConfig:
    """How the network is trained where head.finetune asks for it."""

    epochs: int = setting(8, "at most; the learning rate falls to 0 at the last one", 1, 1000)
    learning_rate: float = setting(0.0003, "of the head and the last stage, at its highest", 1e-8, 1)
    layer_decay: float = setting(0.75, "what it is multiplied by for each stage further from the head", 0.01, 1)
    stages: int = setting(
        0, "train only so many stages next to the head and leave those before as they are; 0: all", 0, 1000
    )
    batch: int = setting(16, "pictures a step", 1, 4096)
    label_smoothing: float = setting(0.1, "share of each label that is spread over all classes", 0, 0.9)
    patience: int = setting(4, "stop after so many epochs without improvement, keep the best weights", 1, 1000)
    watch: Literal["auto", "training", "validation"] = setting(
        "auto",
        "what stops it, and proves it better: some of the training part, or (flattering its figures) "
        "the validation part; auto: validation where the data brings one beside a test part",
    )
    networks: Literal["first", "all"] = setting("first", "which of several networks are trained")
    flip: bool | Auto = setting("auto", "mirror crops of pictures at random; auto: unless pictures.mirror is false")
    minutes: float = setting(60.0, "that it may take, all fits together, where there is no budget", 0.0, 1e6)


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """What is made of logits, and at which rates; "best" is the method that wins on held-out training pictures."""

    scaling: Literal["best", "temperature", "vector"] = setting("best", "of the logits: one number, or two a class")
    sets: Literal["lac", "aps"] = setting("lac", "conformal sets: lac, the smallest; aps, larger for hard pictures")
    level: float = setting(0.9, "share of pictures whose set shall hold the true class", 0.5, 0.999)
    unknown: Literal["best", "energy", "logit", "neighbours", "mahalanobis", "labels", "none"] = setting(
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
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    seed: int = setting(0, "of every random choice", 0, 2**32 - 1)
    refit: bool | Auto = setting(
        "auto", "after measuring, fit once more on training and validation pictures together; auto: the recipe's"
    )

    def __post_init__(self) -> None:
        """Refuse values of the wrong type or out of range, all in one message."""
        if wrong := problems(self):
            raise ConfigError("\n".join(wrong), HINT)


def quality_of(config: TrainConfig) -> Quality:
    """Return the level of quality that is meant where no budget decides."""
    return USUAL if config.quality == "auto" else config.quality


def apply_recipe(config: TrainConfig) -> TrainConfig:
    """Put the recipe's values, or else the level's, in the place of each "auto" that they decide."""
    views = config.predict.views
    if views == "auto" and (config.pictures.mirror is False or config.recipe == "tutorial"):
        config = dataclasses.replace(config, predict=PredictConfig("original"))
    config = _fill(config, RECIPES[config.recipe])
    head = config.head
    if head.finetune == "auto" and (head.hidden or head.optimizer not in ("auto", "lbfgs")):
        head = dataclasses.replace(head, finetune="none")  # which begins at a linear head
    return _fill(dataclasses.replace(config, head=head), LEVELS[quality_of(config)])


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
    before = {name: asked.get(name) for name in ("recipe", "quality")}
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
        raise ConfigError("\n".join(wrong), HINT)
    if file is not None:
        _check_heeded(config, "recipe", before["recipe"], RECIPES, file)
        if config.pictures.size != "auto":  # which a level of quality decides too
            _check_heeded(config, "quality", before["quality"], QUALITIES, file)
    return config


def _check_heeded(config: TrainConfig, name: str, before: object, known: Collection[str], file: Path) -> None:
    """Refuse another recipe, or level of quality, than that of the file where nothing of it would be heeded."""
    now = getattr(config, name)
    if now == before or now not in known or before not in known:
        return
    other = apply_recipe(dataclasses.replace(config, **{name: typing.cast(Any, before)}))
    if dataclasses.replace(other, **{name: now}) == apply_recipe(config):
        raise ConfigError(
            f"{name} is {now!r}, but {file} was made by {before!r} and leaves nothing open that a {name} decides: only "
            "the name would change.",
            f"Leave out the {name}, or the file; single settings are changed with --set.",
        )


def settings_table() -> list[tuple[str, Any, str]]:
    """Return (dotted name, default, what it is) of every setting, for help texts."""
    return table(TrainConfig)
