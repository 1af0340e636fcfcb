"""Counts the active endpoints of a version: those fixed to it, following `latest`, or staying at an earlier version."""

import uuid
from collections import Counter
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import queries
from modelshare.server.endpoints.presenters import resolved
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing import last_shown


@dataclass(frozen=True, slots=True)
class Holders:
    """Numbers of active endpoints that have a version, of the model's owner and of other projects."""

    own: int
    others: int


@dataclass(frozen=True, slots=True)
class Followers:
    """Numbers of active endpoints of other projects that are set to `latest`."""

    following: int
    """Those that follow, since the model is visible to their projects."""
    staying: dict[uuid.UUID | None, int]
    """Those that do not, by the version at which they stay."""


async def followers(session: AsyncSession, model: ModelRow) -> Followers:
    """Endpoints of other projects that follow the latest version, and those that stay at an earlier one."""
    counts = await queries.followers(session, model.id, model.project_id)
    shown = await last_shown.of(session, model, counts.keys())
    staying: Counter[uuid.UUID | None] = Counter()
    for project_id, stays in shown.items():
        if stays is not None:
            staying[stays.version_id] += counts[project_id]
    return Followers(sum(counts.values()) - staying.total(), dict(staying))


async def of(session: AsyncSession, model: ModelRow, version: VersionRow) -> Holders:
    """Endpoints that are fixed to this version, or have it for another reason."""
    projects = [
        row.project_id
        for row in await queries.active_of(session, model.id)
        if row.version == version.version or ((gets := resolved(row)) is not None and gets.id == version.id)
    ]
    own = projects.count(model.project_id)
    return Holders(own, len(projects) - own)
