"""The server itself: a socket, uvicorn, clients that are too slow, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.errors import ConfigError
from headstart.serve import app
from headstart.serve.guard import Guard
from headstart.serve.inference import Served
from headstart.serve.limits import Limits
from headstart.serve.metrics import Metrics
from headstart.serve.service import Service

MOST_FILES = 8192  # each connection is one; a crowd of slow clients must not keep the others out
SPARE_FILES = 64  # for everything else
BACKLOG = 2048


def serve(
    served: Served,
    address: socket.socket,
    limits: Limits,
    *,
    token: str | None = None,
    names: Collection[str] = (),
    begun: Callable[[], object] = lambda: None,
) -> None:
    """Serve a model until SIGINT or SIGTERM; what is in flight then is answered first.

    Args:
        served: The model.
        address: Where to listen, see `listen`.
        limits: What is borne.
        token: What clients must show; None: nothing.
        names: By which the server is called, besides addresses, `localhost` and the machine's own.
        begun: Called once the model answers.

    Raises:
        HeadstartError: The model cannot be loaded.
    """
    metrics = Metrics()
    service = Service(served, limits, metrics)
    guard = Guard(app.build(service, begun, lambda: server.stop(0)), limits, metrics, token=token, names=names)
    config = uvicorn.Config(
        guard,
        http=_patient(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(limits.patience)),
        timeout_graceful_shutdown=round(limits.finish),
        limit_concurrency=_files() - SPARE_FILES,
        backlog=BACKLOG,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the guard tells of every request, and of every mistake
    server = _Server(config, service, guard)
    try:
        server.run(sockets=[address])
    finally:
        service.stop()  # also where it was told twice to stop, and waited for nothing
    if service.failure is not None:
        raise service.failure


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        ConfigError: That is not to be had; the text says why.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as stack:
            made = stack.enter_context(socket.socket(family))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
            made.listen(BACKLOG)
            stack.pop_all()  # it stays open
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be listened at: {error.strerror}.", "Try another --port.") from error
    return made


class _Server(uvicorn.Server):
    """uvicorn's, which goes on listening for a moment after it says that it is not ready, and then ends with 0."""

    def __init__(self, config: uvicorn.Config, service: Service, guard: Guard) -> None:
        super().__init__(config)
        self.service, self.guard = service, guard
        self.end: float | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in order; at the second signal at once."""
        if self.end is None:
            self.stop(self.service.limits.drain)
        else:
            self.should_exit = self.force_exit = True

    def stop(self, drain: float) -> None:
        """Be not ready from now on, and stop listening after so many seconds."""
        self.service.closing = self.guard.closing = True
        self.end = time.monotonic() + drain

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to stop listening."""
        due = self.end is not None and time.monotonic() >= self.end
        return await super().on_tick(counter) or due


def _patient(limits: Limits) -> type[H11Protocol]:
    """Return a protocol of uvicorn that drops clients that take too long to ask, or to read the answer."""

    class Patient(H11Protocol):
        """One connection; the body of a request is the guard's affair."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._wait_if_unread()
            elif self.timer is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self) -> None:
            """Close a connection that nobody asks on; who does not read what is left is not waited for."""
            super().timeout_keep_alive_handler()
            self._wait()

        def shutdown(self) -> None:
            """Close it at the end; so too."""
            super().shutdown()
            if self.transport.is_closing():
                self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._wait_if_unread()

        def on_response_complete(self) -> None:
            """Go on to the next request, or close; so too."""
            super().on_response_complete()
            if self.transport.is_closing():
                self._wait()

        def _wait_if_unread(self) -> None:
            """Wait for nothing, but that what is left is read: of an answer, or before it is closed."""
            if not (self.flow.write_paused or self.transport.is_closing()):
                self._wait_no_more()

        def _wait(self) -> None:
            self._wait_no_more()
            self.timer = self.loop.call_later(limits.patience, self.transport.abort)

        def _wait_no_more(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = None

    return Patient


def _files() -> int:
    """Return how many files this process may have open, raised as far as it may."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        resource: Any = importlib.import_module("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return max(int(soft), int(most))
    return 512
