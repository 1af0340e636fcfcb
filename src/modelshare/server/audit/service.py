"""Writes the audit log and the outbox, in the transaction of the change that they describe."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import events, queries
from modelshare.server.audit.propagation import queries as propagation
from modelshare.server.audit.propagation.rules import ACTIONS
from modelshare.server.audit.tables import AuditRow, OutboxRow
from modelshare.server.db import CONFIRM_TOPIC, notify, now_ms
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id, parse_uuid
from modelshare.server.paging import Paging
from modelshare.wire.base import Page
from modelshare.wire.usage import AuditEntry, AuditFilter, AuditOutcome, Confirmation

SYSTEM = "system"
"""The actor of actions by the platform itself."""
PROJECTS_TOPIC = "projects"
"""Notification of a change that a project's pages may show; the subject is the project's ID."""
OUTBOX_TOPIC = "outbox"
"""Notification that the outbox has new events."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Records the actions of an actor in the audit log of a project (None: of the platform), in the same
    transaction."""

    session: AsyncSession
    project_id: str | None
    actor: str
    now: int

    def done(self, action: str, target: str, /, reason: str | None = None, **details: Any) -> None:
        """`action` reads `subject.verb`, `target` reads `subject:<id>`.

        If `events.OF_ACTIONS` has an event for the action, it is sent to webhooks. If `propagation.rules.ACTIONS` has
        the action, every process confirms that it applies the change.
        """
        entry = self._entry(action, target, AuditOutcome.DONE, reason, details)
        project_changed(self.session, self.project_id)
        if action in ACTIONS:
            self._await_confirmations(entry)
        if self.project_id is not None and (event := events.OF_ACTIONS.get(action)) is not None:
            data = events.data_of(target, reason, details)
            emit(self.session, project_id=self.project_id, now=self.now, event=event, data=data)

    def refused(self, action: str, target: str, reason: str) -> None:
        self._entry(action, target, AuditOutcome.REFUSED, reason, {})

    def _entry(
        self, action: str, target: str, outcome: AuditOutcome, reason: str | None, details: dict[str, Any]
    ) -> AuditRow:
        row = AuditRow(
            id=new_id(),
            project_id=self.project_id,
            at=self.now,
            actor=self.actor,
            action=action,
            target=target,
            outcome=outcome,
            reason=reason,
            details=details,
        )
        self.session.add(row)
        return row

    def _await_confirmations(self, entry: AuditRow) -> None:
        entry.changed_ms = now_ms(self.session)
        notify(self.session, CONFIRM_TOPIC, str(entry.id))


def project_changed(session: AsyncSession, project_id: str | None) -> None:
    """Updates the project's live pages. Not needed after audit entries and events, which include it. None: no
    effect."""
    if project_id is not None:
        notify(session, PROJECTS_TOPIC, project_id)


def emit(session: AsyncSession, *, project_id: str, now: int, event: str, data: dict[str, Any]) -> None:
    """Sends an event to the project's webhooks, if this transaction commits."""
    session.add(OutboxRow(project_id=project_id, type=event, at=now, data=data))
    project_changed(session, project_id)
    notify(session, OUTBOX_TOPIC, "*")


async def by_id(platform: Platform, caller: Caller, where: AuditFilter) -> AuditFilter:
    """Replaces a model's name in the filter's target by its ID, as in entries, if it is one of the caller's own
    models."""
    subject, _, reference = (where.target or "").partition(":")
    if subject != "model" or parse_uuid(reference) is not None:
        return where
    model_id = await platform.find_own_model(caller, reference)
    return where.model_copy(update={"target": f"model:{model_id}"}) if model_id else where


async def page(session: AsyncSession, project_id: str | None, where: AuditFilter, paging: Paging) -> Page[AuditEntry]:
    """Matching entries, newest first, of one project or (None) of the platform itself."""
    rows = await queries.entries(session, project_id, where, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    answers = await propagation.answers(session, [row.id for row in rows if row.changed_ms is not None])
    return Page.of([_entry(row, answers.get(row.id, {})) for row in rows], cursor)


def _entry(row: AuditRow, answers: propagation.Answers) -> AuditEntry:
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
