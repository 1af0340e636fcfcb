"""Agents from which another agent may fetch a deployment's files: those of its project, and the owner's machine."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.fleet import queries, rules
from modelshare.server.fleet.grants import Granted
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.server.ids import parse_uuid
from modelshare.server.registry import held
from modelshare.wire import direct
from modelshare.wire.agents import Capabilities, DirectSource, Phase
from modelshare.wire.direct import WrongBytes


@dataclass(frozen=True, slots=True)
class Source:
    agent_id: uuid.UUID
    address: str
    fingerprint: str
    storage: str | None
    """Of the files that it has, if it is their owner's machine; None: an agent that may have all files."""


async def sources(session: AsyncSession, agent: AgentRow, granted: Granted) -> list[Source]:
    """In the order in which `agent` should try them."""
    return [*await _of_project(session, agent, granted), *await _of_owner(session, granted)]


def signed(verdicts: Verdicts, found: Sequence[Source], agent_id: uuid.UUID, granted: Granted) -> list[DirectSource]:
    """With a signature for each file. Slow with thousands of files: call it in a thread."""
    reader = str(agent_id)
    signing = []
    for source in found:
        key = verdicts.key_of(str(source.agent_id))
        signatures = [
            direct.sign(key, sha256=file.sha256, reader=reader, expires_at=granted.expires_at)
            if source.storage in {None, file.storage}
            else ""
            for file in granted.files
        ]
        signing.append(
            DirectSource(
                agent_id=str(source.agent_id),
                address=source.address,
                fingerprint=source.fingerprint,
                is_owner=source.storage is not None,
                reader=reader,
                signatures=signatures,
            )
        )
    return signing


async def report_wrong_bytes(session: AsyncSession, agent: AgentRow, report: WrongBytes, *, now: int) -> None:
    """Records in the project's audit log which of its agents sent wrong bytes to this one. Others are left out: they
    are not the project's to judge."""
    for agent_id in sorted(set(report.agents)):
        uid = parse_uuid(agent_id)
        if uid is not None and await queries.own_agent(session, agent.project_id, uid) is not None:
            audit = Audit(session, agent.project_id, f"agent:{agent.id}", now)
            audit.done("agent.report_wrong_bytes", f"agent:{uid}", sha256=report.sha256)


async def _of_project(session: AsyncSession, agent: AgentRow, granted: Granted) -> list[Source]:
    networks = _capabilities(agent).direct_networks
    if not networks:
        return []
    row = granted.deployment
    there = {}
    for other, its_agent in await queries.copies(session, agent.project_id, row.version_id, row.file):
        where = _capabilities(its_agent)
        if other.id != row.id and rules.is_within(where.direct_address, networks):
            is_whole = 0 < other.bytes_total <= other.bytes_done
            copy = rules.Copy(other.id, Phase(other.phase), is_whole=is_whole)
            there[copy] = Source(its_agent.id, where.direct_address, where.direct_fingerprint, None)
    return [there[copy] for copy in rules.copies_before(row.id, there)]


async def _of_owner(session: AsyncSession, granted: Granted) -> list[Source]:
    holders = await held.holders(session, {file.storage for file in granted.files})
    storages = {holder_id: storage for storage, holder_id in holders.items()}
    found = []
    for row in await queries.linked_by_id(session, storages):
        where = _capabilities(row)
        if row.is_holder and where.direct_address:
            found.append(Source(row.id, where.direct_address, where.direct_fingerprint, storages[row.id]))
    return found


def _capabilities(row: AgentRow) -> Capabilities:
    return Capabilities.model_construct(**row.capabilities)
