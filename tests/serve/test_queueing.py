"""The queue without a model: order, bounds, who has left, whose error is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from headstart.serve.queueing import FullError, Queue


class Answering:
    """Answers in capitals, when it is let; notes what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.open = asyncio.Event()

    async def __call__(self, pictures: list[bytes]) -> Sequence[bytes]:
        self.asked.append(pictures)
        await self.open.wait()
        if b"bad" in pictures:
            raise RuntimeError("it died")
        return [one.upper() for one in pictures]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_waits_is_computed_together_in_its_order():
    async def main() -> None:
        answering = Answering()
        queue = Queue(answering, most=10, batch=3, at_once=2)
        worker = asyncio.create_task(queue.run())
        first = queue.put([b"a"])
        await settle()
        assert answering.asked == [[b"a"]]  # nobody waits for company
        more = queue.put([b"b", b"c"]) + queue.put([b"d", b"e", b"f"])
        await settle()
        assert answering.asked == [[b"a"], [b"b", b"c", b"d"]]
        assert len(queue) == 2
        answering.open.set()
        assert await asyncio.gather(*first, *more) == [b"A", b"B", b"C", b"D", b"E", b"F"]
        assert answering.asked[2:] == [[b"e", b"f"]]
        assert queue.rate > 0
        worker.cancel()

    asyncio.run(main())


def test_the_bytes_of_who_left_are_let_go():
    async def main() -> None:
        queue = Queue(Answering(), most=9, batch=1)
        gone, stays = queue.put([b"large"])[0], queue.put([b"b"])
        gone.cancel()
        queue.drop()
        assert [picture for picture, _ in queue._waiting] == [b"b"]
        assert not stays[0].done()

    asyncio.run(main())


def test_beyond_its_bound_it_refuses_all_or_nothing_and_forgets_who_left():
    async def main() -> None:
        queue = Queue(Answering(), most=3, batch=1)
        kept = queue.put([b"a", b"b"])
        with pytest.raises(FullError) as refused:
            queue.put([b"c", b"d"])
        assert refused.value.seconds == 1
        assert len(queue) == 2
        kept[0].cancel()
        assert len(queue.put([b"c", b"d"])) == 2
        assert len(queue) == 3

    asyncio.run(main())


def test_who_left_is_not_computed():
    async def main() -> None:
        answering = Answering()
        answering.open.set()
        queue = Queue(answering, most=9, batch=9)
        gone, stayed = queue.put([b"a", b"b"])
        gone.cancel()
        worker = asyncio.create_task(queue.run())
        assert await stayed == b"B"
        assert answering.asked == [[b"b"]]
        worker.cancel()

    asyncio.run(main())


def test_an_error_is_told_to_those_it_happened_to_and_work_goes_on():
    async def main() -> None:
        answering = Answering()
        answering.open.set()
        queue = Queue(answering, most=9, batch=2)
        worker = asyncio.create_task(queue.run())
        answers = await asyncio.gather(*queue.put([b"a", b"bad", b"c"]), return_exceptions=True)
        assert [str(one) for one in answers[:2]] == ["it died", "it died"]
        assert answers[2] == b"C"
        assert await queue.put([b"d"])[0] == b"D"
        worker.cancel()

    asyncio.run(main())
