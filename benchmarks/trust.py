"""Figures that can be believed: whether what headstart tells of data, labels, doubts and figures is so.

Where the truth is not known it is planted. Seven parts, each with a table and bounds of its own:

- `copies`: copies of 200 pictures (re-encoded, resized, mirrored, turned, cropped) are added to the data, one kind at a
  time: are they found, and is nothing else?
- `labels`: one label in twenty is exchanged for another class: does `audit` put these first?
- `shortcuts`: all pictures of a class get a black border, or 40 % of their light: is that class named, and no other?
- `unknown`: pictures of none of the classes (`--foreign`, and classes left out of training): are they told from the
  model's own kind? The foreign ones and the own ones are first made the same in size and JPEG quality, so that neither
  can give them away.
- `sets`: do sets for 0.9 hold the true class of 0.9 of the pictures that they were not fitted on?
- `intervals`: do 95 % intervals of the accuracy hold the accuracy of the population that was drawn from?
- `honest` (with `--split-column`): is the accuracy that is told without knowing the given split that of its test part?

A split that the data brings is used by `honest` only. Planted copies are saved as JPEG of quality 85, unless stated
otherwise. Everything is drawn by fixed seeds. `drawn.py` plants the same copies in three sets of pictures that share
nearly everything.

    python benchmarks/trust.py DATA [--labels FILE] [--split-column NAME] [--foreign NAME=FOLDER ...] [--only PART ...]
                                    [--pictures N] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import side_by_side
import train
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from side_by_side import Bound, say
from unknown import Refusals, by_class, left_out

from headstart import metrics
from headstart.config import SplitConfig, TrainConfig
from headstart.data import sources, splits
from headstart.data.sources import Columns
from headstart.experiments import grouping
from headstart.learning import conformal
from headstart.records import Dataset, Integers, Sample
from headstart.workflows import prepare
from headstart.workflows import train as workflow
from headstart.workflows.audit import audit
from headstart.workflows.prepare import Prepared
from headstart.workflows.train import TrainingResult

SEED = 0
QUALITY = 85  # of planted copies
COPIES = 200  # of each kind
FLIPPED = 0.05  # share of labels
FLIPS = 3  # draws of them
CLASSES = 3  # with each shortcut
FEWEST = 10  # pictures of a class in which a shortcut is planted; of tiny ones nothing is told
DRAWS = 3  # of classes left out
SQUASHED = (224, 75)  # side and JPEG quality of own and foreign pictures
HALVES = 200  # random divisions of the held-out pictures
LEVEL = 0.9
RESAMPLES = 2000
COPY = "copy of "

Draw = Callable[[Image.Image, np.random.Generator], Image.Image]
Change = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Outcome:
    """What a part found: lines for the section, and its bounds."""

    lines: list[str]
    bounds: list[Bound]


@dataclass(frozen=True)
class Kind:
    """A way to make a copy: what is done to the picture, at which quality it is saved, and the recall to reach."""

    name: str
    change: Draw
    family: str
    quality: int = QUALITY


@dataclass
class Bench:
    """What the parts share; what several of them need is computed once, when it is first asked for.

    Attributes:
        dataset: The pictures, without a split.
        given: The same with the split of `--split-column`; None without.
        foreign: Name → folder of pictures of none of the classes.
        cache: Where features are kept.
        work: For planted pictures.
        planted: How many copies of each kind.
    """

    dataset: Dataset
    given: Dataset | None
    foreign: dict[str, Path]
    cache: Path
    work: Path
    planted: int = COPIES

    def prepare(self, dataset: Dataset) -> Prepared:
        """Return what headstart knows of pictures before it learns from them."""
        return prepare.encode(prepare.begin(dataset, TrainConfig()), cache=self.cache)

    def train(self, dataset: Dataset, **settings: object) -> TrainingResult:
        """Train on pictures, with some settings changed."""
        return workflow.train(dataset, TrainConfig(**settings), cache=self.cache)

    @cached_property
    def untouched(self) -> Prepared:
        """What is known of the pictures as they are."""
        return self.prepare(self.dataset)

    @cached_property
    def groups(self) -> Integers:
        """The groups of the untouched pictures that must stay on one side of a split."""
        seen = self.untouched
        return grouping.decide(seen.learner(), seen.resemblance, seen.plan.split).groups

    @cached_property
    def crossed(self) -> TrainingResult:
        """A run in which each picture is predicted by a head that had learned from neither it nor its group."""
        say("training with 5 folds")
        return self.train(self.dataset, split=SplitConfig(folds=5), refit=False)


# ---- planting -----------------------------------------------------------------------------------------------------


def load(path: Path) -> Image.Image:
    """Return a picture upright, in RGB."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def save(image: Image.Image, file: Path, quality: int = QUALITY) -> Path:
    """Write a JPEG and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, "JPEG", quality=quality)
    return file


def resized(share: float) -> Draw:
    """Return what scales a picture."""
    return lambda image, _: image.resize(
        (max(1, round(share * image.width)), max(1, round(share * image.height))), Image.Resampling.BICUBIC
    )


def transposed(how: Image.Transpose) -> Draw:
    """Return what mirrors or turns a picture."""
    return lambda image, _: image.transpose(how)


def cropped(image: Image.Image, x: float, y: float) -> Image.Image:
    """Return the window of 90 % of each side; `x` and `y` in [0, 1] say where it lies."""
    width, height = (max(1, round(0.9 * side)) for side in image.size)
    left, top = round(x * (image.width - width)), round(y * (image.height - height))
    return image.crop((left, top, left + width, top + height))


def bordered(image: Image.Image) -> Image.Image:
    """Return the picture with its outermost 6 pixels black; the size stays."""
    image = image.copy()
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=(0, 0, 0), width=6)
    return image


def darkened(image: Image.Image) -> Image.Image:
    """Return the picture with 40 % of its brightness."""
    return ImageEnhance.Brightness(image).enhance(0.4)


KINDS = (
    Kind("re-encoded, quality 50", lambda image, _: image, "re-encoded or resized", 50),
    Kind("resized to 50 %", resized(0.5), "re-encoded or resized"),
    Kind("resized to 150 %", resized(1.5), "re-encoded or resized"),
    Kind("mirrored", transposed(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
    Kind("turned by 90°", transposed(Image.Transpose.ROTATE_90), "turned"),
    Kind("turned by 180°", transposed(Image.Transpose.ROTATE_180), "turned"),
    Kind("turned by 270°", transposed(Image.Transpose.ROTATE_270), "turned"),
    Kind("cropped by 10 %, anywhere", lambda image, rng: cropped(image, *rng.random(2)), "cropped"),
    Kind("cropped by 10 %, centre", lambda image, _: cropped(image, 0.5, 0.5), "cropped"),
)
RECALL = {"re-encoded or resized": 0.99, "mirrored": 0.95, "turned": 0.90, "cropped": 0.90}
PLANTED: dict[str, tuple[str, Change]] = {"border": ("a black border of 6 px", bordered),
                                          "light": ("brightness 40 %", darkened)}  # fmt: skip


# ---- the parts ----------------------------------------------------------------------------------------------------


def copies(bench: Bench, recall_bounds: dict[str, float] | None = None, precision_bound: float = 0.95) -> Outcome:
    """Plant copies of each kind and look at the groups that are found; kinds without a bound are told only."""
    least = RECALL if recall_bounds is None else recall_bounds
    features = bench.untouched.features
    number = len(features)
    joined = dict(zip(_names(features.dataset), bench.untouched.resemblance.near_duplicates.tolist(), strict=True))
    before = sum(math.comb(len(rows), 2) for rows in splits.members(bench.untouched.resemblance.near_duplicates))
    drawn = np.sort(np.random.default_rng(SEED).permutation(number)[: bench.planted])
    rows: list[tuple[str, ...]] = []
    recalls: dict[str, list[float]] = {family: [] for family in RECALL}
    precisions: list[float] = []
    for kind in KINDS:
        generator = np.random.default_rng(SEED)
        folder = side_by_side.fresh(bench.work, "copies")
        planted = []
        for place, row in enumerate(drawn):
            sample = features.dataset[row]
            path = save(kind.change(load(sample.path), generator), folder / f"{place}.jpg", kind.quality)
            planted.append(replace(sample, path=path, name=COPY + sample.name))
        seen = bench.prepare(replace(bench.dataset, samples=(*bench.dataset.samples, *planted)))
        names = _names(seen.features.dataset)
        group = dict(zip(names, seen.resemblance.near_duplicates.tolist(), strict=True))
        recall = float(np.mean([group[one.name] == group[one.name.removeprefix(COPY)] for one in planted]))
        right, wrong, known = _judged_pairs(names, seen.resemblance.near_duplicates, joined)
        shares = [_precision(right, wrong), _precision(right - known, wrong)]
        recalls[kind.family].append(recall)
        precisions += [share for share in shares[:1] if share is not None]
        cells = f"{len(planted):,}", f"{recall:.3f}", f"{right + wrong:,}", f"{wrong:,}"
        rows.append((kind.name, *cells, *("–" if share is None else f"{share:.3f}" for share in shares)))
        say(f"copies, {kind.name}: recall {recall:.3f}, {wrong} of {right + wrong} pairs wrong")
    lines = [
        f"- In the untouched data {before:,} pairs of pictures are called copies: {1000 * before / number:.1f} per "
        "1,000 pictures. Nobody planted them, so nobody knows how many are right; below they count as right.",
        f"- Recall: share of copies in the group of their original, among all {number:,} pictures. Precision: share of "
        "pairs within the groups found that are an original and its copy, are joined in the untouched data too, or "
        "follow from these; in the last column, of pairs that are not pairs of the untouched data. Where no pair is "
        "found there is none to be right (–), and recall says so.",
        "",
        *side_by_side.table(
            ("copies", "planted", "recall", "pairs found", "wrong", "precision", "of new pairs"), rows
        ),
    ]  # fmt: skip
    bounds = [
        Bound(f"recall, {family}" + (", the least" if len(values) > 1 else ""), min(values), ">=", least[family],
              "{:.3f}")
        for family, values in recalls.items()
        if family in least
    ]  # fmt: skip
    precision = min(precisions, default=None)
    return Outcome(lines, [*bounds, Bound("precision, the least", precision, ">=", precision_bound, "{:.3f}")])


def _precision(right: int, wrong: int) -> float | None:
    return right / (right + wrong) if right + wrong else None


def _judged_pairs(names: Sequence[str], groups: Integers, joined: dict[str, int]) -> tuple[int, int, int]:
    """Return how many pairs of the groups are right, how many wrong, and how many of the right ones hold no copy."""
    right = wrong = known = 0
    for rows in splits.members(groups):
        for one, other in itertools.combinations((names[row] for row in rows), 2):
            if joined[one.removeprefix(COPY)] != joined[other.removeprefix(COPY)]:
                wrong += 1
                continue
            right += 1
            known += not one.startswith(COPY) and not other.startswith(COPY)
    return right, wrong, known


def labels(bench: Bench) -> Outcome:
    """Exchange labels and look at the head of the audit's list."""
    dataset, classes = bench.dataset, bench.dataset.classes
    number = round(FLIPPED * len(dataset))
    rows: list[tuple[str, ...]] = []
    precisions: list[float] = []
    for seed in range(FLIPS):
        generator = np.random.default_rng(seed)
        samples, wrong = list(dataset.samples), {}
        for row in generator.permutation(len(samples))[:number].tolist():
            own = classes.index(str(samples[row].label))
            other = classes[(own + int(generator.integers(1, len(classes)))) % len(classes)]
            wrong[samples[row].name] = samples[row].label
            samples[row] = replace(samples[row], label=other)
        suspects = audit(replace(dataset, samples=tuple(samples)), cache=bench.cache)
        top, likely = suspects[:number], [suspect for suspect in suspects if suspect.is_likely]
        found = [suspect for suspect in top if suspect.name in wrong]
        precisions.append(len(found) / len(top))
        caught = sum(suspect.name in wrong for suspect in likely)
        mended = sum(suspect.suggested == wrong[suspect.name] for suspect in found)
        rows.append((
            str(seed), f"{number:,}", f"{precisions[-1]:.3f}", f"{len(found) / number:.3f}", f"{len(likely):,}",
            f"{caught / max(1, len(likely)):.3f}", f"{caught / number:.3f}", f"{mended / max(1, len(found)):.3f}",
        ))  # fmt: skip
        say(f"labels, seed {seed}: precision {precisions[-1]:.3f}, {len(likely)} of {number} estimated to be wrong")
    header = ("seed", "exchanged", "precision, top 5 %", "recall, top 5 %", "estimated to be wrong",
              "precision of these", "recall of these", "right class suggested")  # fmt: skip
    lines = [
        f"- {100 * FLIPPED:.0f} % of the labels were exchanged for another class, each as likely. The top 5 % of all "
        "pictures are as many as were exchanged, so that precision and recall are the same there; labels that were "
        "wrong before count as wrong accusations.",
        "- Right class suggested: among the exchanged labels in the top 5 %.",
        "",
        *side_by_side.table(header, rows),
    ]
    return Outcome(lines, [Bound("precision among the top 5 %, the least", min(precisions), ">=", 0.90, "{:.3f}")])


def shortcuts(bench: Bench) -> Outcome:
    """Plant a property in one class at a time and look at who is named for it."""
    dataset = bench.dataset
    sizes = Counter(str(label) for label in dataset.labels)
    large = sorted(name for name, size in sizes.items() if size >= FEWEST)
    order = np.random.default_rng(SEED).permutation(large).tolist()
    rows: list[tuple[str, ...]] = []
    found, accused = [], 0
    for turn, (key, (title, change)) in enumerate(PLANTED.items()):
        before = _named(bench.untouched, f"shortcut-{key}")
        rows.append((title, "(none)", "0", "–", ", ".join(before) or "nobody"))
        for chosen in order[turn * CLASSES : (turn + 1) * CLASSES]:
            folder = side_by_side.fresh(bench.work, "shortcut")
            samples = tuple(
                replace(sample, path=save(change(load(sample.path)), folder / f"{place}.jpg"))
                if sample.label == chosen
                else sample
                for place, sample in enumerate(dataset)
            )
            named = _named(bench.prepare(replace(dataset, samples=samples)), f"shortcut-{key}")
            others = [name for name in named if name != chosen]
            found.append(chosen in named)
            accused += len(others)
            rows.append(
                (title, chosen, str(sizes[chosen]), "yes" if found[-1] else "no", ", ".join(others) or "nobody")
            )
            say(f"shortcuts, {title} in {chosen}: {', '.join(named) or 'nobody'} named")
    lines = [
        "- Planted in all pictures of one class at a time, of random classes of at least "
        f"{FEWEST} pictures. Only the finding of the planted kind counts: a black border also makes a picture darker, "
        "and whatever is saved anew has another file size, which is rightly told as well.",
        "",
        *side_by_side.table(("planted", "in class", "pictures", "named", "also named"), rows),
    ]
    return Outcome(lines, [
        Bound("planted shortcuts found, share", float(np.mean(found)) if found else None, ">=", 1, "{:.2f}"),
        Bound("classes wrongly accused", float(accused), "<=", 0, "{:.0f}"),
    ])  # fmt: skip


def _named(seen: Prepared, code: str) -> list[str]:
    """Return the classes that a finding on a shortcut names, without their figures."""
    return [name.rpartition(" (F1 ")[0] for one in seen.findings if one.code == code for name in one.names]


def unknown(bench: Bench) -> Outcome:
    """Let a model judge pictures of none of its classes."""
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []
    if bench.foreign:
        result = held_out(bench, bench.dataset.classes)
        raw = result.predictions["test"]
        own = squashed(result.dataset.select(result.splits.test), bench.work / "own")
        same = replace(result.classifier.predict_many(own, cache=bench.cache), groups=raw.groups)
        for name, folder in bench.foreign.items():
            foreign = sources.read_pictures([folder])
            alike = squashed(foreign, bench.work / f"foreign-{len(rows)}")
            found = Refusals.of(same, result.classifier.predict_many(alike, cache=bench.cache))
            rows.append((f"{name}, made the same", *cells(found, result)))
            found_raw = Refusals.of(raw, result.classifier.predict_many(foreign, cache=bench.cache))
            rows.append((f"{name}, files as they are", *cells(found_raw, result)))
            say(f"unknown, {name}: {', '.join(rows[-2][1:])}; as they are: {', '.join(rows[-1][1:])}")
            for word, (area, refused) in {"objects": (0.995, 0.98), "animals": (0.98, 0.95)}.items():
                if word in name:
                    bounds.append(Bound(f"AUROC, {name}", found.area.value, ">=", area, "{:.4f}"))
                    bounds.append(Bound(f"share refused, {name}", found.refused, ">=", refused, "{:.3f}"))
    rows += list(_left_out(bench))
    side, quality = SQUASHED
    same_for_all = (
        f"- Made the same: own and foreign pictures squashed to {side}×{side} and saved as JPEG of quality {quality}."
    )
    lines = [
        "- AUROC: how often an own picture that was not learned from is more typical than a foreign one. Refused: at "
        "the model's threshold, which may refuse 5 % of its own kind. The own pictures are one of five folds, of "
        "which, and of whose copies and same-object pictures, the model learned nothing.",
        *([same_for_all] if bench.foreign else []),
        "- Left out: pictures of a random fifth of the classes, of which nothing was learned, against held-out "
        "pictures of the others. Intervals of an AUROC draw these again by whole classes, foreign ones one by one.",
        "- Score: what the model chose to tell them by, without a foreign picture; beside it, the AUROC that made it "
        "choose so, on classes left out of its training part.",
        "",
        *side_by_side.table(
            ("foreign", "score", "its AUROC in training", "own", "foreign", "AUROC", "foreign refused", "own refused"),
            rows,
        ),
    ]  # fmt: skip
    return Outcome(lines, bounds)


def cells(found: Refusals, result: TrainingResult) -> tuple[str, ...]:
    """Return the cells of a row."""
    rule = result.classifier.rules.out_of_distribution
    assert rule is not None  # noqa: S101  # the defaults ask for one
    expected = f"{rule.compared[rule.score]:.3f}" if rule.compared else "–"
    area, refused = "{:.4f} [{:.4f}, {:.4f}]".format(*found.area), f"{found.refused:.3f}"
    return rule.score, expected, f"{found.own:,}", f"{found.foreign:,}", area, refused, str(found.wrongly)


def held_out(bench: Bench, classes: Collection[str | None]) -> TrainingResult:
    """Return a model of these classes that had not learned from its own test part, a fifth of their pictures.

    The fifth is one of five folds, of whole groups of near-duplicates and, where they matter, same-object pictures.
    Left to itself, `train` would measure every picture in its turn where that costs little, and its saved head would
    have learned from all.
    """
    whole = bench.untouched.features.dataset
    rows = np.flatnonzero([sample.label in classes for sample in whole])
    dataset = whole.select(rows)
    parts = np.where(splits.folds(dataset, bench.groups[rows], 5, SEED) == 0, "test", "train").tolist()
    samples = tuple(replace(sample, split=part) for sample, part in zip(dataset, parts, strict=True))
    say(f"training on {len(classes)} classes")
    return bench.train(replace(dataset, samples=samples))


def squashed(dataset: Dataset, folder: Path) -> Dataset:
    """Return pictures saved anew, all of one size and quality."""
    side, quality = SQUASHED
    samples = tuple(
        Sample(
            save(load(one.path).resize((side, side), Image.Resampling.BICUBIC), folder / f"{row}.jpg", quality),
            one.name,
        )
        for row, one in enumerate(dataset)
    )
    return Dataset(folder, samples)


def _left_out(bench: Bench) -> Iterable[tuple[str, ...]]:
    """Yield a row of the table for each draw of classes."""
    classes = bench.dataset.classes
    number = len(classes) // 5
    if not number:
        say("unknown: too few classes to leave some out")
        return
    for draw in range(DRAWS):
        away = left_out(classes, number, draw)
        result = held_out(bench, set(classes) - away)
        foreign = bench.dataset.select(np.flatnonzero([sample.label in away for sample in bench.dataset]))
        said = by_class(result.classifier.predict_many(foreign, cache=bench.cache), foreign)
        told = cells(Refusals.of(result.predictions["test"], said), result)
        say(f"unknown, {number} classes left out: {', '.join(told)}")
        yield (f"{number} classes left out, draw {draw + 1}", *told)


def sets(bench: Bench) -> Outcome:
    """Fit sets on random halves of held-out predictions and measure on the other halves."""
    result = bench.crossed
    probabilities, targets, groups = _pool(result)
    accuracy = float((probabilities.argmax(axis=1) == targets).mean())
    alone = np.arange(len(targets))
    halved = {"pictures": alone} | ({"whole groups": groups} if len(np.unique(groups)) < len(targets) else {})
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []
    for method, (title, units) in itertools.product(("lac", "aps"), halved.items()):
        covered, bare, sizes, fewest = _halves(probabilities, targets, units, method)
        mean, error = float(covered.mean()), float(covered.std(ddof=1) / math.sqrt(HALVES))
        cells = f"{mean:.4f}", f"{error:.5f}", f"{covered.min():.3f} to {covered.max():.3f}", f"{bare.mean():.4f}"
        rows.append((method, title, *cells, f"{sizes.mean():.2f}"))
        say(f"sets, {method}, halves of {title}: coverage {mean:.4f}, {sizes.mean():.2f} classes")
        if units is alone:
            top = max(LEVEL + 1 / (fewest + 1), accuracy)
            bounds.append(Bound(f"mean coverage, {method}, not too little", mean, ">=", LEVEL - 3 * error, "{:.4f}"))
            bounds.append(Bound(f"mean coverage, {method}, not too much", mean, "<=", top + 3 * error, "{:.4f}"))
    own = result.evaluations["validation"].overall
    grouped = (
        f"- Whole groups: the {len(np.unique(groups)):,} groups of near-duplicates or same-object pictures are halved, "
        "none is on both sides. The pictures are then no independent draws, and the band is not promised; no bound."
    )
    lines = [
        f"- Predictions of {len(targets):,} pictures, each by a head that had learned from neither it nor its group (5 "
        f"folds); the most probable class alone is right in {accuracy:.3f}. Sets for {LEVEL:g} are fitted on a random "
        f"half and measured on the other, {HALVES} times.",
        f"- The band: with n on the fitted half, the coverage to expect lies between {LEVEL:g} and {LEVEL:g} + "
        "1/(n + 1) – or the accuracy, if that is more, for the most probable class is always in the set – widened by "
        "three standard errors of the mean over the divisions. For these very pictures that is exact: given them, the "
        "divisions are independent draws, though they share pictures, and a random division is all that the promise "
        "rests on. It says nothing of pictures from elsewhere.",
        *([grouped] if len(halved) > 1 else []),
        "- Of the bare rule: the mean coverage if the most probable class were let in only when its own score allows; "
        "what is above that is owed to sets that would have been empty. Those of aps never are.",
        f"- The sets that the heads of this run brought along, fitted on folds of their training parts: coverage "
        f"{own['coverage']}, {own['set_size'].value:.2f} classes on average; accuracy {own['accuracy']}.",
        "",
        *side_by_side.table(
            ("sets", "halves of", "mean coverage", "its standard error", "single divisions", "of the bare rule",
             "classes a set"),
            rows,
        ),
    ]  # fmt: skip
    return Outcome(lines, bounds)


def _halves(
    probabilities: metrics.Array, targets: Integers, groups: Integers, method: conformal.Method
) -> tuple[metrics.Array, metrics.Array, metrics.Array, int]:
    """Return coverage, that of the bare rule and mean size for each division, and the fewest rows behind a quantile."""
    units, member = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(SEED)
    found = np.empty((3, HALVES))
    fewest = len(units) // 2
    for turn in range(HALVES):
        half = np.zeros(len(units), dtype=bool)
        half[generator.permutation(len(units))[: len(units) // 2]] = True
        fitted, other = half[member], ~half[member]
        rule = conformal.fit(probabilities[fitted], targets[fitted], level=LEVEL, method=method)
        limit: float | metrics.Array = rule.quantile
        if rule.by_class is not None:
            fewest, limit = min(fewest, conformal.FEWEST_PER_CLASS), np.array(rule.by_class)[targets[other]]
        said = rule.sets(probabilities[other])
        covered = said[np.arange(len(said)), targets[other]]
        bare = 1 - probabilities[other, targets[other]] <= limit if method == "lac" else covered
        found[:, turn] = covered.mean(), bare.mean(), said.sum(axis=1).mean()
    return found[0], found[1], found[2], fewest


def _pool(result: TrainingResult) -> tuple[metrics.Array, Integers, Integers]:
    """Return probabilities, targets and groups of the held-out pictures."""
    said = result.predictions["validation"]
    assert said.targets is not None  # noqa: S101  # validation has labels
    groups = np.arange(len(said)) if said.groups is None else said.groups
    return said.probabilities, said.classes.encode(said.targets), groups


def intervals(bench: Bench) -> Outcome:
    """Draw samples from held-out predictions and count how often the interval holds the accuracy of all."""
    probabilities, targets, groups = _pool(bench.crossed)
    right = probabilities.argmax(axis=1) == targets
    whole = float(right.mean())
    units = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []

    def measure(title: str, number: int, *, grouped: bool, bound: bool) -> None:
        generator = np.random.default_rng(SEED)
        held, width = 0, []
        for _ in range(RESAMPLES):
            if grouped:
                drawn = [units[one] for one in generator.integers(len(units), size=number)]
                family = np.repeat(np.arange(number), [len(one) for one in drawn])
                found = metrics.share_interval(right[np.concatenate(drawn)], family)
            else:
                found = metrics.share_interval(right[generator.integers(len(right), size=number)])
            held += found.low <= whole <= found.high
            width.append(found.high - found.low)
        share = held / RESAMPLES
        rows.append((title, f"{number:,}", f"{share:.3f}", f"{100 * float(np.mean(width)):.1f} points"))
        say(f"intervals, {title}, {number}: {share:.3f}")
        if bound:
            bounds.append(Bound(f"share of intervals that hold it, {title}, not too few", share, ">=", 0.92, "{:.3f}"))
            bounds.append(Bound(f"share of intervals that hold it, {title}, not too many", share, "<=", 0.98, "{:.3f}"))

    fifth = len(right) // 5
    for number in sorted({min(number, fifth) for number in (50, 200, fifth)}):
        measure("pictures", number, grouped=False, bound=number == fifth)
    if len(units) < len(right):
        measure("whole groups", len(units) // 5, grouped=True, bound=True)
    lines = [
        f"- Predictions of {len(right):,} pictures, each by a head that had learned from neither it nor its group (5 "
        f"folds), stand for a whole population, whose accuracy is {whole:.4f}. Of it so many are drawn with "
        f"replacement, {RESAMPLES:,} times, and each time the 95 % interval of the accuracy (`metrics.share_interval`, "
        "that of every evaluation) is asked whether it holds that figure. Drawing without replacement would use up a "
        "finite population, and its intervals would seem too good.",
        *(
            [
                f"- Whole groups: of the {len(units):,} groups of copies or same-object pictures, the largest of "
                f"{max(map(len, units))} pictures, so many are drawn, with all their pictures; the interval knows them."
            ]
            if len(units) < len(right)
            else []
        ),
        "",
        *side_by_side.table(("drawn", "how many", "intervals that hold it", "mean width"), rows),
    ]
    return Outcome(lines, bounds)


def honest(bench: Bench) -> Outcome:
    """Compare the figure told without the given split with that of its test part."""
    assert bench.given is not None  # noqa: S101  # else this part is left out
    say("training without the given split")
    without = bench.train(bench.dataset)
    say("training with the given split")
    within = bench.train(bench.given)
    told, targets = (result.evaluation.overall["accuracy"] for result in (without, within))
    points = 100 * (told.value - targets.value)
    drawn = without.leakage.random_split
    rows = [
        ("told without the given split", f"{without.evaluation.pictures:,}", str(told)),
        ("measured on its test part", f"{within.evaluation.pictures:,}", str(targets)),
        ("a random split", f"{len(drawn.measured.rows) if drawn else 0:,}", str(drawn.accuracy) if drawn else "–"),
    ]
    remarks = []
    for title, result in (("without", without), ("with", within)):
        codes = ("same-object", "optimistic", "split-leak")
        remarks += [f"- Told {title} the split, {one.code}: {one.message}." for one in result.findings
                    if one.code in codes]  # fmt: skip
        gap = result.leakage.gap
        kept = "kept together" if result.leakage.together else "not kept together"
        remarks.append(
            f"- {title.capitalize()} the split: accuracy lost when same-object pictures are not learned from "
            f"{'none to measure' if gap is None else gap}; same-object pictures {kept}."
        )
    excess = (
        "" if drawn is None else f", a random split's by {100 * (drawn.accuracy.value - targets.value):+.1f} points"
    )
    say(f"honest: {told} against {targets}, {points:+.1f} points{excess}")
    lines = [
        "- The same pictures, once without the split that the data brings, once with it: its test part is never "
        "learned from. Both with the defaults.",
        f"- The figure told is off by {points:+.1f} points{excess}.",
        *remarks,
        "",
        *side_by_side.table(("accuracy", "pictures", "accuracy and its interval"), rows),
    ]
    return Outcome(lines, [Bound("told minus measured, in points, without sign", abs(points), "<=", 8, "{:.1f}")])


PARTS: dict[str, tuple[str, Callable[[Bench], Outcome]]] = {
    "copies": ("Copies are found", copies),
    "labels": ("Wrong labels come first", labels),
    "shortcuts": ("Shortcuts are named", shortcuts),
    "unknown": ("Pictures of none of the classes are refused", unknown),
    "sets": ("Sets hold the true class as often as they say", sets),
    "intervals": ("Intervals hold the true figure as often as they say", intervals),
    "honest": ("The figure told is that of new things", honest),
}


# ---- telling ------------------------------------------------------------------------------------------------------


def write(
    name: str, part: str, about: Sequence[str], outcome: Outcome, results: Path, parts: Iterable[str] = PARTS
) -> list[str]:
    """Print a part, put it into its place within the section of this data, and return the bounds that were missed.

    Parts that were not measured now keep what a previous run wrote; a section that is not there yet gets places for
    `parts`.
    """
    text = "\n".join([f"### {PARTS[part][0]}", "", *(f"- {line}" for line in about), *outcome.lines])
    if outcome.bounds:
        verdicts = side_by_side.table(
            ("bound", "measured", "limit", "verdict"), [bound.row() for bound in outcome.bounds]
        )
        text += "\n\n" + "\n".join(verdicts)
    print(f"\n{text}\n", flush=True)
    section = f"trust-{name}"
    if not results.is_file() or f"<!-- {section}: begin -->" not in results.read_text(encoding="utf-8"):
        places = [f"<!-- {section}-{one}: begin -->\n<!-- {section}-{one}: end -->" for one in parts]
        title = f"## Figures that can be believed, of `{name}`"
        side_by_side.write_section(results, section, "\n\n".join([title, *places]))
    side_by_side.write_section(results, f"{section}-{part}", text)
    return [f"{part}: {bound.name}" for bound in outcome.bounds if bound.verdict == "MISSED"]


def main() -> int:
    """Measure part by part, print, write the section."""
    arguments = _parse()
    name = arguments.data.resolve().name
    plain = sources.read(arguments.data, arguments.labels)
    dataset = _chosen(replace(plain, samples=tuple(replace(sample, split=None) for sample in plain)), arguments)
    given = None
    if arguments.split_column:
        columns = Columns(split=arguments.split_column)
        given = _chosen(sources.read(arguments.data, arguments.labels, columns=columns), arguments)
    about = side_by_side.describe(name, plain)
    if len(dataset) < len(plain):
        about += f"; {len(dataset):,} of them were used, balanced over the classes"
    wanted = [part for part in PARTS if part in arguments.only or (not arguments.only and (part != "honest" or given))]
    missed: list[str] = []
    with side_by_side.workplace(arguments.work) as work:
        bench = Bench(dataset, given, arguments.foreign, arguments.cache or work / "cache", work)
        for part in wanted:
            began, machine = time.perf_counter(), side_by_side.machine()
            outcome = PARTS[part][1](bench)
            lines = [*machine, about, f"Took: {time.perf_counter() - began:.0f} s"]
            missed += write(name, part, lines, outcome, arguments.results)
    for bound in missed:
        print(f"Bound missed: {bound}", file=sys.stderr)
    return 1 if missed else 0


def _chosen(dataset: Dataset, arguments: argparse.Namespace) -> Dataset:
    return dataset if arguments.pictures is None else train.balanced(dataset, arguments.pictures)


def _names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whether what headstart tells of data and of its figures is so.")
    parser.add_argument("data", type=Path, help="a folder per class or a Kaggle competition folder")
    parser.add_argument("--labels", type=Path, help="a table of labels for the pictures in DATA")
    parser.add_argument("--split-column", help="of the table: an honest split, which `honest` compares with")
    parser.add_argument("--foreign", nargs="+", default=[], metavar="NAME=FOLDER", help="pictures of none of the "
                        "classes; bounds hold for names with `objects` or `animals` in them")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--pictures", type=int, help="at most, balanced over the classes (default: all)")
    parser.add_argument("--cache", type=Path, help="features are kept here (default: in a folder that is removed)")
    parser.add_argument("--work", type=Path, help="where planted pictures go; what is written there is removed")
    parser.add_argument("--results", type=Path, default=side_by_side.RESULTS, help="the file whose section is replaced")
    arguments = parser.parse_args()
    if arguments.pictures is not None and arguments.pictures < 1:
        parser.error("--pictures must be at least 1")
    if "honest" in arguments.only and not arguments.split_column:
        parser.error("honest needs --split-column")
    foreign = {name: Path(folder) for name, equals, folder in (text.partition("=") for text in arguments.foreign)
               if name and equals and Path(folder).is_dir()}  # fmt: skip
    if len(foreign) < len(arguments.foreign):
        parser.error("--foreign takes NAME=FOLDER, each name once, and the folders must be there")
    arguments.foreign = foreign
    return arguments


if __name__ == "__main__":
    sys.exit(side_by_side.guarded(main))
