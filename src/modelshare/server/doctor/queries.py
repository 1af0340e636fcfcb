"""What the doctor reads from the database: whether its rows agree with each other."""

from collections.abc import Iterable

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import any_tenant
from modelshare.server.jobs import GivenUpRow
from modelshare.server.registry.tables import BlobRow, FileRow, ModelRow, VersionRow
from modelshare.server.sharing.search.index import entry_of
from modelshare.server.sharing.search.queries import SOURCE, shown_to_projects
from modelshare.server.sharing.search.tables import CatalogEntryRow
from modelshare.server.storage.stores import PLATFORM

_ENTRY_COLUMNS = CatalogEntryRow.__table__.columns
_CONTRADICTIONS = text("""
    SELECT m.name FROM models m
    LEFT JOIN shares s ON s.model_id = m.id
    LEFT JOIN (
        SELECT e.model_id, count(*) AS total,
            sum(CASE WHEN e.tier <> 'self_hosted' THEN 1 ELSE 0 END) AS on_shared,
            sum(CASE WHEN e.project_id <> o.project_id THEN 1 ELSE 0 END) AS foreigners
        FROM endpoints e JOIN models o ON o.id = e.model_id WHERE e.is_active GROUP BY e.model_id
    ) e ON e.model_id = m.id
    WHERE m.active_endpoints <> coalesce(e.total, 0)
        OR m.shared_tier_endpoints <> coalesce(e.on_shared, 0)
        OR m.foreign_endpoints <> coalesce(e.foreigners, 0)
        OR s.deployment_count <> coalesce(e.total, 0)
        OR s.shared_tier_endpoints <> coalesce(e.on_shared, 0)
        OR (s.role = 'shared' AND coalesce(e.on_shared, 0) = 0)
    ORDER BY m.name
""")


async def contradictions(session: AsyncSession) -> list[str]:
    """Names of models whose counts or role contradict their endpoints, in one statement and therefore one snapshot."""
    return list(await session.scalars(_CONTRADICTIONS))


async def stale_entries(session: AsyncSession) -> list[str]:
    """Catalog entries that do not match the rows that they are derived from, each with what is wrong."""
    sources = (await session.execute(SOURCE)).all()
    columns = [each for each in _ENTRY_COLUMNS if each.key not in {"id", "is_learned"}]
    entries = (await session.execute(select(*columns))).mappings()
    stored = {row["model_id"]: dict(row) for row in entries}
    stale = [f"{model_id} is not shared" for model_id in stored.keys() - {row.model_id for row in sources}]
    for row in sources:
        shown_to = await shown_to_projects(session, row.model_id) if row.audience == "targeted" else ()
        wanted = {"model_id": row.model_id, **entry_of(row, shown_to)}
        del wanted["is_learned"]
        if stored.get(row.model_id) != wanted:
            stale.append(f"{row.owner}/{row.name}: {wanted} is {stored.get(row.model_id)}")
    return stale


async def damage_of_sqlite(session: AsyncSession) -> list[str]:
    """What SQLite finds wrong in its file, and rows that refer to nothing; a few of each."""
    damage = [str(each) for each in await session.scalars(text("PRAGMA integrity_check(3)")) if each != "ok"]
    orphans = (await session.execute(text("PRAGMA foreign_key_check"))).all()
    return damage + [f"rows of {table} refer to nothing" for table in sorted({row[0] for row in orphans})]


async def newest_change(session: AsyncSession) -> int | None:
    """When the audit log says that something last happened."""
    return await session.scalar(select(any_tenant(AuditRow).at).order_by(AuditRow.id.desc()).limit(1))


async def failed_jobs(session: AsyncSession) -> int:
    return int(await session.scalar(select(func.count()).select_from(GivenUpRow)) or 0)


async def stored_files(session: AsyncSession) -> list[tuple[str, int, str]]:
    """Key, size and digest of every file on the platform's storage, ordered by digest, which is a random order."""
    blob = any_tenant(BlobRow)
    statement = select(blob.key, blob.size, blob.sha256).where(blob.storage == PLATFORM, blob.pin.is_(None))
    return [(key, size, sha256) for key, size, sha256 in await session.execute(statement.order_by(blob.sha256))]


async def models_with(session: AsyncSession, keys: Iterable[str]) -> list[str]:
    """Names of models, with versions, that have one of these files."""
    statement = (
        select(any_tenant(ModelRow).name, VersionRow.version)
        .join(VersionRow, VersionRow.model_id == ModelRow.id)
        .join(FileRow, FileRow.version_id == VersionRow.id)
        .join(
            any_tenant(BlobRow),
            (BlobRow.project_id == FileRow.project_id)
            & (BlobRow.storage == FileRow.storage)
            & (BlobRow.sha256 == FileRow.sha256),
        )
        .where(BlobRow.storage == PLATFORM, BlobRow.key.in_(list(keys)[:1000]))
    )
    return [
        f"{name} {version}" for name, version in await session.execute(statement.distinct().order_by(ModelRow.name))
    ]
