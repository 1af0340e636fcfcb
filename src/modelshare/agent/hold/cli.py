"""`modelshare hold`."""

import hashlib
import os
from pathlib import Path
from typing import Annotated

import typer

from modelshare.agent.direct.cli_options import ListenOption, parsed
from modelshare.agent.direct.options import Address, DirectOptions
from modelshare.agent.errors import StopError
from modelshare.agent.hold import limits
from modelshare.agent.hold.main import Options, run
from modelshare.agent.logs import log_to_stderr
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size
from modelshare.cli.output import print_message
from modelshare.cli.progress import PushProgress
from modelshare.cli.requests import request
from modelshare.cli.version_options import ExcludeOption, LatestOption, NotesOption, VersionOption
from modelshare.client import Client
from modelshare.client.push import PushPhase
from modelshare.client.source import PushSource, find_secrets, read_source
from modelshare.wire.held import HeldVersion
from modelshare.wire.models import Version
from modelshare.wire.uploads import FileEntry, UploadOpen

app = typer.Typer(add_completion=False)


@app.command()
def hold(  # noqa: PLR0917 - each is an option of the command line
    path: Annotated[Path, typer.Argument(exists=True, help="Folder with the model, or a .gguf file.")],
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the name of the path.")] = None,
    version: VersionOption = None,
    latest: LatestOption = None,
    notes: NotesOption = None,
    file: Annotated[str | None, typer.Option(help="Which of several models in the folder to describe and run.")] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=parsed(limits.parse_rate), metavar="RATE", help="Send at most this, such as 50MB/s."),
    ] = None,
    hours: Annotated[
        limits.Hours | None,
        typer.Option(
            parser=parsed(limits.Hours.parse),
            metavar="HOURS",
            help="Serve only then, such as 22:00-06:00, in local time.",
        ),
    ] = None,
    direct: Annotated[
        Address | None,
        typer.Option(
            parser=parsed(Address.parse),
            metavar="ADDRESS[:PORT]",
            help="Also let agents with a grant fetch files at this address, without the platform in between.",
        ),
    ] = None,
    listen: ListenOption = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Files to hold that would otherwise be left out.")
    ] = None,
    exclude: ExcludeOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder for this machine's credential and the digests. Default: one for each path."
        ),
    ] = None,
) -> None:
    """Publish a model that stays on this machine: nothing is uploaded.

    The files are hashed here. The platform reads their headers, and agents that are to run the model read the files,
    through a connection that this command opens and keeps open. No port is opened without --direct.

    While the command does not run, pulls wait, and endpoints that run already keep serving. Run it again to continue.
    """
    if listen is not None and direct is None:
        raise CommandError("--listen needs --direct, with the address at which others connect.", ExitCode.USAGE)
    source = read_source(path, include=include or (), exclude=exclude or ())
    if source.is_archive:
        raise CommandError(f"{path.name} is an archive. Unpack it, and hold the folder.", ExitCode.USAGE)
    model = name or source.name
    if model is None:
        raise CommandError(f"{path.name!r} is not a valid model name. Use --name.", ExitCode.USAGE)
    spec = request(
        UploadOpen,
        name=model,
        version=version,
        make_latest=latest,
        version_notes=notes,
        file=file,
        files=[FileEntry(path=each.path, size=each.size) for each in source.files],
        include=list(source.include) or None,
    )
    log_to_stderr()
    with Client() as client, PushProgress() as progress:
        progress.source(source, find_secrets(source))
        progress.phase(PushPhase.DIGESTS, source.size, 0)

        options = Options(
            client=client,
            path=path,
            data_dir=(data_dir or _data_dir(client.config.url, path)).absolute(),
            spec=spec,
            rate=rate,
            hours=hours,
            direct=DirectOptions(direct, listen),
            moved=progress.moved,
            hashed=progress.done,
            ready=lambda held, ready: _print_ready(source, path, held, ready),
        )
        try:
            run(source, options)
        except StopError as stop:
            raise CommandError(str(stop)) from stop


def _print_ready(source: PushSource, path: Path, held: HeldVersion, ready: Version) -> None:
    print_message(f"{held.name} {held.version} is ready: {size(source.size)} stay in {path}, and are served from here.")
    if ready.latest_note is not None:
        print_message(f"Note: {ready.latest_note}")
    print_message(f"Keep this command running. Next, in another terminal: modelshare share {held.name}")


def _data_dir(url: str, path: Path) -> Path:
    """One for each platform and path, so that several models can be held at once."""
    base = os.environ.get("XDG_STATE_HOME")
    which = hashlib.sha256(f"{url}\n{path.resolve()}".encode()).hexdigest()[:16]
    return (Path(base) if base else Path.home() / ".local" / "state") / "modelshare" / "hold" / which
