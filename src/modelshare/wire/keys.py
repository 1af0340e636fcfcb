"""Projects and their API keys."""

from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field, IPvAnyNetwork

from modelshare.wire.base import SLUG_PATTERN, EndpointSlug, Request, Response, Seconds, UnixSeconds
from modelshare.wire.signers import KeyId
from modelshare.wire.text import Name

ProjectSlug = Annotated[str, Field(pattern=SLUG_PATTERN, min_length=1, max_length=40)]
Quota = Annotated[int, Field(ge=0, le=1 << 62)]
"""Maximum bytes of weights that a project may store. None means the platform's default."""


def _reject_integer(value: object) -> object:
    if isinstance(value, int):  # ipaddress would read 5 as 0.0.0.5
        raise ValueError("write a network as text, such as 10.0.0.0/8")  # noqa: TRY004 - what pydantic answers with 400
    return value


Network = Annotated[IPvAnyNetwork, BeforeValidator(_reject_integer)]


PerMinute = Annotated[int, Field(ge=1, le=10**9)]
MonthlyTokens = Annotated[int, Field(ge=1, le=10**15)]
Money = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]
"""In the platform's currency, which is that of the tiers' `price_per_million_tokens`."""
MICROS: Final = 1_000_000
"""Money is counted in millionths of the currency's unit."""


class Scope(StrEnum):
    """What a key may do. A key without scopes may do everything in its project."""

    MODELS = "models"
    ENDPOINTS = "endpoints"
    AGENTS = "agents"
    INFERENCE = "inference"
    KEYS = "keys"


class ProjectCreate(Request):
    name: Name
    slug: ProjectSlug
    quota_bytes: Quota | None = None


class ProjectPatch(Request):
    """The fields to change; omitted fields keep their value."""

    quota_bytes: Quota | None = None
    """None means the platform's default."""


class ProjectSettings(Request):
    """What a project's owners change of it; what is not sent stays as it is."""

    monthly_budget: Money | None = None
    """What the project may spend on tiers with a price in a month (UTC). None: no limit."""

    require_signature: bool | None = None
    """True: the project shares versions that are signed by one of its signers only, and deploys signed versions only.
    """
    allowed_signers: Annotated[list[KeyId], Field(max_length=100)] | None = None
    """Ids of the keys (`key_id` of signers) whose signatures count for what the project deploys of others; empty: those
    that each model's owner has registered."""


class Project(Response):
    object: Literal["project"] = "project"
    id: str
    """`proj_` and 12 hex digits."""
    name: str
    slug: str
    quota_bytes: int | None = None
    require_signature: bool = False
    allowed_signers: list[str] = Field(default_factory=list)
    monthly_budget: float | None = None
    created_at: UnixSeconds


class ProjectWithKey(Project):
    api_key: str
    """The project's first key, shown only once."""


class KeyLimits(NamedTuple):
    """What a key may use, beside the limits of each endpoint's tier. None: no limit of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    monthly_token_budget: int | None = None


NO_LIMITS: Final = KeyLimits()


class KeyPatch(Request):
    """What a key may use, beside the limits of each endpoint's tier. None: no limit. Fields left out stay."""

    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    monthly_token_budget: MonthlyTokens | None = None
    """Tokens of a month (UTC)."""

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(self.requests_per_minute, self.tokens_per_minute, self.monthly_token_budget)


class KeyCreate(KeyPatch):
    name: Name
    scopes: list[Scope] = Field(default_factory=list)
    """Empty means all scopes, or `inference` if `endpoint` is set."""
    expires_in: Seconds | None = None
    """Seconds until the key expires."""
    allowed_ips: Annotated[list[Network], Field(max_length=100)] = Field(default_factory=list)
    """Networks from which the key may be used, such as `10.0.0.0/8`; empty means all."""
    endpoint: EndpointSlug | None = None
    """Slug of the only endpoint that the key may call."""


class Key(Response):
    object: Literal["key"] = "key"
    id: str
    name: str
    hint: str
    """The value's first and last characters, to tell keys apart."""
    scopes: list[Scope]
    allowed_ips: list[str]
    endpoint: str | None
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None
    last_used_at: UnixSeconds | None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    monthly_token_budget: int | None = None
    suspended_at: UnixSeconds | None = None
    """Since when it is refused, until it is resumed."""


class KeyWithValue(Key):
    key: str
    """The value, shown only once; only its SHA-256 is stored."""
    old_value_valid_until: UnixSeconds | None = None
    """After a rotation: the time until which the previous value still works."""
