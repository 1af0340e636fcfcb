"""Updates catalog entries, in the same transaction as the change of the model."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database
from modelshare.server.registry.service import MODELS_TOPIC, USAGE_TOPIC
from modelshare.server.sharing.search import queries
from modelshare.server.sharing.search.terms import CatalogFacts, terms_of
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.sharing import Audience


def follow_changes(database: Database) -> None:
    """Indexes every model whose versions, share or usage a transaction changes, before that commits."""

    async def changed(session: AsyncSession, model_id: str) -> None:
        await index(session, uuid.UUID(model_id))

    for topic in (MODELS_TOPIC, USAGE_TOPIC, SHARES_TOPIC):
        database.before_commit(topic, changed)


async def index(session: AsyncSession, model_id: uuid.UUID) -> None:
    """Updates the model's entry from its rows; call it with the model locked.

    A model that is not shared has none: the entry is deleted with the share.
    """
    source = await queries.entry_source(session, model_id)
    if source is None:
        return
    shown_to = await queries.shown_to_projects(session, model_id) if source.audience == Audience.TARGETED else ()
    await queries.write_entry(session, model_id, entry_of(source, shown_to))


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
        # A model without a ready version keeps its entry, and so its position, but has no terms to find it by.
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
