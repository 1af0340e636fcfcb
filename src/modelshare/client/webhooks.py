"""`/v1/webhooks`: addresses that hear of events; and checking what arrives at one."""

import hmac
import re
import time
from collections.abc import Mapping

from pydantic import ValidationError

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.client.errors import WebhookSignatureError
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.webhooks import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Delivery,
    DeliveryState,
    DeliveryWithBody,
    Webhook,
    WebhookCreate,
    WebhookEvent,
    WebhookPatch,
    WebhookWithSecret,
    signature,
)

BASE = "/v1/webhooks"


class Webhooks(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Webhook]]:
        return get(BASE, Page[Webhook], limit=limit)

    @sent
    def create(self, webhook: WebhookCreate) -> Call[WebhookWithSecret]:
        """The answer holds the secret that signs deliveries, this once."""
        return post(BASE, WebhookWithSecret, webhook)

    @sent
    def get(self, webhook_id: str) -> Call[Webhook]:
        return get(at(BASE, webhook_id), Webhook)

    @sent
    def update(self, webhook_id: str, changes: WebhookPatch) -> Call[Webhook]:
        """Switched on again, a webhook starts afresh, whatever failed before."""
        return patch(at(BASE, webhook_id), Webhook, changes)

    @sent
    def delete(self, webhook_id: str) -> Call[None]:
        return delete(at(BASE, webhook_id))

    @sent
    def test(self, webhook_id: str) -> Call[Delivery]:
        """Sends a `webhook.test` event; `delivery` tells how it went."""
        return post(at(BASE, webhook_id, "test"), Delivery)

    @listed
    def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None = None, limit: int = PAGE_LIMIT_MAX
    ) -> Call[Paged[Delivery]]:
        """Newest first."""
        return get(at(BASE, webhook_id, "deliveries"), Page[Delivery], state=state, limit=limit)

    @sent
    def delivery(self, webhook_id: str, delivery_id: str) -> Call[DeliveryWithBody]:
        return get(at(BASE, webhook_id, "deliveries", delivery_id), DeliveryWithBody)

    @sent
    def redeliver(self, webhook_id: str, delivery_id: str) -> Call[Delivery]:
        """Sends the same event once more; one that is pending is tried at once."""
        return post(at(BASE, webhook_id, "deliveries", delivery_id, "redeliver"), Delivery)


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, *, max_age: int = 300, now: float | None = None
) -> WebhookEvent:
    """The event of a delivery, once it is certain that the platform sent it, at most `max_age` seconds ago.

    `body` is what arrived, before anything parsed it. An event may arrive twice: its `id` tells.
    Raises WebhookSignatureError.
    """
    found = {name.lower(): value for name, value in headers.items()}
    given, stamp = (found.get(name.lower(), "") for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER))
    timestamp = int(stamp) if re.fullmatch("[0-9]{1,12}", stamp) else 0
    if not hmac.compare_digest(given.encode(errors="replace"), signature(secret, timestamp, body).encode()):
        raise WebhookSignatureError("Invalid webhook signature. Reject the request.")
    if abs((time.time() if now is None else now) - timestamp) > max_age:
        raise WebhookSignatureError(
            f"The request's timestamp is not within the last {max_age} s. Reject it, and check the clock."
        )
    try:
        return WebhookEvent.model_validate_json(body)
    except ValidationError as error:
        raise WebhookSignatureError("The body is not a modelshare event. Reject the request.") from error
