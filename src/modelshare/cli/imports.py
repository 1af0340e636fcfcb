"""`modelshare import` and `modelshare imports …`."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from modelshare.cli.bucket_options import ask, read_secret
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.cli.progress import ImportProgress
from modelshare.cli.requests import request
from modelshare.cli.version_options import ExcludeOption, FileOption, LatestOption, NotesOption, VersionOption
from modelshare.client import Client
from modelshare.client.imports import wait_until_imported
from modelshare.wire.importing import Import, ImportCreate, ImportState

import_app = typer.Typer(add_completion=False)
imports_app = typer.Typer(add_completion=False)
TOKEN: Final = "MODELSHARE_IMPORT_TOKEN"  # noqa: S105 - a variable's name


@import_app.command("import")
def import_model(
    source: Annotated[str, typer.Argument(help="hf:ORG/NAME, hf:ORG/NAME@REVISION, or oci:HOST/REPOSITORY:TAG.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the source's.")] = None,
    version: VersionOption = None,
    latest: LatestOption = None,
    notes: NotesOption = None,
    file: FileOption = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL to ask instead: another Hub, a mirror, or a registry without https.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help=f"File with a token for the source. Default: {TOKEN}."),
    ] = None,
    token_host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Send the token also to this host, if the registry's token service is there."
        ),
    ] = None,
    ask_token: Annotated[bool, typer.Option("--ask-token", help="Ask for the token.")] = False,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Import files that would otherwise be left out.")
    ] = None,
    exclude: ExcludeOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the model is ready.")] = True,
    json: Json = False,
) -> None:
    """Copy a model from a Hugging Face Hub or an OCI registry. The platform does the work, and resumes it.

    Run it again to update the model: there is a new version only if the source has changed.

    What a push leaves out is left out here as well. A token is encrypted, sent to the source only, and deleted at the
    end.
    """
    if ask_token and token_file:
        raise CommandError("Use either --token-file or --ask-token.", ExitCode.USAGE)
    body = request(
        ImportCreate,
        source=source,
        name=name,
        version=version,
        make_latest=latest,
        version_notes=notes,
        file=file,
        endpoint=endpoint,
        token=_token(token_file, ask_token=ask_token),
        token_host=token_host,
        include=include or None,
        exclude=exclude or None,
    )
    with Client() as client:
        found = client.imports.create(body)
        if wait:
            found = _wait(client, found)
        if json:
            print_json(found)
        else:
            _print(found, waited=wait)
    if found.state in {ImportState.FAILED, ImportState.CANCELLED}:
        raise typer.Exit(ExitCode.FAILED)


@imports_app.callback()
def _imports() -> None:
    """List imports with their progress, and cancel one."""


@imports_app.command("list")
def list_imports(json: Json = False) -> None:
    """List imports, newest first."""
    with Client() as client:
        found = list(client.imports.list())
    if json:
        print_json(found)
        return
    rows = (
        (
            each.name,
            each.version or "",
            each.source,
            each.state,
            f"{size(each.bytes_done)} of {size(each.bytes_total)}" if each.bytes_total is not None else "",
            when(each.created_at),
            each.id,
            each.reason or "",
        )
        for each in found
    )
    print_table(
        ("MODEL", "VERSION", "SOURCE", "STATE", "COPIED", "STARTED (UTC)", "ID", "REASON"), rows, empty="No imports."
    )


@imports_app.command()
def cancel(
    import_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the import, as `imports list` shows it.")],
    json: Json = False,
) -> None:
    """Cancel an import and delete what has arrived."""
    with Client() as client:
        ended = client.imports.cancel(import_id)
    if json:
        print_json(ended)
    else:
        print_message(f"Import of {ended.source} is cancelled; what had arrived is deleted.")


def _token(file: Path | None, *, ask_token: bool) -> str | None:
    if file is not None:
        return read_secret(file)
    if ask_token:
        return ask("Token", TOKEN, hide=True)
    return os.environ.get(TOKEN) or None


def _wait(client: Client, started: Import) -> Import:
    with ImportProgress() as progress:
        try:
            return wait_until_imported(client, started.id, progress.show)
        except KeyboardInterrupt as error:
            message = "Stopped waiting; the server carries on. `modelshare imports list` shows how far it is."
            raise CommandError(message, ExitCode.INTERRUPTED) from error


def _print(found: Import, *, waited: bool) -> None:
    if found.state is ImportState.FAILED:
        print_message(f"Import of {found.source} failed: {found.reason}")
        return
    if found.state is ImportState.CANCELLED:
        print_message(f"Import of {found.source} was cancelled.")
        return
    if not waited:
        print_message("The server carries on by itself: `modelshare imports list` shows how far it is.")
        typer.echo(found.id)
        return
    if found.left_out and found.is_new:
        print_message(f"{found.left_out} Use `--include` to import one of them anyway.")
    if found.is_new:
        files = "1 file" if found.files == 1 else f"{found.files:,} files"
        print_message(f"Imported {found.name} {found.version} from {found.source}: {files}, {size(found.bytes_total)}.")
    else:
        print_message(f"{found.name} {found.version} has been imported from this commit already: nothing to update.")
    typer.echo(found.model)
    print_message(f"Next: modelshare share {found.name}")
