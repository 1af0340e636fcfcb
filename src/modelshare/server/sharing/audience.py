"""The audience of a shared model: everyone, certain projects, or projects that claim a link.

Changes require the model's lock, and a model that is in the catalog.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import service as accounts
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.audit.service import Audit
from modelshare.server.db import notify
from modelshare.server.errors import InvalidRequestError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.ids import new_secret, parse_uuid, secret_hash
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import last_shown, queries
from modelshare.server.sharing.tables import ClaimLinkRow, ShareProjectRow, ShareRow
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.sharing import (
    Audience,
    AudienceChoice,
    AudienceProject,
    ClaimLink,
    ClaimLinkWithToken,
    LinkTerms,
    ToLink,
    ToProjects,
)

Projects = Mapping[str, ProjectRow]
"""By ID."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of choosing an audience."""

    link: ClaimLinkWithToken | None = None
    added: tuple[str, ...] = ()
    """Slugs of projects that can see the model now."""
    removed: tuple[str, ...] = ()
    ended_links: int = 0


def kind_of(choice: AudienceChoice) -> Audience:
    return Audience.TARGETED if isinstance(choice, ToProjects | ToLink) else Audience.PUBLIC


async def named(session: AsyncSession, model: ModelRow, choice: AudienceChoice) -> Projects:
    """The projects in a choice, without the model's own. 400 lists those that do not exist."""
    if not isinstance(choice, ToProjects):
        return {}
    found = await accounts.find_projects(session, choice.projects)
    unknown = [name for name in choice.projects if name not in found]
    if unknown:
        raise InvalidRequestError(
            f"There is no project {', '.join(f'`{name}`' for name in unknown[:5])}. Use the slugs or IDs "
            "(`proj_...`) of projects.",
            param="audience",
        )
    return {row.id: row for row in found.values() if row.id != model.project_id}


async def choose(
    session: AsyncSession,
    model: ModelRow,
    share: ShareRow,
    choice: AudienceChoice,
    projects: Projects,
    *,
    now: int,
) -> Changed:
    """Sets the model's audience. `projects` are those in the choice; they are notified."""
    share.audience = kind_of(choice)
    if isinstance(choice, ToLink):
        link = await _new_link(session, model, choice.link, now)
        return Changed(link=link)
    changed = await _show_to(session, model, projects, now)
    for project in projects.values():
        if project.slug in changed.added:
            Audit(session, project.id, f"project:{model.project.slug}", now).done(
                "model.invite", f"model:{model.id}", name=f"{model.project.slug}/{model.name}"
            )
    return changed


async def claim(session: AsyncSession, caller: Caller, token: str, *, now: int) -> uuid.UUID:
    """Adds the caller's project to the audience of the link's model. Returns the model's ID.

    A project that already sees the model does not count as a use. 404 for a link that is unknown, revoked, expired or
    used up.
    """
    found = await queries.link_by_hash(session, secret_hash(token))  # only to find the model to lock
    model = await registry.find_any(session, found.model_id, lock=True) if found else None
    link = await queries.link_by_hash(session, secret_hash(token)) if model else None
    if link is None or model is None:
        raise NotFoundError("There is no such link, or its owner has revoked it. Check that you copied it completely.")
    if caller.project == model.project_id or await queries.is_shown_to(session, model.id, caller.project):
        return model.id
    if link.expires_at is not None and now >= link.expires_at:
        raise NotFoundError("This link has expired. Ask the model's owner for a new one.")
    if link.max_uses is not None and link.uses >= link.max_uses:
        raise NotFoundError("This link has reached its maximum number of uses. Ask the model's owner for a new one.")
    link.uses += 1
    session.add(ShareProjectRow(model_id=model.id, project_id=caller.project, link_id=link.id, added_at=now))
    notify(session, SHARES_TOPIC, str(model.id))
    for project_id in (model.project_id, caller.project):
        Audit(session, project_id, caller.actor_in(project_id), now).done(
            "model.claim",
            f"model:{model.id}",
            link=str(link.id),
            project=caller.project_slug,
            name=f"{model.project.slug}/{model.name}",
        )
    return model.id


async def end_link(session: AsyncSession, caller: Caller, model_id: uuid.UUID, link_id: str, *, now: int) -> None:
    """Revokes the link; projects that claimed it still see the model. 404 if it is not a link of the caller's model."""
    model = await registry.get_locked(session, caller, model_id)
    uid = parse_uuid(link_id)
    link = await queries.link(session, model.id, uid) if uid else None
    if link is None:
        raise NotFoundError("There is no such link. GET /v1/models/{id}/catalog lists the model's links.")
    await session.delete(link)
    notify(session, SHARES_TOPIC, str(model.id))
    Audit(session, model.project_id, caller.actor, now).done(
        "model.end_link", f"model:{model.id}", link=str(link.id), uses=link.uses
    )


async def shown_to(session: AsyncSession, model_id: uuid.UUID) -> list[AudienceProject]:
    """The projects of a targeted share, in the order in which they were added."""
    return [
        AudienceProject(
            slug=row.project.slug,
            name=row.project.name,
            link=str(row.link_id) if row.link_id else None,
            added_at=row.added_at,
        )
        for row in await queries.shown_to(session, model_id)
    ]


async def links(session: AsyncSession, model_id: uuid.UUID) -> list[ClaimLink]:
    """The claim links, newest first."""
    return [_link_view(row) for row in await queries.links(session, model_id)]


async def _show_to(session: AsyncSession, model: ModelRow, projects: Projects, now: int) -> Changed:
    """Sets the audience to exactly these projects, and revokes claim links."""
    before = {row.project_id: row for row in await queries.shown_to(session, model.id)}
    removed = before.keys() - projects.keys()
    await last_shown.keep(session, model, removed)
    for project_id in removed:
        await session.delete(before[project_id])
    added = [project for project_id, project in projects.items() if project_id not in before]
    session.add_all(ShareProjectRow(model_id=model.id, project_id=project.id, added_at=now) for project in added)
    ended = await queries.links(session, model.id)
    for link in ended:
        await session.delete(link)
    return Changed(
        added=tuple(sorted(project.slug for project in added)),
        removed=tuple(sorted(before[project_id].project.slug for project_id in removed)),
        ended_links=len(ended),
    )


async def _new_link(session: AsyncSession, model: ModelRow, terms: LinkTerms, now: int) -> ClaimLinkWithToken:
    token = new_secret("msl")
    row = ClaimLinkRow(
        model_id=model.id,
        hash=secret_hash(token),
        expires_at=now + terms.expires_in if terms.expires_in else None,
        max_uses=terms.max_uses,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    return ClaimLinkWithToken(**_link_view(row).model_dump(), token=token)


def _link_view(row: ClaimLinkRow) -> ClaimLink:
    return ClaimLink(
        id=str(row.id), expires_at=row.expires_at, max_uses=row.max_uses, uses=row.uses, created_at=row.created_at
    )
