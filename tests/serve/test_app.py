"""The application without a socket: what a mistake of our own looks like from outside."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from serving import MODEL

from headstart.errors import ConfigError, HeadstartError, MissingExtraError
from headstart.serve import app, problems
from headstart.serve.guard import Guard
from headstart.serve.inference import Served
from headstart.serve.limits import Limits
from headstart.serve.metrics import Metrics
from headstart.serve.service import Service


async def asked(service: Service, method: str = "POST", path: str = "/predict", **more: Any) -> httpx.Response:
    """Ask a service whose process is said to be ready."""
    limits, metrics = service.limits, service.metrics
    guard = Guard(app.build(service, lambda: None, lambda: None), limits, metrics)
    service._predictor.ready.set()
    worker = asyncio.create_task(service.predictions.run())
    transport = httpx.ASGITransport(guard, raise_app_exceptions=False)  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **more)
    finally:
        worker.cancel()


class Broken(Service):
    """A service that makes a mistake of a kind that nobody thought of."""

    async def _predict(self, pictures: list[bytes]) -> Sequence[Any]:
        raise KeyError("/secret/path")


class Slow(Service):
    """A service that never answers."""

    async def _predict(self, pictures: list[bytes]) -> Sequence[Any]:
        await asyncio.sleep(3600)
        return []


def test_a_mistake_is_a_problem_whose_number_is_in_the_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "headstart.serve")
    service = Broken(Served(MODEL), Limits(), Metrics())
    answer = asyncio.run(asked(service, content=b"x", headers={"content-type": "image/png"}))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert "secret" not in answer.text + caplog.text
    assert answer.json()["request_id"] in caplog.text
    assert "KeyError at test_app:" in caplog.text


def test_F7_a_place_in_the_queue_is_free_after_the_deadline():
    service = Slow(Served(MODEL), Limits(deadline=0.05, queue=4, batch=1, most_pictures=4), Metrics())

    async def main() -> list[int]:
        ask = {"content": b"x", "headers": {"content-type": "image/png"}}
        return [(await asked(service, **ask)).status_code for _ in range(9)]

    assert asyncio.run(main()) == [504] * 9


@pytest.mark.parametrize(
    "error", [HeadstartError("a", "b"), ConfigError("c"), MissingExtraError("x", "train", "torch")]
)
def test_errors_travel_between_processes(error: HeadstartError):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)
