"""The verbs that learn: audit labels, train, and the journey of the demonstration."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart import terminal
from headstart.cli import places
from headstart.cli.options import AsJson, Corrections, Engine, NoCache, OnCluster, Quiet, Shown, Source, seconds_of
from headstart.errors import ConfigError

if TYPE_CHECKING:
    from threading import Event
    from types import FrameType

    from headstart.config import TrainConfig
    from headstart.learning.heads import Listener
    from headstart.records import Dataset, Progress
    from headstart.workflows.prepare import Begun
    from headstart.workflows.train import TrainingResult


@dataclass(frozen=True)
class Wishes:
    """What is asked of a training; what is not said here is the recipe's."""

    recipe: Annotated[
        str | None, typer.Option(help="headstart, or tutorial: InceptionResNetV2 and a head of dense layers.")
    ] = None
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file of the backbone's weights.")] = None
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="After measuring, fit again on all but the test part; default: --refit, of tutorial --no-refit.",
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(help="Time that it may take, e.g. 90s, 10m or 1h30m: the best level that fits is taken."),
    ] = None
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Measure every picture once, by so many folds; default: 5 where that costs little."),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Of every random choice; default: 0.")] = None
    config: Annotated[Path | None, typer.Option(help="A TOML file, e.g. plan.toml of a previous run.")] = None
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. head.l2=0.1; `headstart settings` lists them.")
    ] = None

    def read(self, shown: Shown, engine: Engine, previous: Path | None) -> TrainConfig:
        """Return the configuration; of a training that goes on from a previous one, its plan is the ground."""
        from headstart.config import read_config

        file = self.config
        if previous is not None and file is None:
            file = previous / "plan.toml"  # the same backbone and the same rules, unless a flag says otherwise
        flags = {
            "recipe": self.recipe,
            "encoder.weights": self.weights,
            "split.folds": self.folds,
            "budget": None if self.budget is None else seconds_of(self.budget),
            "refit": self.refit,
            "seed": self.seed,
        }
        return read_config(file, self.settings or (), flags | shown.flags | engine.flags)


@dataclass(frozen=True)
class Extras:
    """What a training does besides, and where it tells of it."""

    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Measure what more pictures would bring, and where.")
    ] = False
    previous: Annotated[
        Path | None, typer.Option("--from", help="A model trained on some of these pictures: say what changed on them.")
    ] = None
    log: Annotated[
        list[str] | None, typer.Option("--log", help="tensorboard or mlflow: log the fit there as well.")
    ] = None
    cluster: OnCluster = None
    no_cache: NoCache = False
    as_json: AsJson = False
    quiet: Quiet = False


def train(
    source: Source,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Where the model goes; default: runs/<name of the folder of pictures>.")
    ] = None,
    shown: Shown,
    wishes: Wishes,
    corrections: Corrections = None,
    engine: Engine,
    extras: Extras,
) -> None:
    """Train a classifier: check, split, encode, fit, calibrate, measure, save.

    Pictures go in as they are; the folder they lie in is never written to. Interrupt it whenever you like: what was
    encoded is kept, and the same command goes on from there.

    Examples:
        headstart train photos/                      a folder for each class
        headstart train labels.csv --images photos/  a table: id and label
        headstart train photos/ --budget 10m         the best in ten minutes
        headstart train photos/ --no-mirror          where left and right matter
        headstart train photos/ --set head.l2=0.1    any of `headstart settings`
        headstart train photos/ --from runs/photos --out runs/photos-2
    """
    root = source.root
    asked = wishes.read(shown, engine, extras.previous)
    out = out or Path("runs") / (root.resolve() if isinstance(root, Path) else root).name
    dataset = places.corrected(source.read(places.cache(extras.no_cache)), corrections)
    if isinstance(root, Path) and dataset.layout == "folders" and out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"--out {out} lies in {root}, where the next training would take its plots for pictures of a class.",
            "Name a place outside of the folder of pictures.",
        )
    from headstart.model import artifact
    from headstart.report import logs

    logs.check(extras.log or (), out)
    artifact.probe(out)
    result = _fit(dataset, asked, out, extras)
    moved = artifact.aside(out)
    _save(result, out)
    _report(result, out, moved, as_json=extras.as_json)


def _fit(dataset: Dataset, asked: TrainConfig, out: Path, extras: Extras) -> TrainingResult:
    """Return what a training gives, having told its plan, its progress and its findings."""
    from headstart.report import logs, stored
    from headstart.workflows import train as workflow

    listeners: list[Listener] = []
    with terminal.progress(extras.quiet) as heard, ExitStack() as stack:
        patience = Patience(heard)

        def planned(begun: Begun) -> None:
            patience.enough = begun.enough
            if not extras.quiet:
                _print_plan(begun)
            opened = stack.enter_context(logs.opened(extras.log or (), begun.plan, out))
            for place in opened.places:
                terminal.say(extras.quiet, f"Logs: {place}")
            listeners.extend([opened.listen, terminal.epochs(begun.plan, extras.quiet)])
            concluded.append(opened.conclude)

        stack.enter_context(patience.heeding_interrupts())
        concluded: list[Callable[[TrainingResult], None]] = []
        result = workflow.train(
            dataset,
            asked,
            cache=places.cache(extras.no_cache),
            progress=patience,
            listen=lambda step: logs.join(*listeners)(step),
            planned=planned,
            previous=None if extras.previous is None else stored.read_previous(extras.previous),
            learning_curve=extras.learning_curve,
            cluster=extras.cluster,
        )
        for conclude in concluded:
            conclude(result)
    if not extras.quiet:
        terminal.print_findings(result.findings, brief=True)
    return result


class Patience:
    """Hears how far a training is, so that the first Ctrl-C while a network is trained ends only that."""

    def __init__(self, progress: Progress) -> None:
        """Pass on to another listener what is heard."""
        self._progress = progress
        self._training = False
        self.enough: Event | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `Progress`."""
        from headstart.learning.clock import STAGE

        self._training = stage.startswith(STAGE)
        self._progress(stage, done, total)

    @contextmanager
    def heeding_interrupts(self) -> Iterator[None]:
        """Have the first SIGINT while a network is trained end that training, and any other do what it did before."""
        before = signal.getsignal(signal.SIGINT)

        def interrupted(number: int, frame: FrameType | None) -> None:
            if self.enough is None or self.enough.is_set() or not self._training:
                signal.signal(signal.SIGINT, before)
                signal.raise_signal(number)
                return
            self.enough.set()
            terminal.say(False, "Enough: what is best so far is measured and saved. Ctrl-C once more ends at once.")

        signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _print_plan(begun: Begun) -> None:
    from headstart.data import shapes

    dataset = begun.inspection.dataset
    sizes = shapes.sample([sample.path for sample in dataset])
    widest = max((network.preprocess for network in begun.backbone.networks), key=lambda one: one.crop)
    cut = shapes.cropped(sizes, widest)
    terminal.print_plan(begun.plan, len(dataset), len(dataset.classes), cut, begun.budget)


def _report(result: TrainingResult, out: Path, moved: Path | None, *, as_json: bool) -> None:
    """Print what a training found out, and where it lies now."""
    from headstart.report import page, summary

    told = result.classifier.provenance
    figures, trust = summary.of_evaluations(result.evaluations), summary.of_trust(result)
    if as_json:
        content = {
            "model": str(out),
            "evaluation": figures,
            "trust": trust,
            "temperature": result.classifier.temperature,
            "training": told.training,
            "data": told.data,
            "findings": summary.of_findings(result.findings),
        }
        terminal.print_json(content)
        return
    answer = summary.answer(figures[summary.reported(figures)])
    terminal.print_line(f"{terminal.printable(answer)}; look at {places.quoted(out / page.NAME)}\n")
    terminal.print_parts(figures, told.data["pictures"])
    terminal.print_trust(trust)
    terminal.print_line(
        f"Head: {told.training['head']}; {result.classifier.rules.calibration}. "
        f"The saved head was fitted on {told.training['fitted_on']}."
    )
    terminal.print_line(f"Saved: {out}" + (f" (the model that was there is now {moved})" if moved else ""))
    whole = "; what to do about each finding is there" if result.findings else ""
    terminal.print_line(
        f"Page: {out / page.NAME}{whole}\nCard: {out / 'README.md'}\n"
        f"Next: headstart predict {places.quoted(out)} PICTURES"
    )


def _save(result: TrainingResult, out: Path) -> None:
    from headstart.data import uris
    from headstart.report import run

    run.save(result, out, command=shlex.join(["headstart", *map(uris.shown, sys.argv[1:])]))


def audit(
    source: Source,
    out: Annotated[Path, typer.Option(help="The sheet to write.")] = Path("suspects.csv"),
    corrections: Corrections = None,
    *,
    shown: Shown,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the pictures whose label is probably wrong, the most doubtful first, in a sheet for you to fill in.

    In its column `correction` write accept (the suggested label), remove, or a class name; leave it empty where the
    label is right. The first of the pictures are drawn beside it, as .png. Then:
    headstart train DATA --corrections suspects.csv
    """
    from headstart.config import read_config

    asked = read_config(None, flags=shown.flags | engine.flags)
    read = source.read(places.cache(no_cache))
    if out.suffix.lower() == ".png":
        raise ConfigError(f"--out {out} is a sheet of text, a .csv; the pictures are drawn beside it, as .png.")
    for place in (out, drawn := out.parent / f"{out.stem}.png"):
        places.check_out(place, [sample.path for sample in read])
        if place.exists():
            raise ConfigError(
                f"--out {place} is there already, perhaps filled in by hand; it is left alone.",
                "Name another with --out.",
            )
    dataset = places.corrected(read, corrections)
    from headstart.data import corrections as sheets
    from headstart.report import gallery, plots
    from headstart.workflows import audit as workflow

    with terminal.progress(quiet) as progress:
        suspects = workflow.audit(dataset, asked, cache=places.cache(no_cache), progress=progress)
    places.write(out, sheets.sheet(suspects))
    if suspects:
        places.write(drawn, plots.png(gallery.suspects(dataset, suspects)))
    likely = sum(suspect.is_likely for suspect in suspects)
    if as_json:
        terminal.print_json({"sheet": str(out), "likely": likely, "suspects": [asdict(one) for one in suspects]})
        return
    terminal.print_table(
        ("picture", "label", "suggested", "confidence", "near-duplicate of"),
        ((one.name, one.label, one.suggested, f"{one.confidence:.3f}", one.duplicate_of) for one in suspects[:10]),
        numbers={"confidence"},
    )
    terminal.print_line(
        f"{likely} of {len(dataset):,} labels are estimated to be wrong; {len(suspects)} pictures are in {out}, "
        f"the most doubtful first{f'; look at {drawn}' if suspects else ''}."
    )
    terminal.print_line(
        "Next: fill in its column `correction` with accept, remove or a class name, then train on the same pictures "
        f"with --corrections {places.quoted(out)}"
    )


def demo(
    out: Annotated[Path, typer.Option(help="Where the pictures and the model go.")] = Path("headstart-demo"),
    show: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open its page in the browser; default: on a desktop.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """The whole journey on 1,797 scans of handwritten digits that come with the installation."""
    from headstart import config
    from headstart import demo as digits
    from headstart.data import sources
    from headstart.evaluation import measure
    from headstart.model import artifact
    from headstart.records import listing
    from headstart.report import summary as summaries
    from headstart.workflows import train as workflow

    artifact.probe(out / "model")
    if others := digits.others(out):
        raise ConfigError(
            f"{out} holds files that are not the demo's: {listing(others)}.", "Name another place with --out."
        )
    data = digits.write_digits(out)
    terminal.say(quiet, f"Wrote 1,500 labelled scans to {data.photos} and 297 new ones to {data.new}.")
    dataset = sources.read(data.photos)
    # a mirrored 2 is no 2
    asked = config.read_config(None, flags={"pictures.mirror": False})
    with terminal.progress(quiet) as progress:
        result = workflow.train(dataset, asked, cache=places.cache(False), progress=progress)
    _save(result, out / "model")
    figures = summaries.of_evaluation(result.evaluation)
    terminal.print_evaluation(figures, "Validation pictures, held out")
    new = sources.read(data.new, data.targets)
    with terminal.progress(quiet) as progress:
        said = measure.predict_labelled(result.classifier, new, cache=places.cache(False), progress=progress)
    right = sum(one.label == targets for one, targets in zip(said, said.targets or (), strict=True))
    terminal.print_line(f"Predicted {len(said)} new scans: {right} right.")
    page = out / "model" / "report.html"
    terminal.print_line(f"""
Look at {page}, then:

  headstart predict {places.quoted(out / "model")} {places.quoted(data.new)}
  headstart show {places.quoted(data.photos)}
  headstart train YOUR_FOLDER        one folder per class, any names""")
    places.show(page, show)
