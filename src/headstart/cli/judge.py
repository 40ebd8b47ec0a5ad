"""The verbs that judge a model: measure it on labelled pictures, write its page, compare it with others."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart import storage, terminal
from headstart.cli import places
from headstart.cli.options import AsJson, Engine, Model, NoCache, Open, Quiet, Source
from headstart.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from headstart.model.classifier import Classifier
    from headstart.predictions import Predictions
    from headstart.records import Dataset, Finding

SHOWN = 10  # pictures that changed sides


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
    places.check_model(model)
    if not source.named:
        if split is not None or plots is not None or no_cache or source != Source() or engine != Engine():
            raise ConfigError(
                "Without pictures the stored figures are printed; the flags that were given go with pictures.",
                "headstart evaluate MODEL DATA",
            )
        _print_stored(model, as_json=as_json)
        return
    dataset = _part(source.read(places.cache(no_cache)), split)
    if plots is not None:
        with storage.storage_errors(plots, "Name another folder with --plots."):
            plots.mkdir(parents=True, exist_ok=True)
    from headstart.evaluation import measure
    from headstart.inspection import files
    from headstart.report import summary

    classifier, cache = engine.load(model), places.cache(no_cache)
    learned = _learned(model, classifier)
    with terminal.progress(quiet) as progress:
        said = measure.predict_labelled(classifier, dataset, cache=cache, progress=progress)
    figures = summary.of_evaluation(measure.measure(said, folder=cache))
    findings = [*dataset.findings, *files.unusable(dataset, said.errors), *_flattered(learned, said)]
    if not quiet:
        terminal.print_findings(findings)
    if plots is not None:
        _draw(figures, split, plots)
        terminal.say(quiet, f"Plots: {plots}")
    if as_json:
        terminal.print_json(figures | {"findings": summary.of_findings(findings)})
        return
    terminal.print_evaluation(figures, f"{figures['pictures']} pictures of {source.root}")


def _learned(model: Path, classifier: Classifier) -> Collection[str]:
    """Return the digests of what the model has learned from, as far as its run tells."""
    from headstart.report import origin

    try:
        return origin.learned_digests(model, classifier)
    except ArtifactError as error:
        warnings.warn(f"Whether the model has learned from some of these pictures is not known: {error}", stacklevel=2)
        return ()


def _flattered(learned: Collection[str], said: Predictions) -> list[Finding]:
    """Return a finding of pictures that were learned from, which flatter the model."""
    from headstart.records import found

    return found(
        "learned-pictures",
        "warning",
        "{n} of these [picture|pictures] the model has learned from, so that the figures flatter",
        [name for name, digest in zip(said.names, said.digests or (), strict=True) if digest in learned],
        "Measure on others; `headstart evaluate MODEL` alone prints what was measured on pictures held out.",
    )


def _print_stored(model: Path, *, as_json: bool) -> None:
    from headstart.report import stored

    figures = stored.read_evaluation(model)
    if as_json:
        terminal.print_json(figures)
        return
    terminal.print_parts(figures)
    if (trust := stored.read_trust(model)) is not None:
        terminal.print_trust(trust)


def report(
    model: Model,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; default: report.html in that folder.")
    ] = None,
    show: Open = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the page says as JSON, and write no page.")
    ] = False,
) -> None:
    """Write the page of a run again, from its files alone: how good, where it fails, what to mind.

    It needs the extra `train`, but no pictures; the page is one file and asks nothing of any network.
    """
    places.check_model(model)
    from headstart.report import page, stored, story

    told = stored.read_run(model)
    if as_json:
        terminal.print_json(story.of_run(told))
        return
    out = out or model / page.NAME
    places.check_out(out, stored.files(model))
    places.write(out, page.render(told))
    terminal.print_line(str(out))
    places.show(out, show)


def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Two folders or more that `headstart train` wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write a page of it, e.g. compare.html.")] = None,
    show: Open = False,
    as_json: AsJson = False,
) -> None:
    """Runs side by side: their figures, the settings that differ, and who is right on the pictures that all measured.

    The first is what the others are compared with, in pairs, picture by picture. It reads the files of the runs alone;
    pictures are known by their bytes.

    Examples:
        headstart compare runs/photos runs/photos-2
        headstart compare runs/photos runs/photos-2 runs/photos-3 --out compare.html
    """
    for directory in directories:
        places.check_model(directory)
    out = out or (Path("compare.html") if show else None)
    from headstart.report import page, runs

    read = [runs.read(directory) for directory in directories]
    told = runs.of_runs(read)
    if out is not None:
        places.check_out(out, [file for one in directories for file in one.iterdir()])
        places.write(out, page.render_comparison(told, runs.thumbnails(read)))
    if as_json:
        terminal.print_json(told)
    else:
        _print_comparison(told)
        if out is not None:
            terminal.print_line(f"Page: {out}")
    if out is not None:
        places.show(out, show)


def _print_comparison(told: Mapping[str, Any]) -> None:
    """Print the runs side by side, and of each comparison what it found, the classes that moved, the first pictures."""
    from headstart.report import runs

    terminal.print_table(
        ("", *(f"run {number}" for number, _ in enumerate(told["runs"], start=1))),
        ((name, *cells) for name, cells in runs.rows(told)),
    )
    for line in runs.remarks(told):
        terminal.print_line(f"{line}.")
    for pair in told["comparisons"]:
        terminal.print_line(f"\n{runs.sentence(pair)}")
        title = f"From run {pair['before']} to run {pair['after']}, on the same pictures"
        if not pair["changed"]:
            continue
        terminal.print_changes(pair["changes"], title, "--json")
        terminal.print_table(
            ("picture", "label", f"run {pair['before']}", f"run {pair['after']}", ""),
            (
                (one["picture"], one["label"], one["before"], one["after"], "won" if one["won"] else "lost")
                for one in pair["changed"][:SHOWN]
            ),
        )
        if (more := len(pair["changed"]) - SHOWN) > 0:
            terminal.print_line(f"{more:,} more pictures changed sides; all are in --json.")


def _part(dataset: Dataset, split: str | None) -> Dataset:
    """Return the pictures of a part, or all."""
    from headstart.records import SPLIT_NAMES

    if split is None:
        return dataset
    rows = [row for row, sample in enumerate(dataset) if sample.split == split]
    if split not in SPLIT_NAMES or not rows:
        raise ConfigError(
            f"No picture belongs to the split {split!r}; it is one of {', '.join(SPLIT_NAMES)}.",
            "The column with the split is named with --split-column.",
        )
    return dataset.select(rows)


def _draw(figures: Mapping[str, Any], split: str | None, folder: Path) -> None:
    from headstart.report import plots, redraw

    plots.save(redraw.of_evaluation(figures, split or "test"), folder)
