"""Join keys, agents, grants, and the deployments that can serve an endpoint."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.db import Database, advisory_lock, notify
from modelshare.server.endpoints.service import ActiveEndpoint
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError, UnauthenticatedError
from modelshare.server.fleet import queries, rules
from modelshare.server.fleet.tables import AgentRow, DeploymentRow, JoinKeyRow
from modelshare.server.fleet.topics import AGENTS_TOPIC, DESIRED_TOPIC
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.http import Caller
from modelshare.server.ids import new_secret, parse_uuid, secret_hash
from modelshare.server.paging import Paging
from modelshare.server.registry import file_selection
from modelshare.server.registry.signatures.service import SIGNATURES_TOPIC
from modelshare.server.settings import Settings
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.wire.agents import (
    Agent,
    AgentPatch,
    AgentState,
    Capabilities,
    DeploymentReport,
    Enroll,
    Enrolled,
    JoinKey,
    JoinKeyCreate,
    JoinKeyWithValue,
    Phase,
)
from modelshare.wire.base import Page
from modelshare.wire.tiers import SELF_HOSTED, Tier

_ANOTHER_KEY: Final = "create another one, on the Agents page or with `modelshare join-keys create`"


def follow_changes(database: Database) -> None:
    """Agents that hold a version are told when its signature, or what that is worth, changes."""

    async def changed(session: AsyncSession, version_id: str) -> None:
        for agent_id in await queries.agents_with(session, uuid.UUID(version_id)):
            notify(session, DESIRED_TOPIC, str(agent_id))

    database.before_commit(SIGNATURES_TOPIC, changed)


async def create_join_key(
    session: AsyncSession, caller: Caller, spec: JoinKeyCreate, tiers: TierRegistry, *, now: int
) -> JoinKeyWithValue:
    """Creates a join key of the caller's project, or of the platform for shared agents. Its value is returned only
    here."""
    _check_tiers(caller, spec.tiers, tiers)
    secret = new_secret("msj")
    row = JoinKeyRow(
        project_id=caller.project_id,
        name=spec.name,
        hash=secret_hash(secret),
        tiers=spec.tiers,
        created_at=now,
        expires_at=now + spec.expires_in if spec.expires_in else None,
    )
    session.add(row)
    await session.flush()
    _join_key_changed(session, caller, "join_key.create", row, now)
    return JoinKeyWithValue(**_join_key_view(row).model_dump(), key=secret)


async def list_join_keys(session: AsyncSession, caller: Caller, paging: Paging) -> Page[JoinKey]:
    rows = await queries.join_keys(session, caller.project_id, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([_join_key_view(row) for row in rows], cursor)


async def revoke_join_key(session: AsyncSession, caller: Caller, key_id: str, *, now: int) -> None:
    """Revokes a join key; agents that enrolled with it stay enrolled."""
    uid = parse_uuid(key_id)
    row = await queries.join_key(session, caller.project_id, uid) if uid else None
    if row is None:
        raise NotFoundError("There is no such join key. GET /v1/join-keys lists yours.")
    if row.revoked_at is None:
        row.revoked_at = now
        _join_key_changed(session, caller, "join_key.revoke", row, now)


async def enroll(session: AsyncSession, spec: Enroll, settings: Settings, verdicts: Verdicts, *, now: int) -> Enrolled:
    """Creates an agent and its token. 401 if the join key is unknown, expired or revoked; 409 at the limit of
    agents."""
    key = await queries.join_key_by_hash(session, secret_hash(spec.join_key))
    if key is None:
        raise UnauthenticatedError(f"This join key is unknown. Copy the complete key, or {_ANOTHER_KEY}.")
    if key.revoked_at is not None or (key.expires_at is not None and now >= key.expires_at):
        status = "was revoked" if key.revoked_at is not None else "has expired"
        raise UnauthenticatedError(f"This join key {status}. To enrol the agent, {_ANOTHER_KEY}.")
    if spec.is_holder and key.project_id is None:
        raise InvalidRequestError("Enrol a holder with a join key of its project.", param="is_holder")
    await _check_room(session, key, settings)
    token = new_secret("msa")
    row = AgentRow(
        project_id=key.project_id,
        name=spec.name,
        token_hash=secret_hash(token),
        tiers=key.tiers,
        state=AgentState.PENDING,
        capabilities=spec.capabilities.model_dump(),
        created_at=now,
        is_holder=spec.is_holder,
        join_key_id=key.id,
    )
    session.add(row)
    await session.flush()
    _agent_changed(session, f"join_key:{key.id}", "agent.enroll", row, now, name=row.name)
    return Enrolled(agent_id=str(row.id), token=token, verdict_key=verdicts.key_of(str(row.id)))


async def authenticate(session: AsyncSession, token: str | None) -> AgentRow | None:
    """The agent that has this token; None if it is unknown or the agent was removed."""
    return await queries.agent_by_token(session, secret_hash(token)) if token else None


async def list_agents(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Agent]:
    rows = await queries.agents(session, caller.project_id, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of(await _views(session, rows), cursor)


async def agent_names(session: AsyncSession, caller: Caller, agent_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Names of those of the agents that are the caller's, including removed ones."""
    return await queries.agent_names(session, caller.project_id, agent_ids) if agent_ids else {}


async def count_linked(session: AsyncSession, limit: int) -> int:
    """The number of connected agents of all projects, counted up to `limit`."""
    return await queries.count_linked(session, limit)


async def get_agent(session: AsyncSession, caller: Caller, agent_id: str) -> Agent:
    return (await _views(session, [await _own(session, caller, agent_id)]))[0]


async def agents_holding(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> list[Agent]:
    """The caller's agents that have weights of the model."""
    return await _views(session, await queries.agents_holding(session, caller.project, model_id))


async def change_agent(session: AsyncSession, caller: Caller, agent_id: str, patch: AgentPatch, *, now: int) -> Agent:
    """Renames, suspends or resumes an agent. Suspending deletes its deployments and closes its connection."""
    row = await _own(session, caller, agent_id, lock=True)
    if patch.name is not None and patch.name != row.name:
        _agent_changed(session, caller.actor, "agent.rename", row, now, before=row.name)
        row.name = patch.name
    suspended = row.state == AgentState.SUSPENDED
    if patch.suspended is not None and patch.suspended != suspended:
        if patch.suspended:
            await _deactivate(session, row, AgentState.SUSPENDED, now=now)
        else:
            row.state = AgentState.PENDING if row.last_seen_at is None else AgentState.DISCONNECTED
        action = "agent.suspend" if patch.suspended else "agent.resume"
        _agent_changed(session, caller.actor, action, row, now, name=row.name)
    await session.flush()
    return (await _views(session, [row]))[0]


async def remove_agent(session: AsyncSession, caller: Caller, agent_id: str, *, now: int) -> None:
    """Revokes the agent's token, closes its connection and deletes its deployments."""
    row = await _own(session, caller, agent_id, lock=True)
    await _deactivate(session, row, AgentState.REMOVED, now=now)
    _agent_changed(session, caller.actor, "agent.remove", row, now, name=row.name)


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment that can serve an endpoint's requests now."""

    deployment_id: str
    agent_id: uuid.UUID
    addresses: tuple[str, ...]
    """URLs of the server processes to which the agent is connected."""
    routes: frozenset[str]
    context_length: int | None = None
    """Tokens, if known from the model's files."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Answering:
    versions: frozenset[str] = frozenset()
    """IDs of the versions that may serve: the current one, and the previous one until the current one is ready."""
    targets: tuple[Target, ...] = ()
    expected_until: int | None = None
    """If there are no targets: until when an agent is expected that could answer before."""


async def answering(session: AsyncSession, endpoint: ActiveEndpoint) -> Answering:
    """Deployments on connected agents that can serve the endpoint: of its current version, else of the previous one."""
    serving = await queries.serving(session, endpoint.id)
    contents = [rules.Content(endpoint.version_id, endpoint.file)] if endpoint.version_id else []
    contents += [rules.Content(serving.version_id, serving.file)] if serving else []
    versions = {content.version_id for content in contents}
    found: dict[rules.Content, list[Target]] = defaultdict(list)
    expected = 0
    rows = await queries.ready_or_expected(session, versions)
    links = await queries.links_of(session, {row.agent_id for row in rows})
    for row in rows:
        agent, content = row.agent, rules.Content(row.version_id, row.file)
        if not rules.eligible(endpoint.tier, endpoint.project_id, facts_of(agent)):
            continue
        if row.phase == Phase.READY and agent.state == AgentState.ACTIVE:
            model = file_selection.find(row.version, row.file)
            context = model.context_length if model else None
            addresses = tuple(link.address for link in links[agent.id])
            place, version = (str(row.id), agent.id, addresses), row.version.version
            found[content].append(Target(*place, frozenset(row.routes), context, version))
        elif serving is not None and content in contents:
            expected = max(expected, agent.expected_until or 0)
    targets = next((found[content] for content in contents if found[content]), [])
    return Answering(frozenset(map(str, versions)), tuple(targets), None if targets else expected or None)


async def capacity(session: AsyncSession, caller: Caller, tier: Tier) -> list[str]:
    """Notes for a new endpoint's owner about the agents of a tier; an `endpoints.service.Capacity`."""
    if tier.slug == SELF_HOSTED:
        if await queries.linked_agents(session, caller.project_id):
            return []
        return [
            "No agent of your project is connected, so the endpoint waits for one. Create a join key, on the Agents "
            "page or with `modelshare join-keys create`, and run `modelshare agent` with it on your machine."
        ]
    if any(tier.slug in (agent.tiers or ()) for agent in await queries.linked_agents(session, None)):
        return []
    return [f"No agent of the tier `{tier.slug}` is connected, so the endpoint waits for one."]


def facts_of(row: AgentRow) -> rules.AgentFacts:
    """The agent's properties that the rules use."""
    return rules.AgentFacts(
        id=row.id,
        project_id=row.project_id,
        tiers=frozenset(row.tiers or ()),
        state=AgentState(row.state),
        last_seen_at=row.last_seen_at,
        is_holder=row.is_holder,
    )


def _check_tiers(caller: Caller, wanted: list[str] | None, tiers: TierRegistry) -> None:
    if caller.project_id is not None:  # a project's key, even if an admin creates it
        if wanted is not None:
            raise InvalidRequestError(
                "`tiers` is only for the platform's join keys; a project's agents serve its `self_hosted` "
                "endpoints. Leave the field out.",
                param="tiers",
            )
        return
    shared = [tier.slug for tier in tiers if tier.slug != SELF_HOSTED]
    if not wanted or not set(wanted) <= set(shared):
        raise InvalidRequestError(f"`tiers` must contain one or more shared tiers: {', '.join(shared)}.", param="tiers")


async def _check_room(session: AsyncSession, key: JoinKeyRow, settings: Settings) -> None:
    """409 if the key or its project has reached the maximum number of agents."""
    await advisory_lock(session, f"enroll {key.project_id}")
    of_key = await queries.count_agents(session, settings.agents_per_join_key, join_key_id=key.id)
    if of_key >= settings.agents_per_join_key:
        raise ConflictError(
            f"{of_key} agents have enrolled with this key, the maximum. Remove unused agents, or {_ANOTHER_KEY}."
        )
    if key.project_id is None:
        return
    of_project = await queries.count_agents(session, settings.agents_per_project, project_id=key.project_id)
    if of_project >= settings.agents_per_project:
        raise ConflictError(f"Your project has {of_project} agents, the maximum. Remove unused agents.")


async def _own(session: AsyncSession, caller: Caller, agent_id: str, *, lock: bool = False) -> AgentRow:
    uid = parse_uuid(agent_id)
    row = await queries.own_agent(session, caller.project_id, uid, lock=lock) if uid else None
    if row is None:
        raise NotFoundError("There is no such agent. GET /v1/agents lists yours.")
    return row


async def _deactivate(session: AsyncSession, row: AgentRow, state: AgentState, *, now: int) -> None:
    await weight_deletions.request_deletion(session, await queries.deployments_to_change(session, [row.id]), now=now)
    await queries.end_links(session, row.id)
    row.state, row.instance, row.expected_until = state, None, None
    await session.flush()


async def _views(session: AsyncSession, rows: Iterable[AgentRow]) -> list[Agent]:
    rows = list(rows)
    reports: dict[uuid.UUID, list[DeploymentReport]] = defaultdict(list)
    for deployment in await queries.deployments_of(session, [row.id for row in rows]):
        reports[deployment.agent_id].append(_report(deployment))
    return [
        Agent(
            id=str(row.id),
            name=row.name,
            state=AgentState(row.state),
            tiers=row.tiers,
            is_holder=row.is_holder,
            capabilities=Capabilities.model_construct(**row.capabilities),
            deployments=reports[row.id],
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
        )
        for row in rows
    ]


def _report(row: DeploymentRow) -> DeploymentReport:
    return DeploymentReport(
        id=str(row.id),
        model_name=served_name(row),
        version=row.version.version,
        phase=Phase(row.phase),
        bytes_done=row.bytes_done,
        bytes_total=row.bytes_total,
        reason=row.reason,
        file=row.file or None,
    )


def served_name(row: DeploymentRow) -> str:
    model = row.version.model
    return f"{model.project.slug}/{model.name}"


def _join_key_view(row: JoinKeyRow) -> JoinKey:
    return JoinKey(
        id=str(row.id),
        name=row.name,
        tiers=row.tiers,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _join_key_changed(session: AsyncSession, caller: Caller, action: str, row: JoinKeyRow, now: int) -> None:
    Audit(session, row.project_id, caller.actor, now).done(action, f"join_key:{row.id}", name=row.name)


def _agent_changed(session: AsyncSession, actor: str, action: str, row: AgentRow, now: int, **details: Any) -> None:
    """Call after every change of an agent by its project: records it in the audit log and notifies of it."""
    Audit(session, row.project_id, actor, now).done(action, f"agent:{row.id}", **details)
    notify(session, AGENTS_TOPIC, str(row.id))
