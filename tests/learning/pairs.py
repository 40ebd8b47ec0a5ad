"""A team of two processes that needs no Ray; what they import is imported once, by one that they are copies of."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from headstart.data import limits
from headstart.learning import member
from headstart.scale.cluster import Died, Place, Worker
from headstart.scale.hand import Station


def serve(pipe: Any) -> None:
    """Be a station that is asked by a pipe, and answers before the next epoch ends; it has a thread, as tests have."""
    member.OFTEN = 0.02
    limits.available_cores = lambda: 1
    station = Station()
    while True:
        question, arguments = pipe.recv()
        pipe.send(getattr(station, question)(*arguments))


class Process(Worker):
    """A process of this machine, begun without Ray."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, None)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["headstart.learning.member", "headstart.learning.problem", "timm", "torch._dynamo"]
        )
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, question: str, *arguments: Any) -> None:
        self.asked = question
        with contextlib.suppress(OSError):  # it has gone, which is heard
            self.pipe.send((question, arguments))


class Pair:
    """A team of two processes.

    Attributes:
        hired: All that were begun, the newest last.
    """

    def __init__(self) -> None:
        self.hired: list[Any] = []

    def total(self) -> float:
        return 2

    free = total

    def places(self) -> list[Place]:
        return [Place("first", "", 1), Place("second", "", 1)]

    def hire(self, place: Place) -> Any:
        self.hired.append(Process(place))
        return self.hired[-1]

    def dismiss(self, worker: Any) -> None:
        worker.process.kill()
        worker.process.join()

    def shared(self, job: Any) -> Any:
        return job

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        asked = {one.pipe: one for one in workers if one.asked}
        for pipe in wait(list(asked), seconds):
            asked[pipe].asked = None
            try:
                yield asked[pipe], pipe.recv()
            except (EOFError, OSError):
                yield asked[pipe], Died("it was killed")
