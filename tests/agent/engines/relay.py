"""Calls an engine like the agent's relay."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from modelshare.agent.engine_call import engine_session, streamed_answer, whole_answer
from modelshare.agent.engines.answers import StreamReader, write_answer, write_pieces
from modelshare.agent.engines.base import Engine, Route
from modelshare.agent.engines.counts import Tally, TokenUsage
from modelshare.agent.engines.parts import Subrequest, Weave
from modelshare.agent.engines.relay_rules import PreparedRequest, prepare_request

PUBLIC_NAME = "acme/tiny"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}], "temperature": 0}


def prepared(engine: Engine, route: Route, **fields: Any) -> PreparedRequest:
    body = json.dumps({"model": "whatever", **fields}).encode()
    return prepare_request(route, body, engine.relay_for(PUBLIC_NAME))


async def ask(engine: Engine, route: Route = Route.CHAT, **fields: Any) -> tuple[dict[str, Any], TokenUsage]:
    """A complete answer."""
    request = prepared(engine, route, **fields)
    tally = request.tally()
    async with engine_session(keep=False) as http:
        answer = await whole_answer(http, engine, request, tally)
    return json.loads(write_answer(answer, tally.for_client())), tally.usage


async def stream(engine: Engine, tallies: list[Tally], **fields: Any) -> AsyncGenerator[bytes, None]:
    """A streamed answer, piece by piece; adds its tally to `tallies`."""
    request = prepared(engine, Route.CHAT, stream=True, **fields)
    tally = request.tally()
    tallies.append(tally)
    reader = StreamReader(request, tally)
    weave = Weave()
    async with (
        engine_session(keep=False) as http,
        aclosing(streamed_answer(http, engine, request, reader)) as answer,
    ):
        async for pieces in answer:
            if pieces:
                yield write_pieces(weave.pieces(Subrequest(request), pieces))
    yield weave.end(request, tally.for_client())


def said(events: bytes) -> str:
    """The text of a stream; asserts that it is well-formed and complete, and uses the public name."""
    *chunks, end, rest = events.decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    contents = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert {content["model"] for content in contents} == {PUBLIC_NAME}
    choices = [choice for content in contents for choice in content["choices"]]
    assert len(choices) >= len(contents), "the usage that nobody asked for is hidden"
    return "".join(choice["delta"].get("content") or "" for choice in choices)
