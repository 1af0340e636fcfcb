"""`modelshare register`."""

import os
from typing import Annotated

import typer

from modelshare.cli.bucket_options import (
    KEY_ID,
    AddressingOption,
    RegionOption,
    RelayedOption,
    RoleOption,
    SecretFileOption,
    secret_of,
)
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.requests import request
from modelshare.cli.version_options import ExcludeOption, FileOption, LatestOption, NotesOption, VersionOption
from modelshare.client import Client
from modelshare.client.push import wait_until_ready
from modelshare.wire.registering import ModelRegister

app = typer.Typer(add_completion=False)


@app.command()
def register(
    source: Annotated[str, typer.Argument(help="Folder or .gguf file: s3://BUCKET/PATH/TO/MODEL.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: VersionOption = None,
    latest: LatestOption = None,
    notes: NotesOption = None,
    file: FileOption = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of the S3 service. Default: that of the project's storage, else AWS.")
    ] = None,
    region: RegionOption = None,
    addressing: AddressingOption = None,
    access_key_id: Annotated[
        str | None,
        typer.Option(help=f"ID of an access key. Default: {KEY_ID}, else the keys of the project's storage."),
    ] = None,
    secret_file: SecretFileOption = None,
    role_arn: RoleOption = None,
    relayed: RelayedOption = False,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Publish files that would otherwise be left out.")
    ] = None,
    exclude: ExcludeOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the platform has read the files.")] = True,
    json: Json = False,
) -> None:
    """Publish a model that lies in your bucket, where it lies. Nothing is copied.

    The platform reads each file once. Agents fetch them from your bucket by signed URLs. If a file changes or goes away
    later, the version fails and says so: restore the file and run `modelshare models revalidate`, or register again,
    which makes a new version.

    What a push leaves out is left out here as well; a file .modelshareignore in the bucket counts, too.
    """
    key_id = access_key_id or (os.environ.get(KEY_ID) if role_arn is None else None)
    if role_arn and (access_key_id or secret_file):
        raise CommandError("Use either --role-arn or access keys.", ExitCode.USAGE)
    if secret_file and not key_id:
        raise CommandError(f"Give --access-key-id as well, or set {KEY_ID}.", ExitCode.USAGE)
    body = request(
        ModelRegister,
        source=source,
        name=name,
        version=version,
        make_latest=latest,
        version_notes=notes,
        file=file,
        endpoint=endpoint,
        region=region,
        addressing=addressing,
        access_key_id=key_id,
        secret_access_key=secret_of(secret_file) if key_id else None,
        role_arn=role_arn,
        relayed=relayed,
        include=include or None,
        exclude=exclude or None,
    )
    with Client() as client:
        registered = client.models.register(body)
        if not json:
            files = "1 file" if registered.files == 1 else f"{registered.files:,} files"
            where = f"{files}, {size(registered.bytes_total)}, in {registered.source}"
            print_message(f"Registered {registered.name} {registered.version}: {where}.")
            for note in filter(None, (registered.left_out, registered.latest_note)):
                print_message(f"Note: {note}")
        if wait:
            wait_until_ready(client, registered.model, registered.version)
        model = client.models.get(registered.model)
    if json:
        print_json(model)
        return
    typer.echo(model.id)
    print_message(f"Next: modelshare {'share' if wait else 'models show'} {model.name}")
