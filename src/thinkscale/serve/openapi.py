"""The OpenAPI document of the routes that clients use, made from the bodies that are checked."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from thinkscale.serve.bodies import ChatBody, CompletionBody, FeedbackBody, ResponsesBody

_ERRORS = {
    400: "The request is wrong; `param` says where.",
    401: "No key, or a wrong one.",
    402: "A budget is spent, and there is no answer yet. Asking again does not help.",
    403: "The key may not do this.",
    404: "No such model, trace or route.",
    413: "The body is too large.",
    422: "The model refused the request.",
    429: "A rate limit, or no place: ask again after Retry-After.",
    500: "Something went wrong here.",
    502: "The backend failed.",
    503: "No backend can be reached.",
    504: "The deadline passed before there was an answer.",
}


@cache
def document() -> dict[str, Any]:
    """The document, as JSON; its schemas are those that bodies are checked against."""
    from thinkscale import __version__

    bodies = (ChatBody, CompletionBody, ResponsesBody, FeedbackBody)
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    defined = schemas.get("$defs", {})
    defined["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "thinkscale", "version": __version__},
        "components": {
            "schemas": defined,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": {"post": _posted(ChatBody, "Answer a conversation.", streams=True)},
            "/v1/completions": {"post": _posted(CompletionBody, "Continue a text.", streams=True)},
            "/v1/responses": {
                "post": _posted(ResponsesBody, "Answer a conversation, in the Responses API's words.", streams=True)
            },
            "/v1/feedback": {"post": _posted(FeedbackBody, "Say how good an answer was.")},
            "/v1/models": {"get": _got("The models and policies that this key may use.")},
            "/healthz": {"get": _got("Whether the process lives.")},
            "/readyz": {"get": _got("Whether it takes requests.", 503)},
        },
    }


def _posted(body: type[Any], what: str, *, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {}
    return {
        "summary": what,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}},
        },
        "responses": {"200": {"description": "Done.", "content": content}} | _faults(*_ERRORS),
    }


def _got(what: str, *statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": what,
        "responses": {"200": {"description": "Done.", "content": content}} | _faults(401, 403, *statuses),
    }


def _faults(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}
