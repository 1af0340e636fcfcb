"""Migrations and tables agree, on both databases, up and down."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from modelshare.server import migrations
from modelshare.server.db import Database
from modelshare.server.migrations import tables
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(settings: Settings) -> Database:
    return Database(settings.database)


async def test_migrations_make_the_tables_as_they_are(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"include_name": tables.is_ours})
        return list(compare_metadata(context, tables.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


def shape(connection: Connection) -> dict[str, object]:
    """Everything that makes up the schema."""
    there = inspect(connection)
    return {
        table: {
            "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in there.get_columns(table)],
            "primary key": there.get_pk_constraint(table),
            "foreign keys": sorted(there.get_foreign_keys(table), key=str),
            "unique": sorted(there.get_unique_constraints(table), key=str),
            "checks": sorted(there.get_check_constraints(table), key=str),
            "indexes": sorted(
                (
                    index["name"],
                    index["column_names"],
                    index["unique"],
                    {name: str(option) for name, option in index.get("dialect_options", {}).items()},
                )
                for index in there.get_indexes(table)
            ),
        }
        for table in there.get_table_names()
        if table != "alembic_version"
    }


async def test_a_new_database_has_what_the_migrations_make(database: Database) -> None:
    async with database.engine.connect() as connection:
        new = await connection.run_sync(shape)
    await migrations.downgrade(database, "base")
    await migrations.upgrade(database)
    async with database.engine.connect() as connection:
        migrated = await connection.run_sync(shape)
    await database.close()
    assert migrated == new


async def test_down_and_up_again(database: Database) -> None:
    def names(connection: Connection) -> set[str]:
        return {name for name in inspect(connection).get_table_names() if tables.is_ours(name, "table", None)}

    await migrations.downgrade(database, "base")
    async with database.engine.connect() as connection:
        assert await connection.run_sync(names) <= {"alembic_version"}
    await migrations.upgrade(database)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(names) == {*tables.metadata.tables, "alembic_version"}
    await database.close()


async def test_head_is_the_newest_file(database: Database) -> None:
    script = ScriptDirectory(str(migrations.__path__[0]))
    assert script.get_heads() == [migrations.HEAD]
    await database.close()
