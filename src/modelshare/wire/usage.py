"""Usage by day, the audit log, and the processes that confirm what it tells of."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from modelshare.wire.base import Request, Response, UnixSeconds

ACTION_PATTERN = r"^[a-z_]{1,50}(\.[a-z_]{1,50})?$(?!\n)"
"""An action of the audit log, or the subject of several."""


class UsageRow(Response):
    object: Literal["usage"] = "usage"
    day: str | None
    """`YYYY-MM-DD`, UTC. None, like the next three, where it was not grouped by it."""
    endpoint: str | None
    """Its slug; `slug (deleted)` for those that are gone, where another one has the slug now."""
    model: str | None
    key: str | None
    """The key's id, or `person:<id>` for requests from the dashboard."""
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """Some of the tokens were not counted by an engine, but estimated: it told none, or its answer broke off."""


class AuditOutcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"


class AuditFilter(Request):
    """Which entries of an audit log to see; what is empty is not asked for, as forms send it."""

    model_config = ConfigDict(extra="ignore")

    action: Annotated[str, Field(pattern=ACTION_PATTERN)] | None = None
    """An action such as `model.share`, or a subject such as `model`: all that is done to models."""
    actor: Annotated[str, Field(max_length=200)] | None = None
    """Who did it, as entries have it: `key:<id>`, `person:<id>`, `system`."""
    target: Annotated[str, Field(max_length=200)] | None = None
    """What it was done to, as entries have it: `model:<uuid>`; or `model:owner/name` of one of the project's own."""
    outcome: AuditOutcome | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if not isinstance(value, str) or value.strip()}

    @property
    def given(self) -> dict[str, str]:
        """What is asked for, by the names of a URL's query."""
        return self.model_dump(mode="json", exclude_none=True)


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
    outcome: AuditOutcome
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
    version: str | None = None
    """Of modelshare; None of one that is too old to say."""
    started_at: UnixSeconds
    seen_at: UnixSeconds
    """When it last said that it runs."""
