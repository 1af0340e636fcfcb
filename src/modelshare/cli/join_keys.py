"""`modelshare join-keys …`."""

from collections.abc import Callable
from typing import Annotated

import typer

from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.client.call import SyncTransport
from modelshare.client.join_keys import JoinKeys
from modelshare.wire.agents import JoinKeyCreate, JoinKeyWithValue
from modelshare.wire.tiers import SELF_HOSTED

Name = Annotated[str, typer.Argument(help="Name of the key, such as the machine's name.")]
ExpiresIn = Annotated[
    int | None, typer.Option(parser=duration, metavar="DURATION", help="For example 2h or 30d. Default: 24h.")
]


def commands(keys_of: Callable[[Client], JoinKeys[SyncTransport]]) -> typer.Typer:
    """`list` and `revoke`, for a project's join keys or for the platform's."""
    app = typer.Typer(add_completion=False)

    @app.command("list")
    def list_join_keys(json: Json = False) -> None:
        """List join keys, without their values."""
        with Client() as client:
            keys = list(keys_of(client).list())
        if json:
            print_json(keys)
            return
        rows = (
            (
                key.name,
                when(key.created_at),
                when(key.expires_at) or "never",
                when(key.revoked_at),
                ", ".join(key.tiers or [SELF_HOSTED]),
                key.id,
            )
            for key in keys
        )
        columns = ("NAME", "CREATED (UTC)", "EXPIRES", "REVOKED", "TIERS", "ID")
        print_table(columns, rows, empty="No join keys yet.")

    @app.command()
    def revoke(join_key: Annotated[str, typer.Argument(help="ID of the join key.")], json: Json = False) -> None:
        """Revoke a join key. Agents that enrolled with it stay enrolled."""
        with Client() as client:
            keys_of(client).revoke(join_key)
        if json:
            print_json({"id": join_key, "revoked": True})
        else:
            print_message("Join key revoked. Agents that enrolled with it stay enrolled.")

    return app


app = commands(lambda client: client.join_keys)


@app.command()
def create(name: Name, expires_in: ExpiresIn = None, json: Json = False) -> None:
    """Create a join key. The key is shown only once."""
    with Client() as client:
        created = client.join_keys.create(request(JoinKeyCreate, name=name, expires_in=expires_in))
        url = client.config.url
    print_created(created, url, json=json)


def print_created(created: JoinKeyWithValue, url: str, *, json: bool) -> None:
    """The key, and how to start an agent with it."""
    if json:
        print_json(created)
        return
    until = "" if created.expires_at is None else f" and expires at {when(created.expires_at)} UTC"
    print_message(f"This key is shown only once{until}:")
    typer.echo(created.key)
    print_message(
        f"Next, on the machine: curl -fsSL {url}/install.sh | sh -s -- --agent\n"
        f"Then: MODELSHARE_JOIN_KEY={created.key} modelshare agent --url {url} --data-dir ./agent"
    )
