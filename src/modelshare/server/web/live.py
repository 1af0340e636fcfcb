"""Live updates of pages: server-sent events with a part's new HTML.

A part is rendered again on a notification that its project or person changed, and sent if it is different. The stream
ends when the person may not see the part any more, and when the process stops; browsers then reconnect.
"""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import StreamingResponse

from modelshare.server.accounts.sessions import PEOPLE_TOPIC
from modelshare.server.audit.service import PROJECTS_TOPIC
from modelshare.server.background import wait
from modelshare.server.db import Database
from modelshare.server.errors import RateLimitedError

_REST_SECONDS: Final = 0.25
"""Minimum time between two renderings."""
_LOOK_SECONDS: Final = 10.0
"""Renders after this time without a notification, in case one was lost; also prevents proxies from closing the
stream."""
_OVER: Final = "event: over\ndata:\n\n"
"""Makes the page reload, which shows the reason."""
_MAX: Final = 40
"""Maximum streams per person."""

Part = Callable[[], Awaitable[str | None]]
"""Renders the part; None if the person may not see it any more."""


class Live:
    """The live streams of one process."""

    def __init__(self, database: Database) -> None:
        self._open: set[_Stream] = set()
        self._stopping = False
        database.subscribe(PROJECTS_TOPIC, self._project_changed)
        database.subscribe(PEOPLE_TOPIC, self._person_changed)

    async def stop(self) -> None:
        """Ends all streams."""
        self._stopping = True
        for stream in self._open:
            stream.changed.set()

    def stream(self, person_id: uuid.UUID, project_id: str, part: Part) -> StreamingResponse:
        """A streaming response to this person for this project. 429 if they have too many."""
        if sum(stream.person_id == person_id for stream in self._open) >= _MAX:
            raise RateLimitedError(
                f"You have {_MAX} live pages open, the maximum. Close some of them.",
                retry_after=math.ceil(_LOOK_SECONDS),
            )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = self._events(_Stream(person_id, project_id), part)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(self, stream: "_Stream", part: Part) -> AsyncIterator[str]:
        self._open.add(stream)
        sent: str | None = None
        try:
            while not self._stopping:
                stream.changed.clear()
                html = await part()
                if html is None:
                    yield _OVER
                    return
                yield ":\n\n" if html == sent else _event(html)
                sent = html
                await asyncio.sleep(_REST_SECONDS)
                await wait(stream.changed, _LOOK_SECONDS)
        finally:
            self._open.discard(stream)

    def _project_changed(self, project_id: str) -> None:
        for stream in self._open:
            if project_id in {stream.project_id, "*"}:
                stream.changed.set()

    def _person_changed(self, person_id: str) -> None:
        """Checks the person's streams, since their permissions may have changed."""
        for stream in self._open:
            if person_id in {str(stream.person_id), "*"}:
                stream.changed.set()


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    person_id: uuid.UUID
    project_id: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
