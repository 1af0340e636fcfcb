"""The owner's view of who deploys a model."""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import queries
from modelshare.server.http import Caller
from modelshare.server.sharing import audience
from modelshare.server.sharing import service as sharing
from modelshare.wire.models import CatalogFootprint, DeployingProject
from modelshare.wire.sharing import Audience


async def footprint(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> CatalogFootprint:
    """The owner's view of who deploys the model; projects by their public names, never what they ask it."""
    own = await sharing.get(session, caller, model_id)
    model, share = own.model, own.share
    by_tier: dict[str, int] = {}
    for tier, _, count in await queries.active_by_tier_and_project(session, model.id):
        by_tier[tier] = by_tier.get(tier, 0) + count
    return CatalogFootprint(
        model=str(model.id),
        is_shared=share is not None,
        audience=Audience(share.audience) if share else None,
        projects=await audience.shown_to(session, model.id),
        links=await audience.links(session, model.id),
        catalog_role=sharing.role_of(share),
        shared_at=share.shared_at if share else None,
        featured=share.featured if share else False,
        deployment_count=share.deployment_count if share else 0,
        endpoints_by_tier=by_tier,
        deploying_projects=[
            DeployingProject(project=name, endpoints=count)
            for name, count in await queries.deploying_projects(session, model.id)
        ],
        tokens_served=await queries.tokens_served(session, model.id),
    )
