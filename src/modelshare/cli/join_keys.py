"""`modelshare join-keys …`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.agents import JoinKeyCreate

app = typer.Typer(add_completion=False)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, such as the machine's name.")],
    expires_in: Annotated[
        int | None, typer.Option(parser=duration, metavar="DURATION", help="For example 2h or 30d. Default: 24h.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a join key. The key is shown only once."""
    with Client() as client:
        created = client.join_keys.create(request(JoinKeyCreate, name=name, expires_in=expires_in))
        url = client.config.url
    if json:
        print_json(created)
        return
    print_message(f"This key is shown only once{_until(created.expires_at)}:")
    typer.echo(created.key)
    print_message(f"Next: MODELSHARE_JOIN_KEY={created.key} modelshare agent --url {url} --data-dir ./agent")


@app.command("list")
def list_join_keys(json: Json = False) -> None:
    """List the project's join keys, without their values."""
    with Client() as client:
        keys = list(client.join_keys.list())
    if json:
        print_json(keys)
        return
    rows = (
        (key.name, when(key.created_at), when(key.expires_at) or "never", when(key.revoked_at), key.id) for key in keys
    )
    print_table(("NAME", "CREATED (UTC)", "EXPIRES", "REVOKED", "ID"), rows, empty="No join keys yet.")


@app.command()
def revoke(join_key: Annotated[str, typer.Argument(help="ID of the join key.")], json: Json = False) -> None:
    """Revoke a join key. Agents that enrolled with it stay enrolled."""
    with Client() as client:
        client.join_keys.revoke(join_key)
    if json:
        print_json({"id": join_key, "revoked": True})
    else:
        print_message("Join key revoked. Agents that enrolled with it stay enrolled.")


def _until(expires_at: int | None) -> str:
    return "" if expires_at is None else f" and expires at {when(expires_at)} UTC"
