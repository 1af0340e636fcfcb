"""`modelshare admin …`."""

import asyncio
import sys
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, say
from modelshare.cli.serve import DataDir, load_settings, server_module, with_settings_errors

app = typer.Typer(add_completion=False)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Prefer MODELSHARE_DATABASE_URL when the URL holds a password: other users of this machine can see the "
        "command line."
    ),
]


@app.callback()
def admin() -> None:
    """Administer the platform from the server's machine."""


@app.command()
def reset_password(
    email: Annotated[str, typer.Argument(help="E-mail address of the user.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Set a new password for a user, typed at a prompt, and end all their sessions."""
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    password = _ask(email)
    _run(server_module("recovery").reset_password(settings, email, password, now=int(time.time())))
    if json:
        print_json({"email": email})
    else:
        say(f"Password of {email} changed. All their sessions have ended.")


@app.command()
def replace_secret(data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Use the database with another secret from now on. Stop the server first.

    The new secret is read from MODELSHARE_SECRET or MODELSHARE_SECRET_FILE, else from the data folder, where one is
    created if there is none. Existing download links stop working, and webhooks get new signing secrets.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    _run(server_module("recovery").replace_secret(settings))
    if json:
        print_json({"replaced": True})
    else:
        say("The database now uses the new secret: start the server. Webhooks now sign with new secrets;")
        say("projects get them by deleting their webhooks and creating them again.")


def _run(work: Coroutine[Any, Any, None]) -> None:
    errors, migrations = server_module("errors"), server_module("migrations")
    try:
        with_settings_errors(lambda: asyncio.run(work))
    except errors.ApiError as error:
        raise CommandError(error.message) from error
    except migrations.SchemaTooNewError as error:
        raise CommandError(str(error)) from error


def _ask(email: str) -> str:
    """The password: typed without echo and twice at a prompt, or the first line of a pipe."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"New password for {email}", hide_input=True, confirmation_prompt=True, err=True)
        return answer
    if line := sys.stdin.readline().rstrip("\r\n"):
        return line
    raise CommandError("No password given. Type it, or pipe it in.", ExitCode.USAGE)
