"""Calls an engine like the agent's relay."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.base import Engine, Route
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.parts import UsageCount
from modelshare.agent.engines.relay_rules import PreparedRequest, prepare_request
from modelshare.agent.sequences import Sequences

PUBLIC_NAME = "acme/tiny"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}], "temperature": 0}


Counts = list[UsageCount]


class Answer:
    """Implements `sequences.Output`: pieces of the answer, then None or the failure."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def on_answer(self, body: bytes, usage: TokenUsage) -> None:
        self.on_end(body, usage)

    def on_events(self, events: bytes) -> None:
        self.pieces.put_nowait(events)

    def on_end(self, events: bytes, usage: TokenUsage) -> None:
        del usage
        self.pieces.put_nowait(events)
        self.pieces.put_nowait(None)

    def on_failure(self, error: Exception) -> None:
        self.pieces.put_nowait(error)


def prepared(engine: Engine, route: Route, **fields: Any) -> PreparedRequest:
    body = json.dumps({"model": "whatever", **fields}).encode()
    return prepare_request(route, body, engine.relay_for(PUBLIC_NAME))


async def answered(
    engine: Engine, request: PreparedRequest, counts: Counts, tenant: str = ""
) -> AsyncGenerator[bytes, None]:
    """The answer, piece by piece; adds its counts to `counts`."""
    answer = Answer()
    async with EnginePool(keep=False) as pool:
        sequences = Sequences(pool, engine, tenant, request, answer)
        counts.append(sequences.count)
        sequences.start()
        try:
            while (piece := await answer.pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            sequences.close()


async def ask(engine: Engine, route: Route = Route.CHAT, **fields: Any) -> tuple[dict[str, Any], TokenUsage]:
    """A complete answer."""
    counts: Counts = []
    pieces = [piece async for piece in answered(engine, prepared(engine, route, **fields), counts)]
    return json.loads(b"".join(pieces)), counts[0].usage


def stream(engine: Engine, counts: Counts, **fields: Any) -> AsyncGenerator[bytes, None]:
    """A streamed answer, piece by piece; adds its counts to `counts`."""
    return answered(engine, prepared(engine, Route.CHAT, stream=True, **fields), counts)


def said(events: bytes) -> str:
    """The text of a stream; asserts that it is well-formed and complete, and uses the public name."""
    *chunks, end, rest = events.decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    contents = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert {content["model"] for content in contents} == {PUBLIC_NAME}
    choices = [choice for content in contents for choice in content["choices"]]
    assert len(choices) >= len(contents), "the usage that nobody asked for is hidden"
    return "".join(choice["delta"].get("content") or "" for choice in choices)
