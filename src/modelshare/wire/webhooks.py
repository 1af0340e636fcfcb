"""Webhooks, their deliveries, and their signatures (https://www.standardwebhooks.com)."""

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
"""Sent on request, whatever events a webhook is subscribed to."""

WebhookUrl = Annotated[str, Field(min_length=1, max_length=2000)]
WebhookEvents = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]
"""Event types such as `model.ready`, or `model.*` for all types of a kind; empty means all."""


class WebhookCreate(Request):
    url: WebhookUrl
    events: WebhookEvents = Field(default_factory=list)


class WebhookPatch(Request):
    """Omitted fields keep their value."""

    url: WebhookUrl | None = None
    events: WebhookEvents | None = None
    is_active: bool | None = None


class Webhook(Response):
    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[str]
    is_active: bool
    """While it is false, nothing is sent and events are not queued."""
    failures: int
    """Failed attempts since the last successful one."""
    retry_at: UnixSeconds | None
    """Nothing is sent before this time, since the last attempt failed."""
    old_secret_valid_until: UnixSeconds | None
    """After a rotation: the time until which deliveries are also signed with the previous secret."""
    created_at: UnixSeconds


class WebhookWithSecret(Webhook):
    secret: str
    """The signing secret `whsec_…`, shown only once."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Will not be retried automatically; can be redelivered."""


class Delivery(Response):
    object: Literal["webhook.delivery"] = "webhook.delivery"
    id: str
    webhook: str
    event: str
    """The event's id: the same at every attempt and for every webhook."""
    type: str
    state: DeliveryState
    attempts: int
    status: int | None
    """HTTP status of the last attempt; None if there was no response."""
    error: str | None
    """Why the last attempt failed."""
    created_at: UnixSeconds
    attempted_at: UnixSeconds | None
    next_attempt_at: UnixSeconds | None


class DeliveryWithBody(Delivery):
    body: str
    """The request body, byte for byte."""


class WebhookEvent(Response):
    """The body of a delivery."""

    type: str
    timestamp: AwareDatetime
    """When it happened."""
    id: str
    """Same as the header `webhook-id`."""
    project: str
    data: dict[str, Any]


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature for SIGNATURE_HEADER, which may contain several, separated by spaces."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"
