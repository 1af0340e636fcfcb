"""Stores the versions of a model when a project could last see it: endpoints of projects that lost access stay there.

Changes require the model's lock, and come before the change of the share.
"""

import uuid
from collections.abc import Collection
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import queries
from modelshare.server.sharing.rules import LastShown, stays_at
from modelshare.server.sharing.tables import EVERYBODY, LastShownRow, ShareRow
from modelshare.wire.sharing import Audience

_AT_ONCE: Final = 1000
"""Rows per statement."""


async def keep_for_all(session: AsyncSession, model: ModelRow, share: ShareRow) -> None:
    """Call before the share ends for its whole audience."""
    if share.audience == Audience.PUBLIC:
        await keep(session, model, [EVERYBODY])
    else:
        await keep(session, model, [row.project_id for row in await queries.shown_to(session, model.id)])


async def keep(session: AsyncSession, model: ModelRow, project_ids: Collection[str]) -> None:
    """Call before these projects (or `EVERYBODY`) lose access to the model."""
    latest = registry.resolve(model, None)
    now = {
        "version_id": latest.id if latest else None,
        "versions": [str(each.id) for each in model.versions if each.manifest is not None],
    }
    ordered = sorted(project_ids)
    for start in range(0, len(ordered), _AT_ONCE):
        await queries.keep_last_shown(session, model.id, ordered[start : start + _AT_ONCE], **now)


async def forget(session: AsyncSession, model_id: uuid.UUID) -> None:
    """Deletes all rows of a model that becomes visible to everyone."""
    await queries.forget_last_shown(session, model_id)


async def of(session: AsyncSession, model: ModelRow, project_ids: Collection[str]) -> dict[str, LastShown | None]:
    """The state at which endpoints of these projects stay, by project; None: they follow `latest`."""
    share = await queries.share(session, model.id)
    invited = await queries.invited(session, model.id, project_ids)
    rows = await queries.last_shown(session, model.id, project_ids)
    everybody = fact(rows.get(EVERYBODY))
    return {
        project_id: stays_at(
            is_owner=project_id == model.project_id,
            audience=Audience(share.audience) if share else None,
            is_invited=project_id in invited,
            own=fact(rows.get(project_id)),
            everybody=everybody,
        )
        for project_id in project_ids
    }


def fact(row: LastShownRow | None) -> LastShown | None:
    """Converts the row for the rules."""
    return LastShown(row.version_id, frozenset(map(uuid.UUID, row.versions))) if row else None
