"""What the server says of an agent whose link it refused or ended, signed: `GET /v1/agent/status`.

Any proxy, captive portal or other server can refuse a handshake or close a WebSocket. Whether the agent is no longer
part of the fleet is what only its own platform can say: the answer is signed with a key that the platform makes for
each agent and hands over when it enrolls.
"""

import hmac
from enum import StrEnum
from typing import Final

from modelshare.wire.base import Response

STATUS_PATH: Final = "/v1/agent/status"
NONCE_BYTES: Final = 32
_PURPOSE: Final = "modelshare agent status 1"


class Verdict(StrEnum):
    KNOWN = "known"
    """Part of the fleet, linked or not: link again."""
    REMOVED = "removed"
    """Taken out of the fleet: delete what it holds and end."""
    UNKNOWN = "unknown"
    """No agent of this platform has this id and token: end, and keep what it holds."""


class AgentStatus(Response):
    agent_id: str
    verdict: Verdict
    signature: str
    """`sign` of it, in hexadecimal digits."""


def sign(key: str, *, nonce: str, agent_id: str, token: str, verdict: Verdict) -> str:
    """The signature of a verdict. It covers the token: a verdict on a wrong one says nothing of the agent's own."""
    text = f"{_PURPOSE}\n{nonce}\n{agent_id}\n{token}\n{verdict}"
    return hmac.new(bytes.fromhex(key), text.encode(), "sha256").hexdigest()
