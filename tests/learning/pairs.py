"""A team of two processes that needs no Ray. What a process imports to be one is little: it begins the sooner."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from headstart.scale.cluster import Died, Place, Worker
from headstart.scale.hand import Station


def serve(pipe: Any) -> None:
    """Be a station that is asked by a pipe."""
    station = Station()
    while True:
        question, arguments = pipe.recv()
        if question == "ping" and "torch" in sys.modules:  # it has trained before
            importlib.import_module("torch.distributed").destroy_process_group()
        pipe.send(getattr(station, question)(*arguments))


class Process(Worker):
    """A process of this machine, begun without Ray."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, question: str, *arguments: Any) -> None:
        self.asked = question
        with contextlib.suppress(OSError):  # it has gone, which is heard
            self.pipe.send((question, arguments))


class Pair:
    """A team of two processes, which are asked again unless one has died: to begin them takes seconds."""

    def __init__(self) -> None:
        self.spare: list[Process] = []
        self.working: list[Process] = []
        self.begun, self.kept = 0, True

    def total(self) -> float:
        return 2

    free = total

    def places(self) -> list[Place]:
        self.kept = True
        while len(self.spare) < 2:
            self.spare.append(Process())
            self.begun += 1
        return [Place("first", "", 1), Place("second", "", 1)]

    def hire(self, place: Place) -> Worker:
        self.working.append(worker := self.spare.pop())
        worker.place, worker.asked = place, None
        return worker

    def dismiss(self, worker: Any) -> None:
        self.working.remove(worker)
        if self.kept:
            self.spare.append(worker)
        else:
            worker.process.kill()

    def shared(self, job: Any) -> Any:
        return job

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Worker, Any]]:
        asked = {one.pipe: one for one in workers if one.asked}
        for pipe in wait(list(asked), seconds):
            asked[pipe].asked = None
            try:
                yield asked[pipe], pipe.recv()
            except (EOFError, OSError):
                self.kept = False
                yield asked[pipe], Died("it was killed")
