"""Cached endpoints for the router: immutable, at most a second old, dropped on notification of a change."""

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.cache import GRACE_SECONDS, Entry, NotifiedCache
from modelshare.server.db import Database
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.presenters import MODEL_GONE, progress_of
from modelshare.server.endpoints.service import ENDPOINTS_TOPIC
from modelshare.server.fleet import service as fleet
from modelshare.server.fleet.service import Answering, Target
from modelshare.server.fleet.topics import READY_TOPIC
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.router import queries
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus
from modelshare.wire.tiers import Tier


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An existing endpoint."""

    id: uuid.UUID
    project_id: str
    slug: str
    tier: Tier
    created_at: int
    model_id: uuid.UUID | None
    served_name: str | None
    """The public `model` name. None, like the model's id, unless the endpoint is active and its model exists."""
    status: EndpointStatus
    reason: str | None
    progress: EndpointProgress | None
    versions: frozenset[str]
    """IDs of the versions that may serve."""
    targets: tuple[Target, ...]
    """Deployments that can serve now. Empty unless the endpoint is active."""
    routes: frozenset[str]
    """What they serve."""
    ends_at: int | None
    """When a recall stops it, in Unix seconds."""
    monthly_budget: int | None = None
    """The project's, in millionths of the platform's currency."""
    expected_until: int | None = None
    """If there are no targets: until when an agent is expected that could answer before."""

    def awaits_agent(self, now: float) -> bool:
        """Whether a request should wait for an agent that is changing connections."""
        return not self.targets and self.expected_until is not None and now < self.expected_until


class Snapshots:
    """The snapshots of this process."""

    def __init__(
        self, database: Database, tiers: TierRegistry, clock: Callable[[], float], *, grace: float = GRACE_SECONDS
    ) -> None:
        """`clock` is monotonic, in seconds. `grace`: how long snapshots stay valid in an outage of the database, in
        seconds."""
        self._database = database
        self._tiers = tiers
        self._cache = NotifiedCache[tuple[str, str], Snapshot | None](self._load, clock, grace=grace)
        self._cache.drop_on(database, ENDPOINTS_TOPIC, lambda subject, key, _: subject == "/".join(key))
        for topic in (MODELS_TOPIC, SHARES_TOPIC):
            self._cache.drop_on(
                database, topic, lambda subject, _, seen: seen is not None and subject == str(seen.model_id)
            )
        self._cache.drop_on(
            database, READY_TOPIC, lambda subject, _, seen: seen is not None and subject in seen.versions
        )

    async def get(self, project_id: str, slug: str, *, since: float = -math.inf) -> Snapshot | None:
        """The endpoint, or None. `since`: a clock time; an older snapshot is loaded again."""
        return await self._cache.get((project_id, slug), since=since)

    def known(self, project_id: str, slug: str) -> Entry[Snapshot | None] | None:
        """As `get`, without waiting; None if it has to be loaded."""
        return self._cache.known((project_id, slug))

    async def stop(self) -> None:
        """Call it before the database is closed."""
        await self._cache.stop()

    async def _load(self, key: tuple[str, str]) -> Snapshot | None:
        async with self._database.read() as session:
            return await load_snapshot(session, self._tiers, *key)


async def load_snapshot(session: AsyncSession, tiers: TierRegistry, project_id: str, slug: str) -> Snapshot | None:
    """The endpoint as it is in the database now, or None."""
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
        progress=progress_of(row),
        versions=answering.versions,
        targets=answering.targets,
        routes=frozenset[str]().union(*(target.routes for target in answering.targets)),
        monthly_budget=row.project.monthly_budget,
        ends_at=active[0].ends_at if active else None,
        expected_until=answering.expected_until,
    )
