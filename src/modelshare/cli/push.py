"""`modelshare push`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.progress import PushProgress
from modelshare.cli.sign import read_key, sign_pushed
from modelshare.cli.version_options import ExcludeOption, LatestOption, NotesOption, VersionOption
from modelshare.client import Client
from modelshare.client.push import JOBS, Pushed, push_model
from modelshare.client.source import PushSource, read_source
from modelshare.wire.models import ModelStatus

app = typer.Typer(add_completion=False)


@app.command()
def push(
    path: Annotated[Path, typer.Argument(exists=True, help="Folder with the model, a .gguf file or an archive.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the name of the path.")] = None,
    version: VersionOption = None,
    latest: LatestOption = None,
    notes: NotesOption = None,
    file: Annotated[
        str | None,
        typer.Option(help="Which of several models in the folder to describe and run, such as Q4/model.gguf."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard unfinished uploads of this model.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server has checked the files.")] = True,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Number of parts to send at the same time.")] = JOBS,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Push files that would otherwise be left out.")
    ] = None,
    exclude: ExcludeOption = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            help="Sign the version with this private key (see `modelshare sign`), once the server has checked it and "
            "its files have been compared with yours.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Upload a model: a folder in Hugging Face layout, a .gguf file or an archive (.tar, .tar.gz, .tar.bz2, .tar.zst).

    An interrupted push resumes when you run the same command again, on any machine.

    Files that the project already stores are not sent again.

    Files that no engine reads or that may be secret are left out and listed: keys, .env, hidden files, virtual
    environments, caches, logs and training state. --include, --exclude and a file .modelshareignore take patterns as in
    .gitignore.
    """
    selected = {"include": include or (), "exclude": exclude or ()}
    private_key = None
    if sign_key is not None:
        _check_signing(read_source(path, **selected), wait=wait)
        private_key = read_key(sign_key)
    with Client() as client:
        with PushProgress() as progress:
            try:
                pushed = push_model(
                    client,
                    path,
                    name=name,
                    version=version,
                    make_latest=latest,
                    version_notes=notes,
                    file=file,
                    restart=restart,
                    wait=wait,
                    jobs=jobs,
                    progress=progress,
                    **selected,
                )
            except KeyboardInterrupt as error:
                raise CommandError(progress.interruption_message(), ExitCode.INTERRUPTED) from error
        if private_key is not None:
            sign_pushed(client, pushed.model, pushed.version, read_source(path, **selected), private_key)
            pushed = replace(pushed, model=client.models.get(pushed.model.id))
    if json:
        print_json(pushed.model)
    else:
        _print(pushed)


def _check_signing(source: PushSource, *, wait: bool) -> None:
    if source.is_archive:
        raise CommandError(
            "The files of an archive are unpacked on the server, so they cannot be compared with yours. Push the "
            "folder, or sign the version afterwards: modelshare sign.",
            ExitCode.USAGE,
        )
    if not wait:
        raise CommandError("--sign-key has to wait until the version is ready. Leave out --no-wait.", ExitCode.USAGE)


def _print(pushed: Pushed) -> None:
    model = pushed.model
    kept = pushed.upload.bytes_total - pushed.bytes_sent
    note = f", {size(kept)} already stored" if kept else ""
    print_message(f"{model.name} {pushed.version} is {model.status}: {size(pushed.bytes_sent)} sent{note}.")
    if pushed.latest_note is not None:
        print_message(f"Note: {pushed.latest_note}")
    for warning in model.warnings:
        print_message(f"Note: {warning}")
    typer.echo(model.id)
    ready = model.status in {ModelStatus.READY, ModelStatus.ACTIVE}
    print_message(f"Next: modelshare {'share' if ready else 'models show'} {model.name}")
