"""Work of several threads: in order, a little ahead, and not begun any more when nobody wants it."""

from __future__ import annotations

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


def test_what_is_left_is_not_begun_after_an_error_or_an_end(pool: ThreadPoolExecutor):
    begun: list[int] = []

    def failing(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        if item == 1:
            raise ValueError("1")
        return item

    answers = in_order(pool, failing, range(100), 50)
    assert next(answers) == 0
    with pytest.raises(ValueError, match="1"):
        next(answers)
    pool.submit(str).result()
    assert len(begun) < 12
    begun.clear()
    answers = in_order(pool, failing, range(2, 100), 50)
    next(answers)
    answers.close()
    pool.submit(str).result()
    assert len(begun) < 12
