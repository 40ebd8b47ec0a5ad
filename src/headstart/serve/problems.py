"""What a server says when it does not do what was asked: one shape (RFC 9457), no path, no content of a picture."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

MEDIA_TYPE = "application/problem+json"
REQUEST = "headstart.request"  # where a scope keeps the number of its request


class Refused(Exception):  # noqa: N818  # it is said to a client, and is no error of the server
    """A request that gets no answer, and why.

    Attributes:
        status: Of HTTP.
        detail: What happened, what was expected.
        headers: Of the answer.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        """Keep what is said, and what else a program may want to know as fields of its own."""
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers or {}, more


def response(refused: Refused, scope: Scope) -> Response:
    """Return what a client is told."""
    body = {"title": HTTPStatus(refused.status).phrase, "status": refused.status, "detail": refused.detail}
    text = json.dumps(body | {"request_id": scope.get(REQUEST)} | refused.more)
    return Response(text, refused.status, refused.headers, MEDIA_TYPE)
