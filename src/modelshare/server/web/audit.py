"""The page of a project's audit log: who did what, and whether it applies on all processes."""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.audit import service as audit
from modelshare.server.audit.webhooks import service as webhooks
from modelshare.server.endpoints import service as endpoints
from modelshare.server.fleet import service as fleet
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.paging import Paging, PagingDep
from modelshare.server.registry import service as registry
from modelshare.server.web import audit_words as words
from modelshare.server.web.context import CallerContext, OwnerPage
from modelshare.server.web.endpoints import page_of
from modelshare.server.web.pages import PageRoute
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.usage import AuditEntry, AuditFilter

router = APIRouter(prefix="/dashboard/{project}/audit", route_class=PageRoute, include_in_schema=False)
Where = Annotated[AuditFilter, Query()]
Names = Mapping[str, Mapping[uuid.UUID, str]]
"""Present names, by subject and ID."""
_ACTORS = {"join_key": "a join key", "system": "the platform"}
_PAGES = {"key": "keys", "person": "members", "invitation": "members", "join_key": "agents", "agent": "agents"}
"""Pages of a project that list all of a kind."""
_PLATFORM_PAGES = {"person": "people", "join_key": "agents", "agent": "agents", "project": "projects"}


@dataclass(frozen=True, slots=True)
class Line:
    """An entry to show."""

    entry: AuditEntry
    kind: str
    """The kind of actor; empty for people and the platform itself."""
    who: str
    what: str
    target: str
    url: str | None
    """The page of the target, if it still exists."""
    details: list[tuple[str, str]]
    everywhere_ms: int | None


@router.get("")
async def log(page: OwnerPage, paging: PagingDep, where: Where) -> Response:
    return await log_page(page, "dashboard/audit.html", paging, where)


async def log_page(page: CallerContext, template: str, paging: Paging, where: AuditFilter) -> Response:
    """The log of the caller's project, or of the platform."""
    asked = await audit.by_id(page.platform, page.caller, where)
    listed = await audit.page(page.session, page.caller.project_id, asked, paging)
    return page.render(
        template,
        lines=await _lines(page.session, page.caller, listed.data),
        next_cursor=listed.next_cursor,
        asked=where.given,
        actions=words.choices(where.action),
    )


async def _lines(session: AsyncSession, caller: Caller, entries: Sequence[AuditEntry]) -> list[Line]:
    """The entries, with the names of their actors and targets."""
    names = await _names(session, caller, entries)
    return [_line(entry, names, caller) for entry in entries]


async def _names(session: AsyncSession, caller: Caller, entries: Sequence[AuditEntry]) -> Names:
    wanted: dict[str, set[uuid.UUID]] = defaultdict(set)
    for reference in (reference for entry in entries for reference in (entry.actor, _about(entry))):
        subject, id_ = words.subject_of(reference)
        if uid := parse_uuid(id_):
            wanted[subject].add(uid)
    found: dict[str, Mapping[uuid.UUID, str]] = {
        "person": await people.names(session, wanted["person"]),
        "agent": await fleet.agent_names(session, caller, wanted["agent"]),
    }
    if caller.project_id is not None:
        found["key"] = await accounts.key_names(session, caller, wanted["key"])
        found["model"] = await registry.names(session, caller, wanted["model"])
        found["endpoint"] = await endpoints.slugs(session, caller, wanted["endpoint"])
        if wanted["webhook"]:
            hooks = await webhooks.page(session, caller, Paging(PAGE_LIMIT_MAX))
            found["webhook"] = {uuid.UUID(each.id): each.url for each in hooks.data}
    return found


def _about(entry: AuditEntry) -> str:
    """The target, or its model if it is an upload or a deployment, whose IDs mean nothing to users."""
    model = entry.details.get("model")
    subject, _ = words.subject_of(entry.target)
    return f"model:{model}" if model and subject in {"upload", "deployment"} else entry.target


def _line(entry: AuditEntry, names: Names, caller: Caller) -> Line:
    about = _about(entry)
    kind, who = _who(entry.actor, names)
    subject, id_ = words.subject_of(about)
    target = _name(about, names) or words.called(entry) or words.short(id_)
    return Line(
        entry=entry,
        kind=kind,
        who=who,
        what=words.action(entry.action),
        target=target,
        url=_url(subject, id_, names, caller),
        details=words.details(entry, said={target, id_, words.called(entry) or ""}),
        everywhere_ms=words.everywhere_ms(entry),
    )


def _who(actor: str, names: Names) -> tuple[str, str]:
    subject, id_ = words.subject_of(actor)
    if subject in _ACTORS:
        return "", _ACTORS[subject]
    name = _name(actor, names)
    return "" if name and subject == "person" else subject, name or words.short(id_)


def _name(reference: str, names: Names) -> str | None:
    subject, id_ = words.subject_of(reference)
    uid = parse_uuid(id_)
    return names.get(subject, {}).get(uid) if uid else None


def _url(subject: str, id_: str, names: Names, caller: Caller) -> str | None:
    if caller.project_id is None:
        return f"/dashboard/-/platform/{_PLATFORM_PAGES[subject]}" if subject in _PLATFORM_PAGES else None
    root = f"/dashboard/{caller.project_slug}"
    if subject in _PAGES:
        return f"{root}/{_PAGES[subject]}"
    name = _name(f"{subject}:{id_}", names)
    if name is None:
        return None
    return page_of(caller.project_slug, name) if subject == "endpoint" else f"{root}/{subject}s/{id_}"
