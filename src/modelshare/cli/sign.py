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
from modelshare.client.source import PushSource
from modelshare.client.verify import find_differing
from modelshare.wire import signing
from modelshare.wire.models import ExtendedModel, Manifest, Version
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
    private_key = read_key(key)
    with Client() as client:
        found, version = own_version(client, model)
        manifest = client.models.manifest(found.id, version)
        bundle = signing.sign(private_key, digests_of(manifest), manifest.name)
        signed = client.models.sign(found.id, version, bundle)
    if output is not None:
        output.write_bytes(bundle)
    if json:
        print_json(signed)
        return
    print_signed(manifest, signed)


def sign_pushed(
    client: Client, model: ExtendedModel, version: str, source: PushSource, private_key: signing.PrivateKey
) -> None:
    """Signs a version that was just pushed, if it is what lies here. Raises CommandError."""
    manifest = client.models.manifest(model.id, version)
    differing = find_differing({file.path: file.location for file in source.files}, manifest.files)
    if differing is not None:
        raise CommandError(
            f"{model.name} {version} was pushed, but not signed: {differing} there is not what it is here. Push again "
            "when no program writes to the files."
        )
    bundle = signing.sign(private_key, digests_of(manifest), manifest.name)
    print_signed(manifest, client.models.sign(model.id, version, bundle))


def digests_of(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files}


def print_signed(manifest: Manifest, signed: Version) -> None:
    print_message(f"Signed {manifest.name} {signed.version}: {len(signing.covered(digests_of(manifest)))} files.")
    if signed.signature.state is SignatureState.UNKNOWN_SIGNER:
        print_message(
            "Your project has not registered this key yet, so the signature does not count. Register its public key: "
            "`openssl ec -in KEY -pubout -out KEY.pub`, then `modelshare signers add NAME --public-key KEY.pub`."
        )


def read_key(file: Path) -> signing.PrivateKey:
    """A private key. Asks for its password, if it has one. Raises CommandError."""
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
