"""The verbs that use a model: predict pictures, explain them, put the model into another form."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart import terminal
from headstart.cli import places
from headstart.cli.options import AsJson, Engine, FollowLinks, Model, NoCache, OnCluster, Quiet
from headstart.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from headstart.data.listings import Listing
    from headstart.data.tables import Table
    from headstart.delivery.forms import Form
    from headstart.delivery.reports import Report
    from headstart.records import ClassNames

PARQUET = "parquet"  # a format besides those of text
STDIN = "-"  # a picture's name that means standard input


@dataclass(frozen=True)
class Answers:
    """Where the answers go, and in which form."""

    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The file to write, here or on a store, e.g. s3://bucket/answers.csv; default: stdout."
        ),
    ] = None
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="labels (the default), probabilities, table (probability, known, set, error), jsonl, or parquet (all"
            " of that, typed; the default of an --out that ends in .parquet).",
        ),
    ] = None
    like: Annotated[Path | None, typer.Option(help="A sample submission, whose id and class columns are taken.")] = None
    spreadsheet_safe: Annotated[
        bool, typer.Option("--spreadsheet-safe", help="Put ' before cells that a spreadsheet would run as a formula.")
    ] = False
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="With --like: 0 for its classes that the model does not know.")
    ] = False
    known: Annotated[
        bool, typer.Option("--known", help="A column that says whether the picture is like those learned from.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False

    def checked(self) -> Answers:
        """Return what was asked for, `--json` as the format that it stands for.

        Raises:
            ConfigError: Options exclude each other.
        """
        from headstart.data import uris
        from headstart.delivery import submission

        flag = "--json" if self.as_json else "--format"
        form = "jsonl" if self.as_json else self.form
        if form is None:
            named = self.out is not None and self.out.lower().endswith(".parquet")
            flag, form = (f"--out {uris.shown(self.out or '')}", PARQUET) if named else (flag, "labels")
        if self.like is not None and form != "labels":
            raise ConfigError(f"--like decides the columns, so it does not go with {flag}.")
        if self.fill_missing and self.like is None:
            raise ConfigError("--fill-missing fills columns of a sample submission; name it with --like FILE.")
        if form not in (*submission.FORMATS, PARQUET):
            raise ConfigError(f"--format is {form!r}; it is one of {', '.join((*submission.FORMATS, PARQUET))}.")
        if self.spreadsheet_safe and form in ("jsonl", PARQUET):
            raise ConfigError(f"--spreadsheet-safe is about cells of CSV, and does not go with {flag}.")
        if form == PARQUET and self.out is None:
            raise ConfigError("Parquet is no text: name the file with --out FILE.")
        return replace(self, form=form)

    def sample(self) -> Table | None:
        """Return the sample submission, if one was named."""
        from headstart.data import tables

        return tables.read_table(self.like) if self.like is not None else None

    def written(self, classes: ClassNames, sample: Table | None, pictures: Listing) -> Form:
        """Return how they are written.

        Args:
            classes: Of the model.
            sample: The sample submission, if one was named.
            pictures: That are predicted.

        Raises:
            ConfigError: There is no place for a column `known`.
            DataError: The sample's classes or ids are not the model's classes or the pictures.
            MissingExtraError: What writes Parquet is not installed.
        """
        from headstart.delivery import forms, submission

        form = self.form or "labels"
        if self.known:
            submission.check_known(form, sample, classes)
        if sample is not None:
            options = {"spreadsheet_safe": self.spreadsheet_safe, "fill_missing": self.fill_missing}
            return forms.Filled(sample, classes, list(pictures.names()), **options)
        if form == PARQUET:
            return forms.Typed(classes)
        return forms.Lines(form, classes, spreadsheet_safe=self.spreadsheet_safe, known=self.known)


def predict(
    model: Model,
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, glob patterns, tars, a Kaggle folder's test/, here or on a store; - for one on stdin."
        ),
    ],
    follow_links: FollowLinks = False,
    *,
    answers: Answers,
    engine: Engine,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that predict side by side, each with a model of its own in memory.")
    ] = 1,
    cluster: OnCluster = None,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Predict pictures, in the order given. One that cannot be used keeps its row, and the exit code is then 1.

    However many there are: rows are written as they are computed. Stopped before its --out is there, the same command
    goes on where it was.
    """
    places.check_model(model)
    if cluster is not None:
        _check_cluster(cluster, workers)
    from headstart.data import listings, uris
    from headstart.delivery import streaming
    from headstart.records import Locator
    from headstart.report import stored

    answers = answers.checked()
    sample, piped = answers.sample(), _piped(pictures)
    cache = places.cache(no_cache)
    listed = listings.Listing.named([STDIN])
    if piped is None:
        listed = listings.of(pictures, follow_links=follow_links, cache=cache)
    out = None if answers.out is None else uris.place(answers.out)
    read = [*stored.files(model), *([answers.like] if answers.like else [])]
    inputs = chain(read, (one.path for one in listed))
    if isinstance(out, Path):
        places.check_out(out, inputs)
    file = out if out is None or isinstance(out, Path) else places.outgoing(out, inputs)
    send = partial(places.send, out=out) if isinstance(out, Locator) else None
    classifier = engine.load(model)
    form = answers.written(classifier.classes, sample, listed)
    request = streaming.Request(model, engine.asked(), classifier, listed, form, cache, workers, piped, cluster)
    with terminal.progress(quiet) as progress:
        if file is None:
            report = streaming.to_stream(request, terminal.print_bytes, progress)
        else:
            say = partial(terminal.say, quiet)
            report = streaming.to_file(request, file, progress, say, send)
    if file is not None:
        rows = len(listed if form.order is None else form.order)
        terminal.say(quiet, f"Wrote {rows} rows to {out}.")
    _tell(listed, report, form.order, header=answers.form not in ("jsonl", PARQUET), quiet=quiet)
    if report.failed:
        raise typer.Exit(1)


def _check_cluster(cluster: str, workers: int) -> None:
    """Refuse a mistyped cluster at once, and processes besides its workers.

    Raises:
        ConfigError: With what is wrong.
    """
    from headstart.scale import address

    address.parse(cluster)
    if workers > 1:
        raise ConfigError(f"--workers {workers} and --cluster {cluster} are two ways to share the work.", "Take one.")


def _tell(pictures: Listing, report: Report, order: Sequence[int] | None, *, header: bool, quiet: bool) -> None:
    """Say what there is to say of pictures besides their rows: even if quiet, which could not be used."""
    from headstart.delivery import submission
    from headstart.records import numbered, portion

    if not quiet:
        terminal.print_findings((*pictures.findings, *report.findings))
    _print_failures(report.failures)
    strange = submission.line_of_unknown(report.strange, lambda row: pictures[row].name, order, header=header)
    if strange:
        terminal.say(quiet, f"{terminal.printable(strange)}.")
    if report.failed:
        marked = numbered("could not be used; [its row is|their rows are] marked.", report.failed)
        terminal.say(False, f"{portion(report.failed, len(pictures))} {marked}")


def explain(
    model: Model,
    pictures: Annotated[list[str], typer.Argument(help="Files, folders, glob patterns, or - for a picture on stdin.")],
    out: Annotated[Path, typer.Option(help="A folder for a PNG of each picture, and explanations.json.")],
    follow_links: FollowLinks = False,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show why pictures get their answers: where the evidence lies, what speaks for the next class, what is most alike.

    The pictures learned from that are most alike are found where their features are still in the cache.
    """
    places.check_model(model)
    from headstart.data import sources
    from headstart.evaluation import explanation
    from headstart.records import Dataset, numbered, portion
    from headstart.report import explained, origin

    piped = _piped(pictures)
    dataset = Dataset(Path(), ()) if piped is not None else sources.read_pictures(pictures, follow_links=follow_links)
    places.check_folder(out, [model / "model.json", *(one.path for one in dataset)])
    classifier = engine.load(model)
    learned = origin.learned(model, classifier)
    with terminal.progress(quiet) as progress:
        asked = dataset if piped is None else [piped]
        told = explanation.explain(classifier, asked, learned, cache=places.cache(no_cache), progress=progress)
    if piped is not None:
        told = [replace(one, prediction=replace(one.prediction, path=STDIN)) for one in told]
    *_, written = explained.save(told, out)
    if as_json:
        terminal.print_text(written.read_text(encoding="utf-8", errors="surrogateescape"))
    else:
        terminal.print_text("".join(f"{terminal.printable(str(one))}\n" for one in told))
    if not quiet:
        terminal.print_findings(dataset.findings)
        if learned is not None and not any(one.compared for one in told):
            terminal.say(quiet, "Their features are not in the cache, so what is most alike of the learned is unknown.")
    terminal.say(quiet, f"Drawn: {out}")
    failed = [(one.prediction.path, one.prediction.error) for one in told if one.prediction.error is not None]
    if failed:
        _print_failures(failed)
        drawn = numbered("could not be used; [it is|they are] not drawn.", len(failed))
        terminal.say(False, f"{portion(len(failed), len(told))} {drawn}")
        raise typer.Exit(1)


@dataclass(frozen=True)
class Variant:
    """What the export takes, and how exactly it computes."""

    input: Annotated[
        str, typer.Option(help="pictures (uint8, of any size) or tensors (float32, prepared and normalised).")
    ] = "pictures"
    quantize: Annotated[
        str, typer.Option(help="int8: networks in 8-bit integers, if hardly any accuracy is lost; or none.")
    ] = "none"
    pictures: Annotated[
        list[str] | None,
        typer.Option(help="Files, folders, glob patterns to compare on; default: those that the model was made from."),
    ] = None
    labelled: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="A folder or table of labelled pictures to measure int8 on; default: those held out."
        ),
    ] = None


def export(
    model: Model,
    to: Annotated[str, typer.Option(help="onnx, openvino or timm.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; default: beside the model, e.g. MODEL-onnx.")
    ] = None,
    *,
    variant: Variant,
    verify: Annotated[bool, typer.Option("--verify", help="Compare once more what lies in --out already.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for another runtime, and have that runtime prove that it gives the same answers.

    From decoded pictures of any size to probabilities, everything is inside. Where too many labels differ, or 8-bit
    integers lose too much accuracy, nothing is written.
    """
    places.check_model(model)
    from headstart.delivery import exports
    from headstart.report import exported

    target = exports.Target(to, variant.input, variant.quantize)  # type: ignore[arg-type]  # it refuses what there is not
    beside = model if model.name not in ("", "..") else model.resolve()
    folder = beside.with_name(f"{beside.name}-{target.name}") if out is None else out
    on: dict[str, Any] = {"pictures": variant.pictures, "labelled": variant.labelled}
    with terminal.progress(quiet) as progress:
        if verify:
            proof = exported.verify(model, folder, **on, progress=progress)
        else:
            kind: dict[str, Any] = {"input": target.input, "quantize": target.quantize}
            proof = exported.export(model, target.form, folder, **kind, **on, progress=progress)
    if as_json:
        terminal.print_json(proof.to_dict())
    for line in proof.lines():
        terminal.say(quiet, f"{line}.")
    terminal.say(quiet, f"{'Compared' if verify else 'Exported'}: {folder}; how to use it: {folder / exported.CARD}")


def _print_failures(failed: Iterable[tuple[str, str]]) -> None:
    for name, reason in islice(failed, 20):
        terminal.say(False, f"error: {terminal.printable(name)}: {reason}")


def _piped(pictures: Sequence[str]) -> bytes | None:
    """Return the picture on standard input, if it is asked for.

    Raises:
        ConfigError: Other pictures are asked for as well.
        PictureError: It is larger than a file may be.
    """
    if STDIN not in pictures:
        return None
    if len(pictures) > 1:
        raise ConfigError("- stands for one picture on standard input, and goes alone.")
    from headstart.data import limits

    data = sys.stdin.buffer.read(limits.MOST_BYTES + 1)
    if len(data) > limits.MOST_BYTES:
        raise PictureError(f"Standard input holds more than {limits.MOST_BYTES:,} bytes; no picture may.")
    return data
