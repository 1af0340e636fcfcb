"""`modelshare pull`, `verify` and `manifest`: models back out, and whether they are whole."""

import hashlib
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size
from modelshare.cli.output import Json, print_json, print_message, print_text
from modelshare.cli.progress import TransferProgress
from modelshare.cli.resolve_model import any_model, own_version
from modelshare.client import Client, InvalidRequestError, NotFoundError
from modelshare.client.pull import pull_model
from modelshare.client.verify import Differences, verify_folder
from modelshare.wire.models import Manifest

pull_app = typer.Typer(add_completion=False)
verify_app = typer.Typer(add_completion=False)
manifest_app = typer.Typer(add_completion=False)
_MODEL: Final = "Model ID or name. Default: the latest version."


@pull_app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help=_MODEL)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Folder to write to.")],
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that have the same names but are not the model's.")
    ] = False,
    json: Json = False,
) -> None:
    """Download one of your models into a folder. Every file is verified.

    An interrupted pull resumes when you run the same command again; only what is missing or differs is downloaded.
    Other files in the folder are kept.
    """
    with Client() as client, TransferProgress("Pulling") as progress:
        found, version = own_version(client, model)
        try:
            pulled = pull_model(client, found.id, version, folder, overwrite=overwrite, progress=progress)
        except KeyboardInterrupt as error:
            raise CommandError("Stopped. Run the same command again to resume.", ExitCode.INTERRUPTED) from error
    if json:
        print_json({"model": found.id, "folder": str(folder), **asdict(pulled)})
        return
    kept = f", {pulled.kept} were there already" if pulled.kept else ""
    fetched = f"{pulled.files} files, {size(pulled.bytes_fetched)} downloaded{kept}"
    print_message(f"Pulled {found.name} {pulled.version} to {folder}: {fetched}.")


@verify_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder to check.")],
    manifest: Annotated[
        str,
        typer.Option(metavar="FILE|MODEL[@VERSION]", help="A file from `modelshare manifest`, or the model itself."),
    ],
    json: Json = False,
) -> None:
    """Compare a folder with a model's manifest: name each file that differs, is missing or is extra.

    Exits with 1 if there is any. With a manifest in a file nothing is sent or asked.
    """
    expected = _manifest(manifest)
    with TransferProgress("Comparing") as progress:
        progress.started(expected.total_bytes)
        found = verify_folder(folder, expected.files, progress.moved)
    if json:
        print_json({"name": expected.name, "version": expected.version, "ok": not found, **asdict(found)})
    else:
        _print(found)
    if found:
        count = len(found.differing) + len(found.missing) + len(found.extra)
        files = "1 file differs" if count == 1 else f"{count} files differ"
        raise CommandError(f"{folder} is not {expected.name} {expected.version}: {files}.")
    print_message(f"{folder} is {expected.name} {expected.version}: {len(expected.files)} files agree.")


@manifest_app.command()
def manifest(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help=_MODEL)],
    output: Annotated[Path | None, typer.Option(help="File to write to. Default: stdout.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A manifest is always JSON.")] = False,  # noqa: ARG001 - as other commands have it
) -> None:
    """Print a version's manifest: its files with their digests. `modelshare verify` compares a folder with it."""
    with Client() as client:
        found, version = own_version(client, model)
        data = client.models.manifest_file(found.id, version)
    if output is None:
        if sys.stdout.isatty():
            print_text(data.decode())
        else:
            typer.echo(data.decode(), nl=False)  # byte for byte, for its digest
        return
    output.write_bytes(data)
    print_message(f"Wrote {output}, whose digest is sha256:{hashlib.sha256(data).hexdigest()}.")


def _manifest(text: str) -> Manifest:
    file = Path(text)
    if file.is_file():
        try:
            return Manifest.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise CommandError(
                f"{file} is not a manifest. `modelshare manifest MODEL > {file}` writes one.", ExitCode.USAGE
            ) from error
    with Client() as client:
        named, _, version = text.partition("@")
        with suppress(NotFoundError, InvalidRequestError):
            client.models.get(named)
            found, wanted = own_version(client, text)
            return client.models.manifest(found.id, wanted)
        if version:
            raise CommandError("Of models in the catalog only the latest version's manifest is known.", ExitCode.USAGE)
        return Manifest.model_validate(client.catalog.get(any_model(client, named)).manifest)


def _print(found: Differences) -> None:
    for label, paths in (("differs", found.differing), ("missing", found.missing), ("extra", found.extra)):
        for path in paths:
            print_text(f"{label:<7}  {path}")
