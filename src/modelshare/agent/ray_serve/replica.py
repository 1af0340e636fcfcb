"""What Serve runs on the nodes: an engine, behind a check of the agent's key."""

import asyncio
from contextlib import AsyncExitStack, closing
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelshare.agent.engine_call import unstreamed_tokens
from modelshare.agent.engines.base import EngineError, Route
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.sharing import Turn
from modelshare.agent.ray_serve.facts import FACTS, facts_of
from modelshare.agent.ray_serve.keys import is_key
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.node import NodeDeployment
from modelshare.agent.ray_serve.settings import Resources
from modelshare.wire.inference import read

_ROUTES: Final = {route.path: route for route in Route}
_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None)
"""The agent has the limits, and disconnects."""


class Replica:
    async def __init__(self, plan: Deploy, resources: Resources) -> None:  # type: ignore[misc]  # Ray awaits it
        self._digest = plan.key_digest
        self._node = NodeDeployment(plan, resources)
        await self._node.start()
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_NO_LIMIT)

    async def __del__(self) -> None:
        """Awaited by Serve when it stops the replica."""
        await self._http.close()
        await self._node.stop()

    def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        _ = self._node.serving

    async def __call__(self, request: Request) -> Response:
        if not is_key(request.headers.get("authorization", ""), self._digest):
            return Response(status_code=HTTPStatus.UNAUTHORIZED)
        try:
            serving = self._node.serving
        except EngineError:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path == FACTS:
            return Response(msgspec.json.encode(facts_of(serving)), media_type="application/json")
        if (route := _ROUTES.get(path)) not in serving.engine.routes:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return _Relayed(self._http, serving.engine, route, msgspec.json.decode(await request.body(), type=Fields))


class _Relayed(Response):
    """The engine's response. A cancelled one, whose client has left, closes the connection to the engine."""

    def __init__(self, http: aiohttp.ClientSession, engine: Any, route: Route, fields: Fields) -> None:
        super().__init__()
        self._http = http
        self._engine = engine
        self._route = route
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        engine = self._engine
        async with AsyncExitStack() as stack:
            turn, tenant = await self._turn(stack)
            body = msgspec.json.encode(self._fields | engine.sharing.fields(tenant, turn))
            headers = {**engine.headers, "Content-Type": "application/json"}
            stack.enter_context(engine.activity.request())
            stack.enter_context(engine.activity.asking(len(body), unstreamed_tokens(read(self._route, body))))
            answer = await stack.enter_async_context(
                self._http.post(f"{engine.base_url}/{self._route}", data=body, headers=headers)
            )
            named = [(b"content-type", answer.headers.get("Content-Type", "").encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": named})
            async for piece in answer.content.iter_any():
                if answer.status == HTTPStatus.OK:
                    turn.worked = True
                    engine.activity.succeeded()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _turn(self, stack: AsyncExitStack) -> tuple[Turn, str]:
        """The agent names the project by a salt: each keeps the prompts of its own."""
        salt = self._fields.pop("cache_salt", None)
        tenant = msgspec.json.decode(salt, type=str) if salt is not None else ""
        prompt = self._fields.get("messages") or self._fields.get("prompt") or self._fields.get("input") or b""
        began: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()

        def begin(turn: Turn) -> None:
            if not began.done():  # the client may have left
                began.set_result(turn)

        turn = self._engine.turns.turn(tenant, 1, bytes(prompt), begin)
        stack.enter_context(closing(turn))
        await began
        return turn, tenant
