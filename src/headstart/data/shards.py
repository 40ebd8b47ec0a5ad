"""Tars and tables that hold pictures (WebDataset, Parquet, folders of Hugging Face's `datasets`) → what lies where in
them, and what they say of it. Nothing is unpacked.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from headstart import storage
from headstart.data import arrows, frames, stores, tars
from headstart.data.folders import SPLITS, Walked, bring_split, escapes, hidden_part, is_hidden, passed_over
from headstart.data.images import SUFFIXES
from headstart.data.tables import Table
from headstart.errors import ConfigError, DataError, StorageError
from headstart.records import Finding, Locator, Place, Sample, found, listing
from headstart.samples import Samples

READERS = 32  # tars whose headers are read at once: on a store, answers take their time
LABELS = (".cls", ".json")  # members that tell the class of the picture of their name; the first goes before
SPLIT = "split"  # the column that tables are given whose names tell it

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of a folder that `datasets` wrote
_MOST_NOTES = 1 << 24  # bytes of these


class Shard(NamedTuple):
    """One of several files that hold pictures together: what it is called, where it lies, and the split it is of."""

    called: str
    place: Place
    split: str | None = None


def is_shard(place: Place) -> bool:
    """Return whether something is a tar, a pattern of tars, or a table that may hold pictures, by its name."""
    named = place.name.lower().endswith((tars.SUFFIX, *arrows.SUFFIXES))
    return named and not (isinstance(place, Path) and place.is_dir())


def shards(place: Place) -> list[Shard]:
    """Return the tars or tables that lie at a place, or that a pattern such as `train-{000..012}.tar` stands for.

    A folder that Hugging Face's `datasets` wrote has those that its notes name; any other folder all that are under it.
    Their split is told by their notes, or where it is of all of them by the first word of their names, with or without
    the folders before it, or by their folder.
    """
    if is_shard(place):
        places = _expanded(place)
        texts = [one.as_posix() if isinstance(one, Path) else one.file for one in places]
        folder = os.path.commonprefix(texts).rpartition("/")[0]
        return _split([Shard(text[len(folder) :].lstrip("/"), one) for text, one in zip(texts, places, strict=True)])
    if isinstance(place, Locator):
        try:
            names = stores.listed(place, lambda name: name.lower().endswith((tars.SUFFIX, *arrows.PARQUET))).names
        except ConfigError:  # of a web server
            return []
        return _of_folder(place, [Shard(name, place / name) for name in names])
    if not place.is_dir():
        return []
    if (place / _STATE).is_file() or (place / _SPLITS).is_file():
        return _of_datasets(place)
    files = [(file.relative_to(place).as_posix(), file) for file in sorted(place.rglob("*")) if _is_inside(file, place)]
    return _of_folder(place, [Shard(name, file) for name, file in files])


def _of_folder(place: Place, some: Sequence[Shard]) -> list[Shard]:
    """Return the tars of a folder, or its tables, but for hidden ones.

    A table that is called like a tar tells of it and is left out.

    Raises:
        ConfigError: There are both.
    """
    some = [one for one in some if not is_hidden(one.called)]
    packed = {os.path.splitext(one.called)[0] for one in some if is_tar(one)}
    kept = [one for one in some if is_tar(one) or os.path.splitext(one.called)[0] not in packed]
    if packed and not all(map(is_tar, kept)):
        raise ConfigError(
            f"{place} holds tars and tables, e.g. {next(one.called for one in kept if is_tar(one))} and "
            f"{next(one.called for one in kept if not is_tar(one))}.",
            f"Name those that hold the pictures, e.g. {str(place).rstrip('/')}/shard-{{000..012}}.tar.",
        )
    return _split(kept)


def _is_inside(file: Path, folder: Path) -> bool:
    """Return whether something is a tar or a table below a folder, also once links are resolved."""
    wanted = file.suffix.lower() in (tars.SUFFIX, *arrows.PARQUET) and file.is_file()
    return wanted and not (file.is_symlink() and escapes(file, folder.resolve()))


def is_tar(shard: Shard) -> bool:
    """Return whether a shard is a tar, by its name."""
    return shard.place.name.lower().endswith(tars.SUFFIX)


def pictures(some: Sequence[Shard], cache: Path | None = None) -> Walked:
    """Return the pictures of tars or tables, whatever is known of them; `cache` as in `tars.index`.

    Raises:
        ConfigError: There is no picture in it.
        DataError: One is damaged.
    """
    if is_tar(some[0]):
        samples, findings = from_tars(some, cache)
        return Walked(samples.names, lambda row: samples[row].path, findings)
    read = _read(some)
    held = _cells(some, read)
    if not held:
        raise ConfigError(f"{some[0].place} holds no pictures, only {listing(list(read[0].values), 12)}.", _ONLY_NAMES)
    places = list(held.values())
    return Walked(list(held), places.__getitem__, [])


_ONLY_NAMES = "Pictures are in a binary column, or in one with the fields `bytes` and `path`."


def from_tars(some: Sequence[Shard], cache: Path | None = None) -> tuple[Samples, list[Finding]]:
    """Return the pictures of tars, each with the class that `NAME.cls` or the `label` of `NAME.json` beside it names.

    Where there is no such member at all, pictures have the class of their folder in the tar, below `train/` and
    the like where these are what lies at the top. Hidden members are passed over, unless all pictures lie in the same
    hidden folder. `cache` is as in `tars.index`.

    Raises:
        DataError: One is no tar, or cut off.
    """
    with ThreadPoolExecutor(READERS) as pool:
        indexed = list(pool.map(lambda shard: tars.index(shard.place, _tells_label, cache), some))
    names = [member.inner for one in indexed for member in one.members if _is_picture(member.inner)]
    shared = "".join(os.path.commonprefix(names).rpartition("/")[:2])

    def hidden_in(name: str) -> str:
        return hidden_part(name.removeprefix(shared))

    texts = [{name: text for name, text in one.texts.items() if not hidden_in(name)} for one in indexed]
    labelled = any(texts)
    divided = not labelled and bring_split([name for name in names if not hidden_in(name)])
    bad, strange, none, hidden = list[str](), list[str](), list[str](), dict[str, None]()

    def read() -> Iterator[Sample]:
        for shard, one, told in zip(some, indexed, texts, strict=True):
            prefix = f"{shard.called}/" if len(some) > 1 else ""
            labels = _labels(told, prefix, bad)
            strange.extend(prefix + name for name in one.strange)
            for member in one.members:
                if not _is_picture(member.inner):
                    continue
                if junk := hidden_in(member.inner):
                    hidden[f"{prefix}{shared}{junk}"] = None
                    continue
                folder, split = os.path.dirname(member.inner), shard.split
                if divided and "/" in member.inner:
                    top, _, folder = folder.partition("/")
                    split = SPLITS[top.lower()]
                label = labels.get(_key(member.inner)) if labelled else folder or None
                none.extend([] if label is not None else [prefix + member.inner])
                yield Sample(member, prefix + member.inner, label, split=split)

    samples = Samples.of(read())
    return samples, [
        *passed_over(list(hidden), Counter()),
        *found("strange-members", "error", "{n} [member|members] of a tar [is|are] left out", strange,
               "Links, names that lead elsewhere and names that occur twice are never read."),
        *found("unreadable-labels", "error", "{n} [label|labels] in a tar cannot be read", bad,
               f"A .cls holds a number or a name, a .json an object with `label`; at most {tars.MOST_TEXT:,} bytes."),
        *found("unlabelled-pictures", "note", "{n} [picture of a tar has|pictures of tars have] no label", none),
    ]  # fmt: skip


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _tells_label(name: str) -> bool:
    return name.endswith(LABELS)


def _key(name: str) -> str:
    """Return what the members of a sample have in common: all before the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _labels(texts: dict[str, bytes], prefix: str, bad: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name in sorted(texts, key=lambda name: name.endswith(LABELS[0])):
        try:
            text = texts[name].decode("utf-8-sig")
            label = json.loads(text).get("label") if name.endswith(".json") else text.strip()
            if label is None or isinstance(label, bool) or not isinstance(label, str | int) or label == "":
                raise ValueError
            labels[_key(name)] = str(label)
        except (ValueError, AttributeError, RecursionError):
            bad.append(prefix + name)
    return labels


def from_tables(some: Sequence[Shard], used: Iterable[str | None] = ()) -> tuple[Table, dict[str, Locator]]:
    """Return tables of one kind as one of text, and name → where the picture lies of those that they hold.

    The names are in the column of the pictures: the table's name and the number of the row. `used` is as in
    `frames.to_table`.

    Raises:
        DataError: One is damaged or has other columns than the first, it is not known which column holds pictures, or
            one that means something holds no text.
    """
    read, called = _read(some), some[0].place
    first, held = read[0], _cells(some, read)
    values: dict[str, list[Any]] = {name: [v for one in read for v in one.values[name]] for name in first.values}
    values |= {name: [()] * sum(each.rows for each in read) for one in read for name in one.unread}
    if SPLIT not in values and any(shard.split for shard in some):
        values[SPLIT] = [shard.split for shard, one in zip(some, read, strict=True) for _ in range(one.rows)]
    values |= dict.fromkeys(first.pictures, list(held))
    return frames.to_table(_Frame(values), (*first.pictures, *used), called), held


def _read(some: Sequence[Shard]) -> list[arrows.Columns]:
    """Return what tables of one kind hold.

    Raises:
        DataError: One is damaged or has other columns than the first, or several of pictures.
    """
    read, called = [arrows.read(shard.place) for shard in some], some[0].place
    first = read[0]
    for shard, one in zip(some, read, strict=True):
        if (one.pictures, list(one.values)) != (first.pictures, list(first.values)):
            raise DataError(f"{shard.place} has other columns than {called}.", "Name one of them as DATA.")
    if len(first.pictures) > 1:
        raise DataError(f"{called} holds pictures in several columns: {listing(first.pictures)}.", "Keep one of them.")
    return read


def _cells(some: Sequence[Shard], read: Sequence[arrows.Columns]) -> dict[str, Locator]:
    """Return name → where the picture lies of those that tables hold."""
    return {
        f"{shard.called}/{cell.number}": cell
        for column in read[0].pictures
        for shard, one in zip(some, read, strict=True)
        for cell in arrows.cells(shard.place, column, one.rows)
    }


class _Frame:
    """Columns, as `frames.Frame` has them."""

    def __init__(self, values: dict[str, list[Any]]) -> None:
        self._values = values

    @property
    def columns(self) -> Iterable[object]:
        return list(self._values)

    def __getitem__(self, column: str, /) -> Iterable[object]:
        return self._values[column]


def _expanded(place: Place) -> list[Place]:
    text = str(place)
    if braces := _BRACES.search(text):
        width, first, last = len(braces[1]), int(braces[1]), int(braces[2])
        if not first <= last < first + 1_000_000:
            raise ConfigError(f"{braces[0]} in {text} is no range.", "Write e.g. shard-{000..012}.tar.")
        texts = [f"{text[: braces.start()]}{one:0{width}d}{text[braces.end() :]}" for one in range(first, last + 1)]
        places = (Path(one) if isinstance(place, Path) else Locator(one, query=place.query) for one in texts)
        return [other for one in places for other in _expanded(one)]
    if isinstance(place, Path) and not place.exists() and (matches := sorted(glob.glob(text, recursive=True))):
        return [Path(one) for one in matches]
    return [place]


def _split(some: list[Shard]) -> list[Shard]:
    """Return shards with their split, where the names of all of them begin with one and there are several."""
    names = [PurePosixPath(shard.called.lower()) for shard in some]
    files = [_first_word(name.name) for name in names]
    tops = [_first_word(name.parts[0]) for name in names]
    folders = [name.parent.name for name in names]
    for told in (files, tops, folders):
        splits = [SPLITS.get(word) for word in told]
        if None not in splits and len(set(splits)) > 1:
            return [shard._replace(split=split) for shard, split in zip(some, splits, strict=True)]
    return some


def _first_word(text: str) -> str:
    return re.split("[-_.]", text, maxsplit=1)[0]


def _of_datasets(folder: Path) -> list[Shard]:
    """Return the files of a folder that `datasets` wrote: of a dataset, or of one for each split.

    Raises:
        DataError: It is not whole, or was chosen from without being written anew.
    """
    if not (folder / _SPLITS).is_file():
        return [Shard(one.name, one) for one in _files(folder)]
    names = _noted(folder / _SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and name in SPLITS for name in names):
        raise DataError(
            f"{folder} has the splits {names}; they are called {', '.join(SPLITS)}.", "Name the folder of one as DATA."
        )
    return [Shard(f"{name}/{one.name}", one, SPLITS[name]) for name in names for one in _files(folder / name)]


def _files(folder: Path) -> list[Path]:
    noted = _noted(folder / _STATE)
    named = noted.get("_data_files")
    if noted.get("_indices_data_files") or not isinstance(named, list) or not named:
        raise DataError(f"{folder} was not written as a whole dataset.", "Write it with save_to_disk once more.")
    names = [one.get("filename") if isinstance(one, dict) else None for one in named]
    if wrong := [name for name in names if not isinstance(name, str) or name != os.path.basename(name)]:
        raise DataError(f"{folder / _STATE} names a file {wrong[0]!r} that is none of this folder.")
    return [folder / str(name) for name in names]


def _noted(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_regular(file, _MOST_NOTES))
    except (OSError, ValueError, RecursionError, StorageError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    return content if isinstance(content, dict) else {}
