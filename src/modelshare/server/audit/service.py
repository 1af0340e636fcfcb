"""The audit log and the outbox: written in the transaction of the change they tell of."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import events, queries
from modelshare.server.audit.propagation import queries as confirming
from modelshare.server.audit.propagation.rules import ACTIONS
from modelshare.server.audit.tables import AuditRow, OutboxRow
from modelshare.server.db import CONFIRM_TOPIC, notify, now_ms
from modelshare.server.http import Caller, Paging, Platform, encode_cursor
from modelshare.server.ids import new_id, parse_uuid
from modelshare.wire.base import Page
from modelshare.wire.usage import AuditEntry, AuditFilter, AuditOutcome, Confirmation

SYSTEM = "system"
"""The actor of what the platform does by itself."""
OUTBOX_TOPIC = "outbox"
"""Notification that events wait for their deliveries to be written."""


def record(
    session: AsyncSession,
    *,
    project_id: str | None,
    now: int,
    actor: str,
    action: str,
    target: str,
    reason: str | None = None,
    refused: bool = False,
    **details: Any,
) -> None:
    """Adds a row: `action` reads `subject.verb`, `target` reads `subject:<id>`.

    What was done is an event too, where `events.OF_ACTIONS` has a name for it; and every process confirms that it goes
    by it, where `confirming.rules.ACTIONS` has it.
    """
    entry_id = new_id()
    confirmed = not refused and action in ACTIONS
    session.add(
        AuditRow(
            id=entry_id,
            project_id=project_id,
            at=now,
            actor=actor,
            action=action,
            target=target,
            outcome=AuditOutcome.REFUSED if refused else AuditOutcome.DONE,
            reason=reason,
            details=details,
            changed_ms=now_ms(session) if confirmed else None,
        )
    )
    if confirmed:
        notify(session, CONFIRM_TOPIC, str(entry_id))
    event = None if refused else events.OF_ACTIONS.get(action)
    if event is not None and project_id is not None:
        emit(session, project_id=project_id, now=now, event=event, data=events.data_of(target, reason, details))


def emit(session: AsyncSession, *, project_id: str, now: int, event: str, data: dict[str, Any]) -> None:
    """Tells the project's webhooks of something, once and only if this transaction commits."""
    session.add(OutboxRow(project_id=project_id, type=event, at=now, data=data))
    notify(session, OUTBOX_TOPIC, "*")


async def by_id(platform: Platform, caller: Caller, where: AuditFilter) -> AuditFilter:
    """Entries have the ids of models: one of the caller's own that the target names as people do is meant by its id."""
    subject, _, reference = (where.target or "").partition(":")
    if subject != "model" or parse_uuid(reference) is not None:
        return where
    model_id = await platform.find_own_model(caller, reference)
    return where.model_copy(update={"target": f"model:{model_id}"}) if model_id else where


async def page(session: AsyncSession, project_id: str | None, where: AuditFilter, paging: Paging) -> Page[AuditEntry]:
    """Those that fit, the newest first, of one project or (None) of the platform itself."""
    rows = await queries.entries(session, project_id, where, paging.limit + 1, paging.after_id)
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    answers = await confirming.answers(session, [row.id for row in rows if row.changed_ms is not None])
    return Page(
        data=[_entry(row, answers.get(row.id, {})) for row in rows],
        has_more=more,
        next_cursor=encode_cursor(str(rows[-1].id)) if more else None,
    )


def _entry(row: AuditRow, answers: confirming.Answers) -> AuditEntry:
    return AuditEntry(
        id=str(row.id),
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        outcome=AuditOutcome(row.outcome),
        reason=row.reason,
        details=row.details,
        confirmations=[
            Confirmation(process=process, after_ms=max(0, at_ms - (row.changed_ms or 0)))
            for process, at_ms in answers.items()
            if at_ms is not None
        ],
        pending=[process for process, at_ms in answers.items() if at_ms is None],
    )
