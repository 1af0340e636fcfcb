"""Updates the catalog's entries in the transaction that changes what they say: an effect of that change."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import Database, upsert
from modelshare.server.registry.service import MODELS_TOPIC, USAGE_TOPIC
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.search.tables import CatalogEntryRow
from modelshare.server.sharing.search.terms import CatalogFacts, terms_of
from modelshare.server.sharing.tables import ShareProjectRow, ShareRow
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.sharing import Audience

SOURCE = (
    select(
        ModelRow.id.label("model_id"),
        ModelRow.project_id,
        ProjectRow.slug.label("owner"),
        ModelRow.name,
        ModelRow.display_name,
        ModelRow.description,
        ModelRow.tags,
        ModelRow.license,
        ShareRow.audience,
        ShareRow.role,
        ShareRow.deployment_count,
        VersionRow.version,
        VersionRow.format,
        VersionRow.architecture,
        VersionRow.family,
        VersionRow.parameters,
        VersionRow.context_length,
    )
    .select_from(ShareRow)
    .join(ModelRow, ModelRow.id == ShareRow.model_id)
    .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
    .outerjoin(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
)
"""What entries are made of."""


def follow_changes(database: Database) -> None:
    """Indexes every model whose versions, share or usage a transaction changes, before that commits."""

    async def changed(session: AsyncSession, model_id: str) -> None:
        await index(session, uuid.UUID(model_id))

    for topic in (MODELS_TOPIC, USAGE_TOPIC, SHARES_TOPIC):
        database.before_commit(topic, changed)


async def index(session: AsyncSession, model_id: uuid.UUID) -> None:
    """Makes the model's entry say what its rows say; call it under the model's lock.

    What is not shared has none: the entry goes with the share.
    """
    source = (await session.execute(SOURCE.where(ShareRow.model_id == model_id))).one_or_none()
    if source is None:
        return
    shown_to = await shown_to_projects(session, model_id) if source.audience == Audience.TARGETED else ()
    values = entry_of(source, shown_to)
    statement = upsert(session, CatalogEntryRow).values(model_id=model_id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[CatalogEntryRow.model_id], set_=values))


async def shown_to_projects(session: AsyncSession, model_id: uuid.UUID) -> Sequence[str]:
    statement = select(ShareProjectRow.project_id).where(ShareProjectRow.model_id == model_id)
    return (await session.scalars(statement.order_by(ShareProjectRow.project_id))).all()


def entry_of(source: Row[*tuple[Any, ...]], shown_to: Sequence[str]) -> dict[str, str | int | bool | None]:
    """The columns of the entry."""
    facts = CatalogFacts(
        project_id=source.project_id,
        owner=source.owner,
        audience=source.audience,
        shown_to=shown_to,
        role=source.role,
        name=source.name,
        display_name=source.display_name,
        description=source.description,
        tags=source.tags,
        license=source.license,
        format=source.format,
        architecture=source.architecture,
        family=source.family,
        parameters=source.parameters or 0,
        context_length=source.context_length or 0,
        deployment_count=source.deployment_count,
    )
    return {
        # A model without a version to show keeps its entry, and with it its place, and nothing finds it.
        "terms": f" {' '.join(terms_of(facts))} " if source.version else "",
        "deployment_count": source.deployment_count,
        "parameters": facts.parameters,
        "context_length": facts.context_length,
        "name": source.name.lower(),
        "family": facts.family,
        "license": facts.license,
        "architecture": facts.architecture,
        "format": facts.format,
        "role": facts.role,
        "tags": "\n".join(dict.fromkeys(tag for tag in facts.tags if "\n" not in tag)),
        "is_learned": False,
    }
