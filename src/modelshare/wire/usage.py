"""Usage by day, the audit log, and the processes that confirm what it tells of."""

from typing import Any, Literal

from pydantic import Field

from modelshare.wire.base import Response, UnixSeconds


class UsageRow(Response):
    object: Literal["usage"] = "usage"
    day: str | None
    """`YYYY-MM-DD`, UTC. None, like the next three, where it was not grouped by it."""
    endpoint: str | None
    model: str | None
    key: str | None
    """The key's id, or `person:<id>` for requests from the dashboard."""
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int


class Confirmation(Response):
    """A server process goes by the change: nothing that it remembered from before is in use any more."""

    process: str
    after_ms: int
    """Milliseconds from the change until then, both by the database's clock."""


class AuditEntry(Response):
    object: Literal["audit.entry"] = "audit.entry"
    id: str
    at: UnixSeconds
    actor: str
    """`key:<id>`, `person:<id>`, `agent:<id>`, `project:<slug>` for another project, or `system`."""
    action: str
    """`subject.verb`, such as `model.share`."""
    target: str
    """`subject:<id>`, such as `model:<uuid>`."""
    outcome: Literal["done", "refused"]
    reason: str | None
    details: dict[str, Any]
    confirmations: list[Confirmation] = Field(default_factory=list)
    """Of changes that take effect on every process: who has confirmed, the first one first. Empty for others."""
    pending: list[str] = Field(default_factory=list)
    """Names of running processes that have not confirmed yet."""


class Process(Response):
    """A server process of the platform, as its operator sees it."""

    object: Literal["process"] = "process"
    name: str
    """As the audit log has it."""
    address: str
    """How the other processes reach it."""
    started_at: UnixSeconds
    seen_at: UnixSeconds
    """When it last said that it runs."""
