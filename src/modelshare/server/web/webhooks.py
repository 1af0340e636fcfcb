"""Pages of a project's webhooks and what was delivered to them."""

import json
from collections.abc import Collection
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Request, Response

from modelshare.server.audit.events import TYPES
from modelshare.server.audit.webhooks import service as webhooks
from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.page_auth import OwnerCaller
from modelshare.server.web.pages import PageRoute, parse_form, redirect_after_form, render, show_once
from modelshare.wire.webhooks import DeliveryState, Webhook, WebhookCreate, WebhookPatch

router = APIRouter(prefix="/dashboard/{project}/webhooks", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=4096)]
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
"""What can be chosen, in groups as people see them."""


@router.get("")
async def webhook_list(request: Request, caller: OwnerCaller, session: ReadSession, paging: PagingDep) -> Response:
    page = await webhooks.page(session, caller, paging)
    return render(request, "dashboard/webhooks/list.html", webhooks=page, states=_states(page.data))


@router.get("/new")
async def new_webhook_page(request: Request, _: OwnerCaller) -> Response:
    return render(request, "dashboard/webhooks/new.html", hearing=HEARING, kinds=_KINDS, chosen=frozenset())


@router.post("/new")
async def new_webhook(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, url: Text, events: Events
) -> Response:
    spec = parse_form(WebhookCreate, url=url.strip(), events=_heard(events))
    webhook = await webhooks.create(session, caller, spec, platform.settings, now=platform.now())
    return show_once(request, "dashboard/webhooks/shown.html", webhook=webhook)


@router.get("/{webhook_id}")
async def webhook_page(
    request: Request, caller: OwnerCaller, session: ReadSession, paging: PagingDep, webhook_id: str, state: str = ""
) -> Response:
    webhook = await webhooks.get(session, caller, webhook_id)
    chosen = DeliveryState(state) if state in set(DeliveryState) else None
    deliveries = await webhooks.deliveries(session, caller, webhook_id, chosen, paging)
    return render(
        request,
        "dashboard/webhooks/one.html",
        webhook=webhook,
        state=_state(webhook),
        trouble=next((each.error for each in deliveries.data if each.error), None),
        deliveries=deliveries,
        chosen=chosen,
        choices=list(DeliveryState),
    )


@router.get("/{webhook_id}/edit")
async def edit_page(request: Request, caller: OwnerCaller, session: ReadSession, webhook_id: str) -> Response:
    webhook = await webhooks.get(session, caller, webhook_id)
    chosen = frozenset(webhook.events)
    return render(
        request, "dashboard/webhooks/edit.html", webhook=webhook, hearing=HEARING, kinds=_KINDS, chosen=chosen
    )


@router.post("/{webhook_id}/edit")
async def edit(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    webhook_id: str,
    url: Text,
    events: Events,
) -> Response:
    """An address that stays as it is keeps what is known of its failures."""
    before = await webhooks.get(session, caller, webhook_id)
    patch = parse_form(WebhookPatch, url=url.strip() if url.strip() != before.url else None, events=_heard(events))
    await webhooks.change(session, caller, webhook_id, patch, platform.settings, now=platform.now())
    return redirect_after_form(request, _url(caller.project_slug, webhook_id), "Saved.")


@router.post("/{webhook_id}/switch")
async def switch(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    webhook_id: str,
    on: Annotated[bool, Form()],
) -> Response:
    patch = WebhookPatch(is_active=on)
    await webhooks.change(session, caller, webhook_id, patch, platform.settings, now=platform.now())
    return redirect_after_form(
        request, _url(caller.project_slug, webhook_id), f"Webhook {'enabled' if on else 'disabled'}."
    )


@router.get("/{webhook_id}/rotate")
async def rotate_page(request: Request, caller: OwnerCaller, session: ReadSession, webhook_id: str) -> Response:
    webhook = await webhooks.get(session, caller, webhook_id)
    return render(request, "dashboard/webhooks/rotate.html", webhook=webhook)


@router.post("/{webhook_id}/rotate")
async def rotate(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, webhook_id: str
) -> Response:
    webhook = await webhooks.rotate_secret(session, caller, webhook_id, platform.settings, now=platform.now())
    return show_once(request, "dashboard/webhooks/shown.html", webhook=webhook)


@router.get("/{webhook_id}/delete")
async def delete_page(request: Request, caller: OwnerCaller, session: ReadSession, webhook_id: str) -> Response:
    webhook = await webhooks.get(session, caller, webhook_id)
    return render(request, "dashboard/webhooks/delete.html", webhook=webhook)


@router.post("/{webhook_id}/delete")
async def delete(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, webhook_id: str
) -> Response:
    await webhooks.delete(session, caller, webhook_id, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{caller.project_slug}/webhooks", "Webhook deleted.")


@router.post("/{webhook_id}/test")
async def send_test(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, webhook_id: str
) -> Response:
    delivery = await webhooks.send_test(session, caller, webhook_id, now=platform.now())
    return redirect_after_form(request, _url(caller.project_slug, webhook_id, delivery.id), "Test event queued.")


@router.get("/{webhook_id}/deliveries/{delivery_id}")
async def delivery_page(
    request: Request, caller: OwnerCaller, session: ReadSession, webhook_id: str, delivery_id: str
) -> Response:
    webhook = await webhooks.get(session, caller, webhook_id)
    delivery = await webhooks.delivery(session, caller, webhook_id, delivery_id)
    body = json.dumps(json.loads(delivery.body), indent=2, ensure_ascii=False)
    return render(request, "dashboard/webhooks/delivery.html", webhook=webhook, delivery=delivery, body=body)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    webhook_id: str,
    delivery_id: str,
) -> Response:
    delivery = await webhooks.redeliver(session, caller, webhook_id, delivery_id, now=platform.now())
    return redirect_after_form(request, _url(caller.project_slug, webhook_id, delivery.id), "Delivery queued again.")


def _heard(chosen: Chosen) -> list[str]:
    """None: all of them."""
    if chosen.value == "some" and not chosen.all("events"):
        raise InvalidRequestError("Select at least one event.", param="events")
    return chosen.all("events")


def _url(project: str | None, webhook_id: str, delivery_id: str | None = None) -> str:
    url = f"/dashboard/{project}/webhooks/{webhook_id}"
    return f"{url}/deliveries/{delivery_id}" if delivery_id else url


def _states(found: Collection[Webhook]) -> dict[str, str]:
    return {webhook.id: _state(webhook) for webhook in found}


def _state(webhook: Webhook) -> str:
    if not webhook.is_active:
        return "off"
    return "failing" if webhook.failures else "active"
