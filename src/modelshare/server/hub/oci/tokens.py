"""Bearer tokens that OCI clients get for a key or an endpoint's token.

A token is signed and contains the key's hash, the repositories and the expiry; it is not stored. Every request looks up
the key, so that the token ends with it.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
from itsdangerous import BadData, URLSafeSerializer

from modelshare.server.hub.access import Credential

_PURPOSE: Final = b"modelshare oci token 1"


@dataclass(frozen=True, slots=True)
class Token:
    credential: Credential
    repositories: tuple[str, ...]
    expires_at: int


def signed(token: Token, secret: bytes) -> str:
    return str(_signer(secret).dumps(msgspec.to_builtins(token)))


def read(text: str, secret: bytes, now: int) -> Token | None:
    """None if the token is invalid or has expired."""
    try:
        token = msgspec.convert(_signer(secret).loads(text), Token)
    except (BadData, msgspec.ValidationError):
        return None
    return token if now < token.expires_at else None


def _signer(secret: bytes) -> URLSafeSerializer:
    signing = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=_PURPOSE, signer_kwargs=signing)
