"""Bearer tokens of the OCI form: what a client gets for a key or an endpoint's token, and sends with each request.

A token says whose it is, for which repositories and until when, and is signed; it is stored nowhere. Whoever reads one
looks up the key behind it, so that it ends with the key.
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
    """None for what is no token of ours, and for one that has expired."""
    try:
        token = msgspec.convert(_signer(secret).loads(text), Token)
    except (BadData, msgspec.ValidationError):
        return None
    return token if now < token.expires_at else None


def _signer(secret: bytes) -> URLSafeSerializer:
    signing = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=_PURPOSE, signer_kwargs=signing)
