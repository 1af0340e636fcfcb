"""The agent's key, of which replicas know only the SHA-256: a cluster's dashboard and logs show what they are given."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Message = Mapping[str, Any]
Scope = Mapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def key_digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def is_key(authorization: str, digest: str) -> bool:
    """Whether this header carries the key with this digest."""
    return hmac.compare_digest(key_digest(authorization.removeprefix("Bearer ")), digest)


class KeyCheck:
    """ASGI middleware: only the agent gets through."""

    def __init__(self, app: App, digest: str) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        sent = dict(scope.get("headers", ())).get(b"authorization", b"").decode("latin-1")
        if scope["type"] == "lifespan" or is_key(sent, self._digest):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close"})
