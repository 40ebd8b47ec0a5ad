"""The verbs before and after a training that only look: at pictures, at backbones, at settings, at a model's layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart import terminal
from headstart.cli import options, places
from headstart.cli.options import (
    AsJson,
    Corrections,
    Data,
    Engine,
    Images,
    Labels,
    Model,
    NoCache,
    OnCluster,
    Quiet,
    Shown,
    Source,
    locate,
)
from headstart.errors import ConfigError

if TYPE_CHECKING:
    from headstart.records import Place, Preprocess


def check(
    source: Source,
    corrections: Corrections = None,
    out: Annotated[Path | None, typer.Option(help="A PNG file with the first pictures of each finding.")] = None,
    *,
    shown: Shown,
    engine: Engine,
    cluster: OnCluster = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at labelled pictures before any training: near-duplicates, bad pictures, shortcuts, classes.

    The features that it computes are kept, so that `headstart train` on the same pictures begins where this ends.
    """
    from headstart.config import read_config

    asked = read_config(None, flags=shown.flags | engine.flags)
    read = source.read(places.cache(no_cache))
    if out is not None:
        _check_png(out)
        tables = (one for one in (source.table, corrections) if one is not None)
        places.check_out(out, [*tables, *(sample.path for sample in read)])
    dataset = places.corrected(read, corrections)
    from headstart.report import summary
    from headstart.workflows import check as workflow

    with terminal.progress(quiet) as progress:
        cache = places.cache(no_cache)
        findings = workflow.check(dataset, asked, cache=cache, progress=progress, cluster=cluster)
    if out is not None:
        from headstart.report import gallery, plots

        places.write(out, plots.png(gallery.findings(dataset, findings)))
    if as_json:
        terminal.print_json(
            {"pictures": len(dataset), "classes": len(dataset.classes), "findings": summary.of_findings(findings)}
        )
        return
    terminal.print_line(f"{len(dataset):,} pictures of {len(dataset.classes)} classes")
    terminal.print_findings_table(findings)


@dataclass(frozen=True)
class Batch:
    """How the pictures of a batch are prepared."""

    batch: Annotated[bool, typer.Option("--batch", help="Show a batch as the network sees it.")] = False
    model: Annotated[Path | None, typer.Option(help="Prepare the batch as this model does.")] = None
    backbone: Annotated[
        str | None, typer.Option(help="Prepare the batch as this backbone wants it; default: lite2.")
    ] = None
    size: Annotated[
        int | None,
        typer.Option(min=16, max=2048, help="Side of the batch's pictures in pixels."),
    ] = None
    resize: Annotated[str | None, typer.Option(help="crop, letterbox or squash; default: crop.")] = None
    mirror: Annotated[bool | None, typer.Option("--mirror/--no-mirror", help="With mirror images, or without.")] = None

    def given(self, *names: str) -> list[str]:
        """Return those of these flags that were given."""
        flags = {name: f"--{name}" for name in names} | ({"mirror": "--no-mirror"} if self.mirror is False else {})
        return [flags[name] for name in names if getattr(self, name) is not None and (name != "batch" or self.batch)]

    def preprocesses(self) -> tuple[Preprocess, ...]:
        """Return how each picture is prepared for each network."""
        if self.model is not None:
            return tuple(one.preprocess for one in Engine().load(self.model).backbone.networks)
        from headstart.encoding import backbone as backbones
        from headstart.encoding import sizes
        from headstart.levels import SCALES, USUAL

        text = self.backbone or "lite2"
        text = sizes.scaled(text, SCALES[USUAL]) if self.size is None else text
        return backbones.preprocessing(text, self.size, self.resize or "crop")


def show(
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The PNG file to write; default: headstart-show.png.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Print so many rows instead; of a CSV file as they stand there.")
    ] = None,
    labels: Labels = None,
    images: Images = None,
    seed: Annotated[int | None, typer.Option(help="Which pictures are drawn; default: 0.")] = None,
    *,
    batch: Batch,
    quiet: Quiet = False,
) -> None:
    """Draw 25 pictures with their labels, or (--batch) 16 of them as the network sees them."""
    root, table = locate(data, labels, images)
    _check_heeded(rows, out, seed, batch)
    if batch.model is not None:
        places.check_model(batch.model)
    if rows is not None:
        _print_rows(root, table, rows)
        return
    out = out or Path("headstart-show.png")
    _check_png(out)
    from headstart.report import gallery, plots

    dataset = gallery.open_any(root, table)
    places.check_out(out, [*([table] if table else []), *(sample.path for sample in dataset)])
    if batch.batch:
        drawn = gallery.batch(dataset, batch.preprocesses(), seed or 0, mirror=bool(batch.mirror))
        shapes = " + ".join(map(str, drawn.shapes))
        terminal.say(quiet, f"One batch: {shapes} 8-bit RGB; normalised to float32 inside the encoder.")
        terminal.say(quiet or drawn.cropped is None, f"Here {drawn.cropped}.")
        figure = drawn.figure
    else:
        figure = gallery.grid(dataset, seed or 0)
    places.write(out, plots.png(figure))
    terminal.print_line(str(out))


def _check_heeded(rows: int | None, out: Path | None, seed: int | None, batch: Batch) -> None:
    """Refuse flags that would change nothing.

    Raises:
        ConfigError: With the flags.
    """
    prepared = ("model", "backbone", "size", "resize", "mirror")
    if rows is not None:
        others = ["--out"] * (out is not None) + ["--seed"] * (seed is not None)
        unheeded, reason = [*others, *batch.given("batch", *prepared)], "--rows prints rows and draws nothing"
    elif not batch.batch:
        unheeded, reason = batch.given(*prepared), "without --batch the pictures are shown as they are"
    else:
        unheeded, reason = batch.given("backbone", "size", "resize"), "--model decides how pictures are prepared"
        unheeded = unheeded if batch.model is not None else []
    _refuse(bool(unheeded), unheeded, reason)


def _refuse(whether: bool, flags: Sequence[str], reason: str) -> None:
    if whether:
        raise ConfigError(f"{', '.join(flags)}: {reason}.", "Leave out what does not go together.")


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {str(out)!r}, but must end in .png.")


def _print_rows(root: Place, table: Place | None, rows: int) -> None:
    from headstart.data import images
    from headstart.report import gallery

    if table is not None and table.suffix.lower() in images.SUFFIXES:
        raise ConfigError(f"{table} is a picture, and --rows prints the rows of a table.", "Leave out --rows.")
    header, cells = gallery.rows(root, table)
    terminal.print_rows(header, cells[:rows], len(cells))


def summary(model: Model, as_json: AsJson = False) -> None:
    """The layers of a model in the order a picture passes them: type, output shape, parameters."""
    classifier = Engine().load(model)
    from headstart.model import layers

    rows = layers.layers(classifier)
    if as_json:
        terminal.print_json(rows)
        return
    columns = ("layer", "type", "output", "parameters")
    terminal.print_table(
        columns,
        ((row["name"], row["type"], str(tuple(row["output"])), f"{row['parameters']:,}") for row in rows),
        numbers=columns[2:],
        title=f"{classifier.backbone.description}, {len(classifier.classes)} classes",
    )
    trained = sum(row["parameters"] for row in rows if row["name"].partition(".")[0] in ("head", "calibration"))
    total = sum(row["parameters"] for row in rows)
    tuned = (classifier.provenance.training.get("finetune") or {}).get("kept", False)
    further = "; the network was trained further with them" if tuned else ""
    terminal.print_line(f"{total:,} parameters, of which {trained:,} were fitted (head and temperature){further}.")


@dataclass(frozen=True)
class Tried(Source):
    """Which labelled pictures backbones are tried on."""

    data: Annotated[
        str | None,
        typer.Option(
            "--try", metavar="PATH", help="Rank the backbones at hand on a sample of this data: what `train` takes."
        ),
    ] = None

    @property
    def tables(self) -> list[Path]:
        """The table of labels of this machine that was named, if any."""
        named = [Path(one) for one in (self.labels, self.data) if one is not None]
        return [path for path in named if path.is_file()]


@dataclass(frozen=True)
class Trying:
    """Which backbones are tried, and how."""

    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="Try this one, e.g. lite2@320, instead of all at hand; repeatable."),
    ] = None
    pictures: Annotated[int | None, typer.Option(min=20, help="How many to try on at most; default: 600.")] = None
    out: Annotated[Path | None, typer.Option(help="The PNG file to draw; default: headstart-models.png.")] = None
    seed: Annotated[int | None, typer.Option(help="Which pictures are drawn; default: 0.")] = None


def models(
    pattern: Annotated[str | None, typer.Argument(help="A glob pattern for timm's names, e.g. '*dinov2*'.")] = None,
    as_json: AsJson = False,
    *,
    tried: Tried,
    trying: Trying,
    engine: Engine,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Backbones, and where the weights of each come from; with --try, how good and fast they are on your pictures.

    What `--try` encodes is kept, so that `headstart train` with one of these backbones begins where it ends.
    """
    given = [*options.given(tried), *options.given(trying), *options.given(engine)]
    if tried.data is not None:
        _refuse(pattern is not None, [f"{pattern!r}"], "--try takes backbones by --backbone NAME, not by a pattern")
        _try(tried, trying, engine, places.cache(no_cache), as_json=as_json, quiet=quiet)
        return
    _refuse(bool(given), given, "without --try backbones are only listed")
    from headstart.encoding import pretrained

    bundled = [{"name": n, "size": size, "weights": origin} for n, size, origin in pretrained.available()]
    names = pretrained.architectures(pattern) if pattern else []
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
            "`headstart models 'convnext*'` searches them; "
            "`headstart models --try DATA` says which suits your pictures."
        )


def _try(tried: Tried, trying: Trying, engine: Engine, cache: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Rank backbones on a sample, draw that, and say what to do next."""
    out = trying.out or Path("headstart-models.png")
    _check_png(out)
    from headstart.config import read_config

    asked = read_config(None, flags={"seed": trying.seed} | engine.flags)
    dataset = tried.read(cache)
    places.check_out(out, [*tried.tables, *(sample.path for sample in dataset)])
    from headstart.experiments.trying import fastest
    from headstart.report import plots, summary
    from headstart.workflows.trying import PICTURES, try_backbones

    most = trying.pictures or PICTURES
    with terminal.progress(quiet) as progress:
        trials = try_backbones(dataset, trying.backbone, asked, pictures=most, cache=cache, progress=progress)
    rows, quick = summary.of_trials(trials), fastest(trials)
    places.write(out, plots.png(plots.speed(rows)))
    if as_json:
        told = {"best": trials[0].candidate, "fastest_not_surely_worse": quick.candidate}
        terminal.print_json({"of": len(dataset), "interval": "95 %", "trials": rows} | told | {"plot": str(out)})
        return
    learned = sum(sample.split in (None, "train") for sample in dataset)
    which = f"{trials[0].pictures:,} of {learned:,}{' training' * (learned < len(dataset))} pictures"
    others = " or from others of the same thing" if trials[0].same_object else ""
    heads = f"heads that had not learned from it{others}"
    terminal.print_line(f"{which}, {trials[0].classes} classes; each answered by {heads}")
    terminal.print_trials(rows)
    terminal.print_line(f"Plot: {out}")
    command = f"headstart train {options.typed(tried)} --backbone {trials[0].candidate}"
    times = quick.cost.pictures_per_second / trials[0].cost.pictures_per_second
    other = f", or --backbone {quick.candidate}: not surely worse, and {times:.1f} times as fast"
    terminal.print_line(f"Next: {command}{other if quick is not trials[0] else ''}")


def settings(as_json: AsJson = False) -> None:
    """Every setting that --set and --config take, with its default."""
    from headstart.config import settings_table

    rows = settings_table()
    if as_json:
        terminal.print_json([{"name": name, "default": default, "about": about} for name, default, about in rows])
        return
    for name, default, about in rows:
        terminal.print_line(f"{name} = {json.dumps(default)}   {about}")
