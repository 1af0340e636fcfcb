"""All queries for projects, keys, people, sessions, members and invitations."""

import uuid
from collections.abc import Collection, Mapping

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager, joinedload

from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.tables import (
    InvitationRow,
    KeyRow,
    KeyValueRow,
    MemberRow,
    PersonRow,
    ProjectRow,
    SessionRow,
)
from modelshare.server.db import any_tenant, capped_count, for_update, scoped_to


async def key_value(session: AsyncSession, value_hash: str) -> KeyValueRow | None:
    """A value with its key and project."""
    return next(iter(await key_values(session, [value_hash])), None)


async def key_values(session: AsyncSession, hashes: Collection[str]) -> list[KeyValueRow]:
    """Values with their keys and projects."""
    statement = select(KeyValueRow).where(KeyValueRow.hash.in_(hashes))
    return list(await session.scalars(statement.options(joinedload(KeyValueRow.key).joinedload(KeyRow.project))))


async def values_of(session: AsyncSession, key_id: uuid.UUID) -> list[KeyValueRow]:
    return list(await session.scalars(select(KeyValueRow).where(KeyValueRow.key_id == key_id)))


async def keys(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[KeyRow]:
    """Newest first."""
    statement = scoped_to(KeyRow, project_id).order_by(KeyRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(KeyRow.id < after) if after else statement))


async def limited_keys(session: AsyncSession, project_id: str, limit: int) -> list[KeyRow]:
    """Newest first, without revoked ones."""
    limits = (KeyRow.requests_per_minute, KeyRow.tokens_per_minute, KeyRow.monthly_token_budget)
    statement = scoped_to(KeyRow, project_id).where(KeyRow.revoked_at.is_(None))
    has_limits = or_(*(each.is_not(None) for each in limits))
    return list(await session.scalars(statement.where(has_limits).order_by(KeyRow.id.desc()).limit(limit)))


async def keys_by_id(session: AsyncSession, project_id: str, key_ids: Collection[uuid.UUID]) -> list[KeyRow]:
    """The project's keys with these IDs, including revoked ones."""
    return list(await session.scalars(scoped_to(KeyRow, project_id).where(KeyRow.id.in_(key_ids))))


async def lock_key(session: AsyncSession, project_id: str, key_id: uuid.UUID) -> KeyRow | None:
    """Locked, so that the second of two concurrent rotations sees the value of the first."""
    return await session.scalar(for_update(scoped_to(KeyRow, project_id).where(KeyRow.id == key_id)))


async def set_last_used(session: AsyncSession, used: Mapping[uuid.UUID, int]) -> None:
    """Writes in a fixed order, so that processes cannot deadlock."""
    await session.execute(
        update(any_tenant(KeyRow)), [{"id": key_id, "last_used_at": used[key_id]} for key_id in sorted(used)]
    )


async def project(session: AsyncSession, project_id: str) -> ProjectRow | None:
    return await session.get(ProjectRow, project_id)


async def projects_named(session: AsyncSession, names: Collection[str]) -> list[ProjectRow]:
    """Projects whose slug or ID is among `names`."""
    statement = select(ProjectRow).where(ProjectRow.slug.in_(names) | ProjectRow.id.in_(names))
    return list(await session.scalars(statement))


async def projects(session: AsyncSession, limit: int, after: tuple[int, str] | None) -> list[ProjectRow]:
    """Oldest first."""
    statement = select(ProjectRow).order_by(ProjectRow.created_at, ProjectRow.id).limit(limit)
    if after:
        created_at, project_id = after
        statement = statement.where(
            (ProjectRow.created_at > created_at)
            | ((ProjectRow.created_at == created_at) & (ProjectRow.id > project_id))
        )
    return list(await session.scalars(statement))


async def count_projects(session: AsyncSession, limit: int) -> int:
    return await session.scalar(capped_count(select(ProjectRow.id), limit)) or 0


async def count_people(session: AsyncSession, limit: int) -> int:
    return await session.scalar(capped_count(select(PersonRow.id), limit)) or 0


async def has_platform_key(session: AsyncSession) -> bool:
    return await session.scalar(select(any_tenant(KeyRow).id).where(KeyRow.project_id.is_(None)).limit(1)) is not None


async def lock_project(session: AsyncSession, project_id: str) -> ProjectRow | None:
    """Required for counting a project's owners and for changing the project."""
    return await session.scalar(for_update(select(ProjectRow).where(ProjectRow.id == project_id)))


async def has_people(session: AsyncSession) -> bool:
    return await session.scalar(select(PersonRow.id).limit(1)) is not None


async def person(session: AsyncSession, person_id: uuid.UUID) -> PersonRow | None:
    return await session.get(PersonRow, person_id)


async def lock_person(session: AsyncSession, person_id: uuid.UUID) -> PersonRow | None:
    return await session.scalar(for_update(select(PersonRow).where(PersonRow.id == person_id)))


async def person_by_email(session: AsyncSession, email: str) -> PersonRow | None:
    return await session.scalar(select(PersonRow).where(PersonRow.email == email))


async def people(session: AsyncSession, limit: int, after: uuid.UUID | None) -> list[PersonRow]:
    """Newest first."""
    statement = select(PersonRow).order_by(PersonRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(PersonRow.id < after) if after else statement))


async def names(session: AsyncSession, person_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    rows = await session.execute(select(PersonRow.id, PersonRow.name).where(PersonRow.id.in_(person_ids)))
    return {row.id: row.name for row in rows}


async def admins(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).where(PersonRow.is_admin)) or 0


async def sessions(session: AsyncSession, hashes: Collection[str]) -> list[SessionRow]:
    """Sessions with their people."""
    statement = select(SessionRow).where(SessionRow.hash.in_(hashes)).options(joinedload(SessionRow.person))
    return list(await session.scalars(statement))


async def end_session(session: AsyncSession, token_hash: str) -> uuid.UUID | None:
    """Returns the person's ID."""
    ended = delete(SessionRow).where(SessionRow.hash == token_hash).returning(SessionRow.person_id)
    return await session.scalar(ended)


async def end_sessions(session: AsyncSession, person_id: uuid.UUID, except_hash: str | None) -> None:
    statement = delete(SessionRow).where(SessionRow.person_id == person_id)
    await session.execute(statement if except_hash is None else statement.where(SessionRow.hash != except_hash))


async def end_expired(session: AsyncSession, now: int) -> None:
    """Deletes sessions and invitations that have expired."""
    await session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
    await session.execute(delete(any_tenant(InvitationRow)).where(InvitationRow.expires_at <= now))


async def project_as_seen_by(
    session: AsyncSession, person_id: uuid.UUID, project: str
) -> tuple[ProjectRow, MemberRole | None] | None:
    """The project with this slug or ID, and the person's role in it."""
    is_here = and_(MemberRow.project_id == ProjectRow.id, MemberRow.person_id == person_id)
    statement = select(ProjectRow, any_tenant(MemberRow).role).outerjoin(MemberRow, is_here)
    row = (await session.execute(statement.where((ProjectRow.slug == project) | (ProjectRow.id == project)))).first()
    return (row[0], MemberRole(row[1]) if row[1] else None) if row else None


async def memberships(session: AsyncSession, person_ids: Collection[uuid.UUID]) -> list[MemberRow]:
    """With their projects, ordered by the projects' names."""
    statement = select(any_tenant(MemberRow)).where(MemberRow.person_id.in_(person_ids)).join(MemberRow.project)
    ordered = statement.order_by(func.lower(ProjectRow.name), ProjectRow.id)
    return list(await session.scalars(ordered.options(contains_eager(MemberRow.project))))


async def members(
    session: AsyncSession, project_id: str, limit: int, after: tuple[int, uuid.UUID] | None
) -> list[MemberRow]:
    """With the people, in the order in which they were added."""
    statement = scoped_to(MemberRow, project_id).order_by(MemberRow.added_at, MemberRow.person_id).limit(limit)
    if after:
        added_at, person_id = after
        is_later = (MemberRow.added_at == added_at) & (MemberRow.person_id > person_id)
        statement = statement.where((MemberRow.added_at > added_at) | is_later)
    return list(await session.scalars(statement.options(joinedload(MemberRow.person))))


async def member(session: AsyncSession, project_id: str, person_id: uuid.UUID) -> MemberRow | None:
    """With the person."""
    statement = scoped_to(MemberRow, project_id).where(MemberRow.person_id == person_id)
    return await session.scalar(statement.options(joinedload(MemberRow.person)))


async def owners(session: AsyncSession, project_id: str) -> int:
    statement = select(func.count()).where(MemberRow.project_id == project_id, MemberRow.role == MemberRole.OWNER)
    return await session.scalar(statement) or 0


async def invitations(session: AsyncSession, project_id: str, now: int) -> list[InvitationRow]:
    """Valid ones, newest first."""
    statement = scoped_to(InvitationRow, project_id).where(InvitationRow.expires_at > now)
    return list(await session.scalars(statement.order_by(InvitationRow.id.desc())))


async def invitation_by_hash(session: AsyncSession, token_hash: str, now: int) -> InvitationRow | None:
    """With its project."""
    statement = select(any_tenant(InvitationRow)).where(
        InvitationRow.hash == token_hash, InvitationRow.expires_at > now
    )
    return await session.scalar(statement.options(joinedload(InvitationRow.project)))


async def take_invitation(session: AsyncSession, token_hash: str, now: int) -> InvitationRow | None:
    """Deletes and returns the invitation, so that only one of two concurrent requests gets it."""
    good = InvitationRow.hash == token_hash, InvitationRow.expires_at > now
    return await session.scalar(delete(any_tenant(InvitationRow)).where(*good).returning(InvitationRow))


async def end_invitation(session: AsyncSession, project_id: str, invitation_id: uuid.UUID) -> bool:
    """False if the project has no such invitation."""
    these = InvitationRow.project_id == project_id, InvitationRow.id == invitation_id
    return await session.scalar(delete(any_tenant(InvitationRow)).where(*these).returning(InvitationRow.id)) is not None
