"""`modelshare uploads …`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.wire.uploads import UploadState

app = typer.Typer(add_completion=False)


@app.command("list")
def list_uploads(
    name: Annotated[str | None, typer.Option(help="Only uploads of the model with this name.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Include uploads that are completed, cancelled or expired.")
    ] = False,
    json: Json = False,
) -> None:
    """List unfinished uploads, newest first. Repeat the push to resume one."""
    with Client() as client:
        uploads = list(client.uploads.list(state=None if every else UploadState.OPEN, name=name))
    if json:
        print_json(uploads)
        return
    rows = (
        (
            upload.name,
            upload.version,
            upload.state,
            f"{size(upload.bytes_done)} of {size(upload.bytes_total)}",
            when(upload.created_at),
            when(upload.expires_at) if upload.state is UploadState.OPEN else "",
            upload.id,
        )
        for upload in uploads
    )
    header = ("MODEL", "VERSION", "STATE", "SENT", "STARTED (UTC)", "EXPIRES (UTC)", "ID")
    print_table(header, rows, empty="No uploads." if every else "No open uploads.")


@app.command()
def cancel(
    upload: Annotated[
        str, typer.Argument(metavar="ID", help="ID of the upload, as shown by `modelshare uploads list`.")
    ],
    json: Json = False,
) -> None:
    """Cancel an upload and delete the uploaded data. Its version number can be used again."""
    with Client() as client:
        ended = client.uploads.cancel(upload)
    if json:
        print_json(ended)
    else:
        print_message(f"Upload of {ended.name} {ended.version} is {ended.state}; the uploaded data was deleted.")
