"""`/v1/webhooks`, and verification of received webhook requests."""

import base64
import hmac
import re
import time
from collections.abc import Mapping

from pydantic import ValidationError

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.client.errors import WebhookSignatureError
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.webhooks import (
    ID_HEADER,
    SECRET_PREFIX,
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
        """The response contains the secret that signs deliveries, which cannot be read again."""
        return post(BASE, WebhookWithSecret, webhook)

    @sent
    def get(self, webhook_id: str) -> Call[Webhook]:
        return get(at(BASE, webhook_id), Webhook)

    @sent
    def update(self, webhook_id: str, changes: WebhookPatch) -> Call[Webhook]:
        """Changes a webhook. Reactivating it resets its failure count."""
        return patch(at(BASE, webhook_id), Webhook, changes)

    @sent
    def rotate_secret(self, webhook_id: str) -> Call[WebhookWithSecret]:
        """The response contains a new secret, only once. Deliveries are also signed with the old one for a day."""
        return post(at(BASE, webhook_id, "rotate"), WebhookWithSecret)

    @sent
    def delete(self, webhook_id: str) -> Call[None]:
        return delete(at(BASE, webhook_id))

    @sent
    def test(self, webhook_id: str) -> Call[Delivery]:
        """Sends a `webhook.test` event; read its result with `delivery`."""
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
        """Sends the same event again; a pending delivery is sent immediately."""
        return post(at(BASE, webhook_id, "deliveries", delivery_id, "redeliver"), Delivery)


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, *, max_age: int = 300, now: float | None = None
) -> WebhookEvent:
    """Verifies that the platform sent a request at most `max_age` seconds ago, and returns its event.

    `body` is the raw request body. An event may arrive more than once: use its `id` to detect duplicates. Raises
    WebhookSignatureError.
    """
    found = {name.lower(): value for name, value in headers.items()}
    message_id, given, stamp = (found.get(name, "") for name in (ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER))
    timestamp = int(stamp) if re.fullmatch("[0-9]{1,12}", stamp) else 0
    expected = signature(_key(secret), message_id, timestamp, body).encode()
    signatures = given.encode(errors="replace").split(b" ")
    if not any([hmac.compare_digest(each, expected) for each in signatures]):  # noqa: C419 - always all of them
        raise WebhookSignatureError("Invalid webhook signature. Reject the request.")
    if abs((time.time() if now is None else now) - timestamp) > max_age:
        raise WebhookSignatureError(
            f"The request's timestamp is not within the last {max_age} s. Reject it, and check the clock."
        )
    try:
        return WebhookEvent.model_validate_json(body)
    except ValidationError as error:
        raise WebhookSignatureError("The body is not a modelshare event. Reject the request.") from error


def _key(secret: str) -> bytes:
    """Decodes a secret. Those created before version 0.2 use URL-safe base64 without padding."""
    spelled = secret.removeprefix(SECRET_PREFIX).translate(str.maketrans("-_", "+/"))
    try:
        key = base64.b64decode(spelled + "=" * (-len(spelled) % 4), validate=True)
    except ValueError:
        key = b""
    if not key or not secret.startswith(SECRET_PREFIX):
        raise WebhookSignatureError("The secret is not one of a webhook; use the whole of it, `whsec_` included.")
    return key
