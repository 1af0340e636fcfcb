"""Writes the migration that brings the newest revision to the tables as they are.

`python scripts/new_migration.py 0002 "what changes"`
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from modelshare.server import migrations
from modelshare.server.db import Database


async def main(revision: str, message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite+aiosqlite:///{folder}/new.db")
        async with database.engine.begin() as connection:
            await connection.run_sync(_write, revision, message)
        await database.close()


def _write(connection: Connection, revision: str, message: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    if ScriptDirectory.from_config(config).get_heads():
        command.upgrade(config, "head")
    script = command.revision(config, message, autogenerate=True, rev_id=revision)
    assert isinstance(script, Script)
    path = Path(script.path)
    lines = path.read_text().replace("astext_type=Text()", "astext_type=sa.Text()").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "# ###" not in line))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
