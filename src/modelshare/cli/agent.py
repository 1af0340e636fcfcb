"""`modelshare agent`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.exits import ExitCode
from modelshare.cli.failures import CommandError
from modelshare.cli.serve import optional_module
from modelshare.client import config

app = typer.Typer(add_completion=False)


@app.command()
def agent(
    join_key: Annotated[
        str | None,
        typer.Option(
            envvar="MODELSHARE_JOIN_KEY",
            help="`msj_...`; needed the first time, then the data folder knows the agent.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help=f"The platform; {config.DEFAULT_URL} if nothing names another.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for weights and the agent's credential.")
    ] = Path("agent"),
    name: Annotated[str | None, typer.Option(help="What to call this agent; the machine's name if not given.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Use this engine only: llamacpp, vllm, sglang, transformers or external.")
    ] = None,
    external_url: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible engine that runs already.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines.")] = False,
) -> None:
    """Run models of your project on this machine. Connects outwards only: no port is opened to the network."""
    if external_url and engine not in {None, "external"}:
        raise CommandError(f"--external-url is of --engine external; you said --engine {engine}.", ExitCode.USAGE)
    code = optional_module("modelshare.agent.main", extra="agent").run(
        url=config.load(os.environ, url=url).url,
        join_key=join_key,
        data_dir=data_dir,
        name=name,
        engine=engine,
        external_url=external_url,
        json_logs=json,
    )
    raise typer.Exit(code)
