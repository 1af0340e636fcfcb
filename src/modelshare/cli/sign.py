"""`modelshare sign`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.resolve_model import own_version
from modelshare.client import Client
from modelshare.wire import signing
from modelshare.wire.signers import SignatureState

app = typer.Typer(add_completion=False)
PASSWORD: Final = "MODELSHARE_KEY_PASSWORD"  # noqa: S105 - the name of a variable


@app.command()
def sign(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Model ID or name. Default: latest version.")],
    key: Annotated[
        Path,
        typer.Option(
            help="Private key in PEM form: EC on P-256, P-384 or P-521. An encrypted key's password is asked for, "
            f"read from a pipe, or taken from {PASSWORD}.",
            exists=True,
            dir_okay=False,
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Also write the signature to this file.", dir_okay=False)] = None,
    json: Json = False,
) -> None:
    """Sign a version with your key, from the digests of its files. Neither the files nor the key leave their place."""
    private_key = _private_key(key)
    with Client() as client:
        found, version = own_version(client, model)
        manifest = client.models.manifest(found.id, version)
        digests = {file.path: file.sha256 for file in manifest.files}
        bundle = signing.sign(private_key, digests, manifest.name)
        signed = client.models.sign(found.id, version, bundle)
    if output is not None:
        output.write_bytes(bundle)
    if json:
        print_json(signed)
        return
    print_message(f"Signed {found.name} {version}: {len(signing.covered(digests))} files.")
    if signed.signature.state is SignatureState.UNKNOWN_SIGNER:
        print_message(
            "Your project has not registered this key yet, so the signature does not count. Register its public key: "
            "`openssl ec -in KEY -pubout -out KEY.pub`, then `modelshare signers add NAME --public-key KEY.pub`."
        )


def _private_key(file: Path) -> signing.PrivateKey:
    pem = file.read_bytes()
    try:
        password = os.environ.get(PASSWORD)
        try:
            return signing.read_private_key(pem, password.encode() if password else None)
        except signing.PasswordError:
            if password:
                raise
        return signing.read_private_key(pem, _ask(file).encode())
    except signing.UnusableKeyError as error:
        raise CommandError(f"{file}: {error}") from error


def _ask(file: Path) -> str:
    """The password: typed without echo at a prompt, or the first line of a pipe."""
    if sys.stdin.isatty():
        typed: str = typer.prompt(f"Password of {file.name}", hide_input=True, err=True)
        return typed
    return sys.stdin.readline().rstrip("\r\n")
