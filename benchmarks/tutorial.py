"""How long the tutorial takes that Headstart came from, in Keras and with Headstart's `tutorial` recipe.

The tutorial is the well-known one for Kaggle's dog breeds: a frozen InceptionResNetV2 at 331 pixels inside the model, a
head of dense layers, Adam, batches of 32, horizontal flips; `fit` runs the frozen network on every picture in every
epoch, and prediction takes one picture after the other. `keras_tutorial.py` is that program. Measured, each contender
in a process of its own, all on the CPU:

- a training of 20 epochs: Keras's `fit` on a few pictures for a few epochs, the first of which, with the tracing, does
  not count, and `python -m headstart train --recipe tutorial` into an empty cache on two numbers of pictures;
- predicting a folder: Keras's loop, without its first picture, and `python -m headstart predict` with an empty cache on
  two numbers of pictures;
- that both compute the same function: both have the same random weights, and the head that Headstart trained is copied
  into Keras's layers; features and probabilities of the same prepared pictures are compared.

Nobody waits for Keras's whole training here: the seconds for a picture and epoch are multiplied by the pictures and
epochs of the competition. Headstart's two runs give a fixed part and a part for each picture, of which the same sum is
made. Imports and building the network do not count for Keras; for Headstart everything does, from start to exit.

    python benchmarks/tutorial.py DATA [--epochs N] [--pictures N] [--test-pictures N] [--sizes N N] [--repeats R]

TensorFlow and Keras are needed, which `make bench-peers DATA=FOLDER` installs into an environment of their own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import features
import numpy as np
import side_by_side
from side_by_side import MB, Bound, Measured, median_ratio, say, spread
from train import PYTHON, Source, balanced, feature_bytes, subset

from headstart.data import sources
from headstart.records import Dataset, Preprocess

BACKBONE = "inception_resnet_v2"
RECIPE = ("--recipe", "tutorial")
SIZE = 331
DIM = 1536  # features of a picture
VALIDATION = 0.2
SETTLED = 32  # pictures whose statistics the random network's batch norms take
COMPARED = 16  # pictures whose features and probabilities are compared
CHILD = "--child"
KERAS = Path(__file__).with_name("keras_tutorial.py")


@dataclass(frozen=True)
class Growth:
    """Seconds of a command as a fixed part and a part for each picture, from two runs.

    Attributes:
        fixed: Seconds whatever the pictures.
        each: Seconds more for each picture.
    """

    fixed: float
    each: float

    @classmethod
    def of(cls, sizes: Sequence[int], runs: Sequence[Measured]) -> Growth:
        """Return the line through two runs.

        Raises:
            RuntimeError: More pictures took less time.
        """
        (few, many), (short, long) = sizes, (run.seconds for run in runs)
        each = (long - short) / (many - few)
        if each <= 0:
            raise RuntimeError(
                f"{many:,} pictures took {long:.1f} s, {few:,} took {short:.1f} s: nothing to extrapolate. Is the "
                "machine busy? Larger --sizes and --test-sizes drown its noise."
            )
        return cls(short - each * few, each)

    def at(self, pictures: int) -> float:
        """Return the seconds for so many pictures."""
        return self.fixed + self.each * pictures


@dataclass
class Rounds:
    """What was measured, one entry a round; Headstart's are pairs, for the two numbers of pictures."""

    fit: list[Measured] = field(default_factory=list)
    train: list[list[Measured]] = field(default_factory=list)
    loop: list[Measured] = field(default_factory=list)
    predict: list[list[Measured]] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What all children share: the pictures, the weights, and where they may write.

    Attributes:
        arguments: What was asked.
        dataset: All labelled pictures.
        news: Pictures to predict.
        work: The folder for caches, models and jobs.
        weights: The file with the random weights.
        layers: timm's names of the layers in the order of building, by kind.
    """

    arguments: argparse.Namespace
    dataset: Dataset
    news: list[Path]
    work: Path
    weights: Path
    layers: dict[str, list[str]]


# ---- in the child -------------------------------------------------------------------------------------------------


def invent(job: dict[str, Any]) -> dict[str, Any]:
    """Write random weights with which the network tells pictures apart, and return the names of its layers.

    The batch norms take the statistics of real pictures, so that activations neither vanish nor explode. Their scales
    stay 1, since Keras's network has none.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = timm.create_model(BACKBONE, num_classes=0)
    names: dict[str, list[str]] = {"plain": [], "biased": [], "norms": []}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            names["plain" if layer.bias is None else "biased"].append(name)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            names["norms"].append(name)
            torch.nn.init.normal_(layer.bias, std=0.1)
            layer.momentum = 1.0  # the statistics of the one batch that comes
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=SIZE, crop=1.0, interpolation="bicubic", mean=half, std=half, resize="squash")
    pixels = torch.from_numpy(_prepared(job["paths"], preprocess))
    with torch.no_grad():
        module.train()(pixels.permute(0, 3, 1, 2) / 127.5 - 1)
        found = module.eval()(pixels[:COMPARED].permute(0, 3, 1, 2) / 127.5 - 1)
    centre = found.mean(0)
    apart = float(((found - centre).norm(dim=1) / centre.norm()).min())
    if not (torch.isfinite(found).all() and apart > 0.05):
        raise SystemExit(f"the random network does not tell pictures apart: {apart:.3f}")
    save_file(module.state_dict(), job["out"])
    return {"layers": names}


def view(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare pictures, and write what a trained model says of them, in PyTorch float32 and with its own engine."""
    from headstart.config import EncoderConfig
    from headstart.model import artifact

    exact = EncoderConfig(engine="torch", device="cpu", precision="f32")
    result: dict[str, Any] = {}
    for name, encoder in (("exact", exact), ("own", None)):
        classifier = artifact.load_classifier(job["model"], encoder)
        pixels = _prepared(job["paths"], classifier.preprocess)
        values = np.stack(list(classifier.encoders[0].encode(iter(pixels))))
        logits = classifier.head.logits(values).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # without the temperature, which Keras has not
        np.savez(job[name], features=values, probabilities=powers / powers.sum(axis=1, keepdims=True))
        result[name] = f"{classifier.encoders[0].version} {classifier.encoders[0].plan.precision}"
    np.save(job["pixels"], pixels)
    return result


def _prepared(paths: Sequence[str], preprocess: Preprocess) -> np.ndarray:
    from headstart.data import images

    return np.stack([images.load(images.read_bytes(Path(path)), preprocess).pixels for path in paths])


# ---- in the parent ------------------------------------------------------------------------------------------------


def ask(job: dict[str, Any], work: Path, program: Path | None = None) -> Measured:
    """Give a job to a child, of this file or of another program, which prints its answer."""
    file = work / "job.json"
    file.write_text(json.dumps(job))
    command = [str(program)] if program else [str(Path(__file__).resolve()), CHILD]
    return run([*command, str(file)], work)


def run(arguments: Sequence[str], work: Path) -> Measured:
    """Run Python with an empty cache; nothing is downloaded, and Keras writes no settings into the home folder."""
    quiet = {"HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    cache = side_by_side.fresh(work, "cache")
    return side_by_side.run_child([PYTHON, *arguments], cache, {**quiet, "KERAS_HOME": str(work / "keras")})


def keras_job(setting: Setting, task: str, **more: Any) -> dict[str, Any]:
    """Return a job for the Keras program."""
    return {"task": task, "size": SIZE, "weights": str(setting.weights), "layers": setting.layers, **more}


def trained(model: Path) -> dict[str, Any]:
    """Return what the Keras program must know of a model of Headstart's: the head, and the classes in its order."""
    classes = json.loads((model / "model.json").read_text(encoding="utf-8"))["classes"]
    return {"head": str(model / "head.safetensors"), "classes": classes}


def train(setting: Setting, source: Source, out: Path) -> Measured:
    """Run Headstart's training with the tutorial's recipe for all epochs."""
    shutil.rmtree(out, ignore_errors=True)
    epochs = setting.arguments.epochs
    command = ["-m", "headstart", "train", *source.arguments, *RECIPE, "--weights", str(setting.weights)]
    command += ["--resize", "squash", "--set", f"head.epochs={epochs}", "--set", f"head.patience={epochs}"]
    return run([*command, "--out", str(out), "--device", "cpu"], setting.work)


def predict(setting: Setting, model: Path, pictures: int) -> Measured:
    """Run Headstart's prediction on a folder of so many pictures."""
    folder = side_by_side.fresh(setting.work, "new")
    for number, path in enumerate(setting.news[:pictures]):
        shutil.copyfile(path, folder / f"{number:06d}{path.suffix}")
    out = setting.work / "labels.csv"
    return run(["-m", "headstart", "predict", str(model), str(folder), "--out", str(out)], setting.work)


def rounds(setting: Setting) -> Rounds:
    """Measure everybody once in each round."""
    arguments, work, result = setting.arguments, setting.work, Rounds()
    parts = [subset(arguments.data, setting.dataset, size, work / f"{size}.csv") for size in arguments.sizes]
    models = [work / f"model-{size}" for size in arguments.sizes]
    few = balanced(setting.dataset, arguments.keras_pictures)
    labelled = {"paths": [str(sample.path) for sample in few], "labels": list(few.labels)}
    labelled["classes"] = list(setting.dataset.classes)
    new = [str(path) for path in setting.news[: arguments.keras_test_pictures]]
    for number in range(arguments.repeats):
        told = f"round {number + 1}/{arguments.repeats}:"
        job = keras_job(setting, "train", **labelled, epochs=arguments.keras_epochs)
        result.fit.append(ask(job, work, KERAS))
        say(f"{told} Keras fits in {result.fit[-1].seconds:.1f} s")
        pairs = zip(parts, models, strict=True)
        result.train.append([train(setting, part, model) for part, model in pairs])
        Growth.of(arguments.sizes, result.train[-1])  # if there is none, say so now
        say(f"{told} Headstart trains in {_seconds(result.train[-1])}")
        result.loop.append(ask(keras_job(setting, "predict", **trained(models[-1]), paths=new), work, KERAS))
        say(f"{told} Keras predicts in {result.loop[-1].seconds:.1f} s")
        result.predict.append([predict(setting, models[-1], size) for size in arguments.test_sizes])
        Growth.of(arguments.test_sizes, result.predict[-1])
        say(f"{told} Headstart predicts in {_seconds(result.predict[-1])}")
    return result


@dataclass(frozen=True)
class Agreement:
    """How far Headstart's answers are from Keras's, over a few pictures.

    Attributes:
        engine: What computed Headstart's features.
        features: The largest ‖difference‖ / ‖Keras's features‖ of a picture.
        probabilities: The largest difference of a probability.
        largest: The largest probability among Keras's.
        same: On how many pictures both say the same class.
    """

    engine: str
    features: float
    probabilities: float
    largest: float
    same: int


def agree(setting: Setting) -> list[Agreement]:
    """Compare both on the same prepared pictures: Headstart in float32, then with the engine that was measured."""
    work, model = setting.work, setting.work / f"model-{setting.arguments.sizes[-1]}"
    paths = [str(path) for path in setting.news[:COMPARED]]
    files = {name: str(work / f"{name}.npz") for name in ("exact", "own", "keras")}
    pixels = str(work / "pixels.npy")
    job = {"task": "view", "model": str(model), "paths": paths, "pixels": pixels, **files}
    told = ask(job, work).answer()
    ask(keras_job(setting, "agree", **trained(model), pixels=pixels, out=files["keras"]), work, KERAS)
    with np.load(files["keras"]) as targets:
        return [_compare(told[name], files[name], targets) for name in ("exact", "own")]


def _compare(engine: str, file: str, targets: Any) -> Agreement:
    with np.load(file) as said:
        error = np.linalg.norm(said["features"] - targets["features"], axis=1)
        ours, theirs = said["probabilities"], targets["probabilities"]
        return Agreement(
            engine,
            float((error / np.linalg.norm(targets["features"], axis=1)).max()),
            float(np.abs(ours - theirs).max()),
            float(theirs.max()),
            int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
        )


def keras_training(run: Measured, epochs: int, pictures: int) -> float:
    """Return the seconds of all of Keras's epochs over so many pictures, of which a part is for validation."""
    answer, validation = run.answer(), round(VALIDATION * pictures)
    return float(epochs * (answer["training"] * (pictures - validation) + answer["validation"] * validation))


def keras_prediction(run: Measured, pictures: int) -> float:
    """Return the seconds of Keras's loop over so many pictures."""
    answer = run.answer()
    return float(answer["seconds"] / answer["pictures"] * pictures)


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    if any(importlib.util.find_spec(name) is None for name in ("tensorflow", "keras")):
        raise RuntimeError("TensorFlow and Keras are not installed here: make bench-peers DATA=FOLDER")
    dataset = sources.read(arguments.data)
    unlabelled = sources.read_pictures([arguments.data])  # of a Kaggle folder its test part
    _check_sizes(arguments, dataset, unlabelled)
    name = arguments.data.resolve().name
    about = [*side_by_side.machine(), side_by_side.describe(name, dataset)]
    side_by_side.warm_files(dataset)
    side_by_side.warm_files(unlabelled)
    with side_by_side.workplace(arguments.work) as work:
        weights = work / "random.safetensors"
        paths = [str(path) for path in features.shuffled(dataset)[:SETTLED]]
        layers = ask({"task": "weights", "paths": paths, "out": str(weights)}, work).answer()["layers"]
        setting = Setting(arguments, dataset, features.shuffled(unlabelled), work, weights, layers)
        found = rounds(setting)
        agreements = agree(setting)
    about[2] += "".join(f", {name} {version}" for name, version in found.fit[0].answer()["versions"].items())
    lines = [*(f"- {line}" for line in about), *_remarks(arguments, found, agreements), ""]
    lines += [*_figures(arguments, found), "", *_agreement_figures(agreements)]
    bounds = _bounds(arguments, found, agreements)
    return side_by_side.report("tutorial", "Side by side with the tutorial", lines, bounds, arguments.results)


def _totals(arguments: argparse.Namespace, found: Rounds) -> dict[str, list[float]]:
    """Return the extrapolated seconds of each round."""
    epochs, pictures, new = arguments.epochs, arguments.pictures, arguments.test_pictures
    return {
        "fit": [keras_training(run, epochs, pictures) for run in found.fit],
        "train": [Growth.of(arguments.sizes, runs).at(pictures) for runs in found.train],
        "loop": [keras_prediction(run, new) for run in found.loop],
        "predict": [Growth.of(arguments.test_sizes, runs).at(new) for runs in found.predict],
    }


def _bounds(arguments: argparse.Namespace, found: Rounds, agreements: list[Agreement]) -> list[Bound]:
    total, exact = _totals(arguments, found), agreements[0]
    return [
        Bound("training, Keras / Headstart", median_ratio(total["fit"], total["train"]), ">=", 20, "{:.1f}"),
        Bound("predicting, Keras / Headstart", median_ratio(total["loop"], total["predict"]), ">=", 4, "{:.1f}"),
        Bound("relative error of the features in float32", exact.features, "<", 1e-3, "{:.1e}"),
        Bound("largest difference of a probability in float32", exact.probabilities, "<", 1e-3, "{:.1e}"),
    ]


def _remarks(arguments: argparse.Namespace, found: Rounds, agreements: list[Agreement]) -> list[str]:
    epochs, pictures, size = arguments.epochs, arguments.pictures, arguments.sizes[-1]
    validation = round(VALIDATION * pictures)
    whole = [keras_training(run, epochs, size) for run in found.fit]
    ratio = median_ratio(whole, [runs[-1].seconds for runs in found.train])
    return [
        f"- Measured: the tutorial's program in Keras, and `python -m headstart train {' '.join(RECIPE)}` and "
        f"`predict`, with the same random weights of `{BACKBONE}` at {SIZE} px, on the CPU, every run in a fresh "
        f"process, Headstart's with an empty cache, the files in the page cache, {arguments.repeats} round(s): "
        "medians, with the range in parentheses; ratios are medians of the ratios within a round. The weights being "
        "random, accuracies would mean nothing and are not shown.",
        f"- Extrapolated: Keras to {epochs} epochs, each with {pictures - validation:,} training and {validation:,} "
        f"validation pictures, at the seconds a picture that were measured, and to {arguments.test_pictures:,} "
        "predictions; Headstart along the straight line through its two runs. Neither stops early.",
        f"- At {size:,} pictures, where only Keras's figure is extrapolated, Headstart is {ratio:.1f} times as fast.",
        "- In favour of Keras: its imports, building and tracing the network, its first epoch, its first prediction, "
        "and what it does between epochs count for nothing; it saves nothing; it resizes by the nearest neighbour, "
        "its default, and Headstart bicubically, both to the same square.",
        f"- In favour of Headstart: its engine, {agreements[-1].engine} by its own choice, where Keras computes in "
        "float32. How much that changes is the second row of the last table.",
        f"- Memory was measured on the pictures named; the features of {pictures:,} pictures take "
        f"{feature_bytes(pictures, DIM) / MB:,.0f} MB of Headstart's.",
    ]


def _figures(arguments: argparse.Namespace, found: Rounds) -> list[str]:
    epochs, total = arguments.epochs, _totals(arguments, found)
    fits, loops = [run.answer() for run in found.fit], [run.answer() for run in found.loop]
    parts, counted = fits[0]["pictures"], fits[0]["epochs"]
    costs = [spread([fit[part] for fit in fits], "{:.3f}") for part in ("training", "validation")]
    rows = [
        (
            f"Keras `fit`, counted epochs: {counted}",
            f"{parts['training']:,} + {parts['validation']:,}",
            spread([fit["seconds"] for fit in fits]),
            f"a picture and epoch: {costs[0]} s in training, {costs[1]} s in validation",
            _peak(found.fit),
        ),
        *_lines(f"Headstart, {epochs} epochs", arguments.sizes, found.train),
        _extrapolated(f"Keras, {epochs} epochs", arguments.pictures, total["fit"]),
        _extrapolated(f"Headstart, {epochs} epochs", arguments.pictures, total["train"]),
    ]
    rows_new = [
        (
            "Keras, one by one",
            f"{loops[0]['pictures']:,}",
            spread([loop["seconds"] for loop in loops]),
            f"a picture: {spread([keras_prediction(run, 1) for run in found.loop], '{:.3f}')} s",
            _peak(found.loop),
        ),
        *_lines("Headstart", arguments.test_sizes, found.predict),
        _extrapolated("Keras, one by one", arguments.test_pictures, total["loop"]),
        _extrapolated("Headstart", arguments.test_pictures, total["predict"]),
    ]
    columns = ("pictures", "seconds", "that is", "peak memory in MB")
    return [
        *side_by_side.table(("training", *columns), rows),
        "",
        *side_by_side.table(("predicting", *columns), rows_new),
    ]


def _lines(name: str, sizes: Sequence[int], pairs: list[list[Measured]]) -> list[tuple[str, ...]]:
    """Return the rows of Headstart's two runs."""
    growth = [Growth.of(sizes, runs) for runs in pairs]
    fixed, each = spread([one.fixed for one in growth]), spread([one.each for one in growth], "{:.3f}")
    costs = ("–", f"whatever the pictures: {fixed} s, a picture: {each} s")
    return [
        (name, f"{size:,}", spread([runs[i].seconds for runs in pairs]), costs[i], _peak([runs[i] for runs in pairs]))
        for i, size in enumerate(sizes)
    ]


def _agreement_figures(agreements: list[Agreement]) -> list[str]:
    rows = [
        (
            one.engine,
            f"{one.features:.1e}",
            f"{one.probabilities:.1e}",
            f"{one.largest:.3f}",
            f"{one.same} of {COMPARED}",
        )
        for one in agreements
    ]
    header = ("Headstart's engine, against Keras", "relative error of features", "largest difference of a probability")
    return side_by_side.table((*header, "largest probability", "same class"), rows)


def _peak(runs: Sequence[Measured]) -> str:
    return spread([run.peak / MB for run in runs], "{:,.0f}")


def _seconds(runs: Sequence[Measured]) -> str:
    return " and ".join(f"{run.seconds:.1f} s" for run in runs)


def _extrapolated(name: str, pictures: int, seconds: Sequence[float]) -> tuple[str, ...]:
    """Return the row of a figure that nobody waited for."""
    typical = statistics.median(seconds)
    readable = f"{typical / 3600:.1f} hours" if typical > 2 * 3600 else f"{typical / 60:.1f} minutes"
    return f"{name}, extrapolated", f"{pictures:,}", spread(seconds, "{:,.0f}"), readable, "–"


def _check_sizes(arguments: argparse.Namespace, dataset: Dataset, unlabelled: Dataset) -> None:
    """Refuse to measure on more pictures than there are: the figures would belong to other numbers."""
    for needed, there, kind in (
        (max(arguments.sizes[-1], arguments.keras_pictures), len(dataset), "labelled"),
        (max(arguments.test_sizes[-1], arguments.keras_test_pictures), len(unlabelled), "new"),
    ):
        if needed > there:
            raise RuntimeError(f"{needed:,} {kind} pictures are asked for, {there:,} are there: see --help for sizes")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of the tutorial in Keras and in Headstart.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    whole = "to extrapolate to (default: %(default)s)"
    parser.add_argument("--epochs", type=int, default=20, help="of Headstart's runs, and for Keras " + whole)
    parser.add_argument("--pictures", type=int, default=10_222, help="labelled pictures " + whole)
    parser.add_argument("--test-pictures", type=int, default=10_357, help="pictures to predict " + whole)
    both = "of Headstart's two runs (default: %(default)s)"
    parser.add_argument("--sizes", type=int, nargs=2, default=[600, 1800], help="labelled pictures " + both)
    parser.add_argument("--test-sizes", type=int, nargs=2, default=[240, 1200], help="pictures to predict " + both)
    parser.add_argument("--keras-pictures", type=int, default=160, help="for Keras to fit (default: %(default)s)")
    parser.add_argument("--keras-epochs", type=int, default=3, help="the first does not count (default: %(default)s)")
    parser.add_argument("--keras-test-pictures", type=int, default=65, help="for Keras's loop (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where caches and models go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    for name in ("epochs", "pictures", "test_pictures", "keras_pictures", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("keras_epochs", "keras_test_pictures"):
        if getattr(arguments, name) < 2:
            parser.error(f"--{name.replace('_', '-')} must be at least 2, as the first does not count")
    for name in ("sizes", "test_sizes"):
        if not 0 < getattr(arguments, name)[0] < getattr(arguments, name)[1]:
            parser.error(f"--{name.replace('_', '-')} takes two numbers, the smaller one first")
    return arguments


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        given = json.loads(Path(sys.argv[2]).read_text())
        print(json.dumps({"weights": invent, "view": view}[given["task"]](given)))
    else:
        sys.exit(side_by_side.guarded(main))
