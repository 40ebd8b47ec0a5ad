"""Pictures of many callers → batches, in the order in which they came; a queue that is full refuses.

A picture whose caller has left, or has waited too long, is passed over. Each picture has an answer of its own, so one
that cannot be used is nobody else's trouble.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class FullError(Exception):
    """Too many wait; `seconds` is after how long it is worth trying again."""

    def __init__(self, seconds: int) -> None:
        """Keep the seconds."""
        super().__init__(seconds)
        self.seconds = seconds


class Queue(Generic[Answer]):
    """Pictures that wait.

    Attributes:
        most: How many may wait.
        batch: How many are computed together.
        at_once: Batches on their way at the same time.
        rate: Pictures a second, as the last batches went; 0 until there was one.
    """

    def __init__(
        self,
        answer: Callable[[list[bytes]], Awaitable[Sequence[Answer]]],
        most: int,
        batch: int,
        at_once: int = 1,
        observe: Callable[[int], object] = lambda pictures: None,
    ) -> None:
        """Take what answers a batch, and who hears of the size of each."""
        self.most, self.batch, self.at_once, self.rate = most, batch, at_once, 0.0
        self._answer, self._observe = answer, observe
        self._waiting: deque[tuple[bytes, asyncio.Future[Answer]]] = deque()
        self._some = asyncio.Event()
        self._last = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, pictures: Sequence[bytes]) -> list[asyncio.Future[Answer]]:
        """Let pictures wait, all or none; who cancels a future needs no answer any more.

        Raises:
            FullError: There is no room.
        """
        self.check(len(pictures))
        futures = [asyncio.get_running_loop().create_future() for _ in pictures]
        self._waiting.extend(zip(pictures, futures, strict=True))
        self._some.set()
        return futures

    def check(self, pictures: int) -> None:
        """Find out whether so many may wait.

        Raises:
            FullError: There is no room.
        """
        if len(self._waiting) + pictures > self.most:
            self.drop()
        if len(self._waiting) + pictures > self.most:
            raise FullError(math.ceil(min(60.0, len(self._waiting) / self.rate)) if self.rate else 1)

    async def run(self) -> None:
        """Answer for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            if taken := self._take():
                await self._settle(taken)

    def _take(self) -> list[tuple[bytes, asyncio.Future[Answer]]]:
        taken: list[tuple[bytes, asyncio.Future[Answer]]] = []
        while self._waiting and len(taken) < self.batch:
            one = self._waiting.popleft()
            if not one[1].done():
                taken.append(one)
        if not self._waiting:
            self._some.clear()
        return taken

    async def _settle(self, taken: list[tuple[bytes, asyncio.Future[Answer]]]) -> None:
        self._observe(len(taken))
        begun = time.monotonic()
        try:
            answers: Sequence[Answer | Exception] = await self._answer([picture for picture, _ in taken])
        except Exception as error:  # whatever it is, it is these callers' to hear
            answers = [error] * len(taken)
        self._measure(len(taken), begun)
        for (_, future), answer in zip(taken, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _measure(self, pictures: int, begun: float) -> None:
        begun, self._last = max(begun, self._last), time.monotonic()  # several are on their way at once
        rate = pictures / max(1e-3, self._last - begun)
        self.rate = (3 * self.rate + rate) / 4 if self.rate else rate

    def drop(self) -> None:
        """Forget those that nobody waits for any more."""
        self._waiting = deque(one for one in self._waiting if not one[1].done())
