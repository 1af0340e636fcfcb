"""Recalls: a model's owner withdraws it, and the endpoints of other projects stop at the deadline.

The owner's own endpoints keep serving, and the owner's permissions do not change.
"""

import uuid
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM
from modelshare.server.endpoints import queries
from modelshare.server.endpoints.policy import EndpointPolicy, EndpointsPlatform
from modelshare.server.endpoints.service import record, recount
from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import Caller
from modelshare.server.jobs import Lease, enqueue, enqueue_if_absent, lease_is_valid
from modelshare.server.registry import service as registry
from modelshare.server.sharing import rules
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import OwnModel, notice
from modelshare.wire.endpoints import EndpointStatus
from modelshare.wire.sharing import Recall, RecallRequest

STOP = "endpoints.recall"
"""The job that stops endpoints at the deadline; its subject is the model's ID."""


async def request(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, spec: RecallRequest, terms: EndpointPolicy, *, now: int
) -> Recall:
    """Announces a recall, or changes or cancels it, and notifies every deployer."""
    if spec.deadline is None:
        own = await _cancel(session, caller, model_id, now=now)
    else:
        own = await _announce(session, caller, model_id, max(spec.deadline, now), spec.reason, now=now)
    return await _state(session, own, terms)


async def state(session: AsyncSession, caller: Caller, model_id: uuid.UUID, terms: EndpointPolicy) -> Recall:
    """The state of a recall of the caller's own model."""
    return await _state(session, await sharing.get(session, caller, model_id), terms)


async def stop(platform: EndpointsPlatform, lease: Lease) -> None:
    """The job: stops the endpoints of other projects, unless the recall was cancelled or postponed meanwhile."""
    model_id, now = uuid.UUID(lease.subject), platform.now()
    async with platform.database.write() as session:
        model = await registry.find_any(session, model_id, lock=True)
        recall = await sharing.find_recall(session, model_id)
        if model is None or recall is None or recall.stopped_at is not None or recall.deadline > now:
            return
        stopping = await queries.lock_active_of_others(session, model.id, model.project_id)
        if not await lease_is_valid(session, lease):
            return
        for row in stopping:
            row.is_active, row.progress = False, None
            row.status, row.status_reason = EndpointStatus.INACTIVE, rules.recalled(recall.reason).message
            record(session, "endpoint.stop", row, SYSTEM, now, row.status_reason)
        recall.stopped_at = now
        await session.flush()
        policy = platform.endpoint_policy
        await recount(session, model, came_to_shared_tier=False, terms=policy, actor=SYSTEM, now=now)


async def resume_overdue(session: AsyncSession, *, now: int) -> None:
    """Enqueues jobs that should have run: a job that fails too often, for example in an outage, is not retried."""
    overdue = await sharing.overdue_recalls(session, now)
    await enqueue_if_absent(session, STOP, [str(model_id) for model_id in overdue], now=now)


async def _announce(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, deadline: int, reason: str | None, *, now: int
) -> OwnModel:
    if reason is None:
        raise InvalidRequestError("`reason`: A recall needs a reason, which deployers are shown.", param="reason")
    own = await sharing.recall(session, caller, model_id, deadline=deadline, reason=reason, now=now)
    await _tell_all(session, own, "endpoint.recall", caller, reason, now=now, deadline=deadline)
    await enqueue(session, STOP, str(model_id), now=now, after=deadline)
    return own


async def _cancel(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> OwnModel:
    own = await sharing.cancel_recall(session, caller, model_id, now=now)
    if own.recall is not None and own.recall.stopped_at is None:
        await _tell_all(session, own, "endpoint.recall_cancel", caller, None, now=now)
    elif own.recall is not None:
        model = own.model
        for row in await queries.lock_stopped_of_others(session, model.id, model.project_id):
            row.status_reason = None
            record(session, "endpoint.recall_cancel", row, caller.actor_in(row.project_id), now)
    return own._replace(recall=None)


async def _tell_all(
    session: AsyncSession, own: OwnModel, action: str, caller: Caller, reason: str | None, *, now: int, **details: Any
) -> None:
    for row in await queries.lock_active_of_others(session, own.model.id, own.model.project_id):
        record(session, action, row, caller.actor_in(row.project_id), now, reason, **details)


async def _state(session: AsyncSession, own: OwnModel, terms: EndpointPolicy) -> Recall:
    model, _, recall = own
    holding, weight_deletions = await terms.weights(session, model, since=recall.created_at if recall else None)
    return Recall(
        model=str(model.id),
        notice=notice(recall) if recall else None,
        endpoints_serving=model.foreign_endpoints,
        machines_holding=holding,
        weight_deletions=weight_deletions,
    )
