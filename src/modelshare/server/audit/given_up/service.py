"""Background jobs that failed permanently, for the platform's operator: list and retry."""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import jobs
from modelshare.server.audit.service import Audit
from modelshare.server.errors import NotFoundError
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.jobs import GivenUpRow
from modelshare.server.paging import Paging
from modelshare.wire.base import Page
from modelshare.wire.jobs import GivenUpJob


async def page(session: AsyncSession, paging: Paging) -> Page[GivenUpJob]:
    """Jobs that failed in the last 30 days and have not succeeded since, newest first."""
    rows = await jobs.given_up(session, paging.fetch_limit, paging.after_row(int, uuid.UUID))
    rows, cursor = paging.cut(rows, lambda row: (row.given_up_at, row.id))
    return Page.of([_view(row) for row in rows], cursor)


async def try_again(session: AsyncSession, caller: Caller, job_id: str, *, now: int) -> GivenUpJob:
    """Runs the job again immediately, with all its attempts. 404 if it has succeeded or was retried meanwhile."""
    uid = parse_uuid(job_id)
    row = await jobs.try_again(session, uid, now=now) if uid else None
    if row is None:
        raise NotFoundError("There is no such failed job. It may have been completed or retried since.")
    Audit(session, None, caller.actor, now).done("job.retry", f"job:{row.kind}/{row.subject}")
    return _view(row)


def _view(row: GivenUpRow) -> GivenUpJob:
    return GivenUpJob(
        id=str(row.id),
        kind=row.kind,
        subject=row.subject,
        attempts=row.attempts,
        error=row.error,
        given_up_at=row.given_up_at,
    )
