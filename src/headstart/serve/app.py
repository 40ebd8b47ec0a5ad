"""The routes: a request → pictures → a queue → an answer.

No route takes an address to fetch, or a name to open: pictures come as bytes, and a name that comes with one is given
back and used for nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from headstart.errors import ConfigError, MissingExtraError
from headstart.predictions import Prediction
from headstart.serve import contract, problems
from headstart.serve.problems import Refused
from headstart.serve.processes import LostError
from headstart.serve.queueing import FullError, Queue
from headstart.serve.service import PATIENCE, Service

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
LONGEST_NAME = 255
GONE = 499  # the client left: nobody reads this, but it is counted


class _InMemory(MultiPartParser):
    """Parts stay in memory, where the limit of a request holds them; the disk may be read-only."""

    spool_max_size = 1 << 62


def build(service: Service, loaded: Callable[[], object], failed: Callable[[], object]) -> FastAPI:
    """Return the application of a service; it loads the model when it starts.

    Args:
        service: What answers.
        loaded: Called once the model answers.
        failed: Called once nothing is answered any more; `service.failure` says why.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.run(loaded, failed))
        yield
        task.cancel()
        await asyncio.wait([task])

    app = FastAPI(
        title="Headstart",
        version=importlib.metadata.version("headstart"),
        description=contract.ABOUT,
        docs_url=None,  # these pages fetch their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        openapi_tags=contract.TAGS,
    )
    _add_errors(app)
    _add_routes(app, service)
    _add_health(app, service)
    _add_page(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/predict", **contract.PREDICT)
    async def predict(request: Request) -> Response:
        _admit(service, service.predictions)
        names, pictures = await _pictures(request, service.limits.most_pictures)
        answers = await _answers(request, service, service.predictions, pictures, service.limits.deadline)
        said = [dataclasses.replace(one, path=name) for name, (_, one) in zip(names, answers, strict=True)]
        service.metrics.said(said)
        if all(one.error is not None for one in said):
            raise Refused(422, _why(said), predictions=[one.to_dict() for one in said])
        return JSONResponse({"model": answers[0][0], "predictions": [one.to_dict() for one in said]})

    @app.post("/explain", **contract.EXPLAIN)
    async def explain(request: Request) -> Response:
        _admit(service, service.explanations)
        (name,), pictures = await _pictures(request, 1)
        ((digest, told),) = await _answers(request, service, service.explanations, pictures, PATIENCE)
        if told["status"] == "error":
            raise Refused(422, told["error"])
        return JSONResponse({"model": digest, "explanation": told | {"path": name}})

    @app.get("/model", **contract.MODEL)
    async def model() -> Response:
        if service.told is None:
            raise _not_ready(service)
        return JSONResponse(service.told | {"limits": dataclasses.asdict(service.limits)})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", **contract.LIVE)
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get("/health/ready", **contract.READY)
    async def ready() -> Response:
        if not service.ready:
            raise _not_ready(service)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", **contract.METRICS)
    async def metrics() -> Response:
        service.observe()
        text, kind = service.metrics.render()
        return Response(text, media_type=kind)


def _add_page(app: FastAPI, service: Service) -> None:
    folder = resources.files("headstart.serve") / "page"
    for path, (name, kind) in PAGE.items():
        content = (folder / name).read_bytes()

        async def shown(_: Request, content: bytes = content, kind: str = kind) -> Response:
            service.expect_explanations()  # who looks at the page wants heat maps, which take a while to begin
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        app.add_route(path, shown, include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        return problems.response(_as_refused(error), request.scope)

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    for kind in (Refused, HTTPException, MultiPartException, Exception):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(ClientDisconnect, gone)


def _as_refused(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        return Refused(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, MultiPartException):
        return Refused(400, error.message)
    return Refused(500, "The server made a mistake; its log says more under the number of this request.")


async def _pictures(request: Request, most: int) -> tuple[list[str], list[bytes]]:
    """Return the names and the bytes of the pictures of a request.

    Raises:
        Refused: It holds none, too many, or something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        names, pictures = await _parts(request, most)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        names, pictures = ["picture"], [await request.body()]
    else:
        raise Refused(
            415,
            "A picture was expected: as a body of type image/* or application/octet-stream, or as multipart/form-data.",
        )
    if not pictures or not any(pictures):
        raise Refused(422, "The request holds no picture.")
    return names, pictures


async def _parts(request: Request, most: int) -> tuple[list[str], list[bytes]]:
    form = await _InMemory(request.headers, request.stream(), max_files=most + 1, max_fields=0).parse()
    try:
        files = [file for _, file in form.multi_items() if not isinstance(file, str)]
        if len(files) > most:
            raise Refused(413, f"At most {most} {'picture' if most == 1 else 'pictures'} of a request were expected.")
        names = [(file.filename or "picture")[:LONGEST_NAME] for file in files]
        return names, [await file.read() for file in files]
    finally:
        await form.close()


async def _answers(
    request: Request, service: Service, queue: Queue[Any], pictures: Sequence[bytes], deadline: float
) -> list[Any]:
    """Return what a queue answers, unless it takes too long or the client leaves first.

    Raises:
        Refused: There is no answer.
    """
    try:
        futures = queue.put(pictures)
    except FullError as error:
        raise _full(error) from None
    answers: asyncio.Future[Any] = asyncio.gather(*futures)
    left: asyncio.Future[Any] = asyncio.create_task(_left(request))
    try:
        done, _ = await asyncio.wait({answers, left}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if answers in done:
            return list(answers.result())
    except LostError as error:
        raise Refused(503, f"{error.message} Send the pictures again.", {"retry-after": "2"}) from error
    except (MissingExtraError, ConfigError) as error:  # nothing that was asked for is at fault
        raise Refused(501, error.message) from error
    finally:
        answers.cancel()
        left.cancel()
        queue.drop()  # their bytes, which are counted no longer
    if left in done:
        raise ClientDisconnect
    raise Refused(504, f"There was no answer within {deadline:g} seconds.")


async def _left(request: Request) -> None:
    """Return once the client has left; its request was read whole before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _admit(service: Service, queue: Queue[Any]) -> None:
    """Refuse a request that would be refused anyway before its body is read.

    Raises:
        Refused: With 503.
    """
    if not service.ready and not service.closing:
        raise _not_ready(service)
    try:
        queue.check(1)
    except FullError as error:
        raise _full(error) from None


def _full(error: FullError) -> Refused:
    return Refused(503, "Too many pictures wait.", {"retry-after": str(error.seconds)})


def _not_ready(service: Service) -> Refused:
    why = "The server is about to stop." if service.closing else "The model is being loaded."
    return Refused(503, why, {"retry-after": "2"})


def _why(said: Sequence[Prediction]) -> str:
    first = f"The picture cannot be used: {said[0].error}." if len(said) == 1 else ""
    return first or f"None of the {len(said)} pictures can be used."
