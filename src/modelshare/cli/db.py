"""`modelshare db …`."""

import asyncio
from typing import Annotated, Any

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.output import Json, print_json, say
from modelshare.cli.serve import DataDir, load_settings, server_module

app = typer.Typer(add_completion=False)


@app.callback()
def db() -> None:
    """Manage the platform's database."""


@app.command()
def upgrade(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option(help="`postgresql://user:password@host/name`.")] = None,
    json: Json = False,
) -> None:
    """Upgrade the database to this version's schema. `serve` also does this when it starts."""
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrations = server_module("migrations")
    try:
        asyncio.run(_upgrade(server_module("db").Database(settings.database), migrations))
    except migrations.SchemaTooNewError as error:
        raise CommandError(str(error)) from error
    if json:
        print_json({"revision": migrations.HEAD})
    else:
        say(f"The database is at revision {migrations.HEAD}.")


async def _upgrade(database: Any, migrations: Any) -> None:
    try:
        await migrations.upgrade(database)
    finally:
        await database.close()
