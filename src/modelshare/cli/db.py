"""`modelshare db …`."""

from typing import Annotated

import typer

from modelshare.cli.output import say
from modelshare.cli.serve import DataDir, server_module

app = typer.Typer()


@app.callback()
def db() -> None:
    """Look after the platform's database."""


@app.command()
def upgrade(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option(help="`postgresql://user:password@host/name`.")] = None,
) -> None:
    """Bring the database to this version's schema. `serve` does it too; this is for doing it beforehand."""
    server_module("serve").upgrade_database(data_dir=data_dir, database_url=database_url)
    say("The database is up to date.")
