"""The verbs for what is stored of computed features: how large it is, whether it is whole, away with it."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from headstart import terminal
from headstart.cli.options import AsJson
from headstart.errors import ConfigError

app = typer.Typer(help="What is stored of computed features, how large; verify it, trim it, clear it.")


@app.callback(invoke_without_command=True)
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


@app.command("verify")
def verify(
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


@app.command("trim")
def trim(
    to: Annotated[str, typer.Option("--to", help="How much may stay, e.g. 5GB or 800MB.", show_default=False)],
) -> None:
    """Remove what was not used for longest, until no more than that is left; nothing used within the last hour goes."""
    from headstart.encoding import cache as caches

    folder = caches.default_cache()
    removed = caches.trim(folder, _bytes(to))
    left = sum(state.size for state in caches.survey(folder))
    size = sum(state.size for state in removed)
    terminal.print_line(f"Removed {len(removed)} files, {size / 1e6:.1f} MB; {left / 1e6:.1f} MB are left.")


def _bytes(text: str) -> int:
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip(), re.IGNORECASE)
    if matched is None:
        raise ConfigError(f"--to is {text!r}; a size was expected.", "For example 5GB, 800MB or 0.")
    return int(float(matched[1]) * 1000 ** " kmgt".index(matched[2].lower() or " "))


@app.command("clear")
def clear(
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
