"""Endpoints as the router sees them: frozen, at most a second old, forgotten as soon as a change is heard of."""

import asyncio
import math
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.service import ENDPOINTS_TOPIC
from modelshare.server.endpoints.views import MODEL_GONE
from modelshare.server.fleet import service as fleet
from modelshare.server.fleet.service import Answering, Target
from modelshare.server.fleet.topics import READY_TOPIC
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.router import queries
from modelshare.server.sharing.tiers import TierBook
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus
from modelshare.wire.tiers import Tier

CACHE_SECONDS: Final = 1.0
"""The longest a process may go by what it remembers of an endpoint, should a notification be lost."""
_MOST: Final = 50_000
_LOOKS: Final = 5
"""How often an endpoint is looked at that changes again while it is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An endpoint that exists."""

    id: uuid.UUID
    project_id: str
    slug: str
    tier: Tier
    created_at: int
    model_id: uuid.UUID | None
    served_name: str | None
    """The public `model` name; None, like its id, unless the endpoint is active and its model there."""
    status: EndpointStatus
    reason: str | None
    progress: EndpointProgress | None
    versions: frozenset[str]
    """Ids of the versions it may be answered with."""
    targets: tuple[Target, ...]
    """Where it can be answered now. Empty unless the endpoint is active."""
    ends_at: int | None
    """When a recall stops it, in Unix seconds."""


Concerns = Callable[[Snapshot | None], bool]
"""Whether a change is one of this endpoint, or (None) may have made one that was not there."""


@dataclass(frozen=True, slots=True)
class _Known:
    started: float
    """When it was looked for, not when it was found: it may be as old as that."""
    snapshot: Snapshot | None
    is_outdated: bool = False
    """It may be from before a change that was heard of while it was looked for."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the database, shared by those who ask meanwhile."""

    task: asyncio.Task[_Known]
    heard: list[Concerns]
    """Changes heard of since it began."""


class Snapshots:
    """What this process remembers."""

    def __init__(self, database: Database, tiers: TierBook, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._database = database
        self._tiers = tiers
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._looks: dict[tuple[str, str], _Look] = {}
        database.subscribe(ENDPOINTS_TOPIC, self._endpoint_changed)
        database.subscribe(MODELS_TOPIC, self._model_changed)
        database.subscribe(READY_TOPIC, self._ready_changed)

    async def get(self, project_id: str, slug: str, *, since: float = -math.inf) -> Snapshot | None:
        """The endpoint, or None when there is none. Those who ask at once share one look.

        `since`, by the clock: what was read before then is too old.
        """
        key = (project_id, slug)
        for _ in range(_LOOKS):
            known = self._known.get(key)
            if known is not None and known.started >= max(since, self._clock() - CACHE_SECONDS):
                return known.snapshot
            look = self._looks.get(key) or self._look(key)
            found = await asyncio.shield(look.task)
            if found.started >= since and not found.is_outdated:
                break
        # One that changes all the time: this look began after it was asked for, and that is all that can be had.
        return found.snapshot

    def _look(self, key: tuple[str, str]) -> _Look:
        heard: list[Concerns] = []
        look = self._looks[key] = _Look(asyncio.ensure_future(self._find(key, heard)), heard)
        # Whoever waited may have left: nobody else would take notice of an error.
        look.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return look

    async def _find(self, key: tuple[str, str], heard: list[Concerns]) -> _Known:
        started = self._clock()
        try:
            snapshot = await self._load(key)
        finally:
            del self._looks[key]
        if any(concerns(snapshot) for concerns in heard):
            return _Known(started, snapshot, is_outdated=True)
        known = self._known[key] = _Known(started, snapshot)
        self._known.move_to_end(key)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known

    async def _load(self, key: tuple[str, str]) -> Snapshot | None:
        async with self._database.read() as session:
            return await look(session, self._tiers, *key)

    def _endpoint_changed(self, subject: str) -> None:
        if subject == "*":
            self._forget(lambda _: True)
            return
        project_id, _, slug = subject.partition("/")
        self._known.pop((project_id, slug), None)
        look = self._looks.get((project_id, slug))
        if look is not None:
            look.heard.append(lambda _: True)

    def _model_changed(self, subject: str) -> None:
        self._forget(lambda seen: subject == "*" or (seen is not None and subject == str(seen.model_id)))

    def _ready_changed(self, subject: str) -> None:
        self._forget(lambda seen: subject == "*" or (seen is not None and subject in seen.versions))

    def _forget(self, concerns: Concerns) -> None:
        for look in self._looks.values():
            look.heard.append(concerns)
        for key, known in list(self._known.items()):
            if concerns(known.snapshot):
                del self._known[key]


async def look(session: AsyncSession, tiers: TierBook, project_id: str, slug: str) -> Snapshot | None:
    """The endpoint as it is in the database now, or None when there is none."""
    row = await queries.endpoint(session, project_id, slug)
    tier = tiers.get(row.tier) if row else None
    if row is None or tier is None:
        return None
    active = await endpoints.active(session, [row.id]) if row.is_active else []
    answering = await fleet.answering(session, active[0]) if active else Answering()
    gone = row.is_active and not active
    return Snapshot(
        id=row.id,
        project_id=row.project_id,
        slug=row.slug,
        tier=tier,
        created_at=row.created_at,
        model_id=active[0].model_id if active else None,
        served_name=active[0].served_name if active else None,
        status=EndpointStatus.FAILED if gone else EndpointStatus(row.status),
        reason=MODEL_GONE if gone else row.status_reason,
        progress=EndpointProgress.model_validate(row.progress) if row.progress else None,
        versions=answering.versions,
        targets=answering.targets,
        ends_at=active[0].ends_at if active else None,
    )
