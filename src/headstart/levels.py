"""What each level of quality and each recipe stands for: tables of values for settings that say "auto"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Quality = Literal["fast", "balanced", "best"]
QUALITIES: tuple[Quality, ...] = ("fast", "balanced", "best")  # each takes more time than the one before
USUAL: Quality = "balanced"

# What a level of quality puts in the place of "auto", unless the recipe says otherwise. Measured on dogs (2,160 held
# out): lite2 at 320 px 0.882 / 0.369, at its own 260 px 0.867 / 0.410, mirror images in training no better at twice the
# cost; lite2@320 + lite1@300 with mirror images in prediction 0.889 / 0.338.
LEVELS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"encoder": {"backbone": "tf_efficientnet_lite0"}, "predict": {"views": "original"}},
    "balanced": {"encoder": {"backbone": "tf_efficientnet_lite2"}, "predict": {"views": "original"}},
    "best": {
        "encoder": {"backbone": "tf_efficientnet_lite2@320+tf_efficientnet_lite1@300/1.0"},
        "pictures": {"crops": "if-better"},
        "predict": {"views": "mirror"},
        "head": {"finetune": "if-new"},
    },
}
# Sides of pictures, as multiples of what the network was trained on, where nothing says how large they shall be.
SCALES: Mapping[str, float] = {"fast": 1.0, "balanced": 1.25, "best": 1.25}

# What a recipe puts in the place of "auto".
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "headstart": {
        "head": {"hidden": ()},
        "refit": True,
    },
    "tutorial": {
        "pictures": {"size": 331, "mirror": True},
        "encoder": {"backbone": "inception_resnet_v2"},
        "head": {"hidden": (512, 256, 128), "optimizer": "adam"},
        "refit": False,
    },
}
