"""`modelshare storage …`."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from modelshare.cli.bucket_options import (
    KEY_ID,
    AddressingOption,
    RegionOption,
    RelayedOption,
    RoleOption,
    SecretFileOption,
    ask,
    secret_of,
)
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, print_json, print_message, print_record, print_table
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import own_model
from modelshare.client import Client
from modelshare.client.polling import poll
from modelshare.wire.storage import MoveRequest, MoveState, MoveTarget, StepState, Storage, StorageMove, StorageSet

app = typer.Typer(add_completion=False)


@app.callback()
def _storage() -> None:
    """Keep your models in a bucket of your own, check it, and move models there or back."""


@app.command("set")
def set_storage(  # noqa: PLR0917 - Typer passes options by name
    url: Annotated[str, typer.Argument(help="Bucket and prefix: s3://BUCKET/PREFIX.")],
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 service. Default: AWS.")] = None,
    region: RegionOption = None,
    addressing: AddressingOption = None,
    access_key_id: Annotated[
        str | None, typer.Option(help=f"ID of the access key. Default: {KEY_ID}, else you are asked.")
    ] = None,
    secret_file: SecretFileOption = None,
    role_arn: RoleOption = None,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Keep the keys that are set; bucket and endpoint stay the same.")
    ] = False,
    relayed: RelayedOption = False,
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
        key_id = access_key_id or os.environ.get(KEY_ID) or ask("Access key ID", KEY_ID)
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
        moves = [] if json else [move for move in client.storage.moves() if move.state is MoveState.MOVING]
    _print(stored, json=json)
    if moves:
        _print_moves(moves)


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


@app.command()
def move(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL[@VERSION]", help="Model ID or name. Default: all its versions.")
    ] = None,
    *,
    to: Annotated[MoveTarget, typer.Option(help="own: the storage that is set. platform: the platform's.")],
    every: Annotated[bool, typer.Option("--all", help="Move all models of the project.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything is moved.")] = False,
    json: Json = False,
) -> None:
    """Move models to your own storage, or to the platform's, in the background.

    Every file is verified. Endpoints and pulls continue. The old bytes are deleted once no download can be using them.
    """
    if every == (model is not None):
        raise CommandError("Name a model, or use --all.", ExitCode.USAGE)
    with Client() as client:
        named, _, version = (model or "").partition("@")
        found = own_model(client, named) if named else None
        body = request(MoveRequest, to=to, model=found.id if found else None, version=version or None)
        moves = client.storage.move(body).data
        if wait:
            moves = _wait(client, moves)
    if json:
        print_json(moves)
    elif not moves:
        print_message("Everything is stored there already.")
    else:
        _print_moves(moves)
    if any(each.state is MoveState.FAILED for each in moves):
        raise typer.Exit(1)
    if moves and not (wait or json):
        print_message("The server carries on by itself: `modelshare storage moves` shows how far it is.")


@app.command()
def moves(json: Json = False) -> None:
    """List moves between storages, newest first."""
    with Client() as client:
        found = list(client.storage.moves())
    if json:
        print_json(found)
    else:
        _print_moves(found)


@app.command("cancel-move")
def cancel_move(
    move_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the move, as `storage moves` shows it.")],
    json: Json = False,
) -> None:
    """Cancel a move: the version stays where it is."""
    with Client() as client:
        ended = client.storage.cancel_move(move_id)
    if json:
        print_json(ended)
    else:
        print_message(f"{ended.name} {ended.version} stays where it is.")


def _wait(client: Client, moves: Sequence[StorageMove]) -> list[StorageMove]:
    wanted = {move.id for move in moves}
    return poll(
        lambda: [move for move in client.storage.moves() if move.id in wanted],
        lambda found: all(move.state is not MoveState.MOVING for move in found),
    )


def _print_moves(moves: Sequence[StorageMove]) -> None:
    rows = (
        (
            move.name,
            move.version,
            move.to,
            move.state,
            f"{size(move.bytes_done)} of {size(move.bytes_total)}",
            when(move.created_at),
            move.id,
            move.reason or "",
        )
        for move in moves
    )
    header = ("MODEL", "VERSION", "TO", "STATE", "COPIED", "STARTED (UTC)", "ID", "REASON")
    print_table(header, rows, empty="No moves.")


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
