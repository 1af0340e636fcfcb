"""Webhooks, their deliveries, and how a delivery is signed: as https://www.standardwebhooks.com says."""

import base64
import hmac
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, Field

from modelshare.wire.base import Request, Response, UnixSeconds

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
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
    old_secret_valid_until: UnixSeconds | None
    """Where the secret was rotated: until then deliveries are signed with the one before, too."""
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

    type: str
    timestamp: AwareDatetime
    """When it happened."""
    id: str
    """The same as the header `webhook-id`."""
    project: str
    data: dict[str, Any]


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature of SIGNATURE_HEADER, which may hold several with spaces between them."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"
