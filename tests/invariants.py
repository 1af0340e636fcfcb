"""Invariants of the rules of sharing, checked in the database itself."""

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import Database
from modelshare.server.doctor import queries
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tables import ShareRow

ORPHANS = text("""
    SELECT count(*) FROM endpoints WHERE model_id IS NULL AND is_active AND project_id <> :owner
""")
"""Active endpoints of other projects whose model was deleted, if `owner` owned all models."""
_ROLE_ACTIONS = ("model.share", "model.unshare", "model.change_role")


async def contradictions(database: Database) -> int:
    """The number of models whose counts or role contradict their endpoints."""
    async with database.read() as session:
        return len(await queries.contradictions(session))


async def orphans(database: Database, owner: str) -> int:
    async with database.read() as session:
        return int(await session.scalar(ORPHANS, {"owner": owner}) or 0)


async def roles_in_audit_log(session: AsyncSession) -> dict[str, str | None]:
    """Each model's role according to the audit log, by `model:<id>`. Checks that the changes are consecutive."""
    roles: dict[str, str | None] = {}
    rows = await session.scalars(
        select(AuditRow).where(AuditRow.outcome == "done", AuditRow.action.in_(_ROLE_ACTIONS)).order_by(AuditRow.id)
    )
    for row in rows:
        before = roles.get(row.target)
        after = {"model.share": "role", "model.change_role": "after"}.get(row.action)
        logged = None if row.action == "model.share" else row.details["before" if after else "role"]
        assert logged == before, f"{row.action} of {row.target} tells of {logged}, and it was {before}"
        roles[row.target] = row.details[after] if after else None
    return roles


async def lost_updates(database: Database) -> list[str]:
    """Models whose role differs from the one according to the audit log."""
    async with database.read() as session:
        logged = await roles_in_audit_log(session)
        statement = select(ModelRow.id, ShareRow.role).join(ShareRow, ShareRow.model_id == ModelRow.id, isouter=True)
        return [f"model:{id_}" for id_, role in await session.execute(statement) if logged.get(f"model:{id_}") != role]


async def stale_entries(database: Database) -> list[str]:
    """Catalog and search index entries that do not match the rows they are derived from."""
    async with database.read() as session:
        stale = await queries.stale_entries(session)
    if database.is_sqlite:
        async with database.write() as session:
            await session.execute(text("INSERT INTO catalog_index (catalog_index, rank) VALUES ('integrity-check', 1)"))
    return stale


async def assert_consistent(database: Database) -> None:
    """Asserts that no count, role or catalog entry contradicts the rows that it is derived from."""
    assert await contradictions(database) == 0, "the counts or roles of some models contradict their endpoints"
    stale = await stale_entries(database)
    assert not stale, stale
