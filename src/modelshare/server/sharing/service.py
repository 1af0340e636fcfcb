"""Share, unshare, feature; and what a change of endpoints does to a model's role.

Every change here happens under the model's lock.
"""

import uuid
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import service as audit
from modelshare.server.db import notify
from modelshare.server.errors import InvalidRequest, NotFound, Refusal
from modelshare.server.http import Caller, Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import MODELS_TOPIC, EndpointCounts
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import queries, rules
from modelshare.server.sharing.rules import ModelFacts, Relation
from modelshare.server.sharing.tables import ShareRow
from modelshare.server.sharing.views import facts_of
from modelshare.wire.models import CatalogRole, ModelPatch, UnsharePreview

NOT_SHARED = "Model not found or not shared"
"""The contract's words for every unshare that cannot be."""


async def get(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> tuple[ModelRow, ShareRow | None]:
    """The caller's own model and its footprint; 404 when it is not the caller's."""
    model = await registry.get(session, caller, model_id)
    return model, await queries.share(session, model.id)


async def page(
    session: AsyncSession, caller: Caller, paging: Paging
) -> tuple[list[tuple[ModelRow, ShareRow | None]], str | None]:
    """The caller's models with their footprints, newest first, and the cursor of the next page."""
    rows, cursor = await registry.page(session, caller, paging)
    shares = await queries.shares(session, [row.id for row in rows])
    return [(row, shares.get(row.id)) for row in rows], cursor


async def edit(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, patch: ModelPatch, *, now: int
) -> tuple[ModelRow, ShareRow | None]:
    """Renames, or edits what people read; the catalog shows it at once."""
    model = await registry.edit(session, caller, model_id, patch, now=now)
    return model, await queries.share(session, model.id)


async def share(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> tuple[ModelRow, ShareRow]:
    """Puts the model into the catalog; sharing what is shared changes nothing. 400 says what to do when it may not."""
    await registry.find_any(session, model_id, lock=True)
    model = await registry.find(session, caller, model_id)
    found = await queries.share(session, model_id) if model else None
    refusal = rules.share_refusal(facts_of(model, found) if model else None)
    if model is None or refusal is not None:
        raise InvalidRequest((refusal or "").format(id=model_id), refusal=Refusal("model.share", f"model:{model_id}"))
    if found is None:
        found = ShareRow(
            model_id=model.id,
            role=rules.role_on_share(None),
            featured=False,
            shared_at=now,
            deployment_count=model.active_endpoints,
            shared_tier_endpoints=model.shared_tier_endpoints,
        )
        session.add(found)
        _record(session, model, "model.share", caller.actor, now, role=found.role)
    return model, found


async def unshare(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> ModelRow:
    """Removes the catalog footprint; endpoints go on. 404 when there is nothing of the caller's to unshare."""
    await registry.find_any(session, model_id, lock=True)
    model, found = await _shared(session, caller, model_id)
    _record(session, model, "model.unshare", caller.actor, now, role=found.role, deployments=found.deployment_count)
    await session.delete(found)
    return model


async def unshare_preview(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> UnsharePreview:
    """What `unshare` would do, without doing it."""
    model, found = await _shared(session, caller, model_id)
    removed = ["catalog listing", f"deployment count ({found.deployment_count})", f"catalog role ({found.role})"]
    return UnsharePreview(
        model=str(model.id),
        keeps_serving=model.active_endpoints,
        keeps_serving_other_projects=model.foreign_endpoints,
        stops_being_possible=[
            "Other projects creating an endpoint with this model, on any tier.",
            "Other projects moving an endpoint of this model to another tier, or switching a deactivated one on again.",
        ],
        removed=[*removed, "featured flag"] if found.featured else removed,
    )


async def feature(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, featured: bool, now: int) -> ShareRow:
    """Sets or clears the featured flag (the platform's to give). 404 when the model is not in the catalog."""
    model = await registry.find_any(session, model_id, lock=True)
    found = await queries.share(session, model_id)
    if model is None or found is None:
        raise NotFound(NOT_SHARED)
    if found.featured != featured:
        found.featured = featured
        _record(session, model, "model.feature" if featured else "model.unfeature", caller.actor, now)
    return found


async def facts(session: AsyncSession, model: ModelRow) -> ModelFacts:
    return facts_of(model, await queries.share(session, model.id))


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
    """Keeps counts and role after endpoints of the model changed: same transaction, under the model's lock."""
    registry.set_usage(model, counts)
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
        why = "the first endpoint came to a shared tier" if after is CatalogRole.SHARED else "none is left on one"
        _record(session, model, "model.role_change", actor, now, before=before, after=after, why=why)
    notify(session, MODELS_TOPIC, str(model.id))


def role_of(share: ShareRow | None) -> CatalogRole | None:
    return CatalogRole(share.role) if share else None


def relation(caller: Caller | None, model: ModelRow) -> Relation:
    """What the caller is to the model."""
    if caller is not None and caller.is_platform:
        return Relation.PLATFORM
    if caller is not None and caller.project_id == model.project_id:
        return Relation.OWNER
    return Relation.DEPLOYER


async def _shared(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> tuple[ModelRow, ShareRow]:
    model = await registry.find(session, caller, model_id)
    found = await queries.share(session, model_id) if model else None
    if model is None or found is None:
        raise NotFound(NOT_SHARED, refusal=Refusal("model.unshare", f"model:{model_id}"))
    return model, found


def _record(session: AsyncSession, model: ModelRow, action: str, actor: str, now: int, **details: Any) -> None:
    audit.record(
        session,
        project_id=model.project_id,
        now=now,
        actor=actor,
        action=action,
        target=f"model:{model.id}",
        name=model.name,
        **details,
    )
    notify(session, MODELS_TOPIC, str(model.id))
