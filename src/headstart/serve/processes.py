"""A process that answers, begun again when it dies: the only place that knows it is another one.

What it was asked when it died is answered with an error at once; nothing waits for what will not come.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from headstart.errors import HeadstartError
from headstart.serve import inference
from headstart.serve.inference import Served

R = TypeVar("R")
LONGEST = 30.0  # seconds between two tries to begin it again

log = logging.getLogger("headstart.serve")


class LostError(HeadstartError):
    """The process that answers died, or is not ready yet."""


class Process:
    """A process of its own that has loaded the model.

    Attributes:
        told: What it told of the model; None until it was loaded for the first time.
        ready: Set while it can be asked.
        begun: How often it was begun.
    """

    def __init__(self, served: Served) -> None:
        """Keep what is to be loaded; `start` loads it."""
        self.served = served
        self.told: dict[str, Any] | None = None
        self.ready = asyncio.Event()
        self.begun = 0
        self._pool: ProcessPoolExecutor | None = None
        self._again: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin it and have it load the model.

        Raises:
            HeadstartError: The model cannot be loaded.
            BrokenProcessPool: It died while it loaded.
        """
        context = multiprocessing.get_context("spawn")
        self.begun += 1
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=inference.begin)
        self.told = await self._call(inference.load, self.served)
        self.ready.set()

    async def ask(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function of `inference` answers.

        Raises:
            LostError: It died, which may be this question's fault, or another's, or is not ready.
        """
        if not self.ready.is_set():
            raise LostError("The model is being loaded.")
        pool = self._pool
        try:
            return await self._call(function, *arguments)
        except BrokenProcessPool as error:
            if pool is self._pool and self.ready.is_set():  # the first to notice
                self.ready.clear()
                log.error("the process that answers died; it is begun again")
                self._again = asyncio.create_task(self._restart())
            raise LostError("The process that answers died.") from error

    def stop(self) -> None:
        """End it; what it was asked last is finished first."""
        if self._again is not None:
            self._again.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _restart(self) -> None:
        for pause in _pauses():
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            try:
                await self.start()
                return
            except (HeadstartError, BrokenProcessPool) as error:
                log.error(
                    "the model could not be loaded again (%s); the next try is in %g s", type(error).__name__, pause
                )
            await asyncio.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = 1.0
    while True:
        yield pause
        pause = min(2 * pause, LONGEST)
