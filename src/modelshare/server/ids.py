"""Ids: time-ordered UUIDs for rows, `proj_` ids for projects, and the secrets of keys."""

import hashlib
import secrets
import time
import uuid


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562 section 5.7), so ids sort by creation.

    48 bits of Unix milliseconds, 12 bits of the millisecond's fraction (section 6.2, method 3), 62 random bits.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | secrets.randbits(62))


def new_project_id() -> str:
    return f"proj_{secrets.token_hex(6)}"


def new_secret(prefix: str) -> str:
    """A credential `<prefix>_<43 url-safe characters>` of 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> str:
    """What is stored of a credential: with 256 random bits in it, one SHA-256 is as good as a slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_uuid(text: str) -> uuid.UUID | None:
    """The UUID written in `text` in its usual form of 36 characters, or None."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
