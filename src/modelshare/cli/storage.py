"""`modelshare storage …`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.bucket_keys import KEY_ID, SECRET, ask, secret_of
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_message, print_record, print_table
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.storage import StepState, Storage, StorageSet

app = typer.Typer(add_completion=False)


@app.callback()
def _storage() -> None:
    """Keep your models in a bucket of your own, and check it."""


@app.command("set")
def set_storage(  # noqa: PLR0917 - Typer passes options by name
    url: Annotated[str, typer.Argument(help="Bucket and prefix: s3://BUCKET/PREFIX.")],
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 service. Default: AWS.")] = None,
    region: Annotated[str | None, typer.Option(help="Region, such as eu-central-1, or auto for R2.")] = None,
    addressing: Annotated[
        str | None, typer.Option(help="path or virtual. Default: path with --endpoint, virtual on AWS.")
    ] = None,
    access_key_id: Annotated[
        str | None, typer.Option(help=f"ID of the access key. Default: {KEY_ID}, else you are asked.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help=f"File that holds the secret access key. Default: {SECRET}, else you are asked."
        ),
    ] = None,
    role_arn: Annotated[
        str | None,
        typer.Option(help="AWS role that the platform assumes, instead of keys; `storage show` has the external ID."),
    ] = None,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Keep the keys that are set; bucket and endpoint stay the same.")
    ] = False,
    relayed: Annotated[
        bool, typer.Option("--relayed", help="Never use signed URLs: all bytes pass through the platform.")
    ] = False,
    json: Json = False,
) -> None:
    """Store new pushes in your own bucket, after checking that it allows what is needed.

    Existing models stay where they are.
    """
    if role_arn or keep_keys:
        if access_key_id or secret_file or (role_arn and keep_keys):
            raise CommandError("Use one of --role-arn, --keep-keys and access keys.", ExitCode.USAGE)
        key_id = secret = None
    else:
        key_id = access_key_id or os.environ.get(KEY_ID) or ask("Access key ID")
        secret = secret_of(secret_file)
    body = request(
        StorageSet,
        url=url,
        endpoint=endpoint,
        region=region,
        addressing=addressing,
        access_key_id=key_id,
        secret_access_key=secret,
        role_arn=role_arn,
        relayed=relayed,
    )
    with Client() as client:
        stored = client.storage.set(body)
    _print(stored, json=json)
    if not json:
        print_message(f"New pushes are stored in {stored.url}. Existing models stay where they are.")


@app.command()
def show(json: Json = False) -> None:
    """Show where new pushes are stored, and what the last check found. Keys are never shown."""
    with Client() as client:
        stored = client.storage.get()
    _print(stored, json=json)


@app.command()
def check(json: Json = False) -> None:
    """Check again that the bucket allows what is needed. Exits with 1 if it does not."""
    with Client() as client:
        stored = client.storage.check()
    _print(stored, json=json)
    if not stored.is_working:
        raise typer.Exit(1)


@app.command()
def unset(json: Json = False) -> None:
    """Store new pushes on the platform again. Models in the bucket stay there and work as before."""
    with Client() as client:
        client.storage.unset()
    if json:
        print_json({"kind": "platform"})
    else:
        print_message("New pushes are stored on the platform. Models in your bucket stay there.")


def _print(stored: Storage, *, json: bool) -> None:
    if json:
        print_json(stored)
        return
    print_record(
        [
            ("stored in", stored.url or "the platform's storage"),
            ("endpoint", stored.endpoint),
            ("region", stored.region),
            ("access key", stored.access_key),
            ("role", stored.role_arn),
            ("external ID", stored.external_id),
            ("transfer", _transfer(stored)),
            ("last check", when(stored.checked_at) if stored.checked_at else None),
        ]
    )
    if stored.checks:
        rows = ((step.name, _state(step.state), step.action or "", step.message or "") for step in stored.checks)
        print_table(("CHECK", "RESULT", "IAM ACTION", "WHAT TO DO"), rows, empty="")


def _transfer(stored: Storage) -> str | None:
    if stored.url is None:
        return None
    return "relayed by the platform" if stored.relayed else "direct, by signed URLs"


def _state(state: StepState) -> str:
    return state.value if state is not StepState.FAILED else "FAILED"
