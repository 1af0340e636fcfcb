"""The state of agents' connections in the database: where each is connected, its desired state and its reports."""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from msgspec import DecodeError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import events
from modelshare.server.audit.service import emit, project_changed
from modelshare.server.db import notify
from modelshare.server.fleet import queries
from modelshare.server.fleet.service import served_name
from modelshare.server.fleet.tables import AgentLinkRow, AgentRow, DeploymentRow
from modelshare.server.fleet.topics import AGENTS_TOPIC, DEPLOYMENTS_TOPIC, READY_TOPIC
from modelshare.server.registry import file_selection
from modelshare.server.registry import service as registry
from modelshare.server.registry.signatures import service as signatures
from modelshare.server.registry.signatures.service import ProvenSignature
from modelshare.wire.agents import AgentState, Capabilities, Phase
from modelshare.wire.link import (
    MAX_DEPLOYMENTS,
    MAX_DESIRED,
    MAX_INTEGER,
    MAX_NAME,
    DeploymentFile,
    DeploymentSignature,
    Desired,
    DesiredDeployment,
    Hello,
    Report,
    decode_from_server,
    encode,
)
from modelshare.wire.text import plain

log = structlog.get_logger()

_BYTES_FOR_IDS: Final = MAX_DEPLOYMENTS * 40
"""Bytes of a `Desired` reserved for the IDs of deletions that the agent has not confirmed."""
STALE_SECONDS: Final = 45
"""After this long without a heartbeat an agent counts as disconnected: the process it was connected to is dead."""
ROUTES: Final = frozenset({"chat/completions", "completions", "embeddings"})


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One connection of one agent; the token distinguishes it from earlier and later ones."""

    agent_id: uuid.UUID
    token: uuid.UUID
    process: str
    """The name of the process that accepted it."""
    address: str
    """URL of that process for the others."""
    linked_to: frozenset[str] = frozenset()
    """Names of the processes to which the agent has other links."""


async def connect(session: AsyncSession, link: LinkInfo, hello: Hello, *, now: int, expected: int = 0) -> bool:
    """Records a link of the agent. False if the agent was suspended or removed meanwhile.

    It ends all links of other runs of the agent's program; then its deployments count as `waiting` until it reports,
    for which requests wait `expected` seconds: nobody knows what happened while it was away. Of the same run, it ends
    those that the agent does not know of.
    """
    row = await queries.lock_agent(session, link.agent_id)
    if row is None or row.state in {AgentState.SUSPENDED, AgentState.REMOVED}:
        return False
    is_same = bool(hello.instance) and row.instance == hello.instance
    others = link.linked_to - {link.process} if is_same else frozenset[str]()
    await queries.end_links(session, row.id, AgentLinkRow.process.not_in(others))
    session.add(
        AgentLinkRow(token=link.token, agent_id=row.id, process=link.process, address=link.address, seen_at=now)
    )
    if row.state != AgentState.ACTIVE:
        _emit(session, events.AGENT_CONNECTED, row, now)
    row.state, row.instance, row.last_seen_at = AgentState.ACTIVE, hello.instance or None, now
    known = Capabilities.model_construct(**row.capabilities)
    row.capabilities = known.model_copy(
        update={
            "engines": hello.engines,
            "accelerator": hello.accelerator,
            "memory_bytes": hello.memory_bytes,
            "disk_free_bytes": hello.disk_free_bytes,
            "agent_version": hello.agent_version,
            "direct_address": hello.direct.address if hello.direct else "",
            "direct_fingerprint": hello.direct.fingerprint if hello.direct else "",
            "direct_networks": hello.direct.networks if hello.direct else [],
        }
    ).model_dump()
    row.expected_until = None if is_same else now + expected
    for deployment in await queries.deployments_to_change(session, [row.id]):
        if not is_same:
            deployment.phase, deployment.reason, deployment.routes = Phase.WAITING, None, []
        notify(session, READY_TOPIC, str(deployment.version_id))
    notify(session, AGENTS_TOPIC, str(row.id))
    project_changed(session, row.project_id)
    return True


async def disconnect(session: AsyncSession, link: LinkInfo, *, now: int, expected: int = 0) -> None:
    """Records the end of a link. `expected`: seconds for which requests wait for the agent, if it has no other."""
    row = await queries.lock_agent(session, link.agent_id)
    if row is not None and await queries.end_link(session, link.agent_id, link.token):
        await _lost_links(session, row, seen=now, now=now, expected=expected)


async def forget_links(session: AsyncSession, address: str, *, now: int, expected: int = 0) -> None:
    """Ends connections that an earlier process at this address left behind."""
    for row in await queries.agents_linked_to(session, address):
        await queries.end_links(session, row.id, AgentLinkRow.address == address)
        await _lost_links(session, row, seen=now, now=now, expected=expected)


async def forget_stale(session: AsyncSession, *, now: int) -> None:
    """Ends connections of processes that died."""
    for row in await queries.stale_agents(session, now - STALE_SECONDS):
        await queries.end_links(session, row.id, AgentLinkRow.seen_at < now - STALE_SECONDS)
        await _lost_links(session, row, seen=row.last_seen_at or now, now=now)


async def heartbeat(session: AsyncSession, tokens: Collection[uuid.UUID], *, now: int) -> set[uuid.UUID]:
    """Records that these links are alive. Returns the tokens of those that the database still knows."""
    return await queries.heartbeat(session, tokens, now=now)


async def wanted(session: AsyncSession, agent_id: uuid.UUID) -> list[DesiredDeployment]:
    """The agent's desired state, as far as it fits into one frame."""
    found: list[DesiredDeployment] = []
    size = 0
    rows = await queries.deployments_of(session, [agent_id])
    signed = await signatures.proven(session, {row.version_id for row in rows})
    for row in rows:
        try:
            one = _wanted(row, signed.get(row.version_id))
            data = encode(Desired(0, [one]))
            decode_from_server(data)
        except (DecodeError, ValueError, LookupError, TypeError, OverflowError) as error:
            log.error("a deployment cannot be sent to its agent", deployment=str(row.id), error=str(error))  # noqa: TRY400 - an expected error
            continue
        size += len(data)
        if size > MAX_DESIRED - _BYTES_FOR_IDS or len(found) == MAX_DEPLOYMENTS:
            log.error("an agent has more deployments than it can be sent", agent=str(agent_id), told=len(found))
            break
        found.append(one)
    return found


async def apply(
    session: AsyncSession, reports: Mapping[tuple[uuid.UUID, str], Report], *, process: str | None = None
) -> None:
    """Stores reports by (agent, deployment); those for deployments that are no longer the agent's are dropped.

    `process`: the one that received them. Reports of agents whose link to it has ended are dropped: it may have been
    stopped for a while, and the agents have reported to another.
    """
    agent_ids = {agent_id for agent_id, _ in reports}
    rows = {row.id: row for row in await queries.lock_agents(session, agent_ids)}
    if process is not None:
        links = await queries.links_of(session, agent_ids)
        rows = {id_: row for id_, row in rows.items() if any(link.process == process for link in links[id_])}
    for row in await queries.deployments_to_change(session, rows.keys()):
        report = reports.get((row.agent_id, str(row.id)))
        if report is None:
            continue
        phase, routes = report.phase, sorted(set(report.routes) & ROUTES)
        if Phase.READY in {row.phase, phase} and (row.phase != phase or row.routes != routes):
            notify(session, READY_TOPIC, str(row.version_id))
        row.phase, row.routes = phase, routes
        row.bytes_done, row.bytes_total = min(report.bytes_done, report.bytes_total), report.bytes_total
        row.reason = report.reason
        notify(session, DEPLOYMENTS_TOPIC, str(row.agent_id))
        project_changed(session, rows[row.agent_id].project_id)


async def _lost_links(session: AsyncSession, row: AgentRow, *, seen: int, now: int, expected: int = 0) -> None:
    """Call it after links of the agent were deleted: without any, it is disconnected."""
    for deployment in await queries.deployments_of(session, [row.id]):
        notify(session, READY_TOPIC, str(deployment.version_id))
    notify(session, AGENTS_TOPIC, str(row.id))
    if row.id in await queries.links_of(session, [row.id]):
        return
    if row.state == AgentState.ACTIVE:
        row.state = AgentState.DISCONNECTED
        _emit(session, events.AGENT_DISCONNECTED, row, now)
    row.last_seen_at, row.expected_until = seen, (now + expected if expected else None)
    project_changed(session, row.project_id)


def _emit(session: AsyncSession, event: str, row: AgentRow, now: int) -> None:
    """Emits an event for the agent's project; shared agents have none."""
    if row.project_id is not None:
        data = events.data_of(f"agent:{row.id}", None, {"name": row.name})
        emit(session, project_id=row.project_id, now=now, event=event, data=data)


def _wanted(row: DeploymentRow, signature: ProvenSignature | None) -> DesiredDeployment:
    version, model = row.version, file_selection.find(row.version, row.file)
    if model is None:
        raise LookupError(f"version {version.version} does not contain the model {row.file}")
    files = [
        DeploymentFile(path=file["path"], size=file["size"], sha256=file["sha256"])
        for file in registry.manifest_of(version)["files"]
    ]
    return DesiredDeployment(
        deployment_id=str(row.id),
        manifest_digest=version.manifest_digest or "",
        served_name=served_name(row),
        version=version.version,
        format=model.format,
        architecture=plain(model.architecture, MAX_NAME) if model.architecture else None,
        task=model.task,
        context_length=_figure(model.context_length),
        parameters=_figure(model.parameters),
        files=model.needed(files),
        max_concurrent=row.max_concurrent,
        root=model.root,
        weights=list(model.weights),
        signature=DeploymentSignature(signature.bundle, [signature.public_key]) if signature else None,
    )


def _figure(value: int | None) -> int | None:
    """The value, or None if it is out of range: files may claim anything."""
    return value if value is not None and 0 <= value <= MAX_INTEGER else None
