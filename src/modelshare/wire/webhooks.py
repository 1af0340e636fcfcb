"""Webhooks, their deliveries, and how a delivery is signed."""

import hmac
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from modelshare.wire.base import Request, Response, UnixSeconds

EVENT_HEADER: Final = "X-Modelshare-Event"
EVENT_ID_HEADER: Final = "X-Modelshare-Event-Id"
DELIVERY_HEADER: Final = "X-Modelshare-Delivery"
TIMESTAMP_HEADER: Final = "X-Modelshare-Timestamp"
SIGNATURE_HEADER: Final = "X-Modelshare-Signature"
TEST_EVENT: Final = "webhook.test"
"""Comes when asked for, whatever a webhook hears of."""

WebhookUrl = Annotated[str, Field(min_length=1, max_length=2000)]
WebhookEvents = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]
"""Types such as `model.ready`, or `model.*` for all of a kind; none means all."""


class WebhookCreate(Request):
    url: WebhookUrl
    events: WebhookEvents = Field(default_factory=list)


class WebhookPatch(Request):
    """None leaves a field as it is."""

    url: WebhookUrl | None = None
    events: WebhookEvents | None = None
    is_active: bool | None = None


class Webhook(Response):
    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[str]
    is_active: bool
    """Off: nothing is sent, and no event waits for it."""
    failures: int
    """Attempts that failed since the last good one."""
    retry_at: UnixSeconds | None
    """Nothing is sent before: the last attempt failed."""
    created_at: UnixSeconds


class WebhookWithSecret(Webhook):
    secret: str
    """`whsec_…`, signs what is sent; shown this once."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up; can be redelivered."""


class Delivery(Response):
    object: Literal["webhook.delivery"] = "webhook.delivery"
    id: str
    webhook: str
    event: str
    """The event's id: the same at every attempt, for every webhook."""
    type: str
    state: DeliveryState
    attempts: int
    status: int | None
    """HTTP status of the last attempt; None when no answer came."""
    error: str | None
    """Why the last attempt failed."""
    created_at: UnixSeconds
    attempted_at: UnixSeconds | None
    next_attempt_at: UnixSeconds | None


class DeliveryWithBody(Delivery):
    body: str
    """What is sent, byte for byte."""


class WebhookEvent(Response):
    """The body of a delivery."""

    id: str
    type: str
    created: UnixSeconds
    project: str
    data: dict[str, Any]


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of SIGNATURE_HEADER: HMAC-SHA256 with the secret over `timestamp.body`."""
    return "v1=" + hmac.new(secret.encode(), b"%d." % timestamp + body, "sha256").hexdigest()
