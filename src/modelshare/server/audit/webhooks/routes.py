"""`/v1/webhooks`."""

from typing import Annotated

from fastapi import APIRouter, Depends

from modelshare.server.audit.webhooks import service
from modelshare.server.http import (
    Caller,
    PagingDep,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    WriteSession,
    require,
)
from modelshare.wire.base import Page
from modelshare.wire.keys import Scope
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
KeysCaller = Annotated[Caller, Depends(require(Scope.KEYS))]


@router.get("")
async def list_webhooks(caller: KeysCaller, session: ReadSession, paging: PagingDep) -> Page[Webhook]:
    """The project's webhooks, newest first; never their secrets."""
    return await service.page(session, caller, paging)


@router.post("", status_code=201)
async def create_webhook(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, body: WebhookCreate
) -> WebhookWithSecret:
    """A new webhook. The secret that signs its deliveries is in this answer and nowhere else."""
    return await service.create(session, caller, body, platform.settings, now=platform.now())


@router.get("/{webhook_id}")
async def get_webhook(caller: KeysCaller, session: ReadSession, webhook_id: str) -> Webhook:
    """One webhook of the project."""
    return await service.get(session, caller, webhook_id)


@router.patch("/{webhook_id}")
async def change_webhook(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str, body: WebhookPatch
) -> Webhook:
    """Changes address or events, or switches it off or on; switched on again, it starts afresh."""
    return await service.change(session, caller, webhook_id, body, platform.settings, now=platform.now())


@router.post("/{webhook_id}/rotate")
async def rotate_secret(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str
) -> WebhookWithSecret:
    """A new secret, which is in this answer and nowhere else. For 24 hours deliveries are signed with the present one,
    too."""
    return await service.rotate_secret(session, caller, webhook_id, platform.settings, now=platform.now())


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str) -> None:
    """Deletes a webhook with its deliveries."""
    await service.delete(session, caller, webhook_id, now=platform.now())


@router.post("/{webhook_id}/test")
async def send_test(caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str) -> Delivery:
    """Sends a `webhook.test` event, whatever the webhook hears of; look at the delivery to see how it went."""
    return await service.send_test(session, caller, webhook_id, now=platform.now())


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    caller: KeysCaller,
    session: ReadSession,
    paging: PagingDep,
    webhook_id: str,
    state: DeliveryState | None = None,
) -> Page[Delivery]:
    """What was or is to be delivered, newest first; kept for 30 days."""
    return await service.deliveries(session, caller, webhook_id, state, paging)


@router.get("/{webhook_id}/deliveries/{delivery_id}")
async def get_delivery(caller: KeysCaller, session: ReadSession, webhook_id: str, delivery_id: str) -> DeliveryWithBody:
    """One delivery, with the body that is sent."""
    return await service.delivery(session, caller, webhook_id, delivery_id)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, webhook_id: str, delivery_id: str
) -> Delivery:
    """Delivers the event once more, with the same id and body; one that is pending is tried at once instead."""
    return await service.redeliver(session, caller, webhook_id, delivery_id, now=platform.now())
