"""Blocks of pictures → their answers, computed by several processes, each with the model loaded for itself.

Processes are spawned, not forked: threads of an engine do not survive a fork. They talk through pipes that they alone
hold; one whose starter has gone ends at its next word.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

from headstart.config import EncoderConfig
from headstart.delivery.blocks import Task
from headstart.delivery.parts import Computed
from headstart.delivery.reports import told
from headstart.errors import ArtifactError, HeadstartError
from headstart.model import artifact
from headstart.predictions import Predictions
from headstart.records import Dataset, Progress

OFTEN = 0.3  # seconds between two words on how far a block is
AHEAD = 2  # blocks for each process that may be computed before it is the turn of the first


@dataclass(frozen=True)
class Job:
    """What a process is told when it starts.

    Attributes:
        model: The directory of the model.
        asked: As in `artifact.load_classifier`.
        cache: As in `Classifier.predict_many`.
        encode: Predictions of a block → its part.
        digest: Of the model.
    """

    model: Path
    asked: EncoderConfig | None
    cache: Path | None
    encode: Callable[[Predictions], bytes]
    digest: str


class _Heard(NamedTuple):
    """How many pictures of its block a process has done."""

    done: int


class _Warned(NamedTuple):
    """What a process wants a person to know."""

    text: str


class _Failed(NamedTuple):
    """Why a process cannot go on."""

    message: str
    hint: str


def in_parallel(number: int, job: Job, tasks: Iterator[Task], *, hear: Progress, in_order: bool) -> Iterator[Computed]:
    """Yield blocks as several processes compute them.

    Args:
        number: Of processes.
        job: What each is told.
        tasks: The blocks, numbered one after the other if they shall be yielded in order.
        hear: Hears of how many pictures all the blocks are that are being worked on.
        in_order: Whether a block waits for those before it; few are computed ahead then.

    Raises:
        HeadstartError: One of them cannot go on, or was ended by somebody else; the others are ended then too.
    """
    crew = [_Worker(job) for _ in range(number)]
    try:
        held: dict[int, Computed] = {}
        due = 0
        while True:
            for worker in (one for one in crew if not one.busy):
                if len(held) < AHEAD * number and (task := next(tasks, None)) is not None:
                    worker.give(task)
            if not any(worker.busy for worker in crew):
                return
            for one in _results(crew):
                held[one.number] = one
            while held and (due in held or not in_order):
                yield held.pop(due if in_order else next(iter(held)))
                due += 1
            waiting = sum(one.told.pictures for one in held.values())
            hear("", waiting + sum(worker.done for worker in crew), 0)
    finally:
        for worker in crew:
            worker.end()


def _results(crew: list[_Worker]) -> Iterator[Computed]:
    """Wait for the next words of busy processes, and yield the blocks among them."""
    busy = {worker.pipe: worker for worker in crew if worker.busy}
    for pipe in wait(list(busy)):
        result = busy[pipe].word()  # type: ignore[index]
        if result is not None:
            yield result


class _Worker:
    """A process, as the one that started it sees it."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(job, other), daemon=True)
        self.process.start()
        other.close()  # so that the pipe ends when the process does
        self.busy, self.done = False, 0

    def give(self, task: Task) -> None:
        """Have it compute a block."""
        self.busy, self.done = True, 0
        with contextlib.suppress(OSError):  # it has gone, and perhaps said why: `word` tells
            self.pipe.send(task)

    def word(self) -> Computed | None:
        """Hear a word from it, and return the block that it brings, if it does."""
        try:
            word = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if isinstance(word, _Failed):
            raise HeadstartError(word.message, word.hint)
        if isinstance(word, _Warned):
            warnings.warn(word.text, stacklevel=2)
        if isinstance(word, _Heard):
            self.done = word.done
        if isinstance(word, Computed):
            self.busy, self.done = False, 0
            return word
        return None

    def end(self) -> None:
        """End it, whatever it is doing: what it writes is whole or not there."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _gone(self) -> HeadstartError:
        self.process.join(5)
        code = self.process.exitcode or 0
        why = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
        return HeadstartError(
            f"One of the processes that predict {why}. Where memory runs out, the system ends processes so.",
            "What was computed is kept, and the same command goes on from there; fewer --workers need less memory.",
        )


def _work(job: Job, pipe: Connection[Any, Any]) -> None:
    """Be such a process: compute blocks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its starter hears of it too, and ends this one
    speaker = _Speaker(pipe)
    warnings.filterwarnings("default", category=UserWarning, module=r"headstart\..*")
    warnings.showwarning = speaker.warn
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # then nobody waits any more
        try:
            classifier = artifact.load_classifier(job.model, job.asked)
            if classifier.digest != job.digest:
                raise ArtifactError(
                    f"{job.model} is another model than the one that was loaded a moment ago.",
                    "Somebody replaced it; the same command begins anew with the one that lies there now.",
                )
            for said in classifier.predict_blocks(speaker.blocks(), cache=job.cache, progress=speaker.hear):
                speaker.say(Computed(speaker.number, job.encode(said), told(said)))
        except HeadstartError as error:
            speaker.say(_Failed(error.message, error.hint))


class _Speaker:
    """The process's end of the pipe; threads may warn."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe, self.lock = pipe, threading.Lock()
        self.number, self.said = 0, 0.0

    def blocks(self) -> Iterator[Dataset]:
        """Yield the blocks that come."""
        while True:
            self.number, dataset = self.pipe.recv()
            yield dataset

    def say(self, word: object) -> None:
        """Send something."""
        with self.lock:
            self.pipe.send(word)

    def hear(self, stage: str, done: int, total: int) -> None:
        """Tell now and then how far the block is."""
        if (now := time.monotonic()) - self.said > OFTEN:
            self.said = now
            self.say(_Heard(done))

    def warn(self, message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        """Pass on what a person should know."""
        if issubclass(category, UserWarning):
            self.say(_Warned(str(message)))
