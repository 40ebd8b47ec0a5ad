"""Pictures × several encoders → the features that each picture was brought for, in the order of the pictures.

An encoder pulls pictures ahead of its results. What one of them pulls is put before the others too, and the one that
is furthest behind goes on: so all are at about the same picture, and few wait in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from headstart.encoding.encoder import Encoder
from headstart.records import Floats, Pixels

Ticket = TypeVar("Ticket")

MOST = 4  # pictures may wait for an encoder for each that it pulls ahead


def encode(
    encoders: Sequence[Encoder], source: Iterable[tuple[Ticket, Sequence[tuple[int, Pixels]]]]
) -> Iterator[tuple[Ticket, list[Floats]]]:
    """Yield each ticket with the features of its pictures, in the order of the source.

    An encoder that nothing is asked of is not compiled.

    Args:
        encoders: Of which the pictures ask by number.
        source: Yields a ticket, whatever it may be, and what is asked for it: at least one encoder and picture.
    """
    return _Conveyor(encoders, iter(source)).run()


class _Order(Generic[Ticket]):
    """A ticket, and the features that came for it so far."""

    def __init__(self, number: int, ticket: Ticket, count: int) -> None:
        self.number, self.ticket = number, ticket
        self.features: list[Floats | None] = [None] * count
        self.open = count


class _Lane(Generic[Ticket]):
    """One encoder: what waits for it, and which order and place each of its results is for."""

    def __init__(self, encoder: Encoder, conveyor: _Conveyor[Ticket]) -> None:
        self.encoder, self.conveyor = encoder, conveyor
        self.waiting: deque[Pixels] = deque()
        self.owed: deque[tuple[_Order[Ticket], int]] = deque()
        self.results: Iterator[Floats] = iter(())

    def step(self) -> None:
        """Bring one result."""
        features = next(self.results, None)
        if features is None:  # not begun yet, or stopped since too much waited for others
            self.results = self.encoder.encode(self._pictures())
            features = next(self.results)
        order, place = self.owed.popleft()
        order.features[place] = features
        order.open -= 1

    def _pictures(self) -> Iterator[Pixels]:
        while self.waiting or self.conveyor.pull_for(self):
            yield self.waiting.popleft()


class _Conveyor(Generic[Ticket]):
    """All encoders, and the orders that are not complete."""

    def __init__(
        self, encoders: Sequence[Encoder], source: Iterator[tuple[Ticket, Sequence[tuple[int, Pixels]]]]
    ) -> None:
        self.source = source
        self.lanes = [_Lane(encoder, self) for encoder in encoders]
        self.most = MOST * max(encoder.ahead for encoder in encoders)
        self.orders: deque[_Order[Ticket]] = deque()
        self.count = 0

    def run(self) -> Iterator[tuple[Ticket, list[Floats]]]:
        """See `encode`."""
        while True:
            busy = [lane for lane in self.lanes if lane.owed]
            if busy:
                min(busy, key=lambda lane: lane.owed[0][0].number).step()
            elif not self._pull():
                return
            while self.orders and not self.orders[0].open:
                order = self.orders.popleft()
                yield order.ticket, [features for features in order.features if features is not None]

    def pull_for(self, lane: _Lane[Ticket]) -> bool:
        """Take orders until a picture waits for this lane; False at the end, or if too many wait for another lane."""
        while not lane.waiting:
            if any(len(other.waiting) >= self.most for other in self.lanes) or not self._pull():
                return False
        return True

    def _pull(self) -> bool:
        """Take the next order and put its pictures before their lanes; False at the end."""
        for ticket, asked in self.source:
            order = _Order(self.count, ticket, len(asked))
            self.count += 1
            self.orders.append(order)
            for place, (number, picture) in enumerate(asked):
                self.lanes[number].waiting.append(picture)
                self.lanes[number].owed.append((order, place))
            return True
        return False
