"""A folder, here or on a store → the picture files under it, in one order on every machine, and what was passed over.

Files are told by their suffix and not opened; links are followed only as far as they stay inside, or as asked. Names
are kept as text: a million paths would take five times the memory.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from headstart.data import stores
from headstart.data.images import SUFFIXES
from headstart.records import Finding, Locator, Place, found, numbered

JUNK = ("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db")
# of a name with its folders, up to the first part that is hidden or the system's
_HIDDEN = re.compile(rf"(?:[^/]+/)*?(?:\.[^/]*|{'|'.join(map(re.escape, JUNK))})(?:/|$)", re.IGNORECASE)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class Walked(NamedTuple):
    """The picture files under a folder.

    Attributes:
        names: Relative to the folder, with `/` between their parts, in code-point order.
        place: The number of one → where it lies.
        findings: What was passed over.
    """

    names: Sequence[str]
    place: Callable[[int], Place]
    findings: list[Finding]


def bring_split(names: Sequence[str]) -> bool:
    """Return whether folders at the top are splits, e.g. `train/`: nothing else is beside them, and classes inside."""
    tops = {top for top, inside, _ in (name.partition("/") for name in names) if inside}
    return all(top.lower() in SPLITS for top in tops) and any(name.count("/") > 1 for name in names)


def is_hidden(name: str) -> bool:
    """Return whether a name, or a folder in it, is hidden or the system's."""
    return bool(hidden_part(name))


def hidden_part(name: str) -> str:
    """Return a name up to its first part that is hidden or the system's; empty if there is none."""
    junk = _HIDDEN.match(name)
    return junk[0] if junk else ""


def walk(root: Place, follow_links: bool) -> Walked:
    """Return the picture files under a folder, here or on a store."""
    if isinstance(root, Locator):
        return _listed(root)
    names, findings = _names(root, follow_links)
    return Walked(names, lambda row: root / names[row], findings)


def _listed(root: Locator) -> Walked:
    hidden: dict[str, None] = {}
    skipped: Counter[str] = Counter()

    def wanted(name: str) -> bool:
        if junk := hidden_part(name):
            hidden[junk] = None
            return False
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            skipped[suffix] += 1
        return suffix in SUFFIXES

    found_there = stores.listed(root, wanted)
    return Walked(found_there.names, found_there.place, passed_over(list(hidden), skipped))


def _names(root: Path, follow_links: bool) -> tuple[list[str], list[Finding]]:
    top = root.resolve()
    files: list[str] = []
    hidden: list[str] = []
    skipped: Counter[str] = Counter()
    loops: list[str] = []
    outside: list[str] = []
    denied: list[str] = []
    for folder, folders, inside, links in _folders(root, follow_links, loops, outside, denied):
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        for name in list(folders):
            if _is_junk(name):
                hidden.append(f"{prefix}{name}/")
                folders.remove(name)
        for name in inside:
            suffix = os.path.splitext(name)[1].lower()
            if _is_junk(name):
                hidden.append(prefix + name)
            elif suffix not in SUFFIXES:
                skipped[suffix] += 1
            elif name in links and not follow_links and escapes(folder / name, top):
                outside.append(prefix + name)
            else:
                files.append(prefix + name)
    files.sort()
    return files, [
        *passed_over(hidden, skipped),
        *found("folder-links", "warning",
               "{n} [link leads|links lead] to a folder that is read already; not followed", loops),
        *found("links-outside", "error",
               "{n} [link leads|links lead] out of the folder and [is|are] not followed", outside,
               "Follow them with --follow-links."),
        *found("unreadable-folders", "error", "{n} [folder|folders] cannot be read", denied),
    ]  # fmt: skip


def passed_over(hidden: Sequence[str], skipped: Counter[str]) -> list[Finding]:
    """Return findings of hidden files, and of suffixes that are no picture's, each with how many there are."""
    told: Counter[str] = Counter()
    for suffix, count in skipped.items():
        told[suffix if len(suffix) > 1 else "(no suffix)"] += count
    kinds = [f"{count} {suffix}" for suffix, count in sorted(told.items())]
    return [
        *found("hidden-files", "note", "{n} hidden or system [file is|files are] ignored", hidden),
        *found("other-suffixes", "note",
               numbered("{n} [file is no picture by its|files are no pictures by their] suffix and ignored",
                        sum(skipped.values())), kinds, f"Read are {', '.join(SUFFIXES)}."),
    ]  # fmt: skip


def _folders(
    root: Path, follow_links: bool, loops: list[str], outside: list[str], denied: list[str]
) -> Iterator[tuple[Path, list[str], list[str], set[str]]]:
    """Walk into each real folder once; links that stay inside (or all, if asked) come last.

    Yields each folder with the names of the folders in it, of its files, and of those of its files that are links. A
    folder that is linked to as well is thereby known by its own name.
    """
    top = root.resolve()
    seen: set[Path] = set()
    waiting = deque([root])
    while waiting:
        folder = waiting.popleft()
        real = folder.resolve()
        if real in seen:
            loops.append(folder.relative_to(root).as_posix())
            continue
        seen.add(real)
        folders: list[str] = []
        files: list[str] = []
        links: set[str] = set()
        try:
            with os.scandir(folder) as entries:  # one after the other: entries are larger than names
                for entry in entries:
                    if _is_folder(entry):
                        folders.append(entry.name)
                    else:
                        files.append(entry.name)
                        links.update([entry.name] if entry.is_symlink() else ())
        except OSError as error:
            denied.append(f"{folder.relative_to(root).as_posix()}/ ({error.strerror})")
            continue
        folders.sort()
        files.sort()
        yield folder, folders, files, links
        for path in (folder / name for name in folders):
            if not path.is_symlink():
                waiting.appendleft(path)
            elif follow_links or not escapes(path, top):
                waiting.append(path)
            else:
                outside.append(path.relative_to(root).as_posix() + "/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def escapes(path: Path, top: Path) -> bool:
    """Whether a path leads out of a folder, once links are resolved."""
    try:
        return not path.resolve().is_relative_to(top)
    except (OSError, RuntimeError):  # a link that leads to itself
        return True
