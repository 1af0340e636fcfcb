"""All queries for endpoints and usage."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import any_tenant, capped_count, for_key_share, for_update, scoped_to, upsert
from modelshare.server.endpoints.tables import EndpointRow, UsageRow, UsageWriterRow
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tables import RecallRow
from modelshare.wire.endpoints import EndpointStatus

_COUNTS: Final = [
    *(UsageRow.requests, UsageRow.errors, UsageRow.prompt_tokens, UsageRow.completion_tokens, UsageRow.estimated),
    UsageRow.cost_rest,
]


def _whole(statement: Select[EndpointRow]) -> Select[EndpointRow]:
    """With everything that determines which version it should serve, and until when."""
    model = joinedload(EndpointRow.model)
    return statement.options(
        joinedload(EndpointRow.project),
        model.joinedload(ModelRow.project),
        model.selectinload(ModelRow.versions),
        joinedload(EndpointRow.model_recall),
        joinedload(EndpointRow.share),
        joinedload(EndpointRow.invitation),
        joinedload(EndpointRow.last_shown),
        joinedload(EndpointRow.last_public),
    )


async def endpoint(session: AsyncSession, project_id: str, slug: str) -> EndpointRow | None:
    """With its project, its model and the model's versions, refreshed from the database."""
    statement = _whole(scoped_to(EndpointRow, project_id).where(EndpointRow.slug == slug))
    return await session.scalar(statement.execution_options(populate_existing=True))


async def lock_endpoint(session: AsyncSession, project_id: str, slug: str) -> EndpointRow | None:
    """Locked, without relationships. Lock its model first."""
    return await session.scalar(for_update(scoped_to(EndpointRow, project_id).where(EndpointRow.slug == slug)))


async def lock_endpoints(session: AsyncSession, ids: Collection[uuid.UUID]) -> None:
    """Locks endpoints of any project, and prevents the deletion of their models, which would update endpoints too."""
    models = select(any_tenant(EndpointRow).model_id).where(EndpointRow.id.in_(ids))
    await session.scalars(
        for_key_share(select(any_tenant(ModelRow).id).where(ModelRow.id.in_(models)).order_by(ModelRow.id))
    )
    await session.scalars(
        for_update(select(any_tenant(EndpointRow)).where(EndpointRow.id.in_(ids)).order_by(EndpointRow.id))
    )


async def model_id_of(session: AsyncSession, project_id: str, slug: str) -> uuid.UUID | None:
    statement = scoped_to(EndpointRow, project_id).where(EndpointRow.slug == slug)
    return await session.scalar(statement.with_only_columns(EndpointRow.model_id))


async def page(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[EndpointRow]:
    """Newest first."""
    statement = _whole(scoped_to(EndpointRow, project_id)).order_by(EndpointRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(EndpointRow.id < after) if after else statement))


async def under_recall(session: AsyncSession, project_id: str) -> list[EndpointRow]:
    """A project's endpoints of models under recall; never those of its own models."""
    statement = (
        _whole(scoped_to(EndpointRow, project_id))
        .join(RecallRow, RecallRow.model_id == EndpointRow.model_id)
        .join(ModelRow, ModelRow.id == EndpointRow.model_id)
        .where(ModelRow.project_id != project_id)
        .order_by(RecallRow.deadline, EndpointRow.slug)
    )
    return list(await session.scalars(statement))


async def slugs(session: AsyncSession, project_id: str, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    statement = scoped_to(EndpointRow, project_id).where(EndpointRow.id.in_(ids))
    rows = await session.execute(statement.with_only_columns(EndpointRow.id, EndpointRow.slug))
    return {row.id: row.slug for row in rows}


async def count_active(session: AsyncSession, limit: int) -> int:
    return (
        await session.scalar(capped_count(select(any_tenant(EndpointRow).id).where(EndpointRow.is_active), limit)) or 0
    )


async def active(session: AsyncSession, ids: Collection[uuid.UUID] | None) -> list[EndpointRow]:
    """All active endpoints of all projects whose model exists, or only those of `ids`."""
    statement = select(any_tenant(EndpointRow)).where(EndpointRow.is_active, EndpointRow.model_id.is_not(None))
    if ids is not None:
        statement = statement.where(EndpointRow.id.in_(ids))
    return list(await session.scalars(_whole(statement).order_by(EndpointRow.id)))


async def followers(session: AsyncSession, model_id: uuid.UUID, owner_id: str) -> dict[str, int]:
    """Numbers of active endpoints of other projects that are set to `latest`, by project."""
    statement = (
        select(EndpointRow.project_id, func.count())
        .where(EndpointRow.model_id == model_id, EndpointRow.is_active, EndpointRow.project_id != owner_id)
        .where(EndpointRow.version.is_(None))
        .group_by(EndpointRow.project_id)
    )
    return {project_id: int(count) for project_id, count in await session.execute(statement)}


async def active_of(session: AsyncSession, model_id: uuid.UUID) -> list[EndpointRow]:
    """Active endpoints of a model, with everything that determines which version each gets."""
    statement = select(any_tenant(EndpointRow)).where(EndpointRow.model_id == model_id, EndpointRow.is_active)
    return list(await session.scalars(_whole(statement).order_by(EndpointRow.id)))


async def recalled(session: AsyncSession, ids: Collection[uuid.UUID], now: int) -> set[uuid.UUID]:
    """Those under a recall whose deadline has passed; never the owner's own endpoints."""
    statement = (
        select(EndpointRow.id)
        .join(EndpointRow.model)
        .join(RecallRow, RecallRow.model_id == ModelRow.id)
        .where(EndpointRow.id.in_(ids), EndpointRow.project_id != ModelRow.project_id, RecallRow.deadline <= now)
    )
    return set(await session.scalars(statement))


async def lock_active_of_others(session: AsyncSession, model_id: uuid.UUID, owner_id: str) -> list[EndpointRow]:
    """Active endpoints of a model that are not its owner's, locked in a fixed order. Lock the model first."""
    statement = select(EndpointRow).where(
        EndpointRow.model_id == model_id, EndpointRow.is_active, EndpointRow.project_id != owner_id
    )
    return list(await session.scalars(for_update(statement.order_by(EndpointRow.id))))


async def lock_stopped_of_others(session: AsyncSession, model_id: uuid.UUID, owner_id: str) -> list[EndpointRow]:
    """Like `lock_active_of_others`, for endpoints that a recall stopped: only those are inactive for a reason."""
    statement = select(EndpointRow).where(
        EndpointRow.model_id == model_id,
        EndpointRow.status == EndpointStatus.INACTIVE,
        EndpointRow.project_id != owner_id,
        EndpointRow.status_reason.is_not(None),
    )
    return list(await session.scalars(for_update(statement.order_by(EndpointRow.id))))


async def active_by_tier_and_project(session: AsyncSession, model_id: uuid.UUID) -> list[tuple[str, str, int]]:
    """(tier, project id, active endpoints) of a model."""
    statement = (
        select(any_tenant(EndpointRow).tier, EndpointRow.project_id, func.count())
        .where(EndpointRow.model_id == model_id, EndpointRow.is_active)
        .group_by(EndpointRow.tier, EndpointRow.project_id)
    )
    return [(tier, project_id, count) for tier, project_id, count in await session.execute(statement)]


async def projects_showing(session: AsyncSession, model_id: uuid.UUID) -> set[str]:
    """IDs of the model's project and of those with an endpoint of it, active or not."""
    owner = select(any_tenant(ModelRow).project_id).where(ModelRow.id == model_id)
    deployers = select(any_tenant(EndpointRow).project_id).where(EndpointRow.model_id == model_id)
    return set(await session.scalars(owner.union(deployers)))


async def deploying_projects(session: AsyncSession, model_id: uuid.UUID, limit: int = 200) -> list[tuple[str, int]]:
    """(public name, active endpoints) of the projects that deploy a model, most endpoints first."""
    many = func.count()
    statement = (
        select(ProjectRow.name, many)
        .join(EndpointRow, EndpointRow.project_id == ProjectRow.id)
        .where(EndpointRow.model_id == model_id, EndpointRow.is_active)
        .group_by(ProjectRow.id, ProjectRow.name)
        .order_by(many.desc(), ProjectRow.name)
        .limit(limit)
    )
    return [(name, count) for name, count in await session.execute(statement)]


async def deployers(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> list[tuple[uuid.UUID, str, int]]:
    """(model ID, public name, active endpoints) of the projects that deploy these models, most endpoints first."""
    many = func.count()
    statement = (
        select(EndpointRow.model_id, ProjectRow.name, many)
        .join(ProjectRow, EndpointRow.project_id == ProjectRow.id)
        .where(EndpointRow.model_id.in_(model_ids), EndpointRow.is_active)
        .group_by(EndpointRow.model_id, ProjectRow.id, ProjectRow.name)
        .order_by(many.desc(), ProjectRow.name)
    )
    return [(model_id, name, count) for model_id, name, count in await session.execute(statement) if model_id]


async def tokens_by_model(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    total = func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens)
    statement = (
        select(any_tenant(UsageRow).model_id, total).where(UsageRow.model_id.in_(model_ids)).group_by(UsageRow.model_id)
    )
    return {model_id: int(tokens) for model_id, tokens in await session.execute(statement) if model_id}


async def tokens_served(session: AsyncSession, model_id: uuid.UUID) -> int:
    total = func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0)
    return int(await session.scalar(select(total).where(UsageRow.model_id == model_id)) or 0)


async def note_batch(session: AsyncSession, writer: uuid.UUID, batch: int, now: int) -> bool:
    """Whether the batch is newer than the writer's last one, which it then is."""
    statement = upsert(session, UsageWriterRow).values(id=writer, batch=batch, written_at=now)
    newer = statement.on_conflict_do_update(
        index_elements=[UsageWriterRow.id],
        set_={"batch": batch, "written_at": now},
        where=UsageWriterRow.batch < batch,
    )
    return await session.scalar(newer.returning(UsageWriterRow.id)) is not None


async def add_usage(session: AsyncSession, rows: Sequence[dict[str, Any]], limit: int, cost_limit: int) -> None:
    statement = upsert(session, UsageRow).values(rows)
    least = func.min if session.get_bind().dialect.name == "sqlite" else func.least
    key = [UsageRow.day, UsageRow.endpoint_id, UsageRow.key_id]
    limits = {**dict.fromkeys(_COUNTS, limit), UsageRow.cost_micros: cost_limit}
    added = {count.key: least(count, most) + statement.excluded[count.key] for count, most in limits.items()}
    await session.execute(statement.on_conflict_do_update(index_elements=key, set_=added))


async def days_before(session: AsyncSession, day: str, limit: int) -> list[tuple[str, str]]:
    """(project ID, day) of rows from before this day, oldest first, without months."""
    is_day = func.length(UsageRow.day) == len(day)
    statement = select(any_tenant(UsageRow).project_id, UsageRow.day).where(UsageRow.day < day, is_day)
    ordered = statement.distinct().order_by(UsageRow.day, UsageRow.project_id).limit(limit)
    return [(project_id, found) for project_id, found in await session.execute(ordered)]


async def take_day(session: AsyncSession, project_id: str, day: str) -> list[dict[str, Any]]:
    """Deletes and returns a project's rows of a day: of two processes, only one gets each."""
    taken = delete(UsageRow).where(UsageRow.project_id == project_id, UsageRow.day == day)
    columns = UsageRow.__table__.columns
    return [dict(row) for row in (await session.execute(taken.returning(*columns))).mappings()]


async def forget_writers(session: AsyncSession, before: int) -> None:
    await session.execute(delete(UsageWriterRow).where(UsageWriterRow.written_at < before))


async def note_tier(session: AsyncSession, tier: str, signers: str | None) -> None:
    """Has every endpoint of the tier say what the tier requires of signatures now."""
    changed = EndpointRow.tier == tier, EndpointRow.tier_signers.is_distinct_from(signers)
    await session.execute(update(any_tenant(EndpointRow)).where(*changed).values(tier_signers=signers))
