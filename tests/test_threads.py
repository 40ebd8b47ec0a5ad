"""Work of several threads: in order, a little ahead, and not begun any more when nobody wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headstart.threads import in_order


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def test_answers_come_in_order_whoever_is_first(pool: ThreadPoolExecutor):
    def slow(item: int) -> int:
        time.sleep(0.03 if item % 3 == 0 else 0)
        return item * item

    assert list(in_order(pool, slow, range(20), 6)) == [item * item for item in range(20)]
    assert list(in_order(pool, slow, [], 6)) == []
    assert list(in_order(pool, slow, range(2), 1)) == [0, 1]


def test_items_are_taken_as_answers_are(pool: ThreadPoolExecutor):
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    answers = in_order(pool, str, items(), 4)
    assert not taken
    for number in range(10):
        assert next(answers) == str(number)
        assert len(taken) == number + 4


@pytest.mark.parametrize("end", ["an error", "an end"])
def test_what_is_left_is_not_begun(pool: ThreadPoolExecutor, end: str):
    begun, go_on = list[int](), threading.Event()

    def held(item: int) -> int:
        begun.append(item)
        if item == 0:
            return item
        if end == "an error" and item == 1:
            raise ValueError("1")
        go_on.wait(20)
        return item

    answers = in_order(pool, held, range(100), 50)
    assert next(answers) == 0
    if end == "an error":
        with pytest.raises(ValueError, match="1"):
            next(answers)
    answers.close()
    go_on.set()
    pool.submit(str).result()
    assert len(begun) <= 6  # what three threads had
