"""The command line: one thin function per verb that parses, calls and prints. Data goes to stdout, everything else to
stderr. The only place that turns errors into exit codes: 0 done, 1 failed, 2 asked wrongly, 130 and 143 interrupted.

Nothing heavy is imported before a verb runs, so `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart import storage, terminal
from headstart.errors import ConfigError, HeadstartError, StorageError
from headstart.options import Data, Engine, FollowLinks, Images, Labels, Source, locate, unfolded

if TYPE_CHECKING:
    from headstart.config import TrainConfig
    from headstart.records import Dataset

app = typer.Typer(
    help="From labelled photographs to an image classifier that can be trusted and used. Offline, in minutes.",
    epilog="Start with: headstart demo · then: headstart train photos/ --out runs/photos",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
cache_app = typer.Typer(help="What is stored of computed features, how large; verify it, clear it.")
app.add_typer(cache_app, name="cache")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep computed features.")]
BackboneName = Annotated[str | None, typer.Option("--backbone", help="See `headstart models`. Default: the recipe's.")]
Corrections = Annotated[
    Path | None, typer.Option("--corrections", help="A sheet of `headstart audit` that was filled in.")
]
Model = Annotated[Path, typer.Argument(help="A folder that `headstart train` wrote.")]


def _print_version(asked: bool) -> None:
    if asked:
        from headstart import __version__

        terminal.print_line(f"headstart {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Nothing is common to all verbs but the version."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the pictures and the model go.")] = Path("headstart-demo"),
    quiet: Quiet = False,
) -> None:
    """The whole journey on 1,797 scans of handwritten digits that come with the installation."""
    from headstart import config
    from headstart import demo as digits
    from headstart.data import sources
    from headstart.evaluation import measure
    from headstart.inspection import files
    from headstart.model import artifact
    from headstart.report import summary as summaries
    from headstart.workflows import prepare, train

    artifact.probe(out / "model")
    if not (out / "model").exists() and any((out / name).exists() for name in ("photos", "new", "new_labels.csv")):
        raise ConfigError(f"{out} holds files that are not the demo's.", "Name another place with --out.")
    data = digits.write_digits(out)
    terminal.say(quiet, f"Wrote 1,500 labelled scans to {data.photos} and 297 new ones to {data.new}.")
    dataset = sources.read(data.photos)
    # a mirrored 2 is no 2
    asked = config.read_config(None, flags={"pictures.mirror": False})
    with terminal.progress(quiet) as progress:
        inspection = files.inspect(dataset, progress)
        backbone, plan = prepare.prepare(asked)
        result = train.fit(inspection, backbone, plan, cache=_cache(False), progress=progress)
    _save(result, out / "model")
    figures = summaries.of_evaluation(result.evaluation)
    terminal.print_evaluation(figures, "Validation pictures, held out")
    new = sources.read(data.new, data.targets)
    with terminal.progress(quiet) as progress:
        said = measure.predict_labelled(result.classifier, new, cache=_cache(False), progress=progress)
    right = sum(one.label == targets for one, targets in zip(said, said.targets or (), strict=True))
    terminal.print_line(f"Predicted {len(said)} new scans: {right} right.")
    terminal.print_line(f"""
Look at {out / "model" / "plots"} and {out / "model" / "README.md"}, then:

  headstart predict {out / "model"} {data.new}
  headstart show {data.photos}
  headstart train YOUR_FOLDER        one folder per class, any names""")


@app.command()
@unfolded
def check(
    source: Source,
    corrections: Corrections = None,
    backbone: BackboneName = None,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at labelled pictures before any training: copies, bad pictures, shortcuts, classes.

    The features that it computes are kept, so that `headstart train` on the same pictures begins where this ends.
    """
    from headstart.config import read_config
    from headstart.report import summary
    from headstart.workflows import prepare

    asked = read_config(None, flags={"encoder.backbone": backbone} | engine.flags)
    dataset = _corrected(source.read(), corrections)
    with terminal.progress(quiet) as progress:
        loaded, plan = prepare.prepare(asked)
        findings = prepare.look(dataset, loaded, plan, cache=_cache(no_cache), progress=progress)
    if as_json:
        terminal.print_json(
            {"pictures": len(dataset), "classes": len(dataset.classes), "findings": summary.of_findings(findings)}
        )
        return
    terminal.print_line(f"{len(dataset):,} pictures of {len(dataset.classes)} classes")
    terminal.print_findings_table(findings)


@app.command()
@unfolded
def audit(
    source: Source,
    out: Annotated[Path, typer.Option(help="The sheet to write.")] = Path("suspects.csv"),
    corrections: Corrections = None,
    backbone: BackboneName = None,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the pictures whose label is probably wrong, the most doubtful first, in a sheet for you to fill in.

    In its column `correction` write accept (the suggested label), remove, or a class name; leave it empty where the
    label is right. Then: headstart train DATA --corrections suspects.csv
    """
    from headstart.config import read_config
    from headstart.data import corrections as sheets
    from headstart.workflows import prepare

    asked = read_config(None, flags={"encoder.backbone": backbone} | engine.flags)
    read = source.read()
    _check_out(out, [sample.path for sample in read])
    if out.exists():
        raise ConfigError(
            f"--out {out} is there already, perhaps filled in by hand; it is left alone.", "Name another with --out."
        )
    dataset = _corrected(read, corrections)
    with terminal.progress(quiet) as progress:
        loaded, plan = prepare.prepare(asked)
        suspects = prepare.doubt(dataset, loaded, plan, cache=_cache(no_cache), progress=progress)
    _write(out, sheets.sheet(suspects))
    likely = sum(suspect.is_likely for suspect in suspects)
    if as_json:
        terminal.print_json({"sheet": str(out), "likely": likely, "suspects": [asdict(one) for one in suspects]})
        return
    terminal.print_suspects(suspects[:10])
    terminal.print_line(
        f"{likely} of {len(dataset):,} labels are estimated to be wrong; {len(suspects)} pictures are in {out}, "
        "the most doubtful first."
    )
    terminal.print_line(
        "Next: fill in its column `correction` with accept, remove or a class name, then train on the same pictures "
        f"with --corrections {out}"
    )


@app.command()
@unfolded
def train(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; default: runs/<name of DATA>.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="headstart, or tutorial: InceptionResNetV2 and a head of dense layers.")
    ] = None,
    backbone: BackboneName = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file of the backbone's weights.")] = None,
    resize: Annotated[str | None, typer.Option(help="crop, letterbox or squash.")] = None,
    mirror: Annotated[bool | None, typer.Option("--mirror/--no-mirror", help="Learn from mirror images too.")] = None,
    refit: Annotated[
        bool | None, typer.Option("--refit/--no-refit", help="After measuring, fit again on all pictures.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Measure every picture once, by so many folds, instead of holding out a fifth."),
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Measure what more pictures would bring, and where.")
    ] = False,
    corrections: Corrections = None,
    previous: Annotated[
        Path | None, typer.Option("--from", help="A model trained on some of these pictures: say what changed on them.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    *,
    engine: Engine,
    config: Annotated[Path | None, typer.Option(help="A TOML file, e.g. plan.toml of a previous run.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. head.l2=0.1; `headstart settings` lists them.")
    ] = None,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="tensorboard or mlflow: log the fit there as well.")
    ] = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier: check, split, encode, fit, calibrate, measure, save.

    Pictures go in as they are; the folder they lie in is never written to. Interrupt it whenever you like: what was
    encoded is kept, and the same command goes on from there.
    """
    from headstart.config import read_config

    flags = {
        "recipe": recipe,
        "encoder.backbone": backbone,
        "encoder.weights": weights,
        "pictures.resize": resize,
        "pictures.mirror": mirror,
        "split.folds": folds,
        "refit": refit,
        "seed": seed,
    }
    if previous is not None and config is None:
        config = previous / "plan.toml"  # the same backbone and the same rules, unless a flag says otherwise
    asked = read_config(config, settings or (), flags | engine.flags)
    out = out or Path("runs") / source.root.resolve().name
    from headstart.model import artifact
    from headstart.report import logs

    logs.check(log or ())
    dataset = _corrected(source.read(), corrections)
    if dataset.layout == "folders" and out.resolve().is_relative_to(source.root.resolve()):
        raise ConfigError(
            f"--out {out} lies in {source.root}, where the next training would take its plots for pictures of a class.",
            "Name a place outside of the folder of pictures.",
        )
    artifact.probe(out)
    _train(
        dataset, asked, out, _cache(no_cache), log or (), previous, curve=learning_curve, as_json=as_json, quiet=quiet
    )


def _corrected(dataset: Dataset, sheet: Path | None) -> Dataset:
    """Return the dataset as a sheet of `headstart audit` corrects it."""
    if sheet is None:
        return dataset
    from headstart.data import corrections, tables

    return corrections.apply(dataset, tables.read_table(sheet))


def _train(
    dataset: Dataset,
    asked: TrainConfig,
    out: Path,
    cache: Path | None,
    log: Sequence[str],
    previous: Path | None,
    *,
    curve: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from headstart.inspection import files
    from headstart.model import artifact
    from headstart.report import logs, run, summary
    from headstart.workflows import prepare, train

    before = None if previous is None else run.read_previous(previous)
    with terminal.progress(quiet) as progress:
        inspection = files.inspect(dataset, progress)
        backbone, plan = prepare.prepare(asked)
        if not quiet:
            terminal.print_plan(plan, len(inspection.dataset), len(inspection.dataset.classes))
        with logs.opened(log, plan, out) as opened:
            for place in opened.places:
                terminal.say(quiet, f"Logs: {place}")
            listen = logs.join(opened.listen, terminal.epochs(plan, quiet))
            result = train.fit(
                inspection,
                backbone,
                plan,
                cache=cache,
                progress=progress,
                listen=listen,
                previous=before,
                learning_curve=curve,
            )
            opened.conclude(result)
    if not quiet:
        terminal.print_findings(result.findings)
    moved = artifact.aside(out)
    _save(result, out)
    told = result.classifier.provenance
    figures, trust = summary.of_evaluations(result.evaluations), summary.of_trust(result)
    if as_json:
        terminal.print_json(
            {
                "model": str(out),
                "evaluation": figures,
                "trust": trust,
                "temperature": result.classifier.temperature,
                "training": told.training,
                "data": told.data,
                "findings": summary.of_findings(result.findings),
            }
        )
        return
    _print_parts(figures)
    terminal.print_trust(trust)
    terminal.print_line(
        f"Head: {told.training['head']}; {result.classifier.rules.calibration}. "
        f"The saved head was fitted on {told.training['fitted_on']}."
    )
    terminal.print_line(f"Saved: {out}" + (f" (the model that was there is now {moved})" if moved else ""))
    terminal.print_line(f"Plots: {out / 'plots'}   Card: {out / 'README.md'}   Next: headstart predict {out} PICTURES")


def _print_parts(figures: Mapping[str, Any]) -> None:
    for name, evaluation in figures.items():
        title = f"{name.capitalize()}: {evaluation['pictures']} pictures, held out"
        terminal.print_evaluation(evaluation, title)


@app.command()
@unfolded
def evaluate(
    model: Model,
    source: Source,
    split: Annotated[str | None, typer.Option(help="Only this part: train, validation or test.")] = None,
    plots: Annotated[Path | None, typer.Option(help="A folder for plots of it.")] = None,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled pictures, every figure with its 95 % interval.

    Without pictures: the figures that its training measured, on pictures that it did not learn from.
    """
    from headstart.evaluation import measure
    from headstart.inspection import files
    from headstart.records import SPLIT_NAMES
    from headstart.report import run, summary

    if not source.named:
        if split is not None or plots is not None or no_cache or source != Source() or engine != Engine():
            raise ConfigError(
                "Without pictures the stored figures are printed; the flags that were given go with pictures.",
                "headstart evaluate MODEL DATA",
            )
        figures = run.read_evaluation(model)
        if as_json:
            terminal.print_json(figures)
            return
        _print_parts(figures)
        if (trust := run.read_trust(model)) is not None:
            terminal.print_trust(trust)
        return
    dataset = source.read()
    if split is not None:
        rows = [row for row, sample in enumerate(dataset) if sample.split == split]
        if split not in SPLIT_NAMES or not rows:
            raise ConfigError(
                f"No picture belongs to the split {split!r}; it is one of {', '.join(SPLIT_NAMES)}.",
                "The column with the split is named with --split-column.",
            )
        dataset = dataset.select(rows)
    if plots is not None:
        with storage.storage_errors(plots, "Name another folder with --plots."):
            plots.mkdir(parents=True, exist_ok=True)
    classifier = engine.load(model)
    with terminal.progress(quiet) as progress:
        said = measure.predict_labelled(classifier, dataset, cache=_cache(no_cache), progress=progress)
    result = measure.measure(said)
    findings = [*dataset.findings, *files.unusable(dataset, said.errors)]
    if not quiet:
        terminal.print_findings(findings)
    if plots is not None:
        run.save_plots(result, plots)
        terminal.say(quiet, f"Plots: {plots}")
    if as_json:
        terminal.print_json(summary.of_evaluation(result) | {"findings": summary.of_findings(findings)})
        return
    terminal.print_evaluation(summary.of_evaluation(result), f"{result.pictures} pictures of {source.root}")


@app.command()
@unfolded
def predict(
    model: Model,
    pictures: Annotated[list[str], typer.Argument(help="Files, folders, glob patterns, or a Kaggle folder's test/.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: stdout.")] = None,
    form: Annotated[
        str, typer.Option("--format", help="labels, probabilities, table (label, probability, known, set) or jsonl.")
    ] = "labels",
    like: Annotated[
        Path | None, typer.Option(help="A sample submission, whose id and class columns are taken.")
    ] = None,
    spreadsheet_safe: Annotated[
        bool, typer.Option("--spreadsheet-safe", help="Put ' before cells that a spreadsheet would run as a formula.")
    ] = False,
    follow_links: FollowLinks = False,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict pictures, in the order given. One that cannot be used keeps its row, and the exit code is then 1."""
    from headstart.data import sources, tables
    from headstart.delivery import submission

    form = "jsonl" if as_json else form
    if like is not None and form != "labels":
        raise ConfigError(f"--like decides the columns, so it does not go with {'--json' if as_json else '--format'}.")
    if form not in submission.FORMATS:
        raise ConfigError(f"--format is {form!r}; it is one of {', '.join(submission.FORMATS)}.")
    sample = tables.read_table(like) if like is not None else None
    dataset = sources.read_pictures(pictures, follow_links=follow_links)
    if out is not None:
        _check_out(out, [model / "model.json", *([like] if like else []), *(sample.path for sample in dataset)])
    classifier = engine.load(model)
    if sample is not None:
        submission.check_like(sample, classifier.classes)
    with terminal.progress(quiet) as progress:
        said = classifier.predict_many(dataset, cache=_cache(no_cache), progress=progress)
    text = submission.render(said, form, sample, spreadsheet_safe=spreadsheet_safe)
    if out is None:
        terminal.print_text(text)
    else:
        _write(out, text)
        terminal.say(quiet, f"Wrote {len(said if sample is None else sample.rows)} rows to {out}.")
    if not quiet:
        terminal.print_findings((*dataset.findings, *said.findings))
    for row, reason in list(said.errors.items())[:20]:
        terminal.say(False, f"error: {terminal.printable(said.names[row])}: {reason}")
    if said.known is not None and not quiet:
        terminal.print_strangers([one.path for one in said if one.known is False], len(said))
    if said.errors:
        terminal.say(False, f"{len(said.errors)} of {len(said)} picture(s) could not be used; their rows are marked.")
        raise typer.Exit(1)


@app.command()
def show(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("headstart-show.png"),
    batch: Annotated[
        bool, typer.Option("--batch", help="Show a batch as the network sees it, mirror images included.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Print so many rows instead; of a CSV file as they stand there.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Prepare the batch as this model does.")] = None,
    backbone: Annotated[str, typer.Option(help="Prepare the batch as this backbone wants it.")] = "lite2",
    size: Annotated[int | None, typer.Option(min=16, max=2048, help="Side of the batch's pictures in pixels.")] = None,
    resize: Annotated[str, typer.Option(help="crop, letterbox or squash.")] = "crop",
    labels: Labels = None,
    images: Images = None,
    seed: Annotated[int, typer.Option(help="Which pictures are drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Draw 25 pictures with their labels, or (--batch) 16 of them and their mirror images as the network sees them."""
    from headstart.report import gallery

    root, table = locate(data, labels, images)
    if rows is not None:
        header, cells = gallery.rows(root, table)
        terminal.print_rows(header, cells[:rows], len(cells))
        return
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {str(out)!r}, but must end in .png.")
    dataset = gallery.open_any(root, table)
    _check_out(out, [*([table] if table else []), *(sample.path for sample in dataset)])
    if batch:
        from headstart.encoding import backbone as backbones

        preprocess = Engine().load(model).preprocess if model else backbones.preprocessing(backbone, size, resize)
        figure, shape = gallery.batch(dataset, preprocess, seed)
        terminal.say(quiet, f"One batch: {shape} 8-bit RGB; normalised to float32 inside the encoder.")
    else:
        figure = gallery.grid(dataset, seed)
    figure.savefig(out, dpi=110)
    terminal.print_line(str(out))


@app.command()
def summary(model: Model, as_json: AsJson = False) -> None:
    """The layers of a model in the order a picture passes them: type, output shape, parameters."""
    from headstart.report import summary as summaries

    classifier = Engine().load(model)
    rows = summaries.of_layers(classifier)
    if as_json:
        terminal.print_json(rows)
        return
    terminal.print_layers(rows, f"{classifier.backbone.name}, {len(classifier.classes)} classes")
    trained = sum(row["parameters"] for row in rows if row["name"].partition(".")[0] in ("head", "calibration"))
    total = sum(row["parameters"] for row in rows)
    terminal.print_line(f"{total:,} parameters, of which {trained:,} were fitted (head and temperature).")


@app.command()
def models(
    pattern: Annotated[str | None, typer.Argument(help="A glob pattern for timm's names, e.g. '*dinov2*'.")] = None,
    as_json: AsJson = False,
) -> None:
    """Backbones, and where the weights of each would come from."""
    from headstart.encoding import backbone as backbones

    bundled = [{"name": n, "size": size, "weights": origin} for n, size, origin in backbones.available()]
    names = backbones.architectures(pattern) if pattern else []
    if as_json:
        terminal.print_json({"bundled": bundled, "hub": names})
        return
    for row in bundled:
        terminal.print_line(f"{row['name']}  {row['size']} px  {row['weights']}")
    for name in names:
        terminal.print_line(f"{name}  (from the Hugging Face hub or its cache)")
    if pattern and not names:
        terminal.say(False, f"timm has no pre-trained network that matches {pattern!r}.")
    if not pattern:
        terminal.print_line(
            "Any other timm name: weights from the hub's cache, else downloaded. "
            "`headstart models 'convnext*'` searches them."
        )


@app.command()
def settings(as_json: AsJson = False) -> None:
    """Every setting that --set and --config take, with its default."""
    from headstart.config import settings_table

    rows = settings_table()
    if as_json:
        terminal.print_json([{"name": name, "default": default, "about": about} for name, default, about in rows])
        return
    for name, default, about in rows:
        terminal.print_line(f"{name} = {json.dumps(default)}   {about}")


@cache_app.callback(invoke_without_command=True)
def cache(context: typer.Context, as_json: AsJson = False) -> None:
    """What is stored of computed features, and how large it is."""
    if context.invoked_subcommand is not None:
        return
    from headstart.encoding import cache as caches

    folder = caches.default_cache()
    states = caches.survey(folder)
    vectors, size = sum(s.rows for s in states), sum(s.size for s in states)
    if as_json:
        terminal.print_json({"folder": str(folder), "files": len(states), "vectors": vectors, "bytes": size})
    else:
        terminal.print_line(f"{folder}: {vectors:,} feature vectors in {len(states)} files, {size / 1e6:.1f} MB")


@cache_app.command("verify")
def cache_verify(
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is damaged; it is computed again.")] = False,
) -> None:
    """Check every stored file against its digests."""
    from headstart.encoding import cache as caches

    states = caches.survey(caches.default_cache(), verify=True)
    damaged = [state for state in states if state.problem]
    for state in damaged:
        terminal.print_line(f"damaged: {state.path}: {state.problem}")
        if remove:
            state.path.unlink(missing_ok=True)
    terminal.print_line(
        f"{len(states)} files, {len(damaged)} damaged" + (" and removed" if remove and damaged else "") + "."
    )
    if damaged and not remove:
        raise typer.Exit(1)


@cache_app.command("clear")
def cache_clear(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all stored features; they are computed again when they are needed."""
    from headstart.encoding import cache as caches

    folder = caches.default_cache()
    states = caches.survey(folder)
    if not yes and not typer.confirm(f"Remove {len(states)} files under {folder}?", err=True):
        raise typer.Exit(1)
    caches.clear(folder)
    terminal.print_line(f"Removed {len(states)} files, {sum(s.size for s in states) / 1e6:.1f} MB.")


def main() -> None:
    """Run the command line and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    warnings.showwarning = terminal.show_warning
    warnings.filterwarnings("default", category=UserWarning, module=r"headstart\..*")
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # what matters in them is an error or a remark of ours
    try:
        app()
    except HeadstartError as error:
        _fail(error)
    except _Stopped as stopped:
        terminal.stderr.print("Interrupted. What was encoded is kept; the same command goes on from there.")
        sys.stderr.flush()
        os._exit(stopped.code)  # worker threads may be inside a long native call; there is nothing left to write
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(StorageError(f"{error.filename or 'A file'}: {error.strerror or error}."))


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.code = 128 + signal_number


def _stop(number: int, _frame: object) -> None:
    raise _Stopped(number)


def _fail(error: HeadstartError) -> None:
    terminal.print_error(error)
    sys.exit(error.exit_code)


def _cache(without: bool) -> Path | None:
    from headstart.encoding import cache as caches

    return None if without else caches.default_cache()


def _save(result: Any, out: Path) -> None:
    from headstart.report import run

    run.save(result, out)


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; a file was expected.")
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ConfigError(f"--out {out} is one of the files that are read; it would be lost.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}.")
    with storage.storage_errors(out, "Name another file with --out."), tempfile.TemporaryFile(dir=out.parent):
        return  # found out now, not after the work


def _write(out: Path, text: str) -> None:
    with storage.storage_errors(out, "Name another file with --out."):
        storage.write_whole(out, text.encode("utf-8", "surrogateescape"))
