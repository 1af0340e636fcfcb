"""The reconciler: continuously derives the agents' desired state from endpoints and agents.

Level-triggered: each round reads everything and writes only the differences. A notification merely makes the next round
start sooner, so a lost one costs seconds. Several processes may reconcile at once: agents are locked before their
deployments change, and a deployment exists once. Models that are being deleted are skipped, since waiting for their
locks while holding those of agents could deadlock.
"""

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.background import Loop
from modelshare.server.db import Database, notify
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.service import ENDPOINTS_TOPIC, ActiveEndpoint
from modelshare.server.fleet import presence, queries
from modelshare.server.fleet.rules import Content, EndpointFacts, Fleet, HeldDeployment, Observation, Placement
from modelshare.server.fleet.service import facts_of
from modelshare.server.fleet.tables import DeploymentRow
from modelshare.server.fleet.topics import AGENTS_TOPIC, DEPLOYMENTS_TOPIC, DESIRED_TOPIC
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.outages import outage_of
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.agents import Phase
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus

log = structlog.get_logger()

_ROUND_SECONDS = 3.0
"""Between rounds, unless there is a notification."""
_LONG_SECONDS = 5.0
"""A longer round means that the database was slow."""
_REST = 1
"""Pause after a round as a multiple of its duration: reconciling uses at most half a core."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Differences between the actual and the desired state."""

    place: Mapping[Placement, int]
    """Every deployment that should exist, with its concurrent requests."""
    existing: Mapping[Placement, DeploymentRow]
    contents: Mapping[uuid.UUID, Content]
    """By the ids that placements use for them."""
    answered: Mapping[uuid.UUID, uuid.UUID]
    """What each endpoint serves now."""
    serving: Mapping[uuid.UUID, uuid.UUID | None]
    """Changes of what endpoints serve; None for an endpoint that is no longer active."""
    observed: Mapping[uuid.UUID, Observation]
    """Endpoints whose status changed."""
    is_empty: bool
    """Whether there is no agent, no deployment and no endpoint."""

    @property
    def changed(self) -> set[Placement]:
        """Deployments to add, to remove, or to change."""
        return (self.place.keys() ^ self.existing.keys()) | {
            placement
            for placement, row in self.existing.items()
            if placement in self.place and row.max_concurrent != self.place[placement]
        }

    @property
    def agents(self) -> set[uuid.UUID]:
        """Agents whose deployments change."""
        return {placement.agent_id for placement in self.changed}

    @property
    def locked(self) -> set[uuid.UUID]:
        """Agents to lock: those whose deployments change, and those that have what an endpoint will serve.

        Otherwise another process could delete it at the same time, after the endpoint's version has changed again.
        """
        return self.agents.union(*map(self._holders, self.serving.values()))

    @property
    def versions(self) -> set[uuid.UUID]:
        """Versions whose deployments or endpoints change."""
        answers = (self._answers(endpoint_id) for endpoint_id in self.serving)
        return {self.contents[placement.version_id].version_id for placement in self.changed}.union(*answers)

    def within(self, endpoints: Collection[uuid.UUID], other: "_Plan", versions: Collection[uuid.UUID]) -> "_Plan":
        """The part of the plan that concerns these endpoints and versions, and the agents that `other` locks.

        If a change of what an endpoint serves is left out, deployments of its versions are kept: the endpoint may need
        what it is recorded to serve at any time.
        """
        agents, locked = other.agents, other.locked
        serving = {
            id_: content_id
            for id_, content_id in self.serving.items()
            if id_ in endpoints and self._answers(id_) <= set(versions) and self._holders(content_id) <= locked
        }
        needed = set[uuid.UUID]().union(*(self._answers(id_) for id_ in self.serving.keys() - serving.keys()))

        def inside(placement: Placement) -> bool:
            return placement.agent_id in agents and self.contents[placement.version_id].version_id in versions

        existing = {placement: row for placement, row in self.existing.items() if inside(placement)}
        kept = {
            placement: row.max_concurrent
            for placement, row in existing.items()
            if self.contents[placement.version_id].version_id in needed
        }
        place = {placement: limit for placement, limit in self.place.items() if inside(placement)}
        return replace(self, place=kept | place, existing=existing, serving=serving)

    def parts(self) -> "Iterator[_Plan]":
        """The same plan in parts: one per agent, and one per endpoint whose served model changes."""
        current = {placement: row.max_concurrent for placement, row in self.existing.items()}
        for agent_id in self.agents:
            of_agent = {placement: limit for placement, limit in self.place.items() if placement.agent_id == agent_id}
            of_others = {placement: limit for placement, limit in current.items() if placement.agent_id != agent_id}
            yield replace(self, place=of_others | of_agent, serving={})
        for endpoint_id, content_id in self.serving.items():
            yield replace(self, place=current, serving={endpoint_id: content_id})

    def _answers(self, endpoint_id: uuid.UUID) -> set[uuid.UUID]:
        """The old and the new version of an endpoint whose served model changes."""
        found = (self.answered.get(endpoint_id), self.serving[endpoint_id])
        return {self.contents[content_id].version_id for content_id in found if content_id}

    def _holders(self, content_id: uuid.UUID | None) -> set[uuid.UUID]:
        return {placement.agent_id for placement in self.existing if placement.version_id == content_id}


class Reconciler:
    def __init__(self, database: Database, tiers: TierRegistry, clock: Callable[[], float]) -> None:
        self._database = database
        self._tiers = tiers
        self._clock = clock
        self._has_nothing = False
        self.loop = Loop("reconcile the fleet", self._round, every=_ROUND_SECONDS, is_idle=lambda: self._has_nothing)
        self.loop.wake()
        self._last_outage = -math.inf
        """When the database was last unavailable, by the event loop's clock."""
        for topic in (ENDPOINTS_TOPIC, AGENTS_TOPIC, DEPLOYMENTS_TOPIC):
            database.subscribe(topic, self.loop.wake)
        for topic in (MODELS_TOPIC, SHARES_TOPIC):
            database.subscribe(topic, self._models_changed)

    def _models_changed(self, subject: str) -> None:
        """Models matter only where there is an endpoint or a deployment of them."""
        if subject == "*" or not self._has_nothing:
            self.loop.wake()

    async def reconcile(self) -> None:
        """One round."""
        now = int(self._clock())
        async with self._database.read() as session:
            stale = not self._may_be_outage() and await queries.has_stale_agents(session, now - presence.STALE_SECONDS)
            plan = await self._plan(session, now)
        self._has_nothing = plan.is_empty and not stale
        if stale:
            async with self._database.write() as session:
                await presence.forget_stale(session, now=now)
        if plan.agents or plan.serving:
            await _run_logged("cannot reconcile the fleet", self._apply(plan, now))
        if plan.observed:
            await _run_logged("cannot store the states of endpoints", self._write_observed(plan.observed, now))

    async def _apply(self, plan: _Plan, now: int) -> None:
        """Writes deployments and what endpoints serve; if that fails, in parts, so that a bad row does not block
        others."""
        try:
            async with self._database.write() as session:
                endpoint_ids = await queries.keep_endpoints(session, plan.serving)
                await queries.lock_agents(session, plan.locked)
                versions = await queries.keep_versions(session, plan.versions)
                # Plan again under the locks: another process may have made changes.
                fresh = (await self._plan(session, now)).within(endpoint_ids, plan, versions)
                answers = {id_: fresh.contents[content] if content else None for id_, content in fresh.serving.items()}
                await queries.keep_serving(session, answers)
                await _place(session, fresh, now)
                _notify(session, plan.agents)
        except Exception as error:
            if outage_of(error) is not None or len(plan.agents) + len(plan.serving) <= 1:
                raise
            for part in plan.parts():
                await _run_logged("cannot reconcile a part of the fleet", self._apply(part, now))

    async def _write_observed(self, observed: Mapping[uuid.UUID, Observation], now: int) -> None:
        """Writes the endpoints' statuses; if that fails, one by one."""
        try:
            async with self._database.write() as session:
                await endpoints.lock(session, observed)
                for endpoint_id, seen in observed.items():
                    await endpoints.observe(
                        session, endpoint_id, status=seen.status, reason=seen.reason, progress=seen.progress, now=now
                    )
        except Exception as error:
            if outage_of(error) is not None or len(observed) == 1:
                raise
            for endpoint_id, seen in observed.items():
                what = f"cannot store the state of endpoint {endpoint_id}"
                await _run_logged(what, self._write_observed({endpoint_id: seen}, now))

    async def _round(self) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            await self.reconcile()
        except Exception:
            self._last_outage = clock()
            raise
        took = clock() - started
        if took > _LONG_SECONDS:
            self._last_outage = clock()
        await asyncio.sleep(took * _REST)

    def _may_be_outage(self) -> bool:
        """Whether heartbeats may be missing only because of an outage of the database."""
        return asyncio.get_running_loop().time() < self._last_outage + presence.STALE_SECONDS

    async def _plan(self, session: AsyncSession, now: int) -> _Plan:
        active = await endpoints.active(session)
        answered = {row.endpoint_id: Content(row.version_id, row.file) for row in await queries.servings(session)}
        rows = [(Content(row.version_id, row.file), row) for row in await queries.deployments(session)]
        contents = [*_wanted(active).values(), *answered.values(), *(content for content, _ in rows)]
        existing = {Placement(row.agent_id, content.id): row for content, row in rows}
        agents = [facts_of(row) for row in await queries.present_agents(session)]
        fleet = Fleet(agents, [_holding(placement, row) for placement, row in existing.items()], now=now)
        facts = self._facts(active, answered)
        seen = {endpoint.id: fleet.observe(endpoint) for endpoint in facts}
        written = await queries.observations(session)
        serving = {id_: content.id for id_, content in answered.items()}
        changed: dict[uuid.UUID, uuid.UUID | None] = dict.fromkeys(serving.keys() - seen.keys())
        changed.update(
            (id_, observation.serving)
            for id_, observation in seen.items()
            if observation.serving is not None and observation.serving != serving.get(id_)
        )
        return _Plan(
            place=fleet.place(facts),
            existing=existing,
            contents={content.id: content for content in contents},
            answered=serving,
            serving=changed,
            observed={
                id_: observation for id_, observation in seen.items() if written.get(id_) != _written(observation)
            },
            is_empty=not (agents or existing or seen or serving),
        )

    def _facts(self, active: Iterable[ActiveEndpoint], answered: Mapping[uuid.UUID, Content]) -> list[EndpointFacts]:
        wanted, found = _wanted(active), []
        for endpoint in active:
            tier, wants, has = self._tiers.get(endpoint.tier), wanted.get(endpoint.id), answered.get(endpoint.id)
            found.append(
                EndpointFacts(
                    id=endpoint.id,
                    project_id=endpoint.project_id,
                    tier=endpoint.tier,
                    model_id=endpoint.model_id,
                    wanted=wants.id if wants else None,
                    serving=has.id if has else None,
                    max_concurrent=tier.max_concurrent_requests if tier else 1,
                    keeps_version=bool(wants and has and wants.version_id == has.version_id),
                )
            )
        return found


def _wanted(active: Iterable[ActiveEndpoint]) -> dict[uuid.UUID, Content]:
    """What each endpoint should serve, by its ID."""
    return {each.id: Content(each.version_id, each.file) for each in active if each.version_id}


async def _run_logged(what: str, work: Awaitable[None]) -> None:
    """Runs one of several tasks: logs its error so that the others still run, unless the database is unavailable."""
    try:
        await work
    except Exception as error:
        if outage_of(error) is not None:
            raise
        log.warning(what, exc_info=error)


async def _place(session: AsyncSession, plan: _Plan, now: int) -> None:
    """Adds, changes and ends deployments. Their agents must be locked."""
    added = list[DeploymentRow]()
    for placement, limit in plan.place.items():
        row = plan.existing.get(placement)
        if row is not None:
            row.max_concurrent = limit
        else:
            content = plan.contents[placement.version_id]
            added.append(
                DeploymentRow(
                    agent_id=placement.agent_id,
                    version_id=content.version_id,
                    file=content.file,
                    phase=Phase.WAITING,
                    max_concurrent=limit,
                    created_at=now,
                )
            )
    session.add_all(added)
    await session.flush()
    for row in await queries.with_agent_and_version(session, [row.id for row in added]):
        weight_deletions.placement_changed(session, row)
    ended = [row for placement, row in plan.existing.items() if placement not in plan.place]
    await weight_deletions.request_deletion(session, ended, now=now)


def _notify(session: AsyncSession, agents: Collection[uuid.UUID]) -> None:
    for agent_id in agents:
        notify(session, DESIRED_TOPIC, str(agent_id))
    if agents:
        # New deployments change the status of endpoints: another round.
        notify(session, DEPLOYMENTS_TOPIC, "*")


def _holding(placement: Placement, row: DeploymentRow) -> HeldDeployment:
    return HeldDeployment(placement, Phase(row.phase), row.bytes_done, row.bytes_total, row.reason)


def _written(seen: Observation) -> tuple[EndpointStatus, str | None, EndpointProgress | None]:
    return seen.status, seen.reason, seen.progress
