"""Usage by day, and the audit log."""

from typing import Any, Literal

from modelshare.wire.base import Response, UnixSeconds


class UsageRow(Response):
    object: Literal["usage"] = "usage"
    day: str | None
    """`YYYY-MM-DD`, UTC. None, like the next three, where it was not grouped by it."""
    endpoint: str | None
    model: str | None
    key: str | None
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int


class AuditEntry(Response):
    object: Literal["audit.entry"] = "audit.entry"
    id: str
    at: UnixSeconds
    actor: str
    """`key:<id>`, `agent:<id>` or `system`."""
    action: str
    """`subject.verb`, such as `model.share`."""
    target: str
    """`subject:<id>`, such as `model:<uuid>`."""
    outcome: Literal["done", "refused"]
    reason: str | None
    details: dict[str, Any]
