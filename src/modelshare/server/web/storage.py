"""The page of a project's storage: where its models go, what the last check found, and how to change it."""

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Response

from modelshare.server.paging import Paging
from modelshare.server.registry.moves import service as moves
from modelshare.server.registry.storages import service as storages
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.context import OwnerPage, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.storage import MoveRequest, StorageSet

router = APIRouter(prefix="/dashboard/{project}/storage", route_class=PageRoute, include_in_schema=False)
IDENTITY: Final = Choice(
    "identity",
    "Choose how the platform signs in to the bucket.",
    (
        Option(
            "keys",
            "With an access key",
            (Field("access_key_id", "Access key ID"), Field("secret_access_key", "Secret access key")),
        ),
        Option("role", "As a role on AWS", (Field("role_arn", "Role ARN"),)),
        Option("kept", "With the access key that is set"),
    ),
    otherwise="keys",
)
_LATEST_MOVES: Final = Paging(20)
_ADDRESSING: Final = (("", "Automatic"), ("path", "Bucket in the path"), ("virtual", "Bucket in the host name"))


@router.get("")
async def storage_page(page: OwnerPage) -> Response:
    found = await storages.show(page.session, page.caller, origin=page.base_url)
    return page.render(
        "dashboard/storage/storage.html",
        storage=found,
        moves=(await moves.page(page.session, page.caller, _LATEST_MOVES)).data,
        identity=IDENTITY,
        addressing=_ADDRESSING,
        policy=_pretty(found.iam_policy),
        cors=_pretty(found.cors),
    )


@router.post("")
async def set_storage(
    page: OwnerPage,
    url: Text,
    identity: Annotated[Chosen, Depends(IDENTITY.read)],
    endpoint: Text = "",
    region: Text = "",
    addressing: Text = "",
    relayed: Annotated[bool, Form()] = False,
) -> Response:
    given = {"url": url, "endpoint": endpoint, "region": region, "addressing": addressing}
    given |= {name: identity.text(name) for name in ("access_key_id", "secret_access_key", "role_arn")}
    spec = parse_form(StorageSet, relayed=relayed, **{name: text.strip() or None for name, text in given.items()})
    await storages.set_storage(page.platform, page.caller, spec, origin=page.base_url)
    return page.redirect(f"{page.root}/storage", "The bucket works. New pushes are stored there.")


@router.post("/check")
async def check(page: OwnerPage) -> Response:
    found = await storages.check(page.platform, page.caller, origin=page.base_url)
    message = "The bucket works." if found.is_working else "The bucket does not allow everything that is needed."
    return page.redirect(f"{page.root}/storage", message)


@router.post("/moves")
async def move(page: OwnerPage, to: Text, model: Text = "") -> Response:
    """Moves all models, or the one that is named."""
    wanted = parse_form(MoveRequest, to=to, model=model.strip() or None)
    found = await moves.request(page.platform, page.caller, wanted)
    message = f"{len(found)} versions are being moved." if found else "Everything is stored there already."
    return page.redirect(f"{page.root}/storage", "1 version is being moved." if len(found) == 1 else message)


@router.post("/moves/{move_id}/cancel")
async def cancel_move(page: OwnerPage, move_id: str) -> Response:
    ended = await moves.cancel(page.session, page.caller, move_id, now=page.now)
    return page.redirect(f"{page.root}/storage", f"{ended.name} {ended.version} stays where it is.")


@router.get("/unset")
async def unset_page(page: OwnerPage) -> Response:
    found = await storages.show(page.session, page.caller, origin=page.base_url)
    return page.render("dashboard/storage/unset.html", storage=found)


@router.post("/unset")
async def unset(page: OwnerPage) -> Response:
    await storages.unset(page.session, page.platform, page.caller)
    return page.redirect(f"{page.root}/storage", "New pushes are stored on the platform.")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2)
