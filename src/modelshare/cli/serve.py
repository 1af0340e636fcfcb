"""`modelshare serve`, and the only place in the client's half of the package that names the server."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from modelshare.cli.failures import CommandError

app = typer.Typer()

Host = Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not set.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 8000 if not set.")]
DataDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder of the database and the weights; ./data if not set.")
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add two projects and a tiny model to try it out.")] = False,
) -> None:
    """Run the platform: API, pages and router in one process.

    Settings come from modelshare.toml and MODELSHARE_*; these options win. An empty data folder gets a database, a
    platform key and a first project, whose keys are printed once.
    """
    run(host=host, port=port, data_dir=data_dir, demo=demo)


def run(*, host: str | None, port: int | None, data_dir: Path | None, demo: bool) -> None:
    """Runs until it is stopped. None leaves a setting to the file and the environment."""
    server_module("serve").run(host=host, port=port, data_dir=data_dir, demo=demo)


def server_module(name: str) -> ModuleType:
    """`modelshare.server.<name>`. Raises CommandError where the server is not installed."""
    return optional_module(f"modelshare.server.{name}", extra="server")


def optional_module(name: str, *, extra: str) -> ModuleType:
    """A part of modelshare that needs more than the client does. Raises CommandError where that is not installed."""
    try:
        # By name and here: the client installs without what these parts import, and never imports them itself.
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("modelshare"):
            raise
        raise CommandError(
            f"This needs more than the client: `pip install 'modelshare[{extra}]'` ({error.name} is missing)."
        ) from error
