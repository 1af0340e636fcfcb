"""An OpenAI-compatible engine that behaves in all the correct and incorrect ways of real servers.

The last message or the prompt names a behaviour. `sane` answers "one two three four five" with a usage of 11 and 7
tokens. Its own error messages contain `SECRET`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

SECRET: Final = "/home/operator/models/secret.gguf"
TEXT: Final = "one two three four five"
USAGE: Final = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
EVENTS: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"

Json = dict[str, Any]
Behaviour = Callable[[web.Request, Json], Awaitable[web.StreamResponse]]


def piece(text: str | None, **others: Any) -> Json:
    """One event of a streamed chat."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **others}


def whole(text: str = TEXT, choices: int = 1, **others: Any) -> Json:
    said = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index in range(choices)
    ]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": said, **others}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def pieces(text: str = TEXT) -> list[bytes]:
    return [event(piece(word + " ")) for word in text.split()]


async def stream(
    request: web.Request, parts: Sequence[bytes], content_type: str = EVENTS, status: int = 200
) -> web.StreamResponse:
    answer = web.StreamResponse(status=status, headers={"Content-Type": content_type})
    await answer.prepare(request)
    for part in parts:
        await answer.write(part)
    return answer


def with_usage(usage: Any) -> Behaviour:
    """The usual answer with this usage; None omits it."""

    async def behave(request: web.Request, asked: Json) -> web.StreamResponse:
        told = {} if usage is None else {"usage": usage}
        if not asked.get("stream"):
            return web.json_response(whole(choices=asked.get("n") or 1, **told))
        return await stream(request, [*pieces(), *([event(piece(None, **told))] if told else []), DONE])

    return behave


def streaming(*parts: bytes, content_type: str = EVENTS) -> Behaviour:
    async def behave(request: web.Request, _: Json) -> web.StreamResponse:
        return await stream(request, parts, content_type)

    return behave


def answering(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> Behaviour:
    async def behave(_: web.Request, __: Json) -> web.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, status=status, headers={"Content-Type": content_type, **headers})

    return behave


def failing(*, kind: str = "server_error", code: Any = None, message: str = f"CUDA error in {SECRET}") -> Json:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


async def stays_open(request: web.Request, _: Json) -> web.StreamResponse:
    """Ends the stream, but keeps the connection open."""
    answer = await stream(request, [*pieces(), event(piece(None, usage=USAGE)), DONE])
    await asyncio.Event().wait()
    return answer


async def breaks(request: web.Request, asked: Json) -> web.StreamResponse:
    answer = await stream(request, [*pieces()[:2], b'data: {"choi']) if asked.get("stream") else web.Response()
    assert request.transport is not None
    request.transport.abort()
    return answer


async def never_ends(request: web.Request, _: Json) -> web.StreamResponse:
    answer = await stream(request, pieces())
    await asyncio.Event().wait()
    return answer


_END = [event(piece(None, usage=USAGE)), DONE]
_FORM = b"".join([*pieces(), *_END])
FORMS: Final = {
    "crlf": _FORM.replace(b"\n", b"\r\n"),
    "cr": _FORM.replace(b"\n", b"\r"),
    "bom": b"\xef\xbb\xbf" + _FORM,
    "no-space": _FORM.replace(b"data: ", b"data:"),
    "several-lines": _FORM.replace(b'"choices"', b'\ndata: "choices"'),
    "comments": b": hello\n\n" + _FORM.replace(b"\n\n", b"\n: still there\n\n: and here\n\n"),
    "fields": b"retry: 10\nid: 0\n\n" + _FORM.replace(b"data: {", b"event: message\nid: 7\nother\ndata: {"),
    "other-types": b'event: ping\ndata: {"type": "ping"}\n\nevent: time\ndata: 12:00\n\n' + _FORM,
    "empty": b"data\n\ndata:\n\ndata: null\n\n" + _FORM,
    "no-last-line": _FORM.removesuffix(b"\n\n"),
    "no-done": b"".join([*pieces(), event(piece(None, usage=USAGE))]),
    "more-after-done": _FORM + event(piece("six")),
}
"""Streams with the same contents in different forms."""

BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "sane": with_usage(USAGE),
    "ignores-n": answering(whole(usage=USAGE)),
    "plain": streaming(_FORM, content_type="text/plain"),
    "no-type": streaming(_FORM, content_type="application/octet-stream"),
    "open": stays_open,
    "breaks": breaks,
    "endless": never_ends,
    **{form: streaming(data) for form, data in FORMS.items()},
    "usage-none": with_usage(None),
    "usage-null": with_usage({"prompt_tokens": 11, "completion_tokens": None}),
    "usage-huge": with_usage({"prompt_tokens": 1 << 62, "completion_tokens": 1 << 62}),
    "usage-infinite": with_usage({"prompt_tokens": 1e300, "completion_tokens": 1e300}),
    "usage-negative": with_usage({"prompt_tokens": -1, "completion_tokens": -5}),
    "usage-zero": with_usage({"prompt_tokens": 0, "completion_tokens": 0}),
    "usage-text": with_usage({"prompt_tokens": "11", "completion_tokens": "7"}),
    "usage-float": with_usage({"prompt_tokens": 11.0, "completion_tokens": 7.0}),
    "usage-half": with_usage({"prompt_tokens": 11.5, "completion_tokens": 7.5}),
    "usage-list": with_usage([11, 7]),
    "usage-word": with_usage("eleven"),
    "usage-true": with_usage({"prompt_tokens": True, "completion_tokens": True}),
    "usage-beyond-context": with_usage({"prompt_tokens": 11, "completion_tokens": 2049}),
    "error-event": streaming(*pieces(), event(failing()), DONE),
    "error-first": streaming(event(failing()), DONE),
    "error-text": streaming(event({"error": f"failed: {SECRET}"})),
    "error-named": streaming(*pieces(), b"event: error\n" + event({"message": SECRET})),
    "error-object": streaming(*pieces(), event({"object": "error", "message": SECRET, "code": 500})),
    "refusal-event": streaming(event(failing(kind="invalid_request_error", code=400))),
    "refusal-late": streaming(*pieces(), event(failing(kind="invalid_request_error", code=400))),
    "garbage-event": streaming(*pieces(), b"data: Segmentation fault in " + SECRET.encode() + b"\n\n", DONE),
    "garbage-first": streaming(b"data: {oops " + SECRET.encode() + b"\n\n", DONE),
    "nothing": streaming(),
    "json-type": streaming(_FORM, content_type="application/json"),
    "json-as-events": streaming(json.dumps(failing()).encode()),
    "only-done": streaming(DONE),
    "only-usage": streaming(event({"usage": {"note": SECRET}, "detail": SECRET}), b"data: 5\n\n"),
    "html": answering(f"<html>{SECRET}</html>".encode(), content_type="text/html"),
    "error-in-200": answering(failing()),
    "error-word-in-200": answering({"error": SECRET}),
    "refusal-in-200": answering(failing(kind="invalid_request_error")),
    "no-choices": answering({"id": "c", "detail": SECRET}),
    "choices-empty": answering({"choices": []}),
    "choices-null": answering({"choices": None}),
    "choices-odd": answering({"choices": [{"text": SECRET}]}),
    "choices-words": answering({"choices": ["one", SECRET]}),
    "a-list": answering([SECRET]),
    "half": answering(b'{"choices": [{"mess'),
    "too-long": answering(
        failing(kind="invalid_request_error", code="context_length_exceeded", message="maximum context length"), 400
    ),
    "busy": answering(failing(kind="rate_limit_error", code="rate_limit_exceeded"), 429, **{"Retry-After": "17"}),
    "overloaded": answering({"detail": SECRET}, 503, **{"Retry-After": "9"}),
    "bad-param": answering({"error": {"message": SECRET, "param": "temperature", "code": "bad_value"}}, 400),
    "dead": answering(f"Traceback {SECRET}".encode(), 500, "text/plain"),
}


def application() -> web.Application:
    async def infer(request: web.Request) -> web.StreamResponse:
        asked: Json = await request.json()
        messages = asked.get("messages")
        said = messages[-1]["content"] if messages else asked.get("prompt", asked.get("input"))
        return await BEHAVIOURS[said if said in BEHAVIOURS else "sane"](request, asked)

    app = web.Application(client_max_size=64 << 20, handler_args={"handler_cancellation": True})
    app.router.add_post("/v1/{route:.+}", infer)
    return app
