"""Signers: the public keys that a project registers; and what is told of a version's signature."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelshare.wire.base import Request, Response, UnixSeconds
from modelshare.wire.text import Name

KEY_ID_PATTERN = r"^[0-9a-f]{64}$(?!\n)"
KeyId = Annotated[str, Field(pattern=KEY_ID_PATTERN)]
"""The SHA-256 of a public key's PEM form, as signatures name their key."""


class SignatureState(StrEnum):
    NONE = "none"
    VALID = "valid"
    """All files are signed, by a signer that the model's project has registered."""
    UNKNOWN_SIGNER = "unknown_signer"
    """Signed with a key that the model's project has not registered."""
    INVALID = "invalid"
    """It does not fit the files, or is no signature."""


class Signature(Response):
    """Of a version: its state, and who signed it, by the name that the model's project registered."""

    state: SignatureState = SignatureState.NONE
    signer: str | None = None
    """Only where the state is `valid`."""


class SignerAdd(Request):
    name: Name
    public_key: Annotated[str, Field(max_length=4096)]
    """PEM, of an EC key on P-256, P-384 or P-521."""


class Signer(Response):
    object: Literal["signer"] = "signer"
    id: str
    name: str
    key_id: str
    """The SHA-256 of the public key's PEM form."""
    public_key: str
    created_at: UnixSeconds
