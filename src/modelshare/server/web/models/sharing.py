"""Whom a model is shared with: share, unshare, claim links, recall."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, Request, Response

from modelshare.server.endpoints import footprints, recalls
from modelshare.server.endpoints.service import Terms
from modelshare.server.errors import InvalidRequest
from modelshare.server.http import BaseUrl, ModelId, PlatformDep, ReadSession, WriteSession
from modelshare.server.sharing import audience
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.views import extended_view
from modelshare.server.web.pages import PageRoute, done, is_htmx, once, parsed, render
from modelshare.server.web.visitor import ModelsCaller, ProjectDep
from modelshare.wire.sharing import RecallRequest, ShareRequest

router = APIRouter(prefix="/dashboard/{project}/models/{model_id}", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=100_000)]
_SPANS: Final = {"hours": 3600, "days": 86_400}
"""Seconds."""


@router.get("/share")
async def share_page(request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> Response:
    model = extended_view(await sharing.get(session, caller, model_id), card=False)
    shown_to = await audience.shown_to(session, model_id)
    return render(request, "dashboard/models/share.html", model=model, shown_to=shown_to)


@router.post("/share")
async def share(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    url: BaseUrl,
    audience: Annotated[Literal["public", "projects", "link"], Form()] = "public",
    projects: Text = "",
    expires_in: Text = "",
    max_uses: Text = "",
) -> Response:
    """Answers a claim link, where one was asked for, this once."""
    wish = _wish(audience, projects, expires_in, max_uses)
    own, link = await sharing.share(session, caller, model_id, wish.audience, now=platform.now())
    page = f"/dashboard/{project.slug}/models/{model_id}"
    if link is None:
        return done(request, page, f"{own.model.name} is in the catalog now.")
    template = "dashboard/models/link_shown.html" if is_htmx(request) else "dashboard/models/link.html"
    return once(
        request, template, model=extended_view(own, card=False), link=link, address=f"{url}/claim?token={link.token}"
    )


@router.post("/links/{link_id}/end")
async def end_link(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    link_id: str,
) -> Response:
    await audience.end_link(session, caller, model_id, link_id, now=platform.now())
    message = "The link is ended: nobody claims by it any more. Projects that did still see the model."
    return done(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.get("/unshare")
async def unshare_page(request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> Response:
    model = extended_view(await sharing.get(session, caller, model_id), card=False)
    preview = await sharing.unshare_preview(session, caller, model_id)
    return render(request, "dashboard/models/unshare.html", model=model, preview=preview)


@router.post("/unshare")
async def unshare(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
) -> Response:
    model = await sharing.unshare(session, caller, model_id, now=platform.now())
    message = f"{model.name} is out of the catalog. Endpoints that exist go on serving."
    return done(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.get("/recall")
async def recall_page(
    request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession, platform: PlatformDep
) -> Response:
    terms: Terms = platform.parts[Terms]
    return render(
        request,
        "dashboard/models/recall.html",
        model=extended_view(await sharing.get(session, caller, model_id), card=False),
        recall=await recalls.state(session, caller, model_id, terms),
        footprint=await footprints.footprint(session, caller, model_id),
    )


@router.post("/recall")
async def recall(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    when: Annotated[Literal["now", "in", "at"], Form()] = "in",
    amount: Text = "",
    unit: Annotated[Literal["hours", "days"], Form()] = "days",
    at: Text = "",
    reason: Text = "",
) -> Response:
    now, terms = platform.now(), platform.parts[Terms]
    wish = parsed(RecallRequest, deadline=_deadline(when, amount, unit, at, now), reason=reason.strip())
    await recalls.request(session, caller, model_id, wish, terms, now=now)
    message = "The recall is announced, and everybody who deploys the model is told."
    return done(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.post("/recall/cancel")
async def cancel_recall(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
) -> Response:
    await recalls.request(
        session, caller, model_id, RecallRequest(deadline=None), platform.parts[Terms], now=platform.now()
    )
    message = "The recall is cancelled. The model stays out of the catalog until you share it again."
    return done(request, f"/dashboard/{project.slug}/models/{model_id}", message)


def _wish(kind: str, projects: str, expires_in: str, max_uses: str) -> ShareRequest:
    choice: Any = "public"
    if kind == "projects":
        choice = {"projects": projects.replace(",", " ").split()}
        if not choice["projects"]:
            raise InvalidRequest("Name at least one project, by its slug or its id.", param="projects")
    elif kind == "link":
        choice = {"link": {"expires_in": _number(expires_in, "expires_in"), "max_uses": _number(max_uses, "max_uses")}}
    return parsed(ShareRequest, audience=choice)


def _deadline(when: str, amount: str, unit: str, at: str, now: int) -> int:
    """Unix seconds; a date and time is in UTC, as the form says."""
    if when == "now":
        return now
    if when == "in":
        count = _number(amount, "amount")
        if count is None:
            raise InvalidRequest(f"Say after how many {unit}, or choose to recall it now.", param="amount")
        return now + count * _SPANS[unit]
    try:
        return int(datetime.fromisoformat(at.strip()).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise InvalidRequest("Give the date and the time of the deadline, such as 2027-01-31 12:00.") from error


def _number(text: str, param: str) -> int | None:
    """None where the field was left empty."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 10:  # noqa: PLR2004 - digits of what anybody means
        raise InvalidRequest(f"`{param}` is a whole number. Write it in digits.", param=param)
    return int(text)
