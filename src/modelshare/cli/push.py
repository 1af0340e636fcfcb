"""`modelshare push`."""

from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size
from modelshare.cli.output import Json, print_json, say
from modelshare.cli.progress import PushProgress
from modelshare.client import Client
from modelshare.client.push import JOBS, Pushed, push_model
from modelshare.wire.models import ModelStatus

app = typer.Typer(add_completion=False)


@app.command()
def push(
    path: Annotated[Path, typer.Argument(exists=True, help="A model's folder, a .gguf file or an archive.")],
    *,
    name: Annotated[str | None, typer.Option(help="The model's name; the path's own if not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Such as 1.2.0; the next patch version if not given.")] = None,
    latest: Annotated[
        bool | None,
        typer.Option(
            "--latest/--no-latest",
            help="Whether it becomes the latest. By default, if it is higher and not a pre-release.",
        ),
    ] = None,
    notes: Annotated[str | None, typer.Option(help="What people should know about this version.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Which of several models in it to describe and run, such as Q4/model.gguf.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what earlier pushes of this name left.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server has checked it.")] = True,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Parts to send at once.")] = JOBS,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Push these files too, though they would be left out.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave these files out, such as '*.onnx' or 'logs/'.")
    ] = None,
    json: Json = False,
) -> None:
    """Upload a model: a folder as Hugging Face has it, a .gguf file, or an archive (.tar, .tar.gz, .tar.bz2, .tar.zst).

    A push that was stopped goes on where it was when the same command runs again, from any machine.

    Files that the project stores already are not sent again.

    What no engine reads or may be secret is left out and named: keys, .env, hidden files, virtual environments, caches,
    logs and states of training. --include, --exclude and a file .modelshareignore take patterns as .gitignore does.
    """
    with Client() as client, PushProgress() as progress:
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
                include=include or (),
                exclude=exclude or (),
                progress=progress,
            )
        except KeyboardInterrupt as error:
            raise CommandError(progress.farewell(), ExitCode.INTERRUPTED) from error
    if json:
        print_json(pushed.model)
    else:
        _print(pushed)


def _print(pushed: Pushed) -> None:
    model = pushed.model
    kept = pushed.upload.bytes_total - pushed.bytes_sent
    note = f", {size(kept)} were there already" if kept else ""
    say(f"{model.name} {pushed.version} is {model.status}: {size(pushed.bytes_sent)} sent{note}.")
    if pushed.latest_note is not None:
        say(f"Note: {pushed.latest_note}")
    for warning in model.warnings:
        say(f"Note: {warning}")
    typer.echo(model.id)
    ready = model.status in {ModelStatus.READY, ModelStatus.ACTIVE}
    say(f"Next: modelshare {'share' if ready else 'models show'} {model.name}")
