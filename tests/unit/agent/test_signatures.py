"""An agent serves what is signed by a key that counts, and nothing whose signature is wrong."""

import pytest

from modelshare.agent import signatures
from modelshare.agent.errors import DeploymentError
from modelshare.wire import signing
from modelshare.wire.link import DeploymentFile, DeploymentSignature, DesiredDeployment
from signing_keys import private_key, public_pem

KEY, OTHER = private_key(), private_key("P-384")
FILES = [DeploymentFile("config.json", 2, "1" * 64), DeploymentFile("model.gguf", 9, "2" * 64)]
DIGESTS = {file.path: file.sha256 for file in FILES}


def wanted(signature: DeploymentSignature | None, files: list[DeploymentFile] = FILES) -> DesiredDeployment:
    return DesiredDeployment(
        "dep_1", "sha256:a", "acme/chat", "1.0.0", "gguf", None, "chat", None, None, files, 1, signature=signature
    )


def signed(key: signing.PrivateKey = KEY, *keys: signing.PrivateKey, **more: str) -> DeploymentSignature:
    return DeploymentSignature(signing.sign(key, DIGESTS | more, "x"), [public_pem(each) for each in keys or (key,)])


def test_what_is_signed_by_a_named_key_is_served() -> None:
    signatures.check(wanted(signed()))
    signatures.check(wanted(signed(KEY, OTHER, KEY)))
    signatures.check(wanted(signed(KEY, **{"other-choice.gguf": "3" * 64})))


def test_without_a_signature_the_server_decides() -> None:
    signatures.check(wanted(None))
    with pytest.raises(DeploymentError, match="not signed, and this agent was started with --signer"):
        signatures.check(wanted(None), (KEY.public_key(),))


def test_pinned_keys_count_alone() -> None:
    signatures.check(wanted(signed()), (OTHER.public_key(), KEY.public_key()))
    with pytest.raises(DeploymentError, match="key that is not known here"):
        signatures.check(wanted(signed()), (OTHER.public_key(),))


@pytest.mark.parametrize(
    ("signature", "files"),
    [
        pytest.param(signed(KEY, OTHER), FILES, id="another key"),
        pytest.param(signed(), [*FILES, DeploymentFile("evil.py", 1, "4" * 64)], id="one more file"),
        pytest.param(signed(), [FILES[0], DeploymentFile("model.gguf", 9, "5" * 64)], id="other bytes"),
        pytest.param(DeploymentSignature(b"rubbish", [public_pem(KEY)]), FILES, id="rubbish"),
        pytest.param(DeploymentSignature(signed().bundle, ["rubbish"]), FILES, id="no key"),
        pytest.param(DeploymentSignature(signed().bundle, []), FILES, id="no keys"),
    ],
)
def test_what_was_not_signed_is_refused_with_the_reason(
    signature: DeploymentSignature, files: list[DeploymentFile]
) -> None:
    with pytest.raises(DeploymentError, match=r"The signature of acme/chat 1\.0\.0 is invalid here: .+\."):
        signatures.check(wanted(signature, files))
