"""`modelshare uploads …`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, print_json, print_table, say
from modelshare.client import Client
from modelshare.wire.uploads import UploadState

app = typer.Typer(add_completion=False)


@app.command("list")
def list_uploads(
    name: Annotated[str | None, typer.Option(help="Only of the model of this name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Include uploads that have ended, not only open ones.")] = False,
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
    header = ("MODEL", "VERSION", "STATE", "SENT", "BEGUN (UTC)", "KEPT UNTIL (UTC)", "ID")
    print_table(header, rows, empty="No uploads." if every else "No open uploads.")


@app.command()
def cancel(
    upload: Annotated[
        str, typer.Argument(metavar="ID", help="The upload's id, as `modelshare uploads list` shows it.")
    ],
    json: Json = False,
) -> None:
    """End an upload and delete what was sent. Its version number is free again."""
    with Client() as client:
        ended = client.uploads.cancel(upload)
    if json:
        print_json(ended)
    else:
        say(f"The upload of {ended.name} {ended.version} is {ended.state}, and what was sent is deleted.")
