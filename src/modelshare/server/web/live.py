"""Parts of pages that stay up to date: server-sent events, each the part's HTML anew.

A part is rendered again when the database says that something changed, and sent when it is not what was sent before.
The stream ends when its person may not see the part any more, and when the process stops; browsers come back then.
"""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from starlette.responses import StreamingResponse

from modelshare.server.accounts.sessions import PEOPLE_TOPIC
from modelshare.server.background import wait
from modelshare.server.db import Database
from modelshare.server.endpoints.service import ENDPOINTS_TOPIC
from modelshare.server.errors import RateLimitedError
from modelshare.server.fleet.topics import AGENTS_TOPIC, DEPLOYMENTS_TOPIC
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.sharing.topics import SHARES_TOPIC

_TOPICS: Final = (MODELS_TOPIC, SHARES_TOPIC, ENDPOINTS_TOPIC, AGENTS_TOPIC, DEPLOYMENTS_TOPIC, PEOPLE_TOPIC)
_REST_SECONDS: Final = 0.25
"""Between two looks, however much changes."""
_LOOK_SECONDS: Final = 10.0
"""Looks without having been told, should a notification be lost; also keeps proxies from closing a silent stream."""
_OVER: Final = "event: over\ndata:\n\n"
"""Has the page load itself again, which says why."""
_MAX: Final = 40
"""Streams of one person: as many tabs as anybody looks at."""

Part = Callable[[], Awaitable[str | None]]
"""Renders the part; None when it may not be seen any more."""


class Live:
    """All such streams of one process."""

    def __init__(self, database: Database) -> None:
        self._waiting: dict[asyncio.Event, uuid.UUID] = {}
        """With whose stream it is."""
        self._stopping = False
        for topic in _TOPICS:
            database.subscribe(topic, lambda _: self._wake())

    async def stop(self) -> None:
        """Ends all streams."""
        self._stopping = True
        self._wake()

    def stream(self, person_id: uuid.UUID, part: Part) -> StreamingResponse:
        """An answer to this person that goes on. 429 where there are too many."""
        if sum(each == person_id for each in self._waiting.values()) >= _MAX:
            raise RateLimitedError(
                f"You have {_MAX} live pages open, the maximum. Close some of them.",
                retry_after=math.ceil(_LOOK_SECONDS),
            )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(person_id, part), media_type="text/event-stream", headers=headers)

    async def _events(self, person_id: uuid.UUID, part: Part) -> AsyncIterator[str]:
        changed = asyncio.Event()
        self._waiting[changed] = person_id
        sent: str | None = None
        try:
            while not self._stopping:
                changed.clear()
                html = await part()
                if html is None:
                    yield _OVER
                    return
                yield ":\n\n" if html == sent else _event(html)
                sent = html
                await asyncio.sleep(_REST_SECONDS)
                await wait(changed, _LOOK_SECONDS)
        finally:
            del self._waiting[changed]

    def _wake(self) -> None:
        for changed in self._waiting:
            changed.set()


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
