"""Completes the OpenAPI description with errors, the API key and the inference routes, which FastAPI does not see."""

import re
from typing import Any, Final

from fastapi import FastAPI

from modelshare.wire.errors import ErrorEnvelope

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request was rejected; the message says why and what to do"},
    "5XX": {"model": ErrorEnvelope, "description": "Server-side error; `Retry-After` says when to try again"},
}
"""Error responses of every route."""
KEYED: Final[dict[str, Any]] = {"security": [{"key": []}]}
"""Added to the description of a route that needs a key."""
_INFERENCE: Final = {
    "chat/completions": ("post", "Create a chat completion"),
    "completions": ("post", "Create a text completion"),
    "embeddings": ("post", "Create embeddings"),
    "models": ("get", "List the endpoint's model"),
    "models/{model}": ("get", "Get the endpoint's model by its served name"),
}
_JSON: Final = {"application/json": {"schema": {"type": "object"}}}


def complete(api: FastAPI) -> None:
    """Makes `api` describe the whole HTTP API."""
    describe = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            schema = describe()
            schema["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": "A project key or a platform key"}
            }
            for route, (method, summary) in _INFERENCE.items():
                schema["paths"][f"/{{project_id}}/{{endpoint_slug}}/v1/{route}"] = _inference(route, method, summary)
        return api.openapi_schema or {}

    api.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents


def _inference(route: str, method: str, summary: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}}
    answer = _JSON if method == "get" else {**_JSON, "text/event-stream": {"schema": {"type": "string"}}}
    operation: dict[str, Any] = {
        "tags": ["inference"],
        "summary": summary,
        "operationId": "_".join(("inference", *re.findall(r"\w+", route))),
        "description": (
            "OpenAI's request and response formats, unchanged and including streaming. The endpoint decides the model."
        ),
        "responses": {
            "200": {"description": "The engine's response", "content": answer},
            **{code: {"description": words["description"], "content": error} for code, words in ERRORS.items()},
        },
        **KEYED,
    }
    if method == "post":
        operation["requestBody"] = {"required": True, "content": _JSON}
    return {
        "servers": [{"url": "/"}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in ("project_id", "endpoint_slug", *(("model",) if "{model}" in route else ()))
        ],
        method: operation,
    }
