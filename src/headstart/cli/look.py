"""The verbs before and after a training that only look: at pictures, at backbones, at settings, at a model's layers."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart import terminal
from headstart.cli import places
from headstart.cli.options import (
    AsJson,
    BackboneName,
    Corrections,
    Data,
    Engine,
    Images,
    Labels,
    Mirror,
    Model,
    NoCache,
    Quiet,
    Source,
    locate,
)
from headstart.errors import ConfigError

if TYPE_CHECKING:
    from headstart.records import Preprocess


def check(
    source: Source,
    corrections: Corrections = None,
    backbone: BackboneName = None,
    mirror: Mirror = None,
    *,
    engine: Engine,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at labelled pictures before any training: near-duplicates, bad pictures, shortcuts, classes.

    The features that it computes are kept, so that `headstart train` on the same pictures begins where this ends.
    """
    from headstart.config import read_config

    asked = read_config(None, flags={"encoder.backbone": backbone, "pictures.mirror": mirror} | engine.flags)
    dataset = places.corrected(source.read(), corrections)
    from headstart.report import summary
    from headstart.workflows import check as workflow

    with terminal.progress(quiet) as progress:
        findings = workflow.check(dataset, asked, cache=places.cache(no_cache), progress=progress)
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

    batch: Annotated[
        bool, typer.Option("--batch", help="Show a batch as the network sees it, mirror images included.")
    ] = False
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

        return backbones.preprocessing(self.backbone or "lite2", self.size, self.resize or "crop")


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
    """Draw 25 pictures with their labels, or (--batch) 16 of them and their mirror images as the network sees them."""
    root, table = locate(data, labels, images)
    _check_heeded(rows, out, seed, batch)
    if rows is not None:
        _print_rows(root, table, rows)
        return
    out = out or Path("headstart-show.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {str(out)!r}, but must end in .png.")
    from headstart.report import gallery

    dataset = gallery.open_any(root, table)
    places.check_out(out, [*([table] if table else []), *(sample.path for sample in dataset)])
    if batch.batch:
        drawn = gallery.batch(dataset, batch.preprocesses(), seed or 0, mirror=batch.mirror is not False)
        shapes = " + ".join(map(str, drawn.shapes))
        terminal.say(quiet, f"One batch: {shapes} 8-bit RGB; normalised to float32 inside the encoder.")
        terminal.say(quiet or drawn.cropped is None, f"Here {drawn.cropped}.")
        figure = drawn.figure
    else:
        figure = gallery.grid(dataset, seed or 0)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    places.write(out, picture.getvalue())
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
    if unheeded:
        raise ConfigError(f"{', '.join(unheeded)}: {reason}.", "Leave out what does not go together.")


def _print_rows(root: Path, table: Path | None, rows: int) -> None:
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
    terminal.print_layers(rows, f"{classifier.backbone.description}, {len(classifier.classes)} classes")
    trained = sum(row["parameters"] for row in rows if row["name"].partition(".")[0] in ("head", "calibration"))
    total = sum(row["parameters"] for row in rows)
    terminal.print_line(f"{total:,} parameters, of which {trained:,} were fitted (head and temperature).")


def models(
    pattern: Annotated[str | None, typer.Argument(help="A glob pattern for timm's names, e.g. '*dinov2*'.")] = None,
    as_json: AsJson = False,
) -> None:
    """Backbones, and where the weights of each would come from."""
    from headstart.encoding import network as networks

    bundled = [{"name": n, "size": size, "weights": origin} for n, size, origin in networks.available()]
    names = networks.architectures(pattern) if pattern else []
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


def settings(as_json: AsJson = False) -> None:
    """Every setting that --set and --config take, with its default."""
    from headstart.config import settings_table

    rows = settings_table()
    if as_json:
        terminal.print_json([{"name": name, "default": default, "about": about} for name, default, about in rows])
        return
    for name, default, about in rows:
        terminal.print_line(f"{name} = {json.dumps(default)}   {about}")
