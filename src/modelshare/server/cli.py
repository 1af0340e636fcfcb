"""`modelshare serve` and `modelshare demo`."""

import gc
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.app import load_part
from modelshare.cli.output import Json, print_json, print_message, print_record
from modelshare.server import serve as server
from modelshare.server.admin_cli import DataDir, load_settings, settings_errors

serve = typer.Typer(add_completion=False)
demo = typer.Typer(add_completion=False)

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on, or 0 for any free port. Default: 8000.")
]


@serve.command("serve")
def _serve(
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
    _run(host=host, port=port, data_dir=data_dir, demo=demo, json=json)


@demo.command("demo")
def _demo(host: Host = None, port: Port = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Run the platform with two projects and a tiny model, to try it out. The same as `modelshare serve --demo`."""
    _run(host=host, port=port, data_dir=data_dir, demo=True, json=json)


def _run(*, host: str | None, port: int | None, data_dir: Path | None, demo: bool, json: bool) -> None:
    """Serves until it is stopped; None leaves a setting to the file and the environment."""
    settings = load_settings(host=host, port=port, data_dir=data_dir)
    greet: server.Started = partial(_greet, json=json)
    if demo:
        start_demo = load_part("modelshare.parts", "demo")
        greet = partial(start_demo, greet=greet, folder=settings.data_dir / "demo", say=print_message)
    gc.disable()  # what is made until the platform answers stays: going through it again and again takes a tenth of it
    with settings_errors():
        server.run(settings, greet)


async def _greet(url: str, first: server.FirstRun | None, *, json: bool) -> None:
    """Prints the addresses once the platform is up; `first` holds the keys of a new platform."""
    keys = {} if first is None else asdict(first)
    if json:
        print_json({"url": url, **keys})
        return
    print_message(f"modelshare is running at {url}; API reference: {url}/docs. Press Ctrl-C to stop.")
    if first is not None:
        print_message("\nThis is a new platform. These keys are shown only once, so keep them safe:\n")
        print_record((name.replace("_", " "), key) for name, key in keys.items())
        print_message(
            f"\nNext: open {url}/sign-up in a browser (the first user to sign up becomes the platform's admin),"
        )
        print_message(f"or run modelshare login --url {url}   (with the project key), then modelshare push PATH")
