"""`modelshare login`."""

import os
import sys
from typing import Annotated, Final

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, print_message
from modelshare.client import Client, PermissionDeniedError, config

app = typer.Typer(add_completion=False)
PLATFORM_KEY = "msp_"
_OF_PLATFORM: Final = (
    "This is a platform key. It manages the platform: `modelshare platform`, `modelshare projects` and `modelshare "
    "jobs`. It cannot push, share, deploy or chat: use a project's key for that, such as the one that `modelshare "
    "platform projects create` prints."
)


@app.command()
def login(
    url: Annotated[str | None, typer.Option(help=f"URL of the platform. Default: {config.DEFAULT_URL}.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            hidden=True,
            help="Other users of this machine can see the command line: leave this out to be asked for the key.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check and store the platform's URL and your API key for the other commands."""
    where = config.load(os.environ, url=url, api_key="-").url
    key = config.checked_key(api_key or os.environ.get("MODELSHARE_API_KEY") or _ask(where))
    with Client(where, key) as client:
        _check(client, key)
    path = config.config_path(os.environ)
    config.save(path, config.Config(where, key))
    if json:
        print_json({"url": where, "config": str(path)})
    else:
        print_message(f"Logged in to {where}. The key is stored in {path}.")
        if key.startswith(PLATFORM_KEY):
            print_message(_OF_PLATFORM)


def _ask(url: str) -> str:
    """The key: typed at a prompt without echo, or the first line of a pipe."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"API key for {url}", hide_input=True, err=True)
        return answer
    if line := sys.stdin.readline().strip():
        return line
    raise CommandError("No key given. Pipe it in, or set MODELSHARE_API_KEY.", ExitCode.USAGE)


def _check(client: Client, key: str) -> None:
    """Raises AuthenticationError if the platform rejects the key."""
    try:
        if key.startswith(PLATFORM_KEY):
            next(client.platform.projects(limit=1), None)
        else:
            next(client.models.list(limit=1), None)
    except PermissionDeniedError:
        return  # the key is valid, but lacks this scope
