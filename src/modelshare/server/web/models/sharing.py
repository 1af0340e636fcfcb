"""Sharing a model: share, unshare, claim links, recall."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Response

from modelshare.server.endpoints import deployment_stats, recalls
from modelshare.server.errors import InvalidRequestError
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.sharing import audience
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import extended_view
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.models.page import ModelPage
from modelshare.server.web.number_format import date, plural
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.sharing import Audience, AudienceChoice, LinkTerms, RecallNotice, RecallRequest, ToLink, ToProjects

router = APIRouter(prefix="/dashboard/{project}/models/{model_id}", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=100_000)]
_SPANS: Final = {"hours": 3600, "days": 86_400}
"""Seconds."""
_NEVER: Final = "never"
_LINK_ENDS: Final = (
    ("3600", "in 1 hour"),
    ("86400", "in 1 day"),
    ("604800", "in 7 days"),
    ("2592000", "in 30 days"),
    (_NEVER, "never"),
)
_UNTOUCHED_END: Final = "604800"
AUDIENCES: Final = Choice(
    "audience",
    "Choose who can see the model.",
    (
        Option("projects", "Certain projects", (Field("projects", "Slugs or IDs"),)),
        Option(
            "link",
            "Projects that claim a link",
            (
                Field("expires_in", "The link expires", untouched=_UNTOUCHED_END),
                Field("max_uses", "Projects that may claim it"),
            ),
        ),
        Option("public", "Everyone"),
    ),
)
DEADLINES: Final = Choice(
    "when",
    "Choose when the endpoints of other projects stop.",
    (
        Option("keep", "As announced"),
        Option(
            "in",
            "After a period",
            (Field("amount", "How long", untouched="7"), Field("unit", "Unit", untouched="days")),
        ),
        Option("at", "At a date and time", (Field("at", "Date and time, in UTC"),)),
        Option("now", "Now"),
    ),
)


@router.get("/share")
async def share_page(page: ModelPage) -> Response:
    model = await page.model()
    shown_to = await audience.shown_to(page.session, page.model_id)
    return page.render(
        "dashboard/models/share.html",
        model=model,
        shown_to=shown_to,
        audiences=AUDIENCES,
        link_ends=_LINK_ENDS,
        untouched_end=_UNTOUCHED_END,
    )


@router.post("/share")
async def share(page: ModelPage, chosen: Annotated[Chosen, Depends(AUDIENCES.read)], sure: Text = "") -> Response:
    """Shows a new claim link once. Asks for confirmation before a targeted share becomes public."""
    spec = _audience(chosen)
    share_now = (await page.own()).share
    if spec == "public" and share_now is not None and share_now.audience == Audience.TARGETED and not sure:
        asked = "dashboard/models/public_asked.html" if page.is_htmx else "dashboard/models/public.html"
        return page.show_once(asked, model=await page.model())
    own, link = await sharing.share(page.session, page.caller, page.model_id, spec, now=page.now)
    if link is None:
        return page.back(_shared_with(own.model.name, spec))
    template = "dashboard/models/link_shown.html" if page.is_htmx else "dashboard/models/link.html"
    return page.show_once(
        template, model=extended_view(own, card=False), link=link, address=f"{page.base_url}/claim?token={link.token}"
    )


@router.post("/links/{link_id}/end")
async def end_link(page: ModelPage, link_id: str) -> Response:
    await audience.end_link(page.session, page.caller, page.model_id, link_id, now=page.now)
    message = "Link revoked. Projects that have claimed it still see the model."
    return page.back(message)


@router.get("/unshare")
async def unshare_page(page: ModelPage) -> Response:
    model = await page.model()
    preview = await deployment_stats.unshare_preview(page.session, page.caller, page.model_id)
    return page.render("dashboard/models/unshare.html", model=model, preview=preview)


@router.post("/unshare")
async def unshare(page: ModelPage) -> Response:
    model = await sharing.unshare(page.session, page.caller, page.model_id, now=page.now)
    message = f"{model.name} is no longer in the catalog. Existing endpoints keep serving."
    return page.back(message)


@router.get("/recall")
async def recall_page(page: ModelPage) -> Response:
    return page.render(
        "dashboard/models/recall.html",
        deadlines=DEADLINES,
        model=await page.model(),
        recall=await recalls.state(page.session, page.caller, page.model_id, page.policy),
        footprint=await deployment_stats.footprint(page.session, page.caller, page.model_id),
    )


@router.post("/recall")
async def recall(page: ModelPage, chosen: Annotated[Chosen, Depends(DEADLINES.read)], reason: Text = "") -> Response:
    now = page.now
    before = await recalls.state(page.session, page.caller, page.model_id, page.policy)
    spec = parse_form(RecallRequest, deadline=_deadline(chosen, before.notice, now), reason=reason.strip())
    await recalls.request(page.session, page.caller, page.model_id, spec, page.policy, now=now)
    when = "at once" if spec.deadline is None or spec.deadline <= now else f"on {date(spec.deadline)}"
    message = f"Recall announced. All deployers are notified: endpoints of other projects stop {when}."
    return page.back(message)


@router.post("/recall/cancel")
async def cancel_recall(page: ModelPage) -> Response:
    await recalls.request(
        page.session, page.caller, page.model_id, RecallRequest(deadline=None), page.policy, now=page.now
    )
    message = "Recall cancelled. The model stays out of the catalog until you share it again."
    return page.back(message)


@router.post("/weight-deletions/{deployment_id}/close")
async def close_weight_deletion(page: ModelPage, deployment_id: str) -> Response:
    await weight_deletions.close(page.session, page.caller, page.model_id, deployment_id, now=page.now)
    message = "No longer waiting for this machine. If it reconnects, it still deletes the weights."
    return page.back(message)


def _audience(chosen: Chosen) -> AudienceChoice:
    if chosen.value == "projects":
        names = list(dict.fromkeys(chosen.text("projects").replace(",", " ").split()))
        if not names:
            raise InvalidRequestError("Enter at least one project, by its slug or ID.", param="projects")
        return parse_form(ToProjects, projects=names)
    if chosen.value == "link":
        ends = chosen.text("expires_in")
        expires_in = None if ends == _NEVER else _number(ends, "expires_in")
        terms = parse_form(LinkTerms, expires_in=expires_in, max_uses=_number(chosen.text("max_uses"), "max_uses"))
        return ToLink(link=terms)
    return "public"


def _shared_with(name: str, spec: AudienceChoice) -> str:
    if isinstance(spec, ToProjects):
        return f"{name} is shared with {plural(len(spec.projects), 'project')}: {', '.join(spec.projects)}."
    return f"{name} is now in the catalog, shared with everyone."


def _deadline(chosen: Chosen, announced: RecallNotice | None, now: int) -> int:
    """Unix seconds; a date and time is in UTC, as the form says."""
    if chosen.value == "now":
        return now
    if chosen.value == "keep":
        if announced is None:
            raise InvalidRequestError("There is no recall with a deadline to keep. Choose another option.")
        return announced.deadline
    if chosen.value == "in":
        unit = chosen.text("unit") or "days"
        if unit not in _SPANS:
            raise InvalidRequestError(f"`unit` must be one of {', '.join(_SPANS)}.", param="unit")
        count = _number(chosen.text("amount"), "amount")
        if not count:
            raise InvalidRequestError(f"Enter a number of {unit}, or choose to recall the model now.", param="amount")
        return now + count * _SPANS[unit]
    try:
        deadline = int(datetime.fromisoformat(chosen.text("at")).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("Enter the date and time of the deadline, such as 2027-01-31 12:00.") from error
    if deadline <= now:  # a typing error in the year must not stop endpoints immediately
        raise InvalidRequestError(
            "That time has passed. Enter a later one, or choose to recall the model now.", param="at"
        )
    return deadline


def _number(text: str, param: str) -> int | None:
    """None for an empty field."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 10:  # noqa: PLR2004 - digits of what anybody means
        raise InvalidRequestError(f"`{param}` must be a whole number.", param=param)
    return int(text)
