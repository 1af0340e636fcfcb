"""`modelshare admin …`."""

import asyncio
import sys
import time
from typing import Annotated

import typer

from modelshare.cli.exits import ExitCode
from modelshare.cli.failures import CommandError
from modelshare.cli.output import Json, print_json, say
from modelshare.cli.serve import DataDir, load_settings, server_module, with_settings_errors

app = typer.Typer(add_completion=False)


@app.callback()
def admin() -> None:
    """Help people of the platform, on the server's machine."""


@app.command()
def reset_password(
    email: Annotated[str, typer.Argument(help="Whose password it is.")],
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option(help="`postgresql://user:password@host/name`.")] = None,
    json: Json = False,
) -> None:
    """Give somebody a new password, which is asked for, and sign them out everywhere."""
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    password = _ask(email)
    recovery, errors, migrations = (server_module(name) for name in ("recovery", "errors", "migrations"))
    try:
        with_settings_errors(
            lambda: asyncio.run(recovery.reset_password(settings, email, password, now=int(time.time())))
        )
    except errors.ApiError as error:
        raise CommandError(error.message) from error
    except migrations.SchemaTooNewError as error:
        raise CommandError(str(error)) from error
    if json:
        print_json({"email": email})
    else:
        say(f"{email} has the new password, and is signed out everywhere.")


def _ask(email: str) -> str:
    """The password, typed unseen and twice; from a pipe, its first line."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"New password for {email}", hide_input=True, confirmation_prompt=True, err=True)
        return answer
    if line := sys.stdin.readline().rstrip("\r\n"):
        return line
    raise CommandError("No password was given. Type it, or pipe it in.", ExitCode.USAGE)
