"""`modelshare login`."""

import os
import sys
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, say
from modelshare.client import Client, PermissionDeniedError, config

app = typer.Typer(add_completion=False)
PLATFORM_KEY = "msp_"


@app.command()
def login(
    url: Annotated[
        str | None, typer.Option(help=f"The platform; {config.DEFAULT_URL} if nothing names another.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(hidden=True, help="Seen by other users of this machine: without it the key is asked for."),
    ] = None,
    json: Json = False,
) -> None:
    """Store the platform's address and your key for the other commands, once it accepts them."""
    where = config.load(os.environ, url=url, api_key="-").url
    key = config.checked_key(api_key or os.environ.get("MODELSHARE_API_KEY") or _ask(where))
    with Client(where, key) as client:
        _check(client, key)
    path = config.config_path(os.environ)
    config.save(path, config.Config(where, key))
    if json:
        print_json({"url": where, "config": str(path)})
    else:
        say(f"Signed in to {where}. The key is in {path}.")


def _ask(url: str) -> str:
    """The key, typed unseen; from a pipe, its first line."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"API key for {url}", hide_input=True, err=True)
        return answer
    if line := sys.stdin.readline().strip():
        return line
    raise CommandError("No key was given. Pipe it in, or set MODELSHARE_API_KEY.", ExitCode.USAGE)


def _check(client: Client, key: str) -> None:
    """Raises AuthenticationError where the platform does not know the key."""
    try:
        if key.startswith(PLATFORM_KEY):
            next(client.platform.projects(limit=1), None)
        else:
            next(client.models.list(limit=1), None)
    except PermissionDeniedError:
        return  # a key that lacks this scope is a key
