"""`modelshare db …` and `modelshare admin …`: commands on the server's machine, without the application."""

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import moment
from modelshare.cli.output import Json, print_json, print_message
from modelshare.server import installation, migrations, recovery, settings
from modelshare.server.errors import ApiError
from modelshare.server.migrations import DataLossError, SchemaTooNewError, UnknownRevisionError
from modelshare.server.migrations.rules import Fit, Schema, fit_of
from modelshare.server.sealing import SealedError

db = typer.Typer(add_completion=False)
admin = typer.Typer(add_completion=False)
secrets = typer.Typer(add_completion=False)

Result = TypeVar("Result")
DataDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder for the database and the weights. Default: ./data.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Prefer MODELSHARE_DATABASE_URL when the URL holds a password: other users of this machine can see the "
        "command line."
    ),
]


@db.callback()
def _db() -> None:
    """Manage the platform's database."""


@admin.callback()
def _admin() -> None:
    """Administer the platform from the server's machine."""


@secrets.callback()
def _secrets() -> None:
    """Manage the keys that encrypt secrets in the database."""


@secrets.command()
def rotate(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Encrypt all secrets in the database again, with a new key. The server may keep running.

    With the setting `secret_keys`, its first key is the new one: put it there and restart all processes first. Without
    it, a new key is created in the data folder.
    """
    count = _run(recovery.rotate_secrets(load_settings(data_dir=data_dir, database_url=database_url)))
    if json:
        print_json({"encrypted": count})
    else:
        print_message(f"Encrypted {count} secret(s) with the newest key.")


@db.command()
def upgrade(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Upgrade the database to this version's schema. `serve` also does this when it starts."""
    loaded = load_settings(data_dir=data_dir, database_url=database_url)
    loaded.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    schema = _run(_upgrade(loaded))
    if json:
        print_json({"revision": schema.revision})
    elif schema.revision == migrations.HEAD:
        print_message(f"The database is at revision {schema.revision}.")
    else:
        print_message(_state(schema))


@db.command()
def check(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Compare the database's schema with the one that this version needs. Changes nothing.

    Exit code 0 if they fit, 1 if the database has to be upgraded or is too new for this version.
    """
    schema = _run(_look(load_settings(data_dir=data_dir, database_url=database_url)))
    fit = fit_of(schema, migrations.HEAD)
    if json:
        print_json({"revision": schema.revision, "needed": migrations.HEAD, "state": fit.value})
    else:
        print_message(_state(schema))
    if fit not in {Fit.CURRENT, Fit.NEWER}:
        raise typer.Exit(ExitCode.FAILED)


@db.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go back to, as in `0026`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Also if that deletes data.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Take the database back to the schema of an older version. Stop all processes first, and make a backup.

    Refuses to delete data that the older schema has no place for, unless you say --yes.
    """
    _run(_downgrade(load_settings(data_dir=data_dir, database_url=database_url), revision, keep_data=not yes))
    if json:
        print_json({"revision": revision})
    else:
        print_message(f"The database is at revision {revision}. Start the version of modelshare that it belongs to.")


@admin.command()
def reset_password(
    email: Annotated[str, typer.Argument(help="E-mail address of the user.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Set a new password for a user, typed at a prompt, and end all their sessions."""
    loaded = load_settings(data_dir=data_dir, database_url=database_url)
    _run(recovery.reset_password(loaded, email, _ask(email)))
    if json:
        print_json({"email": email})
    else:
        print_message(f"Password of {email} changed. All their sessions have ended.")


@admin.command()
def replace_secret(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Use the database with another secret from now on. Stop the server first.

    The new secret is read from MODELSHARE_SECRET or MODELSHARE_SECRET_FILE, else from the data folder, where one is
    created if there is none. Existing download links stop working, and webhooks get new signing secrets.
    """
    _run(recovery.replace_secret(load_settings(data_dir=data_dir, database_url=database_url)))
    if json:
        print_json({"replaced": True})
    else:
        print_message("The database now uses the new secret: start the server. Webhooks now sign with new secrets;")
        print_message("projects get them by deleting their webhooks and creating them again.")


@admin.command()
def export_audit(
    before: Annotated[
        int, typer.Option(parser=moment, metavar="DATE", help="Only entries from before this date, such as 2027-01-31.")
    ],
    output: Annotated[Path, typer.Option(dir_okay=False, help="A new file.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Write audit entries of all projects to a file, oldest first, one JSON object per line."""
    loaded = load_settings(data_dir=data_dir, database_url=database_url)
    count = _run(recovery.export_audit(loaded, output, before=before))
    if json:
        print_json({"entries": count})
    else:
        print_message(f"Wrote {count} audit entries to {output}.")


def load_settings(**given: Any) -> settings.Settings:
    """The server's settings; `given` takes precedence over the environment and the file. Raises CommandError."""
    with settings_errors():
        return settings.load(os.environ, **given)


@contextmanager
def settings_errors() -> Iterator[None]:
    """A wrong setting is wrong usage; a database of a newer version is not."""
    try:
        yield
    except settings.SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except SchemaTooNewError as error:
        raise CommandError(str(error)) from error


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        with settings_errors():
            return asyncio.run(work)
    except ApiError as error:
        raise CommandError(error.message) from error
    except DataLossError as error:
        raise CommandError(f"{error} Make a backup, then repeat the command with --yes.") from error
    except (SealedError, UnknownRevisionError) as error:
        raise CommandError(str(error)) from error


def _state(schema: Schema) -> str:
    at, head = schema.revision, migrations.HEAD
    match fit_of(schema, head):
        case Fit.EMPTY:
            return f"There is no database yet. Run `modelshare db upgrade` or start the server to create it at {head}."
        case Fit.CURRENT:
            return f"The database is at revision {at}, which is what this version needs."
        case Fit.OLDER:
            return (
                f"The database is at revision {at}, and this version needs {head}. Run `modelshare db upgrade`, or "
                "start the server."
            )
        case Fit.NEWER:
            return f"The database is at revision {at}, newer than this version's {head}, and works with it."
        case Fit.TOO_NEW:
            return (
                f"The database is at revision {at}, and does not work with this version, which knows {head}. Install "
                "the version that upgraded it, or a newer one."
            )


async def _upgrade(loaded: settings.Settings) -> Schema:
    async with installation.opened(loaded) as database:
        await migrations.upgrade(database)
        return await migrations.schema_of(database)


async def _look(loaded: settings.Settings) -> Schema:
    async with installation.opened(loaded) as database:
        if database.is_sqlite and not Path(database.url.database or "").exists():
            return Schema(None, None)  # opening it would create it
        return await migrations.schema_of(database)


async def _downgrade(loaded: settings.Settings, revision: str, *, keep_data: bool) -> None:
    if (await _look(loaded)).revision is None:
        raise CommandError("There is no database yet. Set --data-dir or --database-url to the server's.")
    async with installation.opened(loaded) as database:
        await migrations.downgrade(database, revision, keep_data=keep_data)


def _ask(email: str) -> str:
    """The password: typed without echo and twice at a prompt, or the first line of a pipe."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"New password for {email}", hide_input=True, confirmation_prompt=True, err=True)
        return answer
    if line := sys.stdin.readline().rstrip("\r\n"):
        return line
    raise CommandError("No password given. Type it, or pipe it in.", ExitCode.USAGE)
