"""`modelshare serve`, and the only place in the client's half of the package that names the server."""

import gc
import importlib
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, print_record, say

app = typer.Typer(add_completion=False)

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on, or 0 for any free port. Default: 8000.")
]
DataDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder for the database and the weights. Default: ./data.")
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add two projects and a tiny model, to try it out.")] = False,
    json: Json = False,
) -> None:
    """Run the platform: API, pages and router in one process.

    Settings come from modelshare.toml and MODELSHARE_* variables; these options take precedence.

    For an empty data folder, creates a database, a platform key and a first project, and prints their keys once.
    """
    run(host=host, port=port, data_dir=data_dir, demo=demo, json=json)


def run(*, host: str | None, port: int | None, data_dir: Path | None, demo: bool, json: bool) -> None:
    """Serves until it is stopped; None leaves a setting to the file and the environment."""
    gc.disable()  # what is made until the platform answers stays: going through it again and again takes a tenth of it
    settings = load_settings(host=host, port=port, data_dir=data_dir)
    greet = _greeting(json=json)
    if demo:
        play = optional_module("modelshare.demo.run", extra="server,agent")
        greet = partial(play.started, greet=greet, folder=settings.data_dir / "demo", say=say)
    with_settings_errors(lambda: server_module("serve").run(settings, greet))


def load_settings(**given: Any) -> Any:
    """The server's settings; `given` takes precedence over the environment and the file. Raises CommandError."""
    return with_settings_errors(lambda: server_module("settings").load(os.environ, **given))


def with_settings_errors(work: Callable[[], Any]) -> Any:
    """Runs the block; an invalid setting is a usage error."""
    try:
        return work()
    except server_module("settings").SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def server_module(name: str) -> ModuleType:
    """`modelshare.server.<name>`. Raises CommandError where the server is not installed."""
    return optional_module(f"modelshare.server.{name}", extra="server")


def optional_module(name: str, *, extra: str) -> ModuleType:
    """A part of modelshare that needs extra packages. Raises CommandError where those are not installed."""
    try:
        # By name and here: the client installs without what these parts import, and never imports them itself.
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("modelshare"):
            raise
        raise CommandError(
            f"This command needs extra packages ({error.name} is missing). Run `pip install 'modelshare[{extra}]'`."
        ) from error


def _greeting(*, json: bool) -> Callable[[str, Any], Awaitable[None]]:
    """Prints the addresses once the platform is up; `first` holds the keys of a new platform."""

    async def started(url: str, first: Any) -> None:
        keys = () if first is None else ("platform_key", "project_id", "project_slug", "project_key")
        if json:
            print_json({"url": url, **{name: getattr(first, name) for name in keys}})
            return
        say(f"modelshare is running at {url}; API reference: {url}/docs. Press Ctrl-C to stop.")
        if first is not None:
            say("\nThis is a new platform. These keys are shown only once, so keep them safe:\n")
            print_record((name.replace("_", " "), getattr(first, name)) for name in keys)
            say(f"\nNext: open {url}/sign-up in a browser (the first user to sign up becomes the platform's admin),")
            say(f"or run modelshare login --url {url}   (with the project key), then modelshare push PATH")

    return started
