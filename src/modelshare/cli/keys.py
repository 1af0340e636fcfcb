"""`modelshare keys …`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, print_table, say
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.keys import KeyCreate, KeyWithValue, Scope

app = typer.Typer(add_completion=False)
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as `modelshare keys list` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it, such as who uses it.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="What it may do; repeat for more. None given: all.")] = None,
    expires_in: Annotated[
        int | None, typer.Option(parser=duration, metavar="DURATION", help="Such as 12h or 90d; never if not given.")
    ] = None,
    allow_ip: Annotated[
        list[str] | None, typer.Option(help="Address or network it works from; repeat for more.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The only endpoint it may call.")] = None,
    json: Json = False,
) -> None:
    """Create an API key. It is shown this once."""
    body = request(
        KeyCreate,
        name=name,
        scopes=scope or None,
        expires_in=expires_in,
        allowed_ips=allow_ip or None,
        endpoint=endpoint,
    )
    with Client() as client:
        _print_value(client.keys.create(body), json=json)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the project's keys, never their values."""
    with Client() as client:
        keys = list(client.keys.list())
    if json:
        print_json(keys)
        return
    rows = (
        (
            key.name,
            key.hint,
            ", ".join(key.scopes) or "all",
            when(key.expires_at) or "never",
            "revoked" if key.revoked_at else "",
            when(key.last_used_at) or "never",
            key.id,
        )
        for key in keys
    )
    print_table(("NAME", "KEY", "SCOPES", "EXPIRES", "", "LAST USED (UTC)", "ID"), rows, empty="No keys.")


@app.command()
def rotate(key: KeyId, json: Json = False) -> None:
    """Give a key a new value. The old one goes on working for a while."""
    with Client() as client:
        _print_value(client.keys.rotate(key), json=json)


@app.command()
def revoke(key: KeyId, json: Json = False) -> None:
    """End a key at once."""
    with Client() as client:
        client.keys.revoke(key)
    if json:
        print_json({"id": key, "revoked": True})
    else:
        say("Revoked.")


def _print_value(key: KeyWithValue, *, json: bool) -> None:
    if json:
        print_json(key)
        return
    say("This key is shown once:")
    typer.echo(key.key)
    if key.old_value_valid_until is not None:
        say(f"The old value works until {when(key.old_value_valid_until)} UTC.")
