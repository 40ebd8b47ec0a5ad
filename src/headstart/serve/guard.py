"""What stands before every route: who may ask, how much and how slowly; what is added to every answer; the log.

A body is counted while it comes in, so that one that is too large, or comes too slowly, is refused before it is read
whole. It is never unpacked: who sends a compressed one is refused.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import logging
import re
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headstart.serve import problems
from headstart.serve.limits import Limits
from headstart.serve.metrics import ROUTES, Metrics
from headstart.serve.problems import Refused

OPEN = "/health/live"  # the only route that asks nobody who they are
LINGER = 2.0  # seconds in which a refused client may send what it had begun, so that it comes to read the answer
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
log = logging.getLogger("headstart.serve")


class Guard:
    """ASGI: refuses what the limits, the token or the names do not allow, and hands the rest on."""

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, *, token: str | None = None, names: Collection[str] = ()
    ) -> None:
        """Take the application, its limits, who may ask, and by which names the server is called."""
        self.app, self.limits, self.metrics = app, limits, metrics
        self.closing = False  # the server is about to stop: who keeps a connection is told to open another
        self._token = token
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    def check(self, scope: Scope) -> None:
        """Refuse a request by its headers.

        Raises:
            Refused: With 400, 401, 403, 413 or 415.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refused(400, "The server is not called by this name; `headstart serve --name NAME` allows one.")
        if scope["path"] != OPEN and self._token is not None and not self._is_token(headers.get("authorization", "")):
            challenge = {"www-authenticate": 'Basic realm="headstart", charset="UTF-8", Bearer realm="headstart"'}
            raise Refused(401, "The server's token was expected, as a bearer or as a password.", challenge)
        origin = headers.get("origin")
        foreign = origin is not None and not _is_of(origin, host)
        if scope["method"] not in ("GET", "HEAD") and (foreign or headers.get("sec-fetch-site") == "cross-site"):
            raise Refused(403, "The request comes from another site's page.")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Refused(415, "A compressed body is not unpacked; send the picture as it is.")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.most_bytes:
            raise self.too_large()

    def too_large(self) -> Refused:
        """Return what is said of a body that is too large."""
        return Refused(413, f"A request of at most {self.limits.most_bytes:,} bytes was expected.")

    def hold(self, more: int) -> None:
        """Count bytes that are held in memory.

        Raises:
            Refused: With 503: too many are.
        """
        if more > 0 and self._held + more > self.limits.held:
            raise Refused(503, "Too many large requests at once.", {"retry-after": "1"})
        self._held += more
        self.metrics.held.set(self._held)

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header is an address or one of our names: a rebound name of another site is neither."""
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in self._names

    def _is_token(self, authorization: str) -> bool:
        kind, _, text = authorization.partition(" ")
        given = text.encode("latin-1", "replace").strip()  # as it came; of text more would be stripped than blanks
        if kind.lower() == "basic":
            with suppress(ValueError):
                given = base64.b64decode(given, validate=True).partition(b":")[2].strip()
        elif kind.lower() != "bearer":
            given = b""
        return hmac.compare_digest(given, (self._token or "").strip().encode())


def _is_of(origin: str, host: str) -> bool:
    """Return whether an Origin header names a host; one that is no address names none."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.id = uuid.uuid4().hex[:16]
        self.begun = time.monotonic()
        self.received, self.status = 0, 0
        names = dict(scope["headers"])
        self.whole = b"transfer-encoding" not in names and names.get(b"content-length", b"0") == b"0"
        scope[problems.REQUEST] = self.id

    async def run(self) -> None:
        try:
            await self._answer()
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{where.tb_frame.f_globals.get('__name__')}:{where.tb_lineno}" if where is not None else "?"
            log.error("%s %s at %s", self.id, type(error).__name__, place)
        finally:
            self.guard.hold(-self.received)
            self._tell()

    async def _answer(self) -> None:
        try:
            self.guard.check(self.scope)
            await self.guard.app(self.scope, self.receive, self.send)
        except Refused as refused:
            await problems.response(refused, self.scope)(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        """Hand on what comes in, as long as it is not too much or too slow."""
        if self.whole:
            return await self._receive()
        left = self.begun + self.guard.limits.seconds_for(self.received) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, "The request came too slowly.", {"connection": "close"}) from None
        more = len(message.get("body", b""))
        self.guard.hold(more)
        self.received += more
        self.whole = not message.get("more_body", False)
        if self.received > self.guard.limits.most_bytes:
            raise self.guard.too_large()
        return message

    async def send(self, message: Message) -> None:
        """Hand on the answer, with what belongs to every one."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._linger()
            added = {**HEADERS, "x-request-id": self.id}
            if self.guard.closing or not self.whole:
                added["connection"] = "close"
            given = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((n.encode(), v.encode()) for n, v in added.items() if n.encode() not in given),
            ]
        await self._send(message)

    async def _linger(self) -> None:
        """Let a client that is answered early send what it has begun, which is thrown away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self.whole:
                    message = await self._receive()
                    self.whole = not message.get("more_body", False)

    def _tell(self) -> None:
        seconds, path = time.monotonic() - self.begun, self.scope["path"]
        self.guard.metrics.answered(path, self.status, seconds)
        shown = path if path in ROUTES else "(another)"
        log.info("%s %s %s %d, %.0f ms", self.id, self.scope["method"], shown, self.status, 1000 * seconds)
