"""Pages of a project's webhooks and their deliveries."""

import json
from collections.abc import Collection
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Response

from modelshare.server.audit.events import TYPES
from modelshare.server.audit.webhooks import service as webhooks
from modelshare.server.errors import InvalidRequestError
from modelshare.server.paging import PagingDep
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.context import OwnerPage, ProjectContext, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.webhooks import DeliveryState, Webhook, WebhookCreate, WebhookPatch

router = APIRouter(prefix="/dashboard/{project}/webhooks", route_class=PageRoute, include_in_schema=False)
HEARING: Final = Choice(
    "hears",
    "Choose the events to send.",
    (Option("all", "All events"), Option("some", "Only selected events", (Field("events", "Events", many=True),))),
    otherwise="all",
)
Events = Annotated[Chosen, Depends(HEARING.read)]
_KINDS: Final = {
    kind: tuple(name for name in TYPES if name.partition(".")[0] == kind) for kind in ("model", "endpoint", "agent")
}
"""Groups of events, for the form."""


@router.get("")
async def webhook_list(page: OwnerPage, paging: PagingDep) -> Response:
    listed = await webhooks.page(page.session, page.caller, paging)
    return page.render("dashboard/webhooks/list.html", webhooks=listed, states=_states(listed.data))


@router.get("/new")
async def new_webhook_page(page: OwnerPage) -> Response:
    return page.render("dashboard/webhooks/new.html", hearing=HEARING, kinds=_KINDS, chosen=frozenset())


@router.post("/new")
async def new_webhook(page: OwnerPage, url: Text, events: Events) -> Response:
    spec = parse_form(WebhookCreate, url=url.strip(), events=_heard(events))
    webhook = await webhooks.create(page.session, page.caller, spec, page.platform.settings, now=page.now)
    return page.show_once("dashboard/webhooks/shown.html", webhook=webhook)


@router.get("/{webhook_id}")
async def webhook_page(page: OwnerPage, paging: PagingDep, webhook_id: str, state: str = "") -> Response:
    webhook = await webhooks.get(page.session, page.caller, webhook_id)
    chosen = DeliveryState(state) if state in set(DeliveryState) else None
    deliveries = await webhooks.deliveries(page.session, page.caller, webhook_id, chosen, paging)
    return page.render(
        "dashboard/webhooks/one.html",
        webhook=webhook,
        state=_state(webhook),
        trouble=next((each.error for each in deliveries.data if each.error), None),
        deliveries=deliveries,
        chosen=chosen,
        choices=list(DeliveryState),
    )


@router.get("/{webhook_id}/edit")
async def edit_page(page: OwnerPage, webhook_id: str) -> Response:
    webhook = await webhooks.get(page.session, page.caller, webhook_id)
    chosen = frozenset(webhook.events)
    return page.render("dashboard/webhooks/edit.html", webhook=webhook, hearing=HEARING, kinds=_KINDS, chosen=chosen)


@router.post("/{webhook_id}/edit")
async def edit(page: OwnerPage, webhook_id: str, url: Text, events: Events) -> Response:
    """Keeps the failures if the URL does not change."""
    before = await webhooks.get(page.session, page.caller, webhook_id)
    patch = parse_form(WebhookPatch, url=url.strip() if url.strip() != before.url else None, events=_heard(events))
    await webhooks.change(page.session, page.caller, webhook_id, patch, page.platform.settings, now=page.now)
    return page.redirect(_url(page, webhook_id), "Saved.")


@router.post("/{webhook_id}/switch")
async def switch(page: OwnerPage, webhook_id: str, on: Annotated[bool, Form()]) -> Response:
    patch = WebhookPatch(is_active=on)
    await webhooks.change(page.session, page.caller, webhook_id, patch, page.platform.settings, now=page.now)
    return page.redirect(_url(page, webhook_id), f"Webhook {'enabled' if on else 'disabled'}.")


@router.get("/{webhook_id}/rotate")
async def rotate_page(page: OwnerPage, webhook_id: str) -> Response:
    webhook = await webhooks.get(page.session, page.caller, webhook_id)
    return page.render("dashboard/webhooks/rotate.html", webhook=webhook)


@router.post("/{webhook_id}/rotate")
async def rotate(page: OwnerPage, webhook_id: str) -> Response:
    webhook = await webhooks.rotate_secret(page.session, page.caller, webhook_id, page.platform.settings, now=page.now)
    return page.show_once("dashboard/webhooks/shown.html", webhook=webhook)


@router.get("/{webhook_id}/delete")
async def delete_page(page: OwnerPage, webhook_id: str) -> Response:
    webhook = await webhooks.get(page.session, page.caller, webhook_id)
    return page.render("dashboard/webhooks/delete.html", webhook=webhook)


@router.post("/{webhook_id}/delete")
async def delete(page: OwnerPage, webhook_id: str) -> Response:
    await webhooks.delete(page.session, page.caller, webhook_id, now=page.now)
    return page.redirect(f"{page.root}/webhooks", "Webhook deleted.")


@router.post("/{webhook_id}/test")
async def send_test(page: OwnerPage, webhook_id: str) -> Response:
    delivery = await webhooks.send_test(page.session, page.caller, webhook_id, now=page.now)
    return page.redirect(_url(page, webhook_id, delivery.id), "Test event queued.")


@router.get("/{webhook_id}/deliveries/{delivery_id}")
async def delivery_page(page: OwnerPage, webhook_id: str, delivery_id: str) -> Response:
    webhook = await webhooks.get(page.session, page.caller, webhook_id)
    delivery = await webhooks.delivery(page.session, page.caller, webhook_id, delivery_id)
    body = json.dumps(json.loads(delivery.body), indent=2, ensure_ascii=False)
    return page.render("dashboard/webhooks/delivery.html", webhook=webhook, delivery=delivery, body=body)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver(page: OwnerPage, webhook_id: str, delivery_id: str) -> Response:
    delivery = await webhooks.redeliver(page.session, page.caller, webhook_id, delivery_id, now=page.now)
    return page.redirect(_url(page, webhook_id, delivery.id), "Delivery queued again.")


def _heard(chosen: Chosen) -> list[str]:
    """None: all of them."""
    if chosen.value == "some" and not chosen.all("events"):
        raise InvalidRequestError("Select at least one event.", param="events")
    return chosen.all("events")


def _url(page: ProjectContext, webhook_id: str, delivery_id: str | None = None) -> str:
    url = f"{page.root}/webhooks/{webhook_id}"
    return f"{url}/deliveries/{delivery_id}" if delivery_id else url


def _states(found: Collection[Webhook]) -> dict[str, str]:
    return {webhook.id: _state(webhook) for webhook in found}


def _state(webhook: Webhook) -> str:
    if not webhook.is_active:
        return "off"
    return "failing" if webhook.failures else "active"
