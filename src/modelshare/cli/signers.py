"""`modelshare signers …`."""

from pathlib import Path
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire import signing
from modelshare.wire.keys import ProjectSettings
from modelshare.wire.signers import SignerAdd

app = typer.Typer(add_completion=False)
_MAX_PEM = 4096


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call the signer, such as `release team`.")],
    public_key: Annotated[
        Path, typer.Option(help="Public key in PEM form: EC on P-256, P-384 or P-521.", exists=True, dir_okay=False)
    ],
    json: Json = False,
) -> None:
    """Register a public key: signatures made with it count for your project's models."""
    text = public_key.read_bytes()[: _MAX_PEM + 1].decode(errors="replace")
    try:
        signing.read_public_key(text)  # before anything is sent: it may be the private key
    except signing.UnusableKeyError as error:
        raise CommandError(f"{public_key}: {error}") from error
    with Client() as client:
        signer = client.signers.add(request(SignerAdd, name=name, public_key=text))
    if json:
        print_json(signer)
    else:
        print_message(f"Registered {signer.name}. Key: {signer.key_id}")


@app.command("list")
def list_signers(json: Json = False) -> None:
    """List the project's signers."""
    with Client() as client:
        signers = list(client.signers.list())
    if json:
        print_json(signers)
        return
    rows = ((signer.name, signer.key_id, when(signer.created_at)) for signer in signers)
    print_table(
        ("NAME", "KEY", "ADDED (UTC)"),
        rows,
        empty="No signers. Add one: `modelshare signers add NAME --public-key KEY.pub`.",
    )


@app.command()
def remove(
    signer: Annotated[str, typer.Argument(metavar="SIGNER", help="Name or ID of the signer.")], json: Json = False
) -> None:
    """Remove a signer. Signatures made with its key no longer count for your project's models."""
    with Client() as client:
        client.signers.remove(signer)
    if json:
        print_json({"signer": signer, "removed": True})
    else:
        print_message(f"Removed {signer}.")


@app.command()
def require(
    off: Annotated[bool, typer.Option("--off", help="No longer require signatures.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIGNER",
            help="For models of other projects, only this signer counts: a name from `signers list`, or a key ID; "
            "repeat for more. `any`: the signers that each model's owner has registered.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Share and deploy signed versions only. Endpoints that run keep the version they serve."""
    with Client() as client:
        changes = ProjectSettings(require_signature=not off)
        if allow:
            changes = ProjectSettings(require_signature=not off, allowed_signers=_key_ids(client, allow))
        project = client.project.update(changes)
    if json:
        print_json(project)
    elif project.require_signature:
        who = (
            f"one of {len(project.allowed_signers)} allowed keys"
            if project.allowed_signers
            else "their owner's signers"
        )
        print_message(
            f"{project.slug} shares signed versions only, and deploys others' models only if signed by {who}."
        )
    else:
        print_message(f"{project.slug} no longer requires signatures.")


def _key_ids(client: Client, named: list[str]) -> list[str]:
    if named == ["any"]:
        return []
    known = {signer.name: signer.key_id for signer in client.signers.list()}
    ids = [known.get(each, each) for each in named]
    try:
        return ProjectSettings(allowed_signers=ids).allowed_signers or []
    except ValueError as error:
        unknown = ", ".join(f"`{each}`" for each in named if each not in known)
        raise CommandError(f"There is no signer {unknown}. `modelshare signers list` lists yours.") from error
