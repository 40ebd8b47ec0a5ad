"""The verbs that use a model: predict pictures, measure it on labelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart import storage, terminal
from headstart.cli import places
from headstart.cli.options import AsJson, Engine, FollowLinks, Model, NoCache, Quiet, Source
from headstart.errors import ConfigError


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
        terminal.print_parts(figures)
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
        said = measure.predict_labelled(classifier, dataset, cache=places.cache(no_cache), progress=progress)
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
        places.check_out(out, [model / "model.json", *([like] if like else []), *(sample.path for sample in dataset)])
    classifier = engine.load(model)
    if sample is not None:
        submission.check_like(sample, classifier.classes)
    with terminal.progress(quiet) as progress:
        said = classifier.predict_many(dataset, cache=places.cache(no_cache), progress=progress)
    text = submission.render(said, form, sample, spreadsheet_safe=spreadsheet_safe)
    if out is None:
        terminal.print_text(text)
    else:
        places.write(out, text)
        terminal.say(quiet, f"Wrote {len(said if sample is None else sample.rows)} rows to {out}.")
    if not quiet:
        terminal.print_findings(dataset.findings)
    for row, reason in list(said.errors.items())[:20]:
        terminal.say(False, f"error: {terminal.printable(said.names[row])}: {reason}")
    if said.known is not None and not quiet:
        terminal.print_strangers([one.path for one in said if one.known is False], len(said))
    if said.errors:
        terminal.say(False, f"{len(said.errors)} of {len(said)} picture(s) could not be used; their rows are marked.")
        raise typer.Exit(1)
