"""What OpenAPI says of the routes: what they take and give, with examples. Words and schemas, nothing that runs."""

from __future__ import annotations

from typing import Any

from headstart.serve.problems import MEDIA_TYPE

ABOUT = """A classifier of pictures. They come as bytes; nothing is kept, and no address is fetched.

Probabilities are calibrated, and are those of `headstart predict` for the same bytes. `known` is false where a picture
looks like none of the classes: `label` is then the best of wrong answers."""
TAGS = [
    {"name": "pictures", "description": "What the model says."},
    {"name": "server", "description": "What is served, and how it does."},
]

Schema = dict[str, Any]


def _object(required: str, properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


def _nullable(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


_TEXT: Schema = {"type": "string"}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_CHANCE = _object("label probability", {"label": _TEXT, "probability": _SHARE})
_PREDICTION = _object(
    "path status label probability top set known p_value",
    {
        "path": {**_TEXT, "description": "The name that came with the picture, or `picture`."},
        "status": {"enum": ["ok", "error"]},
        "label": _nullable("string", description="The most probable class."),
        "probability": _nullable("number", description="Of that class, calibrated.", minimum=0, maximum=1),
        "top": {"type": "array", "items": _CHANCE, "description": "The best five classes, best first."},
        "set": {
            "type": "array",
            "items": _TEXT,
            "description": "Classes of which one is the true one at the model's rate.",
        },
        "known": _nullable("boolean", description="false: it looks like none of the classes."),
        "p_value": _nullable("number", minimum=0, maximum=1),
        "error": {**_TEXT, "description": "Why it cannot be used; only where it cannot."},
    },
)
_DIGEST = {**_TEXT, "description": "SHA-256 of the model's description, which seals all of it."}
_PREDICTIONS = _object("model predictions", {"model": _DIGEST, "predictions": {"type": "array", "items": _PREDICTION}})
_URI = {**_TEXT, "description": "A picture as a data URI."}
_SPEAKS = _object("label picture", {"label": _TEXT, "picture": _URI})
_NEIGHBOUR = _object(
    "label similarity picture",
    {"label": _TEXT, "similarity": {"type": "number"}, "picture": _nullable("string", description="A data URI.")},
)
_EXPLANATION = _object(
    "model explanation",
    {
        "model": _DIGEST,
        "explanation": {
            "allOf": [
                _PREDICTION,
                _object(
                    "seen speaks_for speaks_for_rival nearest",
                    {
                        "seen": {**_URI, "description": "As the network sees it."},
                        "speaks_for": {**_SPEAKS, "description": "Where the evidence for the label lies."},
                        "speaks_for_rival": {**_SPEAKS, "description": "Where that for the next class lies."},
                        "nearest": {
                            "type": "array",
                            "items": _NEIGHBOUR,
                            "description": "The most alike of those learned from.",
                        },
                    },
                ),
            ]
        },
    },
)
_MODEL = _object(
    "name classes networks views engine refuses coverage limits digest",
    {
        "name": _TEXT,
        "digest": _DIGEST,
        "classes": {"type": "array", "items": _TEXT},
        "networks": {"type": "array", "items": {"type": "object"}},
        "views": {"type": "array", "items": _TEXT},
        "engine": _TEXT,
        "refuses": {"type": "boolean", "description": "Whether it can say `none of these`."},
        "coverage": _nullable("number", description="The share of pictures whose set shall hold the true class."),
        "limits": {"type": "object", "description": "What a request may hold."},
    },
)
_PROBLEM = _object("title status detail", {"title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT})

_EXAMPLE = {
    "model": "f0fa87966d7a7806beb371c4b97697f416067157577d90abf1f340d68cbfe0df",
    "predictions": [
        {
            "path": "rex.jpg",
            "label": "border_collie",
            "probability": 0.93,
            "top": [{"label": "border_collie", "probability": 0.93}, {"label": "collie", "probability": 0.04}],
            "set": ["border_collie"],
            "known": True,
            "p_value": 0.41,
            "status": "ok",
        }
    ],
}
_ANY_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS = {
    400: "The request is malformed, or the server is not called by this name.",
    401: "The server's token was expected.",
    403: "The request comes from another site's page.",
    408: "The request came too slowly.",
    413: "More bytes, or pictures, than the server takes.",
    415: "Neither a picture nor multipart/form-data, or compressed.",
    422: "No picture of the request can be used.",
    500: "The server made a mistake.",
    501: "Not to be had in this installation, or of this network.",
    503: "Not ready, or too many wait; Retry-After says when to come again.",
    504: "No answer within the deadline.",
}


def _body(field: str, many: bool) -> Schema:
    part: Schema = {"type": "string", "format": "binary"}
    parts = {"type": "array", "items": part, "minItems": 1} if many else part
    content = {
        "multipart/form-data": {"schema": {**_object(field, {field: parts}), "additionalProperties": False}},
        "application/octet-stream": _ANY_PICTURE,
        "image/*": _ANY_PICTURE,
    }
    return {"requestBody": {"required": True, "content": content}}


def _problems(*numbers: int) -> dict[int | str, Schema]:
    content = {MEDIA_TYPE: {"schema": _PROBLEM}}
    return {number: {"description": _PROBLEMS[number], "content": content} for number in numbers}


def _gives(about: str, schema: Schema, example: Any = None, kind: str = "application/json") -> dict[int | str, Schema]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {200: {"description": about, "content": {kind: content}}}


def _route(tag: str, summary: str, responses: dict[int | str, Schema], body: Schema | None = None) -> Schema:
    """Return what FastAPI is told of a route; that it answers with a response of its own, too."""
    return {"tags": [tag], "summary": summary, "responses": responses, "response_model": None, "openapi_extra": body}


PREDICT = _route(
    "pictures",
    "Predict one picture or several",
    _gives("An answer for each, in their order.", _PREDICTIONS, _EXAMPLE)
    | _problems(400, 401, 403, 408, 413, 415, 422, 500, 503, 504),
    _body("pictures", many=True),
)
EXPLAIN = _route(
    "pictures",
    "Show why a picture gets its answer",
    _gives("The answer, heat maps and the most alike of the pictures learned from.", _EXPLANATION)
    | _problems(400, 401, 403, 408, 413, 415, 422, 500, 501, 503, 504),
    _body("picture", many=False),
)
MODEL = _route(
    "server", "What is served", _gives("The model and what a request may hold.", _MODEL) | _problems(400, 401, 503)
)
LIVE = _route(
    "server", "Whether the server runs", _gives("It does.", _object("status", {"status": _TEXT})) | _problems(400)
)
READY = _route(
    "server", "Whether it answers", _gives("It does.", _object("status", {"status": _TEXT})) | _problems(400, 401, 503)
)
METRICS = _route("server", "Figures for Prometheus", _gives("Text.", _TEXT, kind="text/plain") | _problems(400, 401))
