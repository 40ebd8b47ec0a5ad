"""What was asked for + the pictures that there are → the backbone and the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headstart.config import SplitConfig, TrainConfig, apply_recipe, quality_of
from headstart.data import splits
from headstart.encoding import backbone as backbones
from headstart.encoding import quantized, runtime, sizes, wanted
from headstart.encoding.backbone import Backbone
from headstart.errors import ConfigError
from headstart.learning import prior
from headstart.levels import SCALES
from headstart.plans import Plan, refuse_contradictions, resolve, resolve_head
from headstart.records import ClassNames, Dataset

IN_TURN = 5  # folds in which every picture is measured where that costs little
MOST_WORK = 3_000_000_000  # pictures × classes × features up to which it does


@dataclass(frozen=True, slots=True)
class Decision:
    """What is going to be done, and the networks to do it with.

    Attributes:
        backbone: With its weights.
        plan: What was decided.
    """

    backbone: Backbone
    plan: Plan


def decide(config: TrainConfig, dataset: Dataset) -> Decision:
    """Load the backbone and decide what the configuration left open.

    Args:
        config: What was asked for.
        dataset: The usable pictures.

    Raises:
        ConfigError: Settings exclude each other, or are not to be had on this machine.
        BackboneError: The weights cannot be had.
    """
    config = apply_recipe(config)
    refuse_contradictions(config)
    encoder = runtime.choose(config.encoder)
    if encoder.precision == "int8":
        quantized.require_nncf()
    text, side = config.encoder.backbone, config.pictures.size
    text = sizes.scaled(text, SCALES[quality_of(config)]) if side == "auto" else text
    size = None if side == "auto" else side
    backbone = backbones.load(text, config.encoder.weights, size=size, resize=config.pictures.resize)
    encoder = replace(encoder, backbone=backbones.spelled(text, backbone))
    _refuse_too_many(config, backbone)
    if config.head.finetune == "if-new" and knows_most(backbone, dataset.classes):
        config = replace(config, head=replace(config.head, finetune="none"))
    if config.finetune.watch == "auto" and _brings_validation(config, dataset):
        config = replace(config, finetune=replace(config.finetune, watch="validation"))
    return Decision(backbone, resolve(config, backbone.preprocess, encoder, _folds(config, dataset, backbone.dim)))


def _brings_validation(config: TrainConfig, dataset: Dataset) -> bool:
    """Return whether the data brings pictures to choose by, and others to measure by."""
    once = config.split.folds in ("auto", 0) and config.split.repeats == 1
    return once and {"validation", "test"} <= set(dataset.packed.splits.occurring())


def _refuse_too_many(config: TrainConfig, backbone: Backbone) -> None:
    """Refuse to train more networks than a model can hold beside the frozen ones."""
    frozen = len(backbone.networks)
    trained = frozen if config.finetune.networks == "all" else 1
    if resolve_head(config.head).finetune != "none" and frozen + trained > wanted.MOST:
        raise ConfigError(
            f"{frozen} networks and {trained} of them trained are {frozen + trained}; a model holds {wanted.MOST}.",
            "Leave out some of encoder.backbone, or set head.finetune=none.",
        )


def knows_most(backbone: Backbone, classes: ClassNames) -> bool:
    """Return whether most classes are among the labels that a backbone was pre-trained on."""
    return 2 * len(prior.candidates(classes, backbone.labels)) > len(classes)


def costs_little(pictures: int, classes: int, dim: int) -> bool:
    """Return whether so many pictures are few enough to fit linear heads on them several times."""
    return pictures * classes * dim <= MOST_WORK


def _folds(config: TrainConfig, dataset: Dataset, dim: int) -> int:
    """Return in how many folds every picture is measured where nothing was asked for; 0: one share is held out."""
    share = config.split.validation != SplitConfig().validation  # was asked for
    whole = share or splits.is_given(dataset) or config.split.repeats > 1 or config.refit is False
    head = resolve_head(config.head)
    linear = not head.in_epochs and head.finetune == "none"
    cheap = linear and costs_little(len(dataset), len(dataset.classes), dim)
    return IN_TURN if cheap and not whole else 0
