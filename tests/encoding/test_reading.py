"""Reading ahead: a bounded number of pictures waits in memory, and nothing goes on after an error."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from headstart.data import limits
from headstart.encoding import reading
from headstart.encoding.reading import Loaded


def test_what_waits_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "available_cores", lambda: 2)
    begun: list[int] = []
    rows = ([row] for row in range(1000))
    with closing(reading.ahead(lambda row: begun.append(row) or Loaded(str(row)), rows)) as source:
        for taken in range(100):
            same, outcome = next(source)
            assert (same, outcome.digest) == ([taken], str(taken))  # in order
            assert len(begun) <= taken + 1 + 16
    assert len(begun) < 120


@pytest.mark.parametrize("how", ["error", "closed"])
def test_nothing_goes_on_after_an_end(monkeypatch: pytest.MonkeyPatch, how: str):
    monkeypatch.setattr(limits, "available_cores", lambda: 2)
    before, begun = threading.active_count(), []

    def load(row: int) -> Loaded:
        begun.append(row)
        if row == 3 and how == "error":
            raise ZeroDivisionError
        time.sleep(0.002)
        return Loaded(str(row))

    source = reading.ahead(load, ([row] for row in range(1000)))
    if how == "error":
        with pytest.raises(ZeroDivisionError):
            list(source)
    else:
        next(source)
        source.close()
    assert len(begun) < 25
    assert threading.active_count() <= before
