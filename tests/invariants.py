"""Invariants of the rules of sharing, checked in the database itself."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import Database
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.search.index import entry_of
from modelshare.server.sharing.search.queries import SOURCE, shown_to_projects
from modelshare.server.sharing.search.tables import CatalogEntryRow
from modelshare.server.sharing.tables import ShareRow

ENTRY_COLUMNS = CatalogEntryRow.__table__.columns

CONTRADICTIONS = text("""
    SELECT count(*) FROM models m
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
""")
"""Number of models whose counts or role contradict their endpoints, in one statement and therefore one snapshot."""
ORPHANS = text("""
    SELECT count(*) FROM endpoints WHERE model_id IS NULL AND is_active AND project_id <> :owner
""")
"""Active endpoints of other projects whose model was deleted, if `owner` owned all models."""
_TOLD = ("model.share", "model.unshare", "model.change_role")


async def contradictions(database: Database) -> int:
    async with database.read() as session:
        return int(await session.scalar(CONTRADICTIONS) or 0)


async def orphans(database: Database, owner: str) -> int:
    async with database.read() as session:
        return int(await session.scalar(ORPHANS, {"owner": owner}) or 0)


async def roles_told(session: AsyncSession) -> dict[str, str | None]:
    """Each model's role according to the audit log, by `model:<id>`. Checks that the changes are consecutive."""
    roles: dict[str, str | None] = {}
    rows = await session.scalars(
        select(AuditRow).where(AuditRow.outcome == "done", AuditRow.action.in_(_TOLD)).order_by(AuditRow.id)
    )
    for row in rows:
        before = roles.get(row.target)
        after = {"model.share": "role", "model.change_role": "after"}.get(row.action)
        told = None if row.action == "model.share" else row.details["before" if after else "role"]
        assert told == before, f"{row.action} of {row.target} tells of {told}, and it was {before}"
        roles[row.target] = row.details[after] if after else None
    return roles


async def lost_updates(database: Database) -> list[str]:
    """Models whose role differs from the one according to the audit log."""
    async with database.read() as session:
        told = await roles_told(session)
        statement = select(ModelRow.id, ShareRow.role).join(ShareRow, ShareRow.model_id == ModelRow.id, isouter=True)
        return [f"model:{id_}" for id_, role in await session.execute(statement) if told.get(f"model:{id_}") != role]


async def stale_entries(database: Database) -> list[str]:
    """Catalog and search index entries that do not match the rows they are derived from."""
    async with database.read() as session:
        sources = (await session.execute(SOURCE)).all()
        said = {row.model_id: dict(row._mapping) for row in await _entries(session)}
        stale = [f"{model_id} is not shared" for model_id in said.keys() - {row.model_id for row in sources}]
        for row in sources:
            shown_to = await shown_to_projects(session, row.model_id) if row.audience == "targeted" else ()
            wanted = {"model_id": row.model_id, **entry_of(row, shown_to)}
            del wanted["is_learned"]
            if said.get(row.model_id) != wanted:
                stale.append(f"{wanted} is {said.get(row.model_id)}")
    if database.is_sqlite and said:
        async with database.write() as session:
            await session.execute(text("INSERT INTO catalog_index (catalog_index, rank) VALUES ('integrity-check', 1)"))
    return stale


async def assert_consistent(database: Database) -> None:
    """Asserts that no count, role or catalog entry contradicts the rows that it is derived from."""
    assert await contradictions(database) == 0, "the counts or roles of some models contradict their endpoints"
    stale = await stale_entries(database)
    assert not stale, stale


async def _entries(session: AsyncSession) -> Sequence[Row[*tuple[Any, ...]]]:
    return (
        await session.execute(select(*(each for each in ENTRY_COLUMNS if each.key not in {"id", "is_learned"})))
    ).all()
