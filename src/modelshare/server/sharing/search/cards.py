"""What lists show of a shared model, read past the object mapper: a page has many, and nobody changes them."""

import uuid
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, select

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.tables import ShareRow


class CatalogCard(NamedTuple):
    """A model in a list."""

    id: uuid.UUID
    name: str
    display_name: str | None
    description: str | None
    tags: list[str]
    license: str | None
    owner: str
    owner_name: str
    architecture: str | None
    family: str | None
    format: str | None
    parameters: int | None
    context_length: int | None
    quantization: str | None
    task: str | None
    size_bytes: int | None
    version: str
    audience: str
    role: str
    deployment_count: int
    featured: bool
    shared_at: int


_COLUMNS = (
    *(ModelRow.id, ModelRow.name, ModelRow.display_name, ModelRow.description, ModelRow.tags, ModelRow.license),
    *(ProjectRow.slug, ProjectRow.name),
    *(VersionRow.architecture, VersionRow.family, VersionRow.format, VersionRow.parameters),
    *(VersionRow.context_length, VersionRow.quantization, VersionRow.task, VersionRow.size_bytes, VersionRow.version),
    *(ShareRow.audience, ShareRow.role, ShareRow.deployment_count, ShareRow.featured, ShareRow.shared_at),
)
"""In the order of a card's fields."""


def select_cards(*more: Any) -> Select[*tuple[Any, ...]]:
    """A card's columns, then `more`, of all shared models that have a version to show."""
    return (
        select(*_COLUMNS, *more)
        .select_from(ShareRow)
        .join(ModelRow, ModelRow.id == ShareRow.model_id)
        .join(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
        .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
    )


def card_of(share: ShareRow, model: ModelRow, version: VersionRow) -> CatalogCard:
    """Of rows that are there already."""
    return CatalogCard(
        id=model.id,
        name=model.name,
        display_name=model.display_name,
        description=model.description,
        tags=model.tags,
        license=model.license,
        owner=model.project.slug,
        owner_name=model.project.name,
        architecture=version.architecture,
        family=version.family,
        format=version.format,
        parameters=version.parameters,
        context_length=version.context_length,
        quantization=version.quantization,
        task=version.task,
        size_bytes=version.size_bytes,
        version=version.version,
        audience=share.audience,
        role=share.role,
        deployment_count=share.deployment_count,
        featured=share.featured,
        shared_at=share.shared_at,
    )
