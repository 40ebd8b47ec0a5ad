"""A process that answers, begun again when it dies: the only place that knows it is another one.

What it was asked when it died is answered with an error at once; nothing waits for what will not come.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from headstart.errors import HeadstartError
from headstart.serve import inference
from headstart.serve.inference import Served

R = TypeVar("R")
LONGEST = 30.0  # seconds between two tries to begin it again
# What it begins with. OpenBLAS's threads would wait, busily, for the encoder's; pictures that come and go among smaller
# things would leave holes in the memory that the C library keeps, so it is to give them back one by one.
SURROUNDINGS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "2"}

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
        self._line: _Line | None = None
        self._again: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin it and have it load the model.

        Raises:
            HeadstartError: The model cannot be loaded, or it died while it loaded.
        """
        self.begun += 1
        self._line = line = _Line(self._died)
        try:
            self.told = await line.ask(inference.load, self.served)
        except HeadstartError:
            line.end()
            raise
        self.ready.set()

    async def ask(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function of `inference` answers.

        Raises:
            LostError: It died, which may be this question's fault, or another's, or is not ready.
        """
        if self._line is None or not self.ready.is_set():
            raise LostError("The model is being loaded.")
        return await self._line.ask(function, *arguments)

    def stop(self) -> None:
        """End it, whatever it does."""
        self.ready.clear()
        if self._again is not None:
            self._again.cancel()
        if self._line is not None:
            self._line.end()

    def _died(self) -> None:
        if self.ready.is_set():
            self.ready.clear()
            log.error("the process that answers died; it is begun again")
            self._again = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        for pause in _pauses():
            try:
                await self.start()
                return
            except HeadstartError as error:
                why = type(error).__name__
                log.error("the model could not be loaded again (%s); the next try is in %g s", why, pause)
            await asyncio.sleep(pause)


class _Line:
    """A process, and the pipe to it."""

    def __init__(self, died: Callable[[], object]) -> None:
        """Begin it; `died` is called once it has gone, in the thread of the loop."""
        for name, value in SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        self._loop = asyncio.get_running_loop()
        self._died = died
        self._numbers, self._sending = itertools.count(), threading.Lock()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._pipe, other = context.Pipe()
        self._process: SpawnProcess = context.Process(target=inference.work, args=(other,), daemon=True)
        self._process.start()
        other.close()  # so that the pipe ends when the process does
        threading.Thread(target=self._listen, args=(self._pipe,), daemon=True).start()

    async def ask(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what the function answers there, or raise what it raises.

        Raises:
            LostError: The process has gone.
        """
        number = next(self._numbers)
        answer: asyncio.Future[R] = self._loop.create_future()
        self._asked[number] = answer
        try:
            await asyncio.to_thread(self._send, (number, function, arguments))
            return await answer
        except OSError as error:
            raise LostError("The process that answers died.") from error
        finally:
            self._asked.pop(number, None)

    def end(self) -> None:
        """End the process, and hear nothing more of it."""
        self._died = lambda: None
        self._process.kill()
        self._process.join()

    def _send(self, question: object) -> None:
        with self._sending:
            self._pipe.send(question)

    def _listen(self, pipe: Connection[Any, Any]) -> None:
        try:
            while True:
                number, answer, error = pipe.recv()
                self._loop.call_soon_threadsafe(self._settle, number, answer, error)
        except (EOFError, OSError):
            with self._sending:  # whoever is sending hears of it first: a pipe without a handle is no OSError
                pipe.close()
        try:
            self._loop.call_soon_threadsafe(self._gone)
        except RuntimeError:  # the loop has ended
            return

    def _settle(self, number: int, answer: Any, error: Exception | None) -> None:
        future = self._asked.get(number)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def _gone(self) -> None:
        for number in list(self._asked):
            self._settle(number, None, LostError("The process that answers died."))
        self._died()


def _pauses() -> Iterator[float]:
    pause = 1.0
    while True:
        yield pause
        pause = min(2 * pause, LONGEST)
