"""`modelshare agent`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelshare.agent.direct.cli_options import ListenOption, parsed
from modelshare.agent.direct.options import Address, DirectOptions
from modelshare.agent.main import run
from modelshare.agent.ray_serve.cli_options import RaySettingsOption
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.client import config
from modelshare.wire import signing

app = typer.Typer(add_completion=False)
JOIN_KEY = "MODELSHARE_JOIN_KEY"


@app.command()
def agent(  # noqa: PLR0917 - each is an option of the command line
    join_key: Annotated[
        str | None,
        typer.Option(
            envvar=JOIN_KEY,
            hidden=True,
            help="Other users of this machine can see the command line: prefer --join-key-file.",
        ),
    ] = None,
    join_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MODELSHARE_JOIN_KEY_FILE",
            help=f"File with the join key, or - for standard input, instead of {JOIN_KEY}=msj_.... Needed only the "
            "first time; then the data folder identifies the agent.",
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help=f"URL of the platform. Default: {config.DEFAULT_URL}.")] = None,
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the weights and the agent's credential.")
    ] = Path("agent"),
    name: Annotated[str | None, typer.Option(help="Name of this agent. Default: the machine's name.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Use this engine only: llamacpp, vllm, sglang, transformers, external, ray, or what a plug-in adds."
        ),
    ] = None,
    external_url: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible engine that is already running.")
    ] = None,
    ray_settings: RaySettingsOption = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests that an engine handles at the same time; others wait, and projects take turns. For an "
            "external engine, give its real limit: requests that queue inside it are served in order of arrival.",
        ),
    ] = None,
    signer: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Public key (PEM): serve only models that are signed with it, whatever the platform says; repeat for "
            "more.",
        ),
    ] = None,
    share_on_network: Annotated[
        Address | None,
        typer.Option(
            parser=parsed(Address.parse),
            metavar="ADDRESS[:PORT]",
            help="Fetch files from other agents of the project on this machine's network, and let them fetch here, at "
            "this IP address: most bytes then leave the owner's storage only once.",
        ),
    ] = None,
    listen: ListenOption = None,
    allow_direct: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR",
            help="Network in which this agent may connect to other agents and to machines of owners, besides public "
            "addresses; repeat for more.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the log as lines of JSON.")] = False,
) -> None:
    """Run your project's models on this machine. The agent only connects outwards, and opens no port to the network
    without --share-on-network.

    Engines get only the environment variables they need. MODELSHARE_ENGINE_ENV names others to pass on, such as
    LD_PRELOAD,MY_*.
    """
    _check_engine(engine, external_url, ray_settings)
    if join_key and join_key_file:
        raise CommandError(f"The join key is given twice, in {JOIN_KEY} and in a file. Use only one.", ExitCode.USAGE)
    if listen is not None and share_on_network is None:
        raise CommandError(
            "--listen needs --share-on-network, with the address at which others connect.", ExitCode.USAGE
        )
    try:
        direct = DirectOptions.sharing(share_on_network, listen, allow_direct or ())
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    code = run(
        url=config.load(os.environ, url=url).url,
        join_key=join_key or (_read(join_key_file) if join_key_file else None),
        data_dir=data_dir,
        name=name,
        engine=engine,
        external_url=external_url,
        ray=ray_settings or RaySettings(),
        parallel=parallel,
        json_logs=json,
        signers=tuple(map(_public_key, signer or ())),
        direct=direct,
    )
    raise typer.Exit(code)


def _check_engine(engine: str | None, external_url: str | None, ray_settings: RaySettings | None) -> None:
    if external_url and engine not in {None, "external"}:
        raise CommandError(f"--external-url requires --engine external, but --engine is {engine}.", ExitCode.USAGE)
    if ray_settings and engine != "ray":
        raise CommandError("--ray-settings requires --engine ray.", ExitCode.USAGE)


def _public_key(path: Path) -> signing.PublicKey:
    try:
        return signing.read_public_key(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, signing.UnusableKeyError) as error:
        raise CommandError(f"{path}: {error}", ExitCode.USAGE) from error


def _read(path: Path) -> str:
    """The key in the file, or in the first line of standard input for `-`."""
    try:
        key = sys.stdin.readline().strip() if path == Path("-") else path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CommandError(f"Cannot read {path}: {error.strerror}.", ExitCode.USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path} does not contain a join key. Join keys start with `msj_`.", ExitCode.USAGE
        ) from error
    if not key:
        raise CommandError(f"{path} is empty. Write the join key into it: it starts with `msj_`.", ExitCode.USAGE)
    return key
