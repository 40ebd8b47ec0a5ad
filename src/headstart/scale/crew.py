"""Blocks of pictures → what workers of a cluster say of them, whoever dies in between.

A block whose worker died is given to another one. At the third try its pictures are looked at one by one first, so
that those that kill are known and left out; after a few more there is an error: nothing is tried for ever. A worker
that died is replaced where its machine is still there; machines that come later get workers, too.
"""

from __future__ import annotations

import enum
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from headstart.errors import ConfigError, HeadstartError, StorageError
from headstart.records import Progress
from headstart.scale.address import Address
from headstart.scale.cluster import Cluster, Died, Place, Worker
from headstart.scale.hand import Answer, Block, Job, Recipe, differences

CAREFUL = 2  # workers that died of a block before its pictures are looked at one by one
MOST_TRIES = 5  # of a block
MOST_BEGINS = 3  # workers at a place that died before they could work
REVIEW = 5.0  # seconds between two looks at which machines there are
PATIENCE = 10.0  # seconds in which a processor becomes free
LONGEST = 300.0  # seconds in which somebody can work, at the beginning and after all have died
PAUSE = 0.2  # seconds between two looks at whatever may happen
AHEAD = 2  # blocks for each worker that may be done before it is the turn of the first
STAGE = "Starting workers"


class Team(Protocol):
    """Who finds places and workers; see `Cluster`."""

    def total(self) -> float:
        """Return how many processors there are."""

    def free(self) -> float:
        """Return how many of them nobody asked for."""

    def places(self) -> list[Place]:
        """Return where workers can be now."""

    def hire(self, place: Place) -> Worker:
        """Begin a worker."""

    def dismiss(self, worker: Worker) -> None:
        """End a worker."""

    def shared(self, job: Job) -> Any:
        """Return what stands for a job that is sent once to each machine."""

    def hear(self, workers: Iterable[Worker], seconds: float) -> Iterator[tuple[Worker, Any]]:
        """Wait for answers, and yield those that are there."""


class _At(enum.Enum):
    """What a worker is at."""

    COMING = enum.auto()
    BEGINNING = enum.auto()
    NOTHING = enum.auto()
    A_BLOCK = enum.auto()


class _Member:
    """A worker, what it is at, and with which block."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.at = worker, _At.COMING
        self.block: Block | None = None
        self.name = "A worker"
        worker.ask("ping")


class Crew:
    """Workers that were told of one job."""

    def __init__(self, team: Team, job: Job, recipe: Recipe, progress: Progress) -> None:
        """Begin a worker at each place.

        Args:
            team: Where they come from.
            job: What they are told.
            recipe: What decides the results here, and must be the same there.
            progress: Hears how many have begun.

        Raises:
            ConfigError: No processor is free.
        """
        self.team, self.recipe, self.progress = team, recipe, progress
        self._wait_for_room()
        self._told = team.shared(job)
        self._members: dict[str, _Member] = {}  # place → who is there
        self._lost: Counter[str] = Counter()  # place → workers that died there before they could work
        self._deaths: Counter[int] = Counter()  # block → workers that died of it
        self._waiting: deque[Block] = deque()  # that were asked for, or that a worker died of, and nobody has
        self._warned: set[str] = set()
        self._reason, self._last_told = "", (0, 0)
        self._worked = time.monotonic()  # when somebody could work, last
        self._reviewed = float("-inf")
        self._review()

    def work(self, blocks: Iterator[Block], *, in_order: bool = False) -> Iterator[Answer]:
        """Yield what is said of each block.

        Args:
            blocks: Numbered one after the other if they shall be yielded in order; each is asked for when it is due.
            in_order: Whether an answer waits for those before it; few are worked on ahead then.

        Raises:
            ConfigError: Other versions are installed there.
            StorageError: Workers do not see the pictures.
            HeadstartError: A block, or every worker, failed again and again.
        """
        held: dict[int, Answer] = {}
        due, more = 0, True
        while True:
            self._review()
            for member in [one for one in self._members.values() if one.at is _At.NOTHING]:
                block = self._for(member)
                while block is None and more and not (in_order and len(held) >= AHEAD * len(self._members)):
                    if more := (coming := next(blocks, None)) is not None:
                        self._waiting.append(coming)
                        block = self._for(member)
                if block is not None:
                    self._give(member, block)
            if not (more or held or self._waiting or any(one.block for one in self._members.values())):
                return
            for answer in self._answers():
                held[answer.number] = answer
            while held and (due in held or not in_order):
                yield held.pop(due if in_order else next(iter(held)))
                due += 1

    @property
    def size(self) -> int:
        """How many workers there are, with those who still begin."""
        return len(self._members)

    def at_work(self) -> list[str]:
        """Return the places of those who can work."""
        return [place for place, one in self._members.items() if one.at in (_At.NOTHING, _At.A_BLOCK)]

    def end(self) -> None:
        """End all workers, whatever they are doing: what they write is whole or not there."""
        for member in self._members.values():
            self.team.dismiss(member.worker)
        self._members = {}

    def _review(self) -> None:
        """Begin workers where there are none, and give up where that is in vain."""
        if (now := time.monotonic()) - self._reviewed > REVIEW:
            self._reviewed = now
            for place in self.team.places():
                if place.name not in self._members and self._lost[place.name] < MOST_BEGINS:
                    self._members[place.name] = _Member(self.team.hire(place))
            self._tell()
        if self._working():
            self._worked = now
        elif now - self._worked > LONGEST:
            raise HeadstartError(f"For {LONGEST:.0f} seconds no worker could work.{self._because()}")

    def _wait_for_room(self) -> None:
        """Wait for a free processor, for a while: Ray would wait for ever, without a word.

        Raises:
            ConfigError: There is none.
        """
        end = time.monotonic() + PATIENCE
        while (free := self.team.free()) < 1:
            if time.monotonic() > end:
                raise ConfigError(
                    f"No worker can begin: {free:g} of the cluster's {self.team.total():g} processors are free.",
                    "Others work on it; wait for them, or add machines.",
                )
            time.sleep(PAUSE)

    def _for(self, member: _Member) -> Block | None:
        """Take the first block that waits for this worker, or for anybody."""
        others = [place for place in self.at_work() if place != member.worker.place.name]
        for block in self._waiting:
            if block.home not in others:
                self._waiting.remove(block)
                return block
        return None

    def _give(self, member: _Member, block: Block) -> None:
        member.at, member.block = _At.A_BLOCK, block
        member.worker.ask("do", block, self._deaths[block.number] >= CAREFUL)

    def _answers(self) -> Iterator[Answer]:
        """Hear what there is to hear, and yield the answers to blocks among it."""
        by_worker = {one.worker: one for one in self._members.values()}
        if not by_worker:
            time.sleep(PAUSE)
        for worker, word in self.team.hear(by_worker, PAUSE):
            member = by_worker[worker]
            if isinstance(word, HeadstartError):
                raise word
            if isinstance(word, Died):
                self._bury(member, word.reason)
            elif member.at is _At.COMING:
                member.at, member.name = _At.BEGINNING, f"The worker on {word}"
                worker.ask("begin", self._told)
            elif member.at is _At.BEGINNING:
                self._compare(member, word)
                member.at = _At.NOTHING
                self._tell()
            else:
                yield self._heard(member, word)

    def _heard(self, member: _Member, answer: Answer) -> Answer:
        member.at, member.block = _At.NOTHING, None
        self._deaths.pop(answer.number, None)
        for text in answer.warned:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, stacklevel=2)
        here = next((path for path in answer.unseen if os.access(path, os.R_OK)), None)
        if here is not None:
            raise StorageError(
                f"{member.name} cannot read {here}, which this machine can.",
                "Pictures, model and cache must lie where all machines of the cluster have them under the same path, "
                "for the same user.",
            )
        return answer

    def _compare(self, member: _Member, recipe: Recipe) -> None:
        """Refuse a worker whose results would not be those of this machine.

        Raises:
            ConfigError: With what differs, on both sides.
        """
        if different := differences(recipe, self.recipe):
            raise ConfigError(
                f"{member.name} would not compute what this machine computes: {'; '.join(different)}.",
                "Install the same versions on all machines of the cluster.",
            )

    def _bury(self, member: _Member, reason: str) -> None:
        """Do without a worker that died, and have another one do its block.

        Raises:
            HeadstartError: That was tried often enough.
        """
        place, block = member.worker.place.name, member.block
        del self._members[place]
        self._reviewed, self._reason = float("-inf"), reason
        if block is not None:
            self._deaths[block.number] += 1
            if self._deaths[block.number] == MOST_TRIES:
                raise HeadstartError(
                    f"{MOST_TRIES} workers died of {block}.{self._because()}",
                    "Where memory runs out, the system ends processes so: take fewer workers a machine, or larger "
                    "machines. What was computed is kept, and the same command goes on from there.",
                )
            self._waiting.appendleft(block)
        else:
            self._lost[place] += 1
            left = [one for one in self.team.places() if self._lost[one.name] < MOST_BEGINS]
            if not (self._members or left):
                raise HeadstartError(f"No worker of the cluster could begin.{self._because()}")

    def _because(self) -> str:
        return f" The last one that ended said: {self._reason}" if self._reason else ""

    def _tell(self) -> None:
        if (told := (self._working(), len(self._members))) != self._last_told:
            self._last_told = told
            self.progress(STAGE, *told)

    def _working(self) -> int:
        return len(self.at_work())


@contextmanager
def gathered(cluster: Cluster, job: Job, recipe: Recipe, progress: Progress) -> Iterator[Crew]:
    """Give workers of a cluster that are told of a job; at the end they go. Arguments as of `Crew`."""
    crew = Crew(cluster, job, recipe, progress)
    try:
        yield crew
    finally:
        crew.end()


@contextmanager
def opened(address: Address, progress: Progress, *, graphics: bool) -> Iterator[Cluster]:
    """Give a cluster, which is left at the end; see `Cluster`."""
    progress(STAGE, 0, max(1, address.workers))
    cluster = Cluster(address, graphics=graphics)
    try:
        yield cluster
    finally:
        cluster.close()
