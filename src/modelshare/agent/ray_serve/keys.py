"""The agent's key, of which replicas know only the SHA-256: a cluster's dashboard and logs show what they are given."""

import hashlib
import hmac


def key_digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def is_key(authorization: str, digest: str) -> bool:
    """Whether this header carries the key with this digest."""
    return hmac.compare_digest(key_digest(authorization.removeprefix("Bearer ")), digest)
