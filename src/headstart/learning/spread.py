"""Problems of many rows → the same, whose sums and folds the workers of a cluster compute.

The rows lie once in a folder that all machines see, where each worker maps them and reads the stretches that it is
asked about, mostly the same ones. What travels are weights, there, and losses and gradients, back. They are summed in
the order of the stretches, so that it does not matter who took which.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headstart import arrays, storage
from headstart.data import limits
from headstart.encoding.cache import open_cache
from headstart.errors import ConfigError, HeadstartError, MissingExtraError, StorageError
from headstart.records import Floats, Preprocess, Progress
from headstart.scale import hand
from headstart.scale.crew import Crew
from headstart.scale.filling import Filling
from headstart.scale.hand import Block, Done, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from headstart.learning.problem import Problem, Sums, Turn

FEW = 20_000  # rows that are sooner fitted here
UNABLE = (ConfigError, MissingExtraError)  # what workers say that have not what it takes
ANSWER = 1 << 26  # bytes of gradients that a worker answers with at once
FOLDER = ".fit."  # what the folders of problems are called in the cache


class Asked(NamedTuple):
    """What a worker is asked of a problem.

    Attributes:
        folder: Where the problem lies; None: nothing is asked but to be there.
        turn: To fit; None: sums.
        stretches: Over each of which sums are taken.
        weights: (D + 1, K) float32, for sums.
        leave_out: A fold, for sums.
    """

    folder: Path | None = None
    turn: Turn | None = None
    stretches: Sequence[slice] = ()
    weights: NDArray[np.float32] | None = None
    leave_out: int | None = None


class Fitting:
    """The job of a worker that computes for problems; its own work: a problem is opened when it is asked about."""

    def __init__(self) -> None:
        """Have no problem open."""
        self.folder: Path | None = None

    def begin(self) -> Self:
        """Take all processors that the worker has, of which Ray would leave PyTorch as many as it counts for it.

        Raises:
            MissingExtraError: PyTorch or scipy is not installed.
        """
        try:
            import torch

            from headstart.learning import problem  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("To fit heads on the machines of a cluster", "train", str(error.name)) from error
        torch.set_num_threads(limits.available_cores())
        return self

    @property
    def recipe(self) -> Recipe:
        """See `Work`."""
        return recipe()

    @property
    def preprocesses(self) -> Sequence[Preprocess]:
        """See `Work`."""
        return ()

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Return what is asked.

        Raises:
            StorageError: The problem is not there.
        """
        import torch

        asked: Asked = block.asked
        if asked.folder is None:
            return Done(None)
        problem = self._opened(asked.folder)
        if asked.turn is not None:
            return Done(problem.turn(asked.turn))
        weights = torch.tensor(asked.weights)
        sums = (problem.sums(stretch, weights, asked.leave_out) for stretch in asked.stretches)
        return Done([(loss, gradient.numpy(), total) for loss, gradient, total in sums])

    def _opened(self, folder: Path) -> Problem:
        from headstart.learning.problem import Problem

        if self.folder != folder:
            try:
                self.problem, self.folder = Problem.read(folder), folder
            except OSError as error:
                raise StorageError(
                    f"A machine of the cluster cannot read {folder}: {error.strerror or error}.",
                    "Name a folder that all machines have under the same path with HEADSTART_CACHE.",
                ) from error
        return self.problem


class Spread:
    """Has the cluster of a filling compute for the problems that it is shown."""

    def __init__(self, filling: Filling, progress: Progress) -> None:
        """Ask for nobody yet."""
        self._filling, self._progress, self._job = filling, progress, Fitting()
        self._there: bool | None = None  # not known yet

    @property
    def cache(self) -> Path:
        """The folder that all machines see."""
        assert self._filling.cache is not None  # noqa: S101  # a filling with a cluster has one
        return self._filling.cache

    def __call__(self, problem: Problem) -> Problem:
        """Return the problem for which workers compute, where it has many rows; they begin when it is fitted."""
        return problem if len(problem.order) <= FEW else replace(problem, helpers=Shown(problem, self))

    @property
    def there(self) -> bool:
        """Whether workers can compute.

        Warns:
            UserWarning: They cannot, for want of what they would compute with; once.
        """
        if self._there is None:
            try:
                list(self.said([Asked()]))
                self._there = True
            except UNABLE as error:
                self.give_up(error)
        return bool(self._there)

    def give_up(self, error: HeadstartError) -> None:
        """Ask nobody any more, and say why."""
        self._there = False
        warnings.warn(f"Heads are fitted on this machine alone. {error}", stacklevel=3)

    @property
    def workers(self) -> int:
        """How many there are, with those who still begin; at least one is expected."""
        return max(1, self._crew().size)

    def _crew(self) -> Crew:
        return self._filling.crew(self._job, recipe(), self._progress)

    def said(self, asked: Sequence[Asked]) -> Iterator[Any]:
        """Yield what workers say to each, in order."""
        crew = self._crew()
        places = crew.at_work()
        share = len(places) / max(1, len(asked))
        homes = [places[int(number * share)] if places else "" for number in range(len(asked))]
        blocks = (Block(number, asked=one, home=homes[number]) for number, one in enumerate(asked))
        return (answer.value for answer in crew.work(blocks, in_order=True))


class Shown:
    """A problem that workers see; see `Helpers`."""

    def __init__(self, problem: Problem, spread: Spread) -> None:
        """Show it when something is asked."""
        self._problem, self._spread = problem, spread

    @cached_property
    def _folder(self) -> Path:
        """The folder in the cache where the problem lies, for as long as anybody may ask."""
        cache = open_cache(self._spread.cache)
        storage.remove_stale(cache, f"{FOLDER}*")
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=cache.resolve()))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._problem.write(folder)
        return folder

    def _place(self) -> Path:
        """Return that folder, which is in use again."""
        storage.keep_fresh(self._folder)
        return self._folder

    @property
    def there(self) -> bool:
        """See `Helpers`."""
        return self._spread.there

    def sums(self, weights: Tensor, leave_out: int | None) -> Iterator[Sums]:
        """See `Helpers`."""
        import torch

        from headstart.learning.problem import Sums

        folder, stretches = self._place(), self._problem.stretches
        few = max(1, ANSWER // (8 * weights.numel()))
        given, done = weights.numpy(), 0
        try:
            size = min(few, math.ceil(len(stretches) / self._spread.workers))
            parts = [stretches[part] for part in arrays.parts(len(stretches), size)]
            for said in self._spread.said([Asked(folder, None, part, given, leave_out) for part in parts]):
                for loss, gradient, total in said:
                    done += 1
                    yield Sums(loss, torch.tensor(gradient), total)  # a copy: what travelled cannot be written to
        except UNABLE as error:  # one that came later
            self._spread.give_up(error)
        yield from (self._problem.sums(stretch, weights, leave_out) for stretch in stretches[done:])

    def turns(self, asked: Sequence[Turn]) -> Iterator[tuple[NDArray[np.float64], Floats]]:
        """See `Helpers`."""
        folder, done = self._place(), 0
        try:
            for weights, logits in self._spread.said([Asked(folder, one) for one in asked]):
                done += 1
                yield weights.copy(), logits.copy()
        except UNABLE as error:
            self._spread.give_up(error)
        yield from map(self._problem.turn, asked[done:])


def recipe() -> dict[str, str]:
    """Return what decides the sums in this process, besides the rows."""
    return hand.recipe(()) | {f"the version of {name}": version(name) for name in ("torch", "scipy")}
