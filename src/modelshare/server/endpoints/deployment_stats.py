"""Statistics for a model's owner: which projects deploy it, and how much it is used."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import holders, queries
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import audience
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import OwnModel, is_listed
from modelshare.wire.models import CatalogFootprint, DeployingProject, UnsharePreview
from modelshare.wire.sharing import Audience

MAX_COUNT: Final = 2**48
"""Upper bound of a row's counts, so that sums over any number of rows fit into 64 bits."""
MAX_COST: Final = 2**56
"""The same for its cost in millionths: 72 billion, since currencies differ."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """The projects that deploy a model, for its owner."""

    own: OwnModel
    projects: list[DeployingProject]
    tokens_served: int

    @property
    def endpoints(self) -> int:
        return sum(each.endpoints for each in self.projects)


async def overview(session: AsyncSession, caller: Caller, paging: Paging) -> tuple[list[Deployed], str | None]:
    """The deployers of the caller's models that are shared or in use, newest model first; and the next page's
    cursor."""
    found, cursor = await sharing.page(session, caller, paging)
    known = {own.model.id: own for own in found if own.share or own.model.active_endpoints}
    tokens = await queries.tokens_by_model(session, known) if known else {}
    projects: dict[uuid.UUID, list[DeployingProject]] = defaultdict(list)
    for model_id, name, count in await queries.deployers(session, known) if known else ():
        projects[model_id].append(DeployingProject(project=name, endpoints=count))
    return [Deployed(own, projects[model_id], tokens.get(model_id, 0)) for model_id, own in known.items()], cursor


async def unshare_preview(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> UnsharePreview:
    """What unsharing would do to the share and to endpoints. Changes nothing."""
    preview = await sharing.unshare_preview(session, caller, model_id)
    model = (await sharing.get(session, caller, model_id)).model
    following = (await holders.followers(session, model)).following
    latest = registry.resolve(model, None)
    if not following or latest is None:
        return preview.model_copy(update={"stays_at": latest.version if latest else None})
    note = (
        f"Active endpoints of other projects that follow `latest`: {following}. They stay at {latest.version} "
        "and do not get later versions until you share the model with their projects again."
    )
    return preview.model_copy(
        update={"stops_following": following, "stays_at": latest.version, "notes": [*preview.notes, note]}
    )


async def _staying(session: AsyncSession, model: ModelRow) -> dict[str, int]:
    numbers = {each.id: each.version for each in model.versions}
    staying = (await holders.followers(session, model)).staying
    return {numbers[id_]: count for id_, count in staying.items() if id_ in numbers}


async def footprint(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> CatalogFootprint:
    """The owner's view of who deploys the model, with the projects' public names. Contains nothing of their
    requests."""
    own = await sharing.get(session, caller, model_id)
    model, share = own.model, own.share
    by_tier: dict[str, int] = {}
    for tier, _, count in await queries.active_by_tier_and_project(session, model.id):
        by_tier[tier] = by_tier.get(tier, 0) + count
    return CatalogFootprint(
        model=str(model.id),
        is_shared=share is not None,
        is_listed=is_listed(own),
        audience=Audience(share.audience) if share else None,
        projects=await audience.shown_to(session, model.id),
        links=await audience.links(session, model.id),
        catalog_role=sharing.role_of(share),
        shared_at=share.shared_at if share else None,
        featured=share.featured if share else False,
        deployment_count=share.deployment_count if share else 0,
        endpoints_by_tier=by_tier,
        staying_at=await _staying(session, model),
        deploying_projects=[
            DeployingProject(project=name, endpoints=count)
            for name, count in await queries.deploying_projects(session, model.id)
        ],
        tokens_served=await queries.tokens_served(session, model.id),
    )


def usage_id(endpoint_id: uuid.UUID, tier: str, version: str) -> uuid.UUID:
    """Tells the rows of an endpoint's tiers and versions apart.

    The key of the table is as it was before there were any: processes of earlier versions go on adding to their rows.
    """
    return uuid.uuid5(endpoint_id, f"{tier}/{version}")


async def add_usage(
    session: AsyncSession, rows: Sequence[dict[str, Any]], *, writer: uuid.UUID, batch: int, now: int
) -> None:
    """Adds rows to those with the same key. Counts stop growing near `MAX_COUNT`, costs near `MAX_COST`.

    Does nothing if the writer's batch with this number, or a later one, has been added already.
    """
    if await queries.note_batch(session, writer, batch, now):
        await queries.add_usage(session, rows, MAX_COUNT, MAX_COST)
