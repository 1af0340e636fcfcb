"""Usage by day, the audit log, and the processes that confirm its changes."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from modelshare.wire.base import Request, Response, UnixSeconds

ACTION_PATTERN = r"^[a-z_]{1,50}(\.[a-z_]{1,50})?$(?!\n)"
"""An action of the audit log, or a subject of several actions."""


Cost = Annotated[Decimal, PlainSerializer(float, when_used="json")]


class UsageCounts(Response):
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """Some of the tokens are an estimate, since the engine reported no count or the answer broke off."""
    estimated_requests: int = 0
    """How many of the requests."""


class UsageRow(UsageCounts):
    object: Literal["usage"] = "usage"
    day: str | None
    """`YYYY-MM-DD`, UTC; `YYYY-MM` for an older month. Like the next ones, None unless the rows are grouped by it."""
    endpoint: str | None
    """Its slug, or `slug (deleted)` for a deleted endpoint whose slug is used by another one now."""
    model: str | None
    key: str | None
    """The key's id, or `person:<id>` for requests from the dashboard."""
    tier: str | None = None
    """The endpoint's tier when the request was counted. None also for usage from before it was recorded."""
    version: str | None = None
    """Of the model. None also if it is not known, or no machine was asked."""
    cost: Cost = Decimal(0)
    """By the tier's price when the request was counted, in the same currency."""


class ModelUsageRow(UsageCounts):
    """How much a model is used by all projects, as its owner sees it."""

    object: Literal["model.usage"] = "model.usage"
    day: str | None
    """`YYYY-MM-DD`, UTC; `YYYY-MM` for an older month. Like the next ones, None unless the rows are grouped by it."""
    project: str | None
    """The deploying project's public name."""
    tier: str | None
    version: str | None
    """Of the model. None also if it is not known, or no machine was asked."""


class AuditOutcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"


class AuditFilter(Request):
    """Filters an audit log. Empty values are ignored, since forms send them."""

    model_config = ConfigDict(extra="ignore")

    action: Annotated[str, Field(pattern=ACTION_PATTERN)] | None = None
    """An action such as `model.share`, or a subject such as `model` for all actions on models."""
    actor: Annotated[str, Field(max_length=200)] | None = None
    """Who did it, in the form used by entries: `key:<id>`, `person:<id>`, `system`."""
    target: Annotated[str, Field(max_length=200)] | None = None
    """What it was done to, in the form used by entries: `model:<uuid>`. Also `model:owner/name` for the project's own
    models."""
    outcome: AuditOutcome | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if not isinstance(value, str) or value.strip()}

    @property
    def given(self) -> dict[str, str]:
        """The filters that are set, as parameters of a URL's query."""
        return self.model_dump(mode="json", exclude_none=True)


class Confirmation(Response):
    """A server process confirms that it applies the change and no longer uses older cached data."""

    process: str
    after_ms: int
    """Milliseconds since the change, by the database's clock."""


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
    """For changes that take effect on every process: the confirmations, in order. Empty for other actions."""
    pending: list[str] = Field(default_factory=list)
    """Names of running processes that have not confirmed yet."""


class Process(Response):
    """A server process, as shown to the platform's operator."""

    object: Literal["process"] = "process"
    name: str
    """The name that it has in the audit log."""
    address: str
    """The address at which other processes reach it."""
    version: str | None = None
    """Version of modelshare; None for a process that is too old to report it."""
    started_at: UnixSeconds
    seen_at: UnixSeconds
    """Time of its last heartbeat."""
