"""Endpoints: create, move, activate, deactivate, delete, and explain why not.

Changes lock the model first, then the endpoint, and update the model's counts and role in the same transaction.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import service as accounts
from modelshare.server.audit import events
from modelshare.server.audit.service import Audit, emit, project_changed
from modelshare.server.db import Database, any_tenant, is_unique_violation, notify
from modelshare.server.endpoints import queries, version_choice
from modelshare.server.endpoints.policy import EndpointPolicy, tier_signers
from modelshare.server.endpoints.presenters import resolved, served_name
from modelshare.server.endpoints.refusals import absent, no_such_file, refused, slug_taken
from modelshare.server.endpoints.rules import Intent, came_to_shared_tier, counts_as_new
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.errors import AuditedRefusal, ConflictError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.server.registry import file_selection
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import MODELS_TOPIC, EndpointCounts
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import last_shown, rules
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.rules import SignatureRequirement
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.endpoints import (
    EndpointCreate,
    EndpointPatch,
    EndpointProgress,
    EndpointStatus,
    Explanation,
    Reason,
)
from modelshare.wire.models import ModelStatus

ENDPOINTS_TOPIC = "endpoints"
"""Notification that an endpoint changed; the subject is `<project id>/<slug>`."""


@dataclass(frozen=True, slots=True)
class ActiveEndpoint:
    """An active endpoint, with what the fleet needs."""

    id: uuid.UUID
    project_id: str
    slug: str
    tier: str
    model_id: uuid.UUID
    served_name: str
    """`{owner's slug}/{model name}`."""
    version_id: uuid.UUID | None
    """The version that it should serve; None if there is no such ready version."""
    file: str
    """Selects one of the version's models; empty for the version's own."""
    ends_at: int | None
    """When a recall stops it, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class _Assessment:
    """The result of the rules for a request. `reasons` is empty if it is allowed."""

    model: ModelRow | None
    reasons: list[Reason]


def follow_changes(database: Database) -> None:
    """Updates the pages of a model's owner, and of every project that has an endpoint of it, when the model changes."""

    async def changed(session: AsyncSession, model_id: str) -> None:
        for project_id in await queries.projects_showing(session, uuid.UUID(model_id)):
            project_changed(session, project_id)

    for topic in (MODELS_TOPIC, SHARES_TOPIC):
        database.before_commit(topic, changed)


async def explain(
    session: AsyncSession, caller: Caller, spec: EndpointCreate, terms: EndpointPolicy, *, again: bool = False
) -> Explanation:
    """Whether the caller could create this endpoint now; if not, why and what would make it possible.

    `again`: the endpoint exists, and would be moved or activated, which counts as new.
    """
    assessment = await _assess(session, caller, spec, terms, lock=False, keeps_file=again)
    reasons = list(assessment.reasons)
    there = await queries.endpoint(session, caller.project, spec.slug)
    if there is not None and again:
        reasons = [await _why_not(session, there, reason) for reason in reasons]
    elif there is not None:
        reasons.append(slug_taken(spec.slug))
    tier = terms.tiers.get(spec.tier)
    notes = []
    if tier is not None and not reasons:
        notes = rules.tier_notes(tier) + await terms.capacity(session, caller, tier)
    return Explanation(possible=not reasons, reasons=reasons, notes=notes)


async def create(
    session: AsyncSession, caller: Caller, spec: EndpointCreate, terms: EndpointPolicy, *, now: int
) -> EndpointRow:
    """Creates an endpoint; the error if that is not allowed has the text of `explain`."""
    assessment = await _assess(session, caller, spec, terms, lock=True)
    model = assessment.model
    if assessment.reasons or model is None:
        target = f"model:{model.id if model else spec.model}"
        raise refused(assessment.reasons[0], AuditedRefusal("endpoint.create", target))
    row = EndpointRow(
        project_id=caller.project,
        slug=spec.slug,
        model_id=model.id,
        tier=spec.tier,
        tier_signers=terms.tier_signers(spec.tier),
        version=None if spec.version == "latest" else spec.version,
        file=spec.file,
        is_active=True,
        status=EndpointStatus.PROVISIONING,
        created_at=now,
    )
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise refused(slug_taken(spec.slug), None) from error
    record(session, "endpoint.create", row, caller.actor, now, tier=row.tier, model=str(model.id))
    await _changed(session, caller, model, None, Intent(row.tier, row.is_active), terms=terms, now=now)
    return await get(session, caller, spec.slug)


async def get(session: AsyncSession, caller: Caller, slug: str) -> EndpointRow:
    """The caller's own endpoint; 404 otherwise."""
    row = await queries.endpoint(session, caller.project, slug)
    if row is None:
        raise absent()
    return row


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> tuple[list[EndpointRow], str | None]:
    """The caller's endpoints, newest first, and the cursor of the next page."""
    rows = await queries.page(session, caller.project, paging.fetch_limit, paging.after_id)
    return paging.cut(rows)


async def under_recall(session: AsyncSession, caller: Caller) -> list[EndpointRow]:
    """The caller's endpoints of models under recall, nearest deadline first."""
    return await queries.under_recall(session, caller.project)


async def slugs(session: AsyncSession, caller: Caller, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Slugs of those of the endpoints that are the caller's."""
    return await queries.slugs(session, caller.project, ids) if ids else {}


async def count_active(session: AsyncSession, limit: int) -> int:
    """The number of active endpoints of all projects, counted up to `limit`."""
    return await queries.count_active(session, limit)


async def change(
    session: AsyncSession, caller: Caller, slug: str, patch: EndpointPatch, terms: EndpointPolicy, *, now: int
) -> EndpointRow:
    """Activates, deactivates, moves or re-versions an endpoint. What counts as new has to meet the same rules."""
    model, row = await _locked(session, caller, slug)
    before = Intent(row.tier, row.is_active)
    after = Intent(patch.tier or row.tier, row.is_active if patch.is_active is None else patch.is_active)
    version = patch.version or row.version or "latest"
    file = patch.file if "file" in patch.model_fields_set else row.file
    stays = (version, file) == (row.version or "latest", row.file)
    if counts_as_new(before, after) or patch.version is not None or not stays:
        # Not validated again: an old version may have a number that is not accepted any more.
        spec = EndpointCreate.model_construct(
            slug=slug, model=str(row.model_id), tier=after.tier, version=version, file=file
        )
        keeps_tier = not counts_as_new(before, after)
        assessment = await _assess(session, caller, spec, terms, lock=True, keeps_tier=keeps_tier, keeps_file=stays)
        if assessment.reasons:
            raise refused(
                await _why_not(session, row, assessment.reasons[0]),
                AuditedRefusal("endpoint.change", f"endpoint:{row.id}"),
            )
    row.tier, row.version, row.file = after.tier, None if version == "latest" else version, file
    row.tier_signers = terms.tier_signers(after.tier)
    if after.is_active != before.is_active:
        row.is_active = after.is_active
        row.status = EndpointStatus.PROVISIONING if after.is_active else EndpointStatus.INACTIVE
        row.status_reason = row.progress = None
    await session.flush()
    if model is not None:
        await _changed(session, caller, model, before, after, terms=terms, now=now)
    named = {"file": patch.file} if "file" in patch.model_fields_set else {}
    record(session, "endpoint.change", row, caller.actor, now, **patch.model_dump(exclude_none=True) | named)
    return await get(session, caller, slug)


async def delete(session: AsyncSession, caller: Caller, slug: str, terms: EndpointPolicy, *, now: int) -> None:
    """Deletes an endpoint; agents delete its model's weights unless they serve another endpoint of it."""
    model, row = await _locked(session, caller, slug)
    before = Intent(row.tier, row.is_active)
    await session.delete(row)
    await session.flush()
    if model is not None:
        await _changed(session, caller, model, before, Intent(row.tier, is_active=False), terms=terms, now=now)
    record(session, "endpoint.delete", row, caller.actor, now)


async def active(session: AsyncSession, ids: Collection[uuid.UUID] | None = None) -> list[ActiveEndpoint]:
    """Active endpoints of all projects, for the fleet."""
    return [_active(row) for row in await queries.active(session, ids)]


async def recalled(session: AsyncSession, ids: Collection[uuid.UUID], *, now: int) -> set[uuid.UUID]:
    """Those of these endpoints, of any project, whose model's recall is due."""
    return await queries.recalled(session, ids, now)


async def recount(
    session: AsyncSession, model: ModelRow, *, came_to_shared_tier: bool, terms: EndpointPolicy, actor: str, now: int
) -> None:
    """Recounts the model's active endpoints, under its lock, and updates its share."""
    counted = await queries.active_by_tier_and_project(session, model.id)
    counts = EndpointCounts(
        total=sum(count for _, _, count in counted),
        foreign=sum(count for _, project_id, count in counted if project_id != model.project_id),
        on_shared_tiers=sum(count for tier, _, count in counted if rules.is_shared_tier(tier)),
    )
    await sharing.endpoints_changed(
        session,
        model,
        counts,
        came_to_shared_tier=came_to_shared_tier,
        promotion=terms.promotion,
        actor=actor,
        now=now,
    )


async def note_tiers(session: AsyncSession, tiers: TierRegistry) -> None:
    """Has endpoints say what their tiers require of signatures: the tiers file may have changed."""
    for tier in tiers:
        await queries.note_tier(session, tier.slug, tier_signers(tier))


async def lock(session: AsyncSession, ids: Collection[uuid.UUID]) -> None:
    """Locks endpoints of any project in a fixed order, for the fleet, before it writes the status of several."""
    await queries.lock_endpoints(session, ids)


async def observe(
    session: AsyncSession,
    endpoint_id: uuid.UUID,
    *,
    status: EndpointStatus,
    reason: str | None,
    progress: EndpointProgress | None,
    now: int,
) -> None:
    """Stores the status of an active endpoint, which the fleet has locked. Does not change the owner's settings."""
    row = await session.get(any_tenant(EndpointRow), endpoint_id)
    if row is None or not row.is_active:
        return
    new = (status.value, reason, progress.model_dump() if progress else None)
    if (row.status, row.status_reason, row.progress) != new:
        if row.status != status:
            notify(session, ENDPOINTS_TOPIC, f"{row.project_id}/{row.slug}")
            told = {"slug": row.slug, "status": status.value, "before": row.status}
            data = events.data_of(f"endpoint:{row.id}", reason, told)
            emit(session, project_id=row.project_id, now=now, event=events.ENDPOINT_STATUS, data=data)
        row.status, row.status_reason, row.progress = new
        project_changed(session, row.project_id)


async def _assess(
    session: AsyncSession,
    caller: Caller,
    spec: EndpointCreate,
    terms: EndpointPolicy,
    *,
    lock: bool,
    keeps_tier: bool = False,
    keeps_file: bool = False,
) -> _Assessment:
    """Applies the rules. `keeps_tier`: only the version of an endpoint changes, so the rules for tiers do not apply.

    `keeps_file`: neither version nor file changes, so it may stay at an earlier version that has the file.
    """
    model_id = await sharing.find_id(session, spec.model, own=caller.project_id)
    model = await registry.find_any(session, model_id, lock=lock) if model_id else None
    if model is None:
        return _Assessment(None, [rules.invisible()])
    relation, facts = await sharing.relation_and_facts(session, caller, model)
    if not keeps_tier and not rules.is_visible(relation, facts):
        return _Assessment(None, [rules.invisible()])
    tier = terms.tiers.get(spec.tier)
    if tier is None:
        return _Assessment(model, [rules.unknown_tier(spec.tier, terms.tiers)])
    shown = (await last_shown.of(session, model, [caller.project]))[caller.project]
    ready = registry.ready(model)
    wanted = rules.version_wanted(None if spec.version == "latest" else spec.version, ready, shown)
    if wanted is not None:
        size = registry.size_of(wanted, spec.file)
        facts = replace(facts, status=ModelStatus(wanted.status), size_bytes=size)
    reasons = rules.size_reasons(facts, tier)
    if not keeps_tier:
        reasons = rules.selection_reasons(relation, facts, tier, promotion=terms.promotion)
    if not reasons and wanted is None:
        names = [version.version for version in rules.choosable(ready, shown)]
        has_latest = rules.version_wanted(None, ready, shown) is not None
        reasons.append(rules.no_such_version(spec.version, names, has_latest=has_latest))
    elif not reasons and not keeps_file and wanted is not None and file_selection.find(wanted, spec.file) is None:
        reasons.append(no_such_file(spec.file or "", wanted))
    elif not reasons and wanted is not None:
        required = await _signatures_required(session, caller, model, spec.tier, terms)
        # An endpoint that follows the latest version and does not change it may stay at an earlier, signed version.
        earlier = rules.choosable(ready, shown) if keeps_file and spec.version == "latest" else []
        if all(rules.signature_reason(each, required) for each in [wanted, *earlier]):
            reasons += filter(None, [rules.signature_reason(wanted, required)])
    return _Assessment(model, reasons)


async def _signatures_required(
    session: AsyncSession, caller: Caller, model: ModelRow, tier: str, terms: EndpointPolicy
) -> list[SignatureRequirement]:
    deployer = (await accounts.find_projects(session, [caller.project]))[caller.project]
    return version_choice.requirements(deployer, model.project, tier, terms.tier_signers(tier))


async def _locked(session: AsyncSession, caller: Caller, slug: str) -> tuple[ModelRow | None, EndpointRow]:
    model_id = await queries.model_id_of(session, caller.project, slug)
    model = await registry.find_any(session, model_id, lock=True) if model_id else None
    row = await queries.lock_endpoint(session, caller.project, slug)
    if row is None:
        raise absent()
    if row.model_id != (model.id if model else None):
        raise ConflictError(f"The endpoint `{slug}` was replaced by another request. Check it, then try again.")
    return model, row


async def _changed(
    session: AsyncSession,
    caller: Caller,
    model: ModelRow,
    before: Intent | None,
    after: Intent,
    *,
    terms: EndpointPolicy,
    now: int,
) -> None:
    came = came_to_shared_tier(before, after)
    await recount(
        session, model, came_to_shared_tier=came, terms=terms, actor=caller.actor_in(model.project_id), now=now
    )


async def _why_not(session: AsyncSession, row: EndpointRow, reason: Reason) -> Reason:
    """For a model that a deployer cannot see any more because of a recall, gives the recall as the reason."""
    recall = await sharing.find_recall(session, row.model_id) if row.model_id else None
    return rules.recalled(recall.reason) if recall and reason.rule == "visibility" else reason


def _active(row: EndpointRow) -> ActiveEndpoint:
    assert row.model is not None  # noqa: S101 - a condition of the query
    version = resolved(row)
    model = file_selection.find(version, row.file) if version else None
    return ActiveEndpoint(
        id=row.id,
        project_id=row.project_id,
        slug=row.slug,
        tier=row.tier,
        model_id=row.model.id,
        served_name=served_name(row.model),
        version_id=version.id if version else None,
        file=model.file if model else "",
        ends_at=row.recall.deadline if row.recall else None,
    )


def record(
    session: AsyncSession,
    action: str,
    row: EndpointRow,
    actor: str,
    now: int,
    reason: str | None = None,
    **details: Any,
) -> None:
    """Call after every change of an endpoint: records it in the audit log of its project, and notifies of it."""
    Audit(session, row.project_id, actor, now).done(action, f"endpoint:{row.id}", reason, slug=row.slug, **details)
    notify(session, ENDPOINTS_TOPIC, f"{row.project_id}/{row.slug}")
