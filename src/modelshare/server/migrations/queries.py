"""What a database says about its schema, and what a downgrade would delete."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, Select, delete, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.installation import SchemaRow
from modelshare.server.migrations.rules import Schema
from modelshare.server.migrations.tables import is_ours

_REVISION = text("SELECT version_num FROM alembic_version")


class Size(NamedTuple):
    rows: int
    columns: Mapping[str, str | None]
    """Their defaults."""


async def revision(session: AsyncSession) -> str | None:
    found: str | None = await session.scalar(_REVISION)
    return found


async def oldest_compatible(session: AsyncSession, of_revision: str | None) -> str | None:
    return await session.scalar(_oldest_compatible(of_revision))


def schema(connection: Connection) -> Schema:
    there = inspect(connection)
    if not there.has_table("alembic_version"):
        return Schema(None, None)
    at: str | None = connection.scalar(_REVISION)
    oldest = connection.scalar(_oldest_compatible(at)) if there.has_table(SchemaRow.__tablename__) else None
    return Schema(at, oldest)


def note_schema(connection: Connection, schema: Schema) -> None:
    if inspect(connection).has_table(SchemaRow.__tablename__):
        connection.execute(delete(SchemaRow))
        connection.execute(insert(SchemaRow).values(**schema._asdict()))


def sizes(connection: Connection) -> dict[str, Size]:
    """By table."""
    there = inspect(connection)
    kept = {"alembic_version", SchemaRow.__tablename__}
    return {
        table: Size(
            connection.scalar(text(f'SELECT count(*) FROM "{table}"')) or 0,  # noqa: S608 - a name of our own
            {column["name"]: column["default"] for column in there.get_columns(table)},
        )
        for table in there.get_table_names()
        if table not in kept and is_ours(table, "table", None)
    }


def lost(connection: Connection, before: Mapping[str, Size], after: Mapping[str, Size]) -> list[str]:
    """Tables and columns whose content a change deletes. What is empty, or as it is by default, is no loss."""
    found = []
    for table, (rows, columns) in before.items():
        if table not in after or after[table].rows < rows:
            found += [f"`{table}`"] if rows else []
            continue
        for column in columns.keys() - after[table].columns.keys():
            differs = f'"{column}" IS DISTINCT FROM {columns[column] or "NULL"}'
            statement = f'SELECT EXISTS (SELECT 1 FROM "{table}" WHERE {differs})'  # noqa: S608 - names of our own
            found += [f"`{table}.{column}`"] if connection.scalar(text(statement)) else []
    return sorted(found)


def _oldest_compatible(of_revision: str | None) -> Select[str]:
    """Only what was noted for this revision holds for it."""
    return select(SchemaRow.oldest_compatible).where(SchemaRow.revision == of_revision)
