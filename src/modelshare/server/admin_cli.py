"""`modelshare db …` and `modelshare admin …`: commands on the server's machine, without the application."""

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, say
from modelshare.server import migrations, recovery, settings
from modelshare.server.db import Database
from modelshare.server.errors import ApiError
from modelshare.server.migrations import SchemaTooNewError

db = typer.Typer(add_completion=False)
admin = typer.Typer(add_completion=False)

DataDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder of the database and the weights; ./data if not set.")
]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="Better set as MODELSHARE_DATABASE_URL when it holds a password: others see this.")
]


@db.callback()
def _db() -> None:
    """Look after the platform's database."""


@admin.callback()
def _admin() -> None:
    """Help people of the platform, on the server's machine."""


@db.command()
def upgrade(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option(help="`postgresql://user:password@host/name`.")] = None,
    json: Json = False,
) -> None:
    """Bring the database to this version's schema. `serve` does it too; this is for doing it beforehand."""
    loaded = load_settings(data_dir=data_dir, database_url=database_url)
    loaded.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run(_upgrade(Database(loaded.database)))
    if json:
        print_json({"revision": migrations.HEAD})
    else:
        say(f"The database is at revision {migrations.HEAD}.")


@admin.command()
def reset_password(
    email: Annotated[str, typer.Argument(help="Whose password it is.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Give somebody a new password, which is asked for, and sign them out everywhere."""
    loaded = load_settings(data_dir=data_dir, database_url=database_url)
    _run(recovery.reset_password(loaded, email, _ask(email)))
    if json:
        print_json({"email": email})
    else:
        say(f"{email} has the new password, and is signed out everywhere.")


@admin.command()
def replace_secret(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Use the database with another secret from now on, while no server runs on it.

    The new one is what MODELSHARE_SECRET or MODELSHARE_SECRET_FILE says, else what lies in the data folder, where one
    is made if there is none. Download links that are out end, and webhooks get new signing secrets.
    """
    _run(recovery.replace_secret(load_settings(data_dir=data_dir, database_url=database_url)))
    if json:
        print_json({"replaced": True})
    else:
        say("The database is used with the new secret from now on: start the server. Webhooks sign with new secrets;")
        say("projects get them by deleting their webhooks and creating them again.")


def load_settings(**given: Any) -> settings.Settings:
    """The server's settings, `given` winning over environment and file. Raises CommandError."""
    with settings_errors():
        return settings.load(os.environ, **given)


@contextmanager
def settings_errors() -> Iterator[None]:
    """A wrong setting is wrong usage."""
    try:
        yield
    except settings.SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        with settings_errors():
            asyncio.run(work)
    except ApiError as error:
        raise CommandError(error.message) from error
    except SchemaTooNewError as error:
        raise CommandError(str(error)) from error


async def _upgrade(database: Database) -> None:
    try:
        await migrations.upgrade(database)
    finally:
        await database.close()


def _ask(email: str) -> str:
    """The password, typed unseen and twice; from a pipe, its first line."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"New password for {email}", hide_input=True, confirmation_prompt=True, err=True)
        return answer
    if line := sys.stdin.readline().rstrip("\r\n"):
        return line
    raise CommandError("No password was given. Type it, or pipe it in.", ExitCode.USAGE)
