"""Files that one agent fetches from another, or from the machine of their owner, without the platform in between.

The agent that has the files listens with TLS. Its certificate is its own; readers are told its fingerprint by the
server. A link names a file by its digest and a reader, and is signed by the server with the key that only the server
and the agent that has the file know: the one that signs verdicts about it. So the agent can check it offline.
"""

import hmac
import re
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from modelshare.wire.base import Request
from modelshare.wire.uploads import Sha256

DEFAULT_PORT: Final = 7433
_PURPOSE: Final = "modelshare direct link 1"
_SIGNATURE_CHARACTERS: Final = 32
_TARGET: Final = re.compile(
    r"/files/([0-9a-f]{64})\?reader=([0-9A-Za-z_-]{1,64})&expires=([1-9][0-9]{0,11})&signature=([0-9a-f]{32})", re.ASCII
)


def sign(key: str, *, sha256: str, reader: str, expires_at: int) -> str:
    """`key`: that of the agent that has the file, hexadecimal. `reader`: the id of the agent that may read it."""
    text = f"{_PURPOSE}\n{sha256}\n{reader}\n{expires_at}"
    return hmac.new(bytes.fromhex(key), text.encode(), "sha256").hexdigest()[:_SIGNATURE_CHARACTERS]


def link(address: str, *, sha256: str, reader: str, expires_at: int, signature: str) -> str:
    return f"https://{address}/files/{sha256}?reader={reader}&expires={expires_at}&signature={signature}"


class Link(NamedTuple):
    """What a valid link allows."""

    sha256: str
    reader: str
    expires_at: int


def check(key: str, target: str, now: float) -> Link | None:
    """`target`: of a request. None if it is not a link that is valid now."""
    match = _TARGET.fullmatch(target)
    if match is None or not key:
        return None
    sha256, reader, expires_at, signature = match.groups()
    expected = sign(key, sha256=sha256, reader=reader, expires_at=int(expires_at))
    is_signed = hmac.compare_digest(expected, signature)
    return Link(sha256, reader, int(expires_at)) if is_signed and now < int(expires_at) else None


class WrongBytes(Request):
    """Agents that sent bytes which did not have the file's digest; with several, at least one of them did."""

    sha256: Sha256
    agents: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=16)]


class GrantRequest(Request):
    """The body of a request for a grant, which may be left out."""

    wrong_bytes: Annotated[list[WrongBytes], Field(max_length=16)] = Field(default_factory=list)
    """Reports since the last grant."""
