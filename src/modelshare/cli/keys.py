"""`modelshare keys …`."""

from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, print_message, print_table, print_text
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.hub_tokens import token_of
from modelshare.wire.keys import Key, KeyCreate, KeyPatch, KeyWithValue, Scope

app = typer.Typer(add_completion=False)
NONE = "none"
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="ID of the key, as shown by `modelshare keys list`.")]


@app.command()
def create(  # noqa: PLR0917 - Typer passes options by name
    name: Annotated[str, typer.Argument(help="Name of the key, such as who uses it.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="Scope of the key; repeat for more. Default: all.")] = None,
    expires_in: Annotated[
        int | None, typer.Option(parser=duration, metavar="DURATION", help="For example 12h or 90d. Default: never.")
    ] = None,
    allow_ip: Annotated[
        list[str] | None, typer.Option(help="Address or network the key works from; repeat for more.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The only endpoint the key may call.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Requests per minute at most. Default: no limit.")
    ] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens per minute at most. Default: no limit.")] = None,
    monthly_token_budget: Annotated[
        int | None, typer.Option(help="Tokens per month at most. Default: no limit.")
    ] = None,
    json: Json = False,
) -> None:
    """Create an API key. The key is shown only once."""
    body = request(
        KeyCreate,
        name=name,
        scopes=scope or None,
        expires_in=expires_in,
        allowed_ips=allow_ip or None,
        endpoint=endpoint,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        monthly_token_budget=monthly_token_budget,
    )
    with Client() as client:
        _print_value(client.keys.create(body), json=json)


@app.command("hf-token")
def hf_token(json: Json = False) -> None:
    """Print the key that you use, in the form that Hugging Face clients and llama.cpp accept as HF_TOKEN."""
    with Client() as client:
        key = client.config.api_key
    if key is None:
        raise CommandError("There is no key. Run `modelshare login`, or set MODELSHARE_API_KEY.", ExitCode.USAGE)
    if json:
        print_json({"token": token_of(key)})
    else:
        print_text(token_of(key))


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the project's keys, without their values."""
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
            "revoked" if key.revoked_at else "suspended" if key.suspended_at else "",
            when(key.last_used_at) or "never",
            _limits(key),
            key.id,
        )
        for key in keys
    )
    print_table(("NAME", "KEY", "SCOPES", "EXPIRES", "", "LAST USED (UTC)", "LIMITS", "ID"), rows, empty="No keys.")


@app.command()
def update(
    key: KeyId,
    requests_per_minute: Annotated[
        str | None, typer.Option(metavar="NUMBER", help=f"Requests per minute at most, or `{NONE}`.")
    ] = None,
    tokens_per_minute: Annotated[
        str | None, typer.Option(metavar="NUMBER", help=f"Tokens per minute at most, or `{NONE}`.")
    ] = None,
    monthly_token_budget: Annotated[
        str | None, typer.Option(metavar="NUMBER", help=f"Tokens per month at most, or `{NONE}`.")
    ] = None,
    json: Json = False,
) -> None:
    """Change what a key may use."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "monthly_token_budget": monthly_token_budget,
    }
    changes = {name: None if text == NONE else text for name, text in given.items() if text is not None}
    if not changes:
        raise CommandError(
            "Nothing to change. Use at least one option of `modelshare keys update --help`.", ExitCode.USAGE
        )
    with Client() as client:
        changed = client.keys.update(key, KeyPatch.model_validate(changes))
    if json:
        print_json(changed)
    else:
        print_message(f"Key {changed.name}: {_limits(changed) or 'no limits'}.")


@app.command()
def rotate(key: KeyId, json: Json = False) -> None:
    """Give a key a new value. The old value stays valid for a while."""
    with Client() as client:
        _print_value(client.keys.rotate(key), json=json)


@app.command()
def suspend(key: KeyId, json: Json = False) -> None:
    """Suspend a key immediately. `keys resume` makes it work again."""
    with Client() as client:
        _print_state(client.keys.suspend(key), "suspended", json=json)


@app.command()
def resume(key: KeyId, json: Json = False) -> None:
    """Resume a suspended key."""
    with Client() as client:
        _print_state(client.keys.resume(key), "resumed", json=json)


@app.command()
def revoke(key: KeyId, json: Json = False) -> None:
    """Revoke a key immediately."""
    with Client() as client:
        client.keys.revoke(key)
    if json:
        print_json({"id": key, "revoked": True})
    else:
        print_message("Key revoked.")


def _print_state(key: Key, what: str, *, json: bool) -> None:
    if json:
        print_json(key)
    else:
        print_message(f"Key {key.name} is {what}.")


def _limits(key: Key) -> str:
    said = (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.monthly_token_budget, "tokens/month"),
    )
    return ", ".join(f"{count:,} {unit}" for count, unit in said if count is not None)


def _print_value(key: KeyWithValue, *, json: bool) -> None:
    if json:
        print_json(key)
        return
    print_message("This key is shown only once:")
    typer.echo(key.key)
    if key.old_value_valid_until is not None:
        print_message(f"The old value works until {when(key.old_value_valid_until)} UTC.")
