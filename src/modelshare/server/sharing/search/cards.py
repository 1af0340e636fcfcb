"""What lists show of a shared model, read without the ORM for speed, since a page has many and they are not changed."""

import uuid
from typing import NamedTuple

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
    signature_state: str
    signer: str | None
    audience: str
    role: str
    deployment_count: int
    featured: bool
    shared_at: int


def card_of(share: ShareRow, model: ModelRow, version: VersionRow) -> CatalogCard:
    """Builds a card from loaded rows."""
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
        signature_state=version.signature_state,
        signer=version.signer,
        audience=share.audience,
        role=share.role,
        deployment_count=share.deployment_count,
        featured=share.featured,
        shared_at=share.shared_at,
    )
