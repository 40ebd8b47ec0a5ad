"""Make a small model of the format that a version of Headstart writes, and note what that version answers with it.

    PYTHONPATH=CHECKOUT/src:tests python tests/artifacts/make.py v2

The network is one of timm's toys with weights from a seed (of format 4 there are two); the pictures are drawn.
Files that say nothing of loading (plots, card, findings) are left out.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from conftest import picture
from safetensors.torch import save_file

import headstart as hs
from headstart.config import read_config

TOLD = ("probabilities", "sets", "p_value", "novelty", "typicality")
SETTINGS = {
    "v1": {},
    "v2": {"calibration.unknown": "neighbours", "calibration.scaling": "vector"},
    "v3": {"calibration.unknown": "mahalanobis", "head.hidden": (6,), "head.learning_rate": 0.01},
    "v4": {"calibration.unknown": "neighbours"},
    "v5": {"calibration.unknown": "logit", "split.folds": 0},
}
CLASSES = {"ash": (90, 110, 90), "birch": (110, 105, 90), "cedar": (100, 100, 120), "elm": (115, 90, 110)}
LEFT_OUT = ("plots", "README.md", "report.html", "album.json", "journal.json", "findings.json", "history.csv")


def weights(folder: Path, pooling: str = "avgmax", seed: int = 0) -> Path:
    """Write a toy network with another pooling as timm's `save_for_hf` would."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    module = timm.create_model("test_efficientnet", num_classes=0, global_pool=pooling)
    save_file(module.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "test_efficientnet",
        "num_classes": 0,
        "model_args": {"global_pool": pooling},
        "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 0, "crop_pct": 0.95},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def draw(path: Path, name: str, seed: int) -> Path:
    """Draw a picture of about the colour of a class, so that classes overlap and no answer is certain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shift = np.random.default_rng(seed).normal(0, 12, 3)
    picture(tuple(np.array(CLASSES[name]) + shift), seed).save(path)
    return path


def photos(folder: Path) -> Path:
    """Draw what is learned from."""
    for row in range(80):
        name = list(CLASSES)[row % 4]
        draw(folder / name / f"{name}_{row:02d}.png", name, row)
    return folder


def pictures(folder: Path) -> list[Path]:
    """Draw the three pictures that the answers are about."""
    return [draw(folder / f"{name}.png", name, 90_000 + n) for n, name in enumerate(("ash", "birch", "cedar"))]


def make(name: str) -> None:
    """Train, save, and note the answers."""
    home = Path(__file__).parent / name
    with tempfile.TemporaryDirectory() as temporary:
        drawn = photos(Path(temporary, "photos"))
        network = weights(Path(temporary))
        encoder = {"encoder.backbone": f"local-dir:{network}"}
        if name == "v1":  # it forgot the arguments of such a folder
            encoder = {"encoder.backbone": "test_efficientnet", "encoder.weights": str(network / "model.safetensors")}
        if name == "v4":
            other = weights(Path(temporary, "other"), "max", 1)
            encoder = {"encoder.backbone": f"local-dir:{network}+local-dir:{other}@48/1.0"}
        flags = encoder | {
            "encoder.engine": "torch",
            "encoder.device": "cpu",
            "encoder.precision": "f32",
            "pictures.size": 64,
            **SETTINGS[name],
        }
        result = hs.train(hs.read(drawn), read_config(None, flags=flags), cache=Path(temporary, "cache"))
        if name == "v4":
            result = replace(result, classifier=replace(result.classifier, views=("original", "mirror")))
        model = Path(temporary, "model")
        hs.save(result, model)
        for unwanted in LEFT_OUT:
            path = model / unwanted
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(model, home, dirs_exist_ok=True)
        said = hs.load(home).predict_many(pictures(Path(temporary, "asked")))
    answers = {key: getattr(said, key) for key in TOLD if getattr(said, key, None) is not None}
    plain = {key: np.asarray(value).tolist() for key, value in answers.items()}
    (home / "answers.json").write_text(json.dumps({"classes": list(said.classes), **plain}, indent=1) + "\n")


if __name__ == "__main__":
    make(sys.argv[1])
