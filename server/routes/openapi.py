"""The hot routes' part of the OpenAPI document: they are raw ASGI, so the framework cannot see their inputs.

Knows how parameters, bodies and answers look on paper; must not know how they are handled. The limits are the
settings'.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.answers import Answer, Answers, ProblemDocument, RefinementEvent
from server.routes.query import DEFAULT_TOP_K
from server.settings import Settings

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_ERRORS = {
    404: "Unknown model",
    408: "The body was not complete in time",
    413: "Body, image or form too large",
    415: "Neither JPEG, PNG nor WebP",
    422: "A parameter out of range, or no image",
    500: "Internal error",
    503: "Refused: the deadline cannot be met, overloaded, draining or not ready; see Retry-After",
    504: "Admitted, but no stage finished by the deadline",
}


def install(app: FastAPI, settings: Settings) -> None:
    """Makes `app.openapi()` document the hot routes too."""

    def document() -> Json:
        if app.openapi_schema is None:
            whole = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            app.openapi_schema = _merged(whole, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _merged(whole: Json, settings: Settings) -> Json:
    models: list[type[BaseModel]] = [Answer, Answers, RefinementEvent, ProblemDocument]
    _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    whole.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    whole["paths"]["/classify"] = {"post": _classify(settings)}
    whole["paths"]["/classify/stream"] = {"post": _stream(settings)}
    return whole


def _classify(settings: Settings) -> Json:
    one_or_many = {"oneOf": [{"$ref": _REF.format(model=name)} for name in ("Answer", "Answers")]}
    return {
        "operationId": "classify",
        "tags": ["classification"],
        "summary": "The best answer there is by the deadline",
        "parameters": _parameters(settings),
        "requestBody": _body(settings),
        "responses": {
            "200": {
                "description": "An answer; for a form, one per file.",
                "content": {"application/json": {"schema": one_or_many}},
            },
            **_problems(),
        },
    }


def _stream(settings: Settings) -> Json:
    return {
        "operationId": "classify_stream",
        "tags": ["classification"],
        "summary": "Every refinement as it comes, the final answer by the deadline",
        "description": "Server-sent events: `refinement` (its id is the rung's place in the ladder, its data a "
        "RefinementEvent), then `final` (an Answer). Of several files each event names its `file`; a problem after "
        "the first event travels as an `error` event.",
        "parameters": _parameters(settings),
        "requestBody": _body(settings),
        "responses": {
            "200": {
                "description": "The events.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **_problems(),
        },
    }


def _parameters(settings: Settings) -> list[Json]:
    deadline = {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": settings.max_deadline_ms,
        "default": settings.default_deadline_ms,
    }
    return [
        _parameter(
            "deadline_ms", "Time from the request's headers to the answer, in milliseconds.", deadline
        ),
        _parameter("model", "name or name@version; the default model without it.", {"type": "string"}),
        _parameter(
            "top_k",
            f"How many classes to list, up to all; {DEFAULT_TOP_K} without it.",
            {"type": "integer", "minimum": 1},
        ),
        _parameter(
            "min_confidence",
            "Answer as soon as the probability reaches this.",
            {"type": "number", "minimum": 0, "maximum": 1},
        ),
        _parameter("debug", "1: the answer explains what the scheduler considered.", {"type": "boolean"}),
    ]


def _parameter(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _body(settings: Settings) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": settings.max_files}
    return {
        "required": True,
        "description": f"One image, or a form of 1 to {settings.max_files}; {settings.max_body_bytes} bytes at most.",
        "content": {
            "image/jpeg": binary,
            "image/png": binary,
            "image/webp": binary,
            "application/octet-stream": binary,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": files}}},
        },
    }


def _problems() -> Json:
    schema = {"$ref": _REF.format(model="ProblemDocument")}
    return {
        str(status): {"description": text, "content": {"application/problem+json": {"schema": schema}}}
        for status, text in _ERRORS.items()
    }
