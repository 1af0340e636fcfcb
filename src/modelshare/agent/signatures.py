"""Whether what is to be served is signed: checked before anything of it is fetched, and again before each load."""

from collections.abc import Sequence
from typing import Final

from modelshare.agent.errors import DeploymentError
from modelshare.wire import signing
from modelshare.wire.link import DesiredDeployment

_REMEDY: Final = "Ask its owner to sign it again with `modelshare sign`"


def check(wanted: DesiredDeployment, pinned: Sequence[signing.PublicKey] = ()) -> None:
    """Raises DeploymentError unless a key that counts signed the files that are to be served.

    Keys that this machine's operator has `pinned` count alone, and then every model has to be signed. Else those count
    that the server names, where it sends a signature.
    """
    if wanted.signature is None:
        if pinned:
            raise DeploymentError(
                f"{_named(wanted)} is not signed, and this agent was started with --signer. {_REMEDY}."
            )
        return
    digests = {file.path: file.sha256 for file in wanted.files}
    try:
        keys = pinned or [signing.read_public_key(key) for key in wanted.signature.keys]
        signing.verify(wanted.signature.bundle, keys, digests, are_all=False)
    except (signing.SignatureError, signing.UnusableKeyError) as error:
        raise DeploymentError(f"The signature of {_named(wanted)} is invalid here: {error}. {_REMEDY}.") from error


def _named(wanted: DesiredDeployment) -> str:
    return f"{wanted.served_name} {wanted.version}"
