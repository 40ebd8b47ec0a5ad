"""A frozen network as a record: its name, how it wants its pictures, and what it was pre-trained to tell apart.

Nothing here needs PyTorch. The module is built when somebody asks for it; a saved network runs from its graph, for
which nobody does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.encoding.graph import Graph
from headstart.errors import ConfigError
from headstart.records import Floats, Preprocess

if TYPE_CHECKING:
    from torch import nn

ONE_AT_A_TIME = threading.RLock()  # threads that build, compile or compare networks


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False, repr=False)
class Network:
    """A frozen network from pictures to features.

    Attributes:
        name: timm's name of it.
        build: Returns `module`, always the same one.
        dim: D.
        preprocess: How it wants its pictures.
        arguments: What the architecture was built with besides its defaults, e.g. another pooling.
        digest: SHA-256 over architecture, arguments, and names, shapes and bytes of the weights.
        labels: What each row of its pre-trained classifier stands for, lemmas separated by commas; empty if unknown.
        rows: (number of labels, D) weights of that classifier; empty if unknown.
        offsets: (number of labels,) its biases.
        meanings: WordNet's number of each label, by which equal names of different things are told apart.
        graph: What it was saved as; None: it has to be made of the module.
    """

    name: str
    build: Callable[[], nn.Module]
    dim: int
    preprocess: Preprocess
    arguments: Mapping[str, Any]
    digest: str
    labels: tuple[str, ...]
    rows: Floats
    offsets: Floats
    meanings: tuple[str, ...] = ()
    graph: Graph | None = None

    @property
    def module(self) -> nn.Module:
        """(B, 3, S, S) float32, normalised → (B, D) float32; in evaluation mode."""
        with ONE_AT_A_TIME:
            return self.build()

    def __repr__(self) -> str:
        """Return one line instead of the whole network."""
        return f"Network({self.name} at {self.preprocess.size} px, {self.dim} features)"


def cannot_take(name: str, size: int, error: Exception, native: int | None = None) -> ConfigError:
    """Return the error that says that a network cannot take pictures of this size."""
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    known = f" {name} was made for {native} pixels." if native else ""
    return ConfigError(
        f"{name} cannot take pictures of {size} pixels (pictures.size): {reason}.",
        f"Many networks take multiples of 16, 28 or 32 pixels only.{known} Set pictures.size to such a side.",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own remarks off the terminal; what matters in them becomes an error here.

    Warning filters and levels of loggers belong to the whole process, so one thread at a time may change them: two
    that overlap would leave behind what the other had set.
    """
    with ONE_AT_A_TIME:
        logger = logging.getLogger("timm")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)
