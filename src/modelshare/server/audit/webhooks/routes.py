"""`/v1/webhooks`."""

from fastapi import APIRouter

from modelshare.server.audit.webhooks import service
from modelshare.server.http import KeysCaller, PlatformDep, ProjectRoute, ReadSession, WriteSession
from modelshare.server.paging import PagingDep
from modelshare.wire.base import Page
from modelshare.wire.webhooks import (
    Delivery,
    DeliveryState,
    DeliveryWithBody,
    Webhook,
    WebhookCreate,
    WebhookPatch,
    WebhookWithSecret,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=ProjectRoute)


@router.get("")
async def list_webhooks(caller: KeysCaller, session: ReadSession, paging: PagingDep) -> Page[Webhook]:
    """Lists the project's webhooks, newest first, without their secrets."""
    return await service.page(session, caller, paging)


@router.post("", status_code=201)
async def create_webhook(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, body: WebhookCreate
) -> WebhookWithSecret:
    """Creates a webhook. The secret that signs its deliveries is shown only in this response."""
    return await service.create(session, caller, body, platform.settings, now=platform.now())


@router.get("/{webhook_id}")
async def get_webhook(caller: KeysCaller, session: ReadSession, webhook_id: str) -> Webhook:
    """Returns a webhook of the project."""
    return await service.get(session, caller, webhook_id)


@router.patch("/{webhook_id}")
async def change_webhook(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str, body: WebhookPatch
) -> Webhook:
    """Changes the URL or the events, or disables or enables the webhook; enabling it resets its failures."""
    return await service.change(session, caller, webhook_id, body, platform.settings, now=platform.now())


@router.post("/{webhook_id}/rotate")
async def rotate_secret(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str
) -> WebhookWithSecret:
    """Rotates the secret. The new one is shown only in this response; the old one also signs for 24 hours."""
    return await service.rotate_secret(session, caller, webhook_id, platform.settings, now=platform.now())


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str) -> None:
    """Deletes a webhook and its deliveries."""
    await service.delete(session, caller, webhook_id, now=platform.now())


@router.post("/{webhook_id}/test")
async def send_test(caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str) -> Delivery:
    """Queues a `webhook.test` event, whatever events the webhook is set to. The delivery shows the result."""
    return await service.send_test(session, caller, webhook_id, now=platform.now())


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    caller: KeysCaller,
    session: ReadSession,
    paging: PagingDep,
    webhook_id: str,
    state: DeliveryState | None = None,
) -> Page[Delivery]:
    """Lists the deliveries, newest first; they are kept for 30 days."""
    return await service.deliveries(session, caller, webhook_id, state, paging)


@router.get("/{webhook_id}/deliveries/{delivery_id}")
async def get_delivery(caller: KeysCaller, session: ReadSession, webhook_id: str, delivery_id: str) -> DeliveryWithBody:
    """Returns a delivery with its body."""
    return await service.delivery(session, caller, webhook_id, delivery_id)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str, delivery_id: str
) -> Delivery:
    """Delivers the event again, with the same ID and body; a pending delivery is attempted immediately instead."""
    return await service.redeliver(session, caller, webhook_id, delivery_id, now=platform.now())
