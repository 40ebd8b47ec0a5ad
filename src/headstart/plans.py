"""What was decided: a `Plan` says "auto" nowhere, and its TOML is a configuration that asks for exactly this."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tomli_w

from headstart.config import (
    HINT,
    CalibrationConfig,
    FineTuneConfig,
    HeadConfig,
    SplitConfig,
    TrainConfig,
    apply_recipe,
    quality_of,
)
from headstart.errors import ConfigError
from headstart.levels import Quality
from headstart.records import Preprocess

# What a plan says of settings of the head that its optimizer does not use, where that is not their default.
_UNUSED: Mapping[str, Any] = {
    "l2": (),
    "prior": "none",
    "finetune": "none",
    "dropout": 0.0,
    "learning_rate": 0.0003,
    "weight_decay": 0.0,
}


# l2 penalties, strongest first. Measured on dogs (prior, 0.3 to 1 best) and grocery (no prior, 0.003 best).
L2_CANDIDATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """`PictureConfig`, decided."""

    size: int
    resize: Literal["crop", "letterbox", "squash"]
    mirror: bool
    crops: int | Literal["if-better"] = 0  # "if-better" until a sample of the pictures was encoded


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
    precision: Literal["f32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class SplitPlan(SplitConfig):
    """`SplitConfig`, decided."""

    folds: int = 0


@dataclass(frozen=True, slots=True)
class FineTunePlan(FineTuneConfig):
    """`FineTuneConfig`, decided."""

    watch: Literal["training", "validation"] = "training"
    flip: bool = True


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
    finetune: Literal["none", "all"]
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
    finetune: FineTunePlan = field(default_factory=FineTunePlan)

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
        pictures=_resolve_pictures(config, preprocess),
        predict=PredictPlan("mirror" if config.predict.views == "mirror" else "original"),
        encoder=encoder,
        split=_resolve_split(config.split, folds),
        head=resolve_head(config.head),
        calibration=config.calibration,
        seed=config.seed,
        refit=config.refit is True,
        finetune=_resolve_finetune(config),
    )


def _resolve_pictures(config: TrainConfig, preprocess: Preprocess) -> PicturePlan:
    asked = config.pictures
    count = 0 if asked.crops == "auto" else asked.crops
    in_epochs = resolve_head(config.head).in_epochs  # whose quick heads are another kind
    return PicturePlan(
        preprocess.size, asked.resize, asked.mirror is True, 0 if count == "if-better" and in_epochs else count
    )


def _resolve_finetune(config: TrainConfig) -> FineTunePlan:
    flip = config.pictures.mirror is not False if config.finetune.flip == "auto" else config.finetune.flip
    watch = "training" if config.finetune.watch == "auto" else config.finetune.watch
    return FineTunePlan(**dataclasses.asdict(config.finetune) | {"flip": flip, "watch": watch})


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
    if config.budget and config.encoder.precision == "int8":
        raise ConfigError(
            "encoder.precision is int8 and there is a budget; how long calibrating takes cannot be told beforehand.",
            "Leave out one of them.",
        )
    if split.folds == 1:
        raise ConfigError("split.folds is 1; one fold leaves nothing to learn from.", "Take 5, or 0 for one share.")
    folds = 0 if split.folds == "auto" else split.folds
    if (watching := watches_validation(config)) and (folds or split.repeats > 1):
        name, value = ("split.folds", folds) if folds else ("split.repeats", split.repeats)
        raise ConfigError(
            f"{watching} is 'validation' and {name} is {value}: the head that is saved then learns from every picture, "
            "and none is left to watch.",
            f"With {watching}=training some of the training part is watched.",
        )


def watches_validation(config: TrainConfig) -> str:
    """Return the name of the setting by which the validation part decides something; empty: it only measures."""
    if config.head.watch == "validation":
        return "head.watch"
    tuned = config.head.finetune in ("if-new", "all")
    return "finetune.watch" if tuned and config.finetune.watch == "validation" else ""


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
        raise ConfigError("\n".join(wrong), HINT)
    l2s = L2_CANDIDATES if head.l2 == "auto" else head.l2 if isinstance(head.l2, tuple) else (head.l2,)
    automatic = {
        "l2": tuple(sorted(set(l2s), reverse=True)),
        "prior": "names" if head.prior == "auto" else head.prior,
        "finetune": {"auto": "none", "if-new": "all"}.get(head.finetune, head.finetune),
        "dropout": (0.5 if head.hidden else 0.0) if head.dropout == "auto" else head.dropout,
        "learning_rate": {"sgd": 0.01}.get(optimizer, 0.0003) if head.learning_rate == "auto" else head.learning_rate,
        "weight_decay": {"adamw": 0.01}.get(optimizer, 0.0) if head.weight_decay == "auto" else head.weight_decay,
    }
    return HeadPlan(**dataclasses.asdict(head) | automatic | decided)
