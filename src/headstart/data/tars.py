"""A tar → which members it has and where each begins, so that they are read in any order and nothing is unpacked.

Only headers are read, and of a tar on a store by ranges. What is no regular file under a plain name of its own is left
out and told: links are not followed, and no name of a member is ever a name on this machine.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from headstart.data.stores import Ranges, within
from headstart.errors import DataError, StorageError
from headstart.records import Locator, Place

SUFFIX = ".tar"
MOST_HEADER = 1 << 20  # bytes of one, in which a name may be as long as it likes
HEADERS = 1 << 13  # bytes that are asked for at once: the end of a picture, its label, and where the next one begins
MOST_TEXT = 1 << 20  # bytes of a member that is text
MOST_MEMBERS = 10_000_000


class Indexed(NamedTuple):
    """What a tar holds.

    Attributes:
        members: Where each lies, in the order of the tar.
        texts: Name → content, of the members that were wanted as text.
        strange: Members that are left out, each with the reason.
    """

    members: list[Locator]
    texts: dict[str, bytes]
    strange: list[str]


def index(source: Place, is_text: Callable[[str], bool]) -> Indexed:
    """Return the members of a tar.

    Args:
        source: Where it lies.
        is_text: Tells by its name whether a member's content is wanted, at most `MOST_TEXT` bytes of it.

    Raises:
        DataError: It is no tar, is compressed, or ends too early.
        StorageError: It cannot be had.
    """
    members: list[Locator] = []
    texts: dict[str, bytes] = {}
    strange: list[str] = []
    try:
        with Ranges(source, MOST_HEADER, HEADERS) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if reason := _refused(info):
                    strange += [f"{info.name!r} ({reason})"] if reason != "folder" else []
                    continue
                if info.offset_data + info.size > file.size:
                    raise tarfile.ReadError("unexpected end of data")
                name = info.name.removeprefix("./")
                members.append(within(source, name, "member", info.offset_data, size=info.size, mark=file.mark))
                if is_text(name) and info.size <= MOST_TEXT:
                    file.seek(info.offset_data)
                    texts[name] = file.read(info.size)
                if len(members) > MOST_MEMBERS:
                    raise tarfile.ReadError(f"more than {MOST_MEMBERS:,} members")
            file.seek(tar.offset)  # where the walk ended, for whatever reason
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _damaged(source, error) from error
    except OSError as error:
        raise StorageError(f"{source} cannot be read: {error.strerror or error}.") from error
    counts = Counter(member.inner for member in members)
    twice = [name for name, count in counts.items() if count > 1]
    strange += [f"{name!r} (there are {counts[name]} of that name)" for name in twice]
    return Indexed([one for one in members if counts[one.inner] == 1], texts, strange)


def _refused(info: tarfile.TarInfo) -> str:
    """Return why a member is left out; empty if it is not."""
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "a link"
    if not info.isreg() or info.issparse():
        return "no regular file"
    path = PurePosixPath(info.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in info.name or info.name[1:2] == ":":
        return "its name leads elsewhere"
    return ""


def _damaged(source: Place, error: Exception) -> DataError:
    text = str(error)
    if "end of data" in text or "truncated" in text or isinstance(error, EOFError):
        return DataError(f"{source} ends in the middle of a member: it is cut off.", "Copy or write it once more.")
    return DataError(
        f"{source} is no tar that can be read: {text or type(error).__name__}.",
        "A compressed one (.tar.gz) cannot be read in any order: unpack it with gunzip first.",
    )
