"""Download links of the folder store: `<base>/blobs/<key>?expires=<Unix seconds>&signature=<HMAC-SHA256>`."""

import base64
import hashlib
import hmac
from enum import Enum, auto
from urllib.parse import parse_qs, quote, urlencode

PATH = "/blobs/"
_KEPT = "/:"
"""Characters of a key that stay as they are in a URL."""
_PURPOSE = "modelshare blob link 1"
"""Part of the signed message, so that no other signature made with the same secret is a valid link."""


class LinkState(Enum):
    VALID = auto()
    UNSIGNED = auto()
    FORGED = auto()
    EXPIRED = auto()


def signed_link(base_url: str, key: str, expires_at: int, secret: bytes) -> str:
    """A link to download `key` (GET or HEAD) until `expires_at` (Unix seconds)."""
    query = urlencode({"expires": expires_at, "signature": _signature(key, str(expires_at), secret)})
    return f"{base_url.rstrip('/')}{PATH}{quote(key, safe=_KEPT)}?{query}"


def check_link(key: str, query: bytes, secret: bytes, now: float) -> LinkState:
    """Verifies the query string of a request for `key`, in constant time for every wrong signature."""
    values = parse_qs(query.decode("latin-1"))
    expires, signature = values.get("expires", [""])[0], values.get("signature", [""])[0]
    if not expires or not signature:
        return LinkState.UNSIGNED
    if not hmac.compare_digest(_signature(key, expires, secret).encode(), signature.encode()):
        return LinkState.FORGED
    return LinkState.VALID if now < int(expires) else LinkState.EXPIRED


def _signature(key: str, expires: str, secret: bytes) -> str:
    message = f"{_PURPOSE}\nGET\n{key}\n{expires}".encode()
    return base64.urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256)).rstrip(b"=").decode()
