"""Pages of a project's keys: create, rotate, suspend, revoke."""

import ipaddress
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Response

from modelshare.server.accounts import service as accounts
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import InvalidRequestError
from modelshare.server.paging import Paging, PagingDep
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.context import OwnerPage, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.keys import Key, KeyCreate, Scope

router = APIRouter(prefix="/dashboard/{project}/keys", route_class=PageRoute, include_in_schema=False)
_DAY: Final = 24 * 3600
_SCOPES: Final = (
    (Scope.INFERENCE, "Call the project's endpoints and nothing else. All that an application needs."),
    (Scope.MODELS, "Push, edit, share, recall and delete the project's models."),
    (Scope.ENDPOINTS, "Create, change and delete endpoints, and claim models."),
    (Scope.AGENTS, "Create join keys; rename, suspend and remove agents."),
    (
        Scope.KEYS,
        "Create and revoke keys and webhooks, and read the audit log. Nearly as powerful as an owner: grant it rarely.",
    ),
)
REACHES: Final = Choice(
    "reach",
    "Choose what the key may do.",
    (
        Option("some", "Only selected scopes", (Field("scopes", "Scopes", untouched=Scope.INFERENCE, many=True),)),
        Option("endpoint", "Call one endpoint and nothing else", (Field("endpoint", "Only this endpoint"),)),
        Option("everything", "Everything in this project"),
    ),
    otherwise="everything",
)
_EXPIRIES: Final = (
    ("", "Never"),
    (str(_DAY), "After a day"),
    (str(7 * _DAY), "After a week"),
    (str(30 * _DAY), "After 30 days"),
    (str(90 * _DAY), "After 90 days"),
    (str(365 * _DAY), "After a year"),
)


@router.get("")
async def keys(page: OwnerPage, paging: PagingDep) -> Response:
    listed = await accounts.list_keys(page.session, page.caller, paging)
    states = {key.id: _state(key, page.now) for key in listed.data}
    return page.render("dashboard/keys/list.html", keys=listed, states=states)


@router.get("/new")
async def new_key_page(page: OwnerPage) -> Response:
    rows, _ = await endpoints.page(page.session, page.caller, Paging(PAGE_LIMIT_MAX))
    slugs = sorted(row.slug for row in rows)
    return page.render("dashboard/keys/new.html", reaches=REACHES, scopes=_SCOPES, expiries=_EXPIRIES, endpoints=slugs)


@router.post("/new")
async def new_key(
    page: OwnerPage,
    name: Text,
    reach: Annotated[Chosen, Depends(REACHES.read)],
    expires_in: Text = "",
    allowed_ips: Text = "",
) -> Response:
    if reach.value == "some" and not reach.all("scopes"):
        raise InvalidRequestError("Select at least one scope.", param="scopes")
    if reach.value == "endpoint" and not reach.text("endpoint"):
        raise InvalidRequestError("Enter the slug of the endpoint that the key may call.", param="endpoint")
    spec = parse_form(
        KeyCreate,
        name=name.strip(),
        scopes=reach.all("scopes"),
        expires_in=expires_in,
        allowed_ips=_networks(allowed_ips),
        endpoint=reach.text("endpoint"),
    )
    key = await accounts.create_key(page.session, page.caller, spec, now=page.now)
    return page.show_once("dashboard/keys/shown.html", key=key, base_url=page.base_url)


@router.get("/{key_id}/rotate")
async def rotate_page(page: OwnerPage, key_id: str) -> Response:
    key = await accounts.get_key(page.session, page.caller, key_id)
    until = page.now + page.platform.settings.keys_rotation_grace_seconds
    return page.render("dashboard/keys/rotate.html", key=key, until=until)


@router.post("/{key_id}/rotate")
async def rotate(page: OwnerPage, key_id: str) -> Response:
    grace = page.platform.settings.keys_rotation_grace_seconds
    key = await accounts.rotate_key(page.session, page.caller, key_id, now=page.now, grace_seconds=grace)
    return page.show_once("dashboard/keys/shown.html", key=key, base_url=page.base_url)


@router.get("/{key_id}/suspend")
async def suspend_page(page: OwnerPage, key_id: str) -> Response:
    key = await accounts.get_key(page.session, page.caller, key_id)
    return page.render("dashboard/keys/suspend.html", key=key, cuts_streams=page.platform.settings.keys_cut_streams)


@router.post("/{key_id}/suspend")
async def suspend(page: OwnerPage, key_id: str) -> Response:
    key = await accounts.suspend_key(page.session, page.caller, key_id, is_suspended=True, now=page.now)
    return page.redirect(f"{page.root}/keys", f"{key.name} is suspended.")


@router.post("/{key_id}/resume")
async def resume(page: OwnerPage, key_id: str) -> Response:
    key = await accounts.suspend_key(page.session, page.caller, key_id, is_suspended=False, now=page.now)
    return page.redirect(f"{page.root}/keys", f"{key.name} works again.")


@router.get("/{key_id}/revoke")
async def revoke_page(page: OwnerPage, key_id: str) -> Response:
    key = await accounts.get_key(page.session, page.caller, key_id)
    return page.render("dashboard/keys/revoke.html", key=key, cuts_streams=page.platform.settings.keys_cut_streams)


@router.post("/{key_id}/revoke")
async def revoke(page: OwnerPage, key_id: str) -> Response:
    await accounts.revoke_key(page.session, page.caller, key_id, now=page.now)
    return page.redirect(f"{page.root}/keys", "Key revoked.")


def _networks(text: str) -> list[str]:
    """Parses networks, one per line. 400 for an invalid one."""
    found = text.split()
    for network in found:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            message = (
                f"“{network}” is not a valid address or network. Write one per line, such as 203.0.113.7 or 10.0.0.0/8."
            )
            raise InvalidRequestError(message, param="allowed_ips") from error
    return found


def _state(key: Key, now: int) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and now >= key.expires_at:
        return "expired"
    return "active" if key.suspended_at is None else "suspended"
