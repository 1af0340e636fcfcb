"""The server's signed verdict on an agent whose link it refused or closed: `GET /v1/agent/status`.

Any proxy, captive portal or other server can refuse a handshake or close a WebSocket, but only the agent's own platform
can say that it is no longer part of the fleet. Therefore the answer is signed with a key that the platform generates
for each agent and returns when it enrolls.
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
    """Part of the fleet, connected or not: reconnect."""
    REMOVED = "removed"
    """Removed from the fleet: delete all weights and exit."""
    UNKNOWN = "unknown"
    """No agent of this platform has this id and token: exit, but keep the weights."""


class AgentStatus(Response):
    agent_id: str
    verdict: Verdict
    signature: str
    """The result of `sign`, hexadecimal."""


def sign(key: str, *, nonce: str, agent_id: str, token: str, verdict: Verdict) -> str:
    """Signs a verdict. The token is included, so that a verdict on a wrong token cannot be used for the right one."""
    text = f"{_PURPOSE}\n{nonce}\n{agent_id}\n{token}\n{verdict}"
    return hmac.new(bytes.fromhex(key), text.encode(), "sha256").hexdigest()
