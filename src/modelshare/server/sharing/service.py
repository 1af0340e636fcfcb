"""Share, unshare, recall and feature models, and update a model's role when its endpoints change.

All changes require the model's lock.
"""

import re
import uuid
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import service as accounts
from modelshare.server.audit.service import Audit
from modelshare.server.db import notify
from modelshare.server.errors import AuditedRefusal, ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.paging import Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import EndpointCounts
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing import audience, last_shown, queries, rules, search
from modelshare.server.sharing.audience import Changed
from modelshare.server.sharing.presenters import OwnModel, catalog_detail, facts_of
from modelshare.server.sharing.rules import ModelFacts, Relation
from modelshare.server.sharing.search import ANYBODY, CatalogCard, Viewer
from modelshare.server.sharing.tables import RecallRow, ShareRow
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import Scope
from modelshare.wire.models import CatalogModelDetail, CatalogRole, UnsharePreview
from modelshare.wire.sharing import Audience, AudienceChoice, ClaimLinkWithToken

_REFERENCE: Final = re.compile(r"(?:([A-Za-z0-9_-]{1,100})/)?([A-Za-z0-9_.-]{1,96})")
"""`owner/name` or a name alone, ignoring case."""
NOT_SHARED = "Model not found or not shared"
"""The text in the API's specification for every unshare that is not possible."""


async def get(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> OwnModel:
    """The caller's own model; 404 otherwise."""
    return await _own(session, await registry.get(session, caller, model_id))


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> tuple[list[OwnModel], str | None]:
    """The caller's models, newest first, and the cursor of the next page."""
    rows, cursor = await registry.page(session, caller, paging)
    ids = [row.id for row in rows]
    shares, recalls = await queries.shares(session, ids), await queries.recalls(session, ids)
    return [OwnModel(row, shares.get(row.id), recalls.get(row.id)) for row in rows], cursor


def viewer_of(caller: Caller) -> Viewer:
    """The viewer for the catalog: the public, unless the caller may manage models or endpoints."""
    if caller.is_platform:
        return Viewer(sees_all=True)
    knows = caller.allows(Scope.MODELS) or caller.allows(Scope.ENDPOINTS)
    return Viewer(caller.project_id) if knows else ANYBODY


async def catalog_model(
    session: AsyncSession, viewer: Viewer, model_id: uuid.UUID, tiers: TierRegistry
) -> CatalogModelDetail:
    """A model of the catalog. 404 if the viewer cannot see it."""
    return catalog_detail(*await catalog_entry(session, viewer, model_id), tiers)


async def catalog_entry(
    session: AsyncSession, viewer: Viewer, model_id: uuid.UUID
) -> tuple[ShareRow, ModelRow, VersionRow]:
    """The rows of a model of the catalog, with its latest version. 404 if the viewer cannot see it."""
    found = await search.get(session, viewer, model_id)
    if found is None:
        raise NotFoundError(
            "There is no such model in the catalog; its owner may have unshared it.", code=ErrorCode.MODEL_NOT_FOUND
        )
    return found


async def find_visible(session: AsyncSession, caller: Caller, text: str) -> ModelRow | None:
    """Finds a model by its ID, `owner/name`, or the name alone if it is the caller's own; None if the caller cannot see
    it."""
    model_id = await find_id(session, text, own=caller.project_id)
    model = await registry.find_any(session, model_id) if model_id else None
    return model if model and rules.is_visible(*await relation_and_facts(session, caller, model)) else None


async def find_id(session: AsyncSession, text: str, *, own: str | None) -> uuid.UUID | None:
    """Finds a model's ID by the ID, `owner/name`, or the name alone in the project `own`.

    A text that could be an ID or a name is an ID first. `rules` decide whether the caller may see the model.
    """
    if (model_id := parse_uuid(text.strip())) is not None:
        return model_id
    reference = _REFERENCE.fullmatch(text.strip())
    if reference is None:
        return None
    owner, name = reference.groups()
    if owner is None:
        return await registry.find_named(session, own, name) if own else None
    owner = owner.lower()
    project = (await accounts.find_projects(session, [owner])).get(owner)
    return await registry.find_named(session, project.id, name) if project else None


async def find_own_id(session: AsyncSession, caller: Caller, text: str) -> uuid.UUID | None:
    """Like `find_id`, for the caller's own models only, so that names of others are not revealed."""
    reference = _REFERENCE.fullmatch(text.strip())
    if reference is None or caller.project_id is None:
        return None
    owner, name = reference.groups()
    is_own = owner is None or owner.lower() in {caller.project_id, caller.project_slug}
    return await registry.find_named(session, caller.project_id, name) if is_own else None


async def share(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, spec: AudienceChoice | None = None, *, now: int
) -> tuple[OwnModel, ClaimLinkWithToken | None]:
    """Shares the model in the catalog, with the audience in `spec`. Returns the claim link if that requests one.

    Without `spec`, a model that is not shared yet becomes public, and a shared one does not change. Sharing again with
    the same audience changes nothing; with another one, it keeps role, count and time. 400 if it may not be shared.
    """
    model = await registry.find(session, caller, model_id, lock=True)
    own = await _own(session, model) if model else None
    refusal = rules.share_refusal(facts_of(own) if own else None)
    if own is None or refusal is not None:
        raise InvalidRequestError(
            (refusal or "").format(id=model_id), refusal=AuditedRefusal("model.share", f"model:{model_id}")
        )
    model, found, _ = own
    if found is not None and spec is None:
        return own, None
    choice: AudienceChoice = spec or "public"
    projects = await audience.named(session, model, choice)
    before = Audience(found.audience) if found else None
    if found is None:
        found = ShareRow(
            model_id=model.id,
            role=rules.role_on_share(None),
            audience=audience.kind_of(choice),
            featured=False,
            shared_at=now,
            deployment_count=model.active_endpoints,
            shared_tier_endpoints=model.shared_tier_endpoints,
        )
        session.add(found)
        await session.flush()
        _record(session, model, "model.share", caller.actor, now, role=found.role, audience=found.audience)
    elif before is Audience.PUBLIC and audience.kind_of(choice) is Audience.TARGETED:
        await last_shown.keep_for_all(session, model, found)
    found.featured = rules.featured_after(featured=found.featured, audience=audience.kind_of(choice))
    if Audience.TARGETED not in {before, audience.kind_of(choice)}:  # public before and after
        if before is None:
            await last_shown.forget(session, model.id)
        return OwnModel(model, found), None
    changed = await audience.choose(session, model, found, choice, projects, now=now)
    if audience.kind_of(choice) is Audience.PUBLIC:
        await last_shown.forget(session, model.id)
    _record_audience(session, model, found, before, changed, caller.actor, now)
    return OwnModel(model, found), changed.link


async def unshare(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> ModelRow:
    """Removes the model from the catalog; endpoints keep serving. 404 if it is not the caller's, or not shared."""
    model, found = await _shared(session, caller, model_id, lock=True)
    await _unshare(session, model, found, caller.actor, now)
    return model


async def unshare_preview(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> UnsharePreview:
    """What `unshare` would do to the share. `endpoints` adds the effects on endpoints."""
    model, found = await _shared(session, caller, model_id)
    removed = ["catalog listing", f"deployment count ({found.deployment_count})", f"catalog role ({found.role})"]
    if found.audience == Audience.TARGETED:
        shown_to, links = await audience.shown_to(session, model.id), await audience.links(session, model.id)
        removed += [f"projects it is shared with ({len(shown_to)})", f"claim links ({len(links)})"]
    return UnsharePreview(
        model=str(model.id),
        keeps_serving=model.active_endpoints,
        keeps_serving_other_projects=model.foreign_endpoints,
        stops_being_possible=[
            "Other projects creating an endpoint with this model, on any tier.",
            "Other projects moving an endpoint of this model to another tier, or reactivating an inactive one.",
        ],
        removed=[*removed, "featured flag"] if found.featured else removed,
        notes=[],
    )


async def feature(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, featured: bool, now: int) -> ShareRow:
    """Sets or clears the featured flag, for the platform's admins. 404 if the model is not in the catalog."""
    model = await registry.find_any(session, model_id, lock=True)
    found = await queries.share(session, model_id)
    if model is None or found is None:
        raise NotFoundError(NOT_SHARED)
    if featured and not rules.featured_after(featured=True, audience=Audience(found.audience)):
        raise ConflictError("This model is shared with certain projects only. Only public models can be featured.")
    if found.featured != featured:
        found.featured = featured
        _record(session, model, "model.feature" if featured else "model.unfeature", caller.actor, now)
    return found


async def featured(session: AsyncSession, limit: int) -> list[CatalogCard]:
    """Featured models, most recently shared first."""
    return await queries.featured(session, limit)


async def count(session: AsyncSession, limit: int) -> int:
    """The number of shared models of any audience, counted up to `limit`."""
    return await queries.count(session, limit)


async def recall(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, deadline: int, reason: str, now: int
) -> OwnModel:
    """Announces that endpoints of other projects stop at the deadline, or changes the announcement; unshares now.

    409 if they were already stopped.
    """
    model, found, announced = await _own(session, await registry.get_locked(session, caller, model_id))
    if announced is not None and announced.stopped_at is not None:
        raise ConflictError(
            "This recall is complete: the endpoints were stopped. Cancel it before you announce another one."
        )
    if found is not None:
        await _unshare(session, model, found, caller.actor, now)
    if announced is None:
        announced = RecallRow(model_id=model.id, deadline=deadline, reason=reason, created_at=now)
        session.add(announced)
    announced.deadline, announced.reason = deadline, reason
    _record(session, model, "model.recall", caller.actor, now, deadline=deadline, reason=reason)
    await session.flush()
    return OwnModel(model, None, announced)


async def cancel_recall(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> OwnModel:
    """Ends a recall, if there is one. The model stays out of the catalog until it is shared again."""
    own = await _own(session, await registry.get_locked(session, caller, model_id))
    if own.recall is not None:
        await session.delete(own.recall)
        await session.flush()
        _record(session, own.model, "model.recall_cancel", caller.actor, now, deadline=own.recall.deadline)
    return own


async def find_recall(session: AsyncSession, model_id: uuid.UUID) -> RecallRow | None:
    """The recall of a model of any project."""
    return await queries.recall(session, model_id)


async def overdue_recalls(session: AsyncSession, now: int) -> list[uuid.UUID]:
    """IDs of models whose recall is due and has not been carried out."""
    return await queries.overdue_recalls(session, now)


async def relation_and_facts(session: AsyncSession, caller: Caller, model: ModelRow) -> tuple[Relation, ModelFacts]:
    """The caller's relation to the model, and the model's properties for the rules."""
    facts = facts_of(await _own(session, model))
    if caller.project_id == model.project_id:
        return Relation.OWNER, facts
    asks_for = caller.project_id
    if facts.audience is Audience.TARGETED and asks_for and await queries.is_shown_to(session, model.id, asks_for):
        return Relation.PLATFORM_INVITED if caller.is_platform else Relation.INVITED, facts
    return Relation.PLATFORM if caller.is_platform else Relation.DEPLOYER, facts


async def endpoints_changed(
    session: AsyncSession,
    model: ModelRow,
    counts: EndpointCounts,
    *,
    came_to_shared_tier: bool,
    promotion: bool,
    actor: str,
    now: int,
) -> None:
    """Updates counts and role after a change of the model's endpoints; in its transaction, under the model's lock."""
    registry.set_usage(session, model, counts)
    found = await queries.share(session, model.id)
    if found is None:
        return
    before = CatalogRole(found.role)
    after = rules.role_after_change(
        before,
        shared_tier_endpoints=counts.on_shared_tiers,
        came_to_shared_tier=came_to_shared_tier,
        promotion=promotion,
    )
    found.deployment_count = counts.total
    found.shared_tier_endpoints = counts.on_shared_tiers
    if after is not None and after is not before:
        found.role = after
        why = (
            "the first endpoint was created on a shared tier"
            if after is CatalogRole.SHARED
            else "no endpoint is left on a shared tier"
        )
        _record(session, model, "model.change_role", actor, now, before=before, after=after, why=why)


def role_of(share: ShareRow | None) -> CatalogRole | None:
    return CatalogRole(share.role) if share else None


async def _own(session: AsyncSession, model: ModelRow) -> OwnModel:
    return OwnModel(model, *await queries.share_and_recall(session, model.id))


async def _unshare(session: AsyncSession, model: ModelRow, found: ShareRow, actor: str, now: int) -> None:
    _record(session, model, "model.unshare", actor, now, role=found.role, deployments=found.deployment_count)
    await last_shown.keep_for_all(session, model, found)
    await session.delete(found)
    await session.flush()


async def _shared(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, lock: bool = False
) -> tuple[ModelRow, ShareRow]:
    model = await registry.find(session, caller, model_id, lock=lock)
    found = await queries.share(session, model_id) if model else None
    if model is None or found is None:
        raise NotFoundError(NOT_SHARED, refusal=AuditedRefusal("model.unshare", f"model:{model_id}") if lock else None)
    return model, found


def _record_audience(
    session: AsyncSession,
    model: ModelRow,
    share: ShareRow,
    before: Audience | None,
    changed: Changed,
    actor: str,
    now: int,
) -> None:
    """Records the projects that were added to and removed from the audience."""
    told = {
        "added": list(changed.added),
        "removed": list(changed.removed),
        "link": changed.link.id if changed.link else None,
        "ended_links": changed.ended_links,
    }
    details = {name: value for name, value in told.items() if value}
    if details or before not in {None, share.audience}:
        _record(session, model, "model.change_audience", actor, now, before=before, audience=share.audience, **details)


def _record(session: AsyncSession, model: ModelRow, action: str, actor: str, now: int, **details: Any) -> None:
    """Call after every change of a share: records it in the audit log of the model's project, and notifies of it."""
    Audit(session, model.project_id, actor, now).done(action, f"model:{model.id}", name=model.name, **details)
    notify(session, SHARES_TOPIC, str(model.id))
