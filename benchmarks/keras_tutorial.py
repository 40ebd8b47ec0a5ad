"""The program of the tutorial that Headstart came from, as it runs in today's Keras, with a clock in it.

A child of `tutorial.py`, which says what it shall do in a JSON file; it knows nothing of Headstart. InceptionResNetV2
stands frozen inside the model, so `fit` runs it on every picture in every epoch; prediction takes one picture after the
other. Only the weights are others than in the tutorial: nothing is downloaded, they are copied from a safetensors file.

    python benchmarks/keras_tutorial.py JOB.json
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from keras.applications.inception_resnet_v2 import InceptionResNetV2, preprocess_input
from keras.callbacks import EarlyStopping
from safetensors.numpy import load_file

# Keras itself no longer shows it, the tutorial's own import from TensorFlow still finds it
ImageDataGenerator = tf.keras.preprocessing.image.ImageDataGenerator

HEAD = {"dense": "dense1", "dense_1": "dense2", "dense_2": "dense3", "dense_3": "linear"}  # Keras → Headstart


class Clock(keras.callbacks.Callback):
    """Takes the seconds of each epoch, apart for the training and the validation pictures."""

    def __init__(self) -> None:
        """Start with no epoch."""
        super().__init__()
        self.training: list[float] = []
        self.validation: list[float] = []
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        """Note what training took, and start again."""
        now = time.perf_counter()
        self.training.append(now - self._start)
        self._start = now

    def on_test_end(self, logs: Any = None) -> None:
        """Note what validation took."""
        self.validation.append(time.perf_counter() - self._start)


def network(job: dict[str, Any]) -> tuple[keras.Model, keras.Model]:
    """Return the frozen network and the tutorial's model around it."""
    base = InceptionResNetV2(include_top=False, weights=None, input_shape=(job["size"], job["size"], 3))
    fill(base, load_file(job["weights"]), job["layers"])
    base.trainable = False
    model = keras.Sequential(
        [
            base,
            layers.BatchNormalization(name="norm"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(512, activation="relu", name="dense"),
            layers.Dense(256, activation="relu", name="dense_1"),
            layers.Dropout(0.5),
            layers.Dense(128, activation="relu", name="dense_2"),
            layers.Dense(len(job["classes"]), activation="softmax", name="dense_3"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return base, model


def fill(base: keras.Model, state: dict[str, np.ndarray], names: dict[str, list[str]]) -> None:
    """Copy the weights of timm's network: both build the same layers in the same order, but name them otherwise.

    Args:
        base: Keras's network.
        state: timm's tensors.
        names: timm's names in the order of building: `plain` and `biased` convolutions, and `norms`.
    """
    convolutions = [layer for layer in base.layers if isinstance(layer, layers.Conv2D)]
    norms = [layer for layer in base.layers if isinstance(layer, layers.BatchNormalization)]
    plain = [layer for layer in convolutions if not layer.use_bias]
    biased = [layer for layer in convolutions if layer.use_bias]
    for layer, name in zip(in_order(plain), names["plain"], strict=True):
        layer.set_weights([_kernel(state[f"{name}.weight"])])
    for layer, name in zip(in_order(biased), names["biased"], strict=True):
        layer.set_weights([_kernel(state[f"{name}.weight"]), state[f"{name}.bias"]])
    for layer, name in zip(in_order(norms), names["norms"], strict=True):
        if (state[f"{name}.weight"] != 1).any():
            raise SystemExit(f"{name} scales its channels, which Keras's network cannot")
        layer.set_weights([state[f"{name}.{part}"] for part in ("bias", "running_mean", "running_var")])


def in_order(found: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Sort layers of one kind as they were built: conv2d, conv2d_1, …, conv_7b or block35_1_conv, …, block8_10_conv."""

    def place(layer: keras.Layer) -> tuple[float, int]:
        if layer.name.startswith("conv_7b"):
            return math.inf, 0
        if block := re.fullmatch(r"block(\d+)_(\d+)_conv", layer.name):
            return -int(block[1]), int(block[2])
        number = re.search(r"_(\d+)$", layer.name)
        return 0, int(number[1]) if number else 0

    return sorted(found, key=place)


def fill_head(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Copy a head that Headstart trained. Its normalisation stands behind the pooling, which is the same function."""
    norm = model.get_layer("norm")
    norm.set_weights([state[f"norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    for layer, name in HEAD.items():
        model.get_layer(layer).set_weights([state[f"{name}.weight"].T, state[f"{name}.bias"]])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Fit as the tutorial does; the seconds a picture and epoch, of training and of validation pictures."""
    _, model = network(job)
    frame = pd.DataFrame({"path": job["paths"], "breed": job["labels"]})
    generator = ImageDataGenerator(horizontal_flip=True, validation_split=0.2, preprocessing_function=preprocess_input)
    flows = {
        part: generator.flow_from_dataframe(
            frame,
            x_col="path",
            y_col="breed",
            classes=job["classes"],
            class_mode="categorical",
            target_size=(job["size"], job["size"]),
            batch_size=32,
            seed=0,
            subset=part,
        )
        for part in ("training", "validation")
    }
    clock = Clock()
    stop = EarlyStopping(patience=10, min_delta=0.001, restore_best_weights=True)
    model.fit(
        flows["training"], validation_data=flows["validation"], epochs=job["epochs"], callbacks=[clock, stop], verbose=0
    )
    pictures = {part: flow.samples for part, flow in flows.items()}
    return {
        "training": statistics.median(clock.training[1:]) / pictures["training"],
        "validation": statistics.median(clock.validation[1:]) / pictures["validation"],
        "seconds": sum(clock.training[1:]) + sum(clock.validation[1:]),
        "pictures": pictures,
        "epochs": len(clock.training) - 1,
    }


def predict(job: dict[str, Any]) -> dict[str, Any]:
    """Predict picture by picture as the tutorial does; the first, which traces the network, does not count."""
    _, model = network(job)
    fill_head(model, load_file(job["head"]))
    said = []
    start = 0.0
    for number, path in enumerate(job["paths"]):
        if number == 1:
            start = time.perf_counter()
        picture = keras.utils.load_img(path, target_size=(job["size"], job["size"]))
        values = preprocess_input(np.expand_dims(keras.utils.img_to_array(picture), axis=0))
        said.append(job["classes"][np.argmax(model.predict(values, verbose=0))])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "pictures": len(said) - 1}


def agree(job: dict[str, Any]) -> dict[str, Any]:
    """Write the pooled features and the probabilities of prepared pictures."""
    base, model = network(job)
    fill_head(model, load_file(job["head"]))
    values = preprocess_input(np.load(job["pixels"]).astype(np.float32))
    pooled = keras.Sequential([base, layers.GlobalAveragePooling2D()])
    features = pooled.predict(values, batch_size=8, verbose=0)
    probabilities = model.predict(values, batch_size=8, verbose=0)
    np.savez(job["out"], features=features, probabilities=probabilities)
    return {"out": job["out"]}


def _kernel(weight: np.ndarray) -> np.ndarray:
    """Return (height, width, in, out) of (out, in, height, width)."""
    return weight.transpose(2, 3, 1, 0)


def main() -> None:
    """Do the job, and print what it took."""
    job = json.loads(Path(sys.argv[1]).read_text())
    keras.utils.set_random_seed(0)
    answer = {"train": train, "predict": predict, "agree": agree}[job["task"]](job)
    print(json.dumps(answer | {"versions": {"tensorflow": tf.__version__, "keras": keras.__version__}}))


if __name__ == "__main__":
    main()
