"""Signatures between `modelshare` and the stock `model_signing`, and the commands around them."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_signing import signing as stock_signing
from model_signing import verifying as stock_verifying
from model_signing._cli import main

from modelshare.cli.exit_codes import ExitCode
from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.client.source import read_source
from modelshare.client.verify import find_differing
from modelshare.wire import signing
from modelshare.wire.keys import ProjectWithKey
from modelshare.wire.signers import SignatureState
from programs import Server
from shell import Shell, shell
from signing_keys import CURVES, private_key, private_pem, public_pem
from uploading import tiny_model


@pytest.fixture(name="shell")
def owners_shell(server: Server, project: ProjectWithKey, tmp_path: Path) -> Shell:
    return shell(server.url, project.api_key, tmp_path / "owner")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, with what `model_signing` leaves out."""
    folder = tmp_path / "model"
    (folder / "extra").mkdir(parents=True)
    files = tiny_model() | {"extra/notes é.txt": b"Notes.", ".gitattributes": b"* text"}
    for path, data in files.items():
        (folder / path).write_bytes(data)
    return folder


def keys(tmp_path: Path, curve: str = "P-256", password: bytes | None = None) -> tuple[str, str]:
    """Files with the private and the public key."""
    key = private_key(curve)
    private, public = tmp_path / f"{curve}.pem", tmp_path / f"{curve}.pub"
    private.write_bytes(private_pem(key, password))
    public.write_text(public_pem(key))
    return str(private), str(public)


def as_stored(client: Client, folder: Path, place: Path) -> Path:
    """The files that the manifest lists, and no others."""
    manifest = client.models.manifest("model", "1.0.0")
    for file in manifest.files:
        (place / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file.path, place / file.path)
    return place


def verify(folder: Path, signature: Path, public_key: str) -> None:
    config = stock_verifying.Config()  # type: ignore[no-untyped-call] # so it is
    config.use_elliptic_key_verifier(public_key=public_key).verify(folder, signature)


@pytest.mark.parametrize("curve", CURVES)
def test_what_we_signed_the_stock_verifier_accepts(
    shell: Shell, client: Client, folder: Path, tmp_path: Path, curve: str
) -> None:
    private, public = keys(tmp_path, curve)
    shell.says("push", str(folder))
    shell.says("signers", "add", "release", "--public-key", public)
    assert shell.json("sign", "model", "--key", private)["signature"] == {"state": "valid", "signer": "release"}
    pulled = as_stored(client, folder, tmp_path / "pulled")
    signature = pulled / signing.SIGNATURE_FILE
    shell.says("models", "signature", "model@1.0.0", "--output", str(signature))
    verify(pulled, signature, public)
    (pulled / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'config\.json'"):
        verify(pulled, signature, public)


def test_a_stock_signature_in_the_folder_is_taken_at_push(
    shell: Shell, client: Client, folder: Path, tmp_path: Path
) -> None:
    private, public = keys(tmp_path)
    signature = folder / signing.SIGNATURE_FILE
    config = stock_signing.Config()  # type: ignore[no-untyped-call] # so it is
    config.use_elliptic_key_signer(private_key=Path(private)).sign(folder, signature)
    shell.says("signers", "add", "release", "--public-key", public)
    shell.says("push", str(folder))
    found = client.models.get("model")
    assert (found.signature.state, found.signature.signer) == (SignatureState.VALID, "release"), found.warnings
    assert client.models.signature("model", "1.0.0") == signature.read_bytes()
    pulled = as_stored(client, folder, tmp_path / "pulled")
    inside = pulled / signing.SIGNATURE_FILE
    assert "succeeded" in stock("verify", "key", "--public_key", public, "--signature", inside, pulled)


def stock(*words: object) -> str:
    """What `model_signing` prints."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_stock_program_and_ours(shell: Shell, client: Client, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    shell.says("push", str(folder))
    shell.says("sign", "model", "--key", private, "--output", str(tmp_path / "ours.sig"))
    pulled = as_stored(client, folder, tmp_path / "pulled")
    shutil.copy(tmp_path / "ours.sig", pulled / signing.SIGNATURE_FILE)

    inside = pulled / signing.SIGNATURE_FILE
    assert "succeeded" in stock("verify", "key", "--public_key", public, "--signature", inside, pulled)
    stock("sign", "key", "--private_key", private, "--signature", inside, pulled)
    digests = {file.path: file.sha256 for file in client.models.manifest("model", "1.0.0").files}
    assert signing.verify(inside.read_bytes(), [private_key().public_key()], digests)


def test_signed_when_pushed(shell: Shell, client: Client, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    shell.says("signers", "add", "release", "--public-key", public)
    assert "Leave out --no-wait" in shell.refused(
        "push", str(folder), "--sign-key", private, "--no-wait", code=ExitCode.USAGE
    )
    assert "Signed model 1.0.0: " in shell.says("push", str(folder), "--sign-key", private)
    found = client.models.get("model")
    assert (found.signature.state, found.signature.signer) == (SignatureState.VALID, "release")
    pulled = as_stored(client, folder, tmp_path / "pulled")
    (pulled / signing.SIGNATURE_FILE).write_bytes(client.models.signature("model", "1.0.0"))
    verify(pulled, pulled / signing.SIGNATURE_FILE, public)
    assert "Removed the signature of model 1.0.0." in shell.says("models", "unsign", "model")
    assert client.models.get("model").signature.state is SignatureState.NONE
    assert "has no signature" in shell.refused("models", "unsign", "model@1.0.0")


def test_only_what_lies_here_is_signed(client: Client, folder: Path) -> None:
    """Whatever the platform says that it has."""
    push_model(client, folder, name="model")
    manifest = client.models.manifest("model", "1.0.0")
    here = {file.path: file.location for file in read_source(folder).files}
    assert find_differing(here, manifest.files) is None
    assert find_differing(here, manifest.files[1:]) == manifest.files[0].path
    changed = [manifest.files[0].model_copy(update={"sha256": "0" * 64}), *manifest.files[1:]]
    assert find_differing(here, changed) == manifest.files[0].path


def test_the_commands(shell: Shell, client: Client, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, password=b"secret")
    shell.says("push", str(folder))
    assert "none" in shell.says("models", "show", "model")
    assert "has no signature" in shell.refused("models", "signature", "model")
    asked = shell.run("sign", "model", "--key", private, stdin="secret\n")
    assert asked.returncode == 0, asked.stderr
    assert "has not registered this key yet" in asked.stderr
    assert "unknown signer" in shell.says("models", "show", "model")
    wrong = shell.run("sign", "model", "--key", private, stdin="wrong\n")
    assert "The password does not open this private key." in wrong.stderr
    shell.environment["MODELSHARE_KEY_PASSWORD"] = "secret"
    assert "keep it secret" in shell.refused("signers", "add", "release", "--public-key", private)
    assert "Registered release" in shell.says("signers", "add", "release", "--public-key", public)
    assert "valid, by release" in shell.says("models", "show", "model")
    assert shell.json("signers", "list")[0]["name"] == "release"
    assert "no version `9.0.0`" in shell.refused("sign", "model@9.0.0", "--key", private)
    assert "There is no signer `x`" in shell.refused("signers", "require", "--allow", "x")
    assert "one of 1 allowed keys" in shell.says("signers", "require", "--allow", "release")
    assert client.project.get().allowed_signers == [signing.key_id(private_key().public_key())]
    assert "their owner's signers" in shell.says("signers", "require", "--allow", "any")
    assert "no longer requires" in shell.says("signers", "require", "--off")
    assert "Removed release." in shell.says("signers", "remove", "release")
    assert "There is no such signer" in shell.refused("signers", "remove", "release")
    assert "No such option" in shell.refused("sign", "model", "--kye", private, code=ExitCode.USAGE)
