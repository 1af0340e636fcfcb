"""Migrations only add, so that processes of the version before go on writing beside an upgrade.

What a migration removes is no longer used since an earlier version: it names that version's revision in
`unused_since`. See docs/decisions/0056-upgrades.md.
"""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import event

from modelshare.server import migrations
from modelshare.server.db import Database
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio
LAST_RELEASE = "0026"
"""`HEAD` of the version before this one, whose processes may run beside it; raised with each release."""
_ADDED = re.compile(r"ADD COLUMN (\w+)")
_ON_NEW = re.compile(r"CREATE TABLE (\w+)|ALTER TABLE (\w+)|CREATE (?:UNIQUE )?INDEX \w+ ON (\w+)")


class Migration:
    """What the statements of one migration take away from older processes."""

    def __init__(self) -> None:
        self.new_tables = set[str]()
        self.new_columns = set[str]()
        self.dropped_checks = set[str]()
        self.taken = list[str]()

    def ran(self, statement: str) -> None:
        statement = " ".join(statement.replace('"', "").split())
        made = re.match(r"CREATE TABLE (\w+)", statement)
        if made:
            self.new_tables.add(made[1])
        self.new_columns.update(_ADDED.findall(statement))
        if (dropped := re.search(r"DROP CONSTRAINT (ck_\w+)$", statement)) is not None:
            self.dropped_checks.add(dropped[1])
        elif not self._only_adds(statement):
            self.taken.append(statement)

    @property
    def found(self) -> list[str]:
        return self.taken + [f"DROP CONSTRAINT {check}" for check in sorted(self.dropped_checks)]

    def _only_adds(self, statement: str) -> bool:
        table = next((name for match in [_ON_NEW.match(statement)] if match for name in match.groups() if name), None)
        if table in self.new_tables or self._is_about_the_schema(statement):
            return True
        of_new_columns = bool(self.new_columns & set(re.findall(r"\w+", statement.partition("(")[2])))
        match statement.split("(", maxsplit=1)[0].split():
            case ["SELECT" | "WITH" | "SET", *_] | ["CREATE", "INDEX", *_] | ["DROP", "INDEX", *_]:
                adds = "INDEX uq_" not in statement
            case ["INSERT", "INTO", into, *_]:
                adds = into in self.new_tables
            case ["UPDATE", _, "SET", column, *_]:
                adds = column in self.new_columns
            case ["ALTER", "TABLE", _, "ADD", "COLUMN", *_]:
                adds = "NOT NULL" not in statement or "DEFAULT" in statement
            case ["ALTER", "TABLE", _, "ADD", "CONSTRAINT", name, *_]:
                adds = of_new_columns or name in self.dropped_checks  # made wider, which older processes do not notice
                self.dropped_checks.discard(name)
            case ["ALTER", "TABLE", _, "ALTER", "COLUMN", *_]:
                adds = statement.endswith("DROP NOT NULL") or "SET STATISTICS" in statement
            case _:
                adds = statement.startswith("CREATE UNIQUE INDEX") and of_new_columns
        return adds

    def _is_about_the_schema(self, statement: str) -> bool:
        return bool(re.match(r"(UPDATE|INSERT INTO|DELETE FROM) (alembic_version|schema_compatibility)\b", statement))


def newer(than: str) -> Iterator[ModuleType]:
    """The migrations after this one, oldest first."""
    scripts = ScriptDirectory(str(migrations.__path__[0])).walk_revisions()
    yield from reversed([script.module for script in scripts if script.revision > than])


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_migrations_only_add(settings: Settings) -> None:
    database = Database(settings.database)
    await migrations.downgrade(database, LAST_RELEASE)
    current = Migration()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        current.ran(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    taken = {}
    for module in newer(LAST_RELEASE):
        current.__init__()  # type: ignore[misc] # a fresh one for the listener
        await migrations.upgrade(database, module.revision)
        if current.found and not hasattr(module, "unused_since"):
            taken[module.revision] = current.found
    await database.close()
    assert taken == {}, "a later version can do this, once no process of an older one is supported (`unused_since`)"


def test_what_is_removed_was_unused_in_the_last_release() -> None:
    since = {module.revision: getattr(module, "unused_since", LAST_RELEASE) for module in newer(LAST_RELEASE)}
    assert {revision: each for revision, each in since.items() if each > LAST_RELEASE} == {}
    everything = [getattr(module, "unused_since", LAST_RELEASE) for module in newer(LAST_RELEASE)]
    assert max([migrations.OLDEST_COMPATIBLE, *everything]) == migrations.OLDEST_COMPATIBLE


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE keys",
        "ALTER TABLE keys DROP COLUMN name",
        "ALTER TABLE keys RENAME TO api_keys",
        "ALTER TABLE keys RENAME COLUMN name TO label",
        "ALTER TABLE keys ALTER COLUMN name SET NOT NULL",
        "ALTER TABLE keys ALTER COLUMN name TYPE INTEGER",
        "ALTER TABLE keys ADD COLUMN more VARCHAR NOT NULL",
        "ALTER TABLE keys DROP CONSTRAINT ck_keys_state",
        "ALTER TABLE keys DROP CONSTRAINT pk_keys",
        "ALTER TABLE keys ADD CONSTRAINT uq_keys_name UNIQUE (name)",
        "CREATE UNIQUE INDEX uq_keys_name ON keys (name)",
        "DROP INDEX uq_keys_name",
        "UPDATE keys SET name = 'x'",
        "DELETE FROM keys",
        "DO $$ BEGIN END $$",
    ],
)
def test_what_older_processes_would_miss_is_found(statement: str) -> None:
    migration = Migration()
    migration.ran(statement)
    assert len(migration.found) == 1


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE notes (id UUID)", "CREATE UNIQUE INDEX uq_notes ON notes (id)", "INSERT INTO notes VALUES (1)"],
        ["ALTER TABLE keys ADD COLUMN more VARCHAR", "UPDATE keys SET more = name"],
        ["ALTER TABLE keys ADD COLUMN more VARCHAR DEFAULT '' NOT NULL", "CREATE INDEX ix_keys_more ON keys (more)"],
        ["ALTER TABLE keys ADD COLUMN more VARCHAR", "ALTER TABLE keys ADD CONSTRAINT uq_keys_more UNIQUE (more)"],
        ["ALTER TABLE keys DROP CONSTRAINT ck_keys_state", "ALTER TABLE keys ADD CONSTRAINT ck_keys_state CHECK (a)"],
        ["DROP INDEX ix_keys_name", "SELECT 1", "UPDATE alembic_version SET version_num = '1'"],
    ],
    ids=["a table", "a column", "a default", "unique values of a new column", "a wider check", "an index"],
)  # fmt: skip
def test_what_only_adds_is_allowed(statements: list[str]) -> None:
    migration = Migration()
    for statement in statements:
        migration.ran(statement)
    assert migration.found == []
