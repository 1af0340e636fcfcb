"""Pages of a project's keys: mint, rotate, revoke."""

import ipaddress
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Request, Response

from modelshare.server.accounts import service as accounts
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import BaseUrl, Paging, PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.page_auth import OwnerCaller
from modelshare.server.web.pages import PageRoute, parse_form, redirect_after_form, render, show_once
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.keys import Key, KeyCreate, Scope

router = APIRouter(prefix="/dashboard/{project}/keys", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=4096)]
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
async def keys(
    request: Request, caller: OwnerCaller, session: ReadSession, platform: PlatformDep, paging: PagingDep
) -> Response:
    page = await accounts.list_keys(session, caller, paging)
    states = {key.id: _state(key, platform.now()) for key in page.data}
    return render(request, "dashboard/keys/list.html", keys=page, states=states)


@router.get("/new")
async def new_key_page(request: Request, caller: OwnerCaller, session: ReadSession) -> Response:
    rows, _ = await endpoints.page(session, caller, Paging(PAGE_LIMIT_MAX, None))
    slugs = sorted(row.slug for row in rows)
    return render(
        request, "dashboard/keys/new.html", reaches=REACHES, scopes=_SCOPES, expiries=_EXPIRIES, endpoints=slugs
    )


@router.post("/new")
async def new_key(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    base_url: BaseUrl,
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
    key = await accounts.create_key(session, caller, spec, now=platform.now())
    return show_once(request, "dashboard/keys/shown.html", key=key, base_url=base_url)


@router.get("/{key_id}/rotate")
async def rotate_page(
    request: Request, caller: OwnerCaller, session: ReadSession, platform: PlatformDep, key_id: str
) -> Response:
    key = await accounts.get_key(session, caller, key_id)
    until = platform.now() + platform.settings.keys_rotation_grace_seconds
    return render(request, "dashboard/keys/rotate.html", key=key, until=until)


@router.post("/{key_id}/rotate")
async def rotate(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    base_url: BaseUrl,
    key_id: str,
) -> Response:
    grace = platform.settings.keys_rotation_grace_seconds
    key = await accounts.rotate_key(session, caller, key_id, now=platform.now(), grace_seconds=grace)
    return show_once(request, "dashboard/keys/shown.html", key=key, base_url=base_url)


@router.get("/{key_id}/revoke")
async def revoke_page(
    request: Request, caller: OwnerCaller, session: ReadSession, platform: PlatformDep, key_id: str
) -> Response:
    key = await accounts.get_key(session, caller, key_id)
    return render(request, "dashboard/keys/revoke.html", key=key, cuts_streams=platform.settings.keys_cut_streams)


@router.post("/{key_id}/revoke")
async def revoke(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, key_id: str
) -> Response:
    await accounts.revoke_key(session, caller, key_id, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{caller.project_slug}/keys", "Key revoked.")


def _networks(text: str) -> list[str]:
    """One a line. 400 for what is none."""
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
    return "expired" if key.expires_at is not None and now >= key.expires_at else "active"
