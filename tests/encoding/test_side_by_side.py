"""Several encoders at one source: everything arrives, in order, and little waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from headstart.encoding import side_by_side
from headstart.records import Floats, Pixels


class Counting:
    """An encoder that pulls some pictures ahead and tells which picture it saw; it counts how often it begins."""

    def __init__(self, number: int, ahead: int) -> None:
        self.number, self.ahead, self.begun = number, ahead, 0

    def encode(self, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        """Yield the picture's number and this encoder's."""
        self.begun += 1
        waiting = []
        for picture in pictures:
            waiting.append(picture)
            if len(waiting) > self.ahead:
                yield self._of(waiting.pop(0))
        yield from map(self._of, waiting)

    def _of(self, picture: Pixels) -> Floats:
        return np.array([picture[0, 0, 0], self.number], np.float32)


def source(asked: dict[int, list[int]], pulled: list[int]) -> Iterator[tuple[int, list[tuple[int, Pixels]]]]:
    """Yield tickets, each with the encoders that are asked for it."""
    for ticket, encoders in asked.items():
        pulled.append(ticket)
        yield ticket, [(number, np.full((1, 1, 3), ticket, np.uint8)) for number in encoders]


ASKED = {
    "one-encoder": {ticket: [0] for ticket in range(50)},
    "both": {ticket: [0, 1] for ticket in range(50)},
    "two-views-of-both": {ticket: [0, 0, 1, 1] for ticket in range(50)},
    "the-second-alone-at-first": {ticket: [0, 1] if ticket > 40 else [1] for ticket in range(50)},
    "now-and-then": {ticket: [0, 1] if ticket % 9 == 0 else [1] for ticket in range(50)},
    "in-turn": {ticket: [ticket % 2] for ticket in range(50)},
    "nothing": {},
}


@pytest.mark.parametrize("ahead", [(0, 0), (3, 3), (8, 1), (1, 8)])
@pytest.mark.parametrize("case", ASKED)
def test_every_picture_comes_back_to_its_ticket_in_order(case: str, ahead: tuple[int, int]):
    encoders, asked = [Counting(number, one) for number, one in enumerate(ahead)], ASKED[case]
    came = list(side_by_side.encode(encoders, source(asked, [])))
    assert [ticket for ticket, _ in came] == list(asked)
    for ticket, features in came:
        np.testing.assert_array_equal(np.array(features), [[ticket, number] for number in asked[ticket]])


@pytest.mark.parametrize("case", ASKED)
def test_few_pictures_wait(case: str):
    encoders, pulled = [Counting(0, 4), Counting(1, 4)], []
    for done, _ in enumerate(side_by_side.encode(encoders, source(ASKED[case], pulled)), start=1):
        assert len(pulled) - done <= side_by_side.MOST * 4 + 5


def test_encoders_that_are_always_asked_never_stop():
    encoders = [Counting(0, 8), Counting(1, 3)]
    list(side_by_side.encode(encoders, source(ASKED["two-views-of-both"], [])))
    assert [one.begun for one in encoders] == [1, 1]


def test_an_encoder_that_is_not_asked_never_begins():
    encoders = [Counting(0, 4), Counting(1, 4)]
    list(side_by_side.encode(encoders, source(ASKED["one-encoder"], [])))
    assert [one.begun for one in encoders] == [1, 0]


def test_an_error_of_the_source_is_an_error():
    def broken() -> Iterator[tuple[int, list[tuple[int, Pixels]]]]:
        yield from source({0: [0, 1]}, [])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(side_by_side.encode([Counting(0, 4), Counting(1, 4)], broken()))
