"""The verbs before and after a training that only look: at pictures, at backbones, at settings, at a model's layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
    Model,
    NoCache,
    Quiet,
    Source,
    locate,
)
from headstart.errors import ConfigError


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
    """Look at labelled pictures before any training: near-duplicates, bad pictures, shortcuts, classes.

    The features that it computes are kept, so that `headstart train` on the same pictures begins where this ends.
    """
    from headstart.config import read_config
    from headstart.report import summary
    from headstart.workflows import check as workflow

    asked = read_config(None, flags={"encoder.backbone": backbone} | engine.flags)
    dataset = places.corrected(source.read(), corrections)
    with terminal.progress(quiet) as progress:
        findings = workflow.check(dataset, asked, cache=places.cache(no_cache), progress=progress)
    if as_json:
        terminal.print_json(
            {"pictures": len(dataset), "classes": len(dataset.classes), "findings": summary.of_findings(findings)}
        )
        return
    terminal.print_line(f"{len(dataset):,} pictures of {len(dataset.classes)} classes")
    terminal.print_findings_table(findings)


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
    places.check_out(out, [*([table] if table else []), *(sample.path for sample in dataset)])
    if batch:
        from headstart.encoding import backbone as backbones

        preprocess = Engine().load(model).preprocess if model else backbones.preprocessing(backbone, size, resize)
        figure, shape = gallery.batch(dataset, preprocess, seed)
        terminal.say(quiet, f"One batch: {shape} 8-bit RGB; normalised to float32 inside the encoder.")
    else:
        figure = gallery.grid(dataset, seed)
    figure.savefig(out, dpi=110)
    terminal.print_line(str(out))


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


def settings(as_json: AsJson = False) -> None:
    """Every setting that --set and --config take, with its default."""
    from headstart.config import settings_table

    rows = settings_table()
    if as_json:
        terminal.print_json([{"name": name, "default": default, "about": about} for name, default, about in rows])
        return
    for name, default, about in rows:
        terminal.print_line(f"{name} = {json.dumps(default)}   {about}")
