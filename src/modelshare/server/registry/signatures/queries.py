"""Queries of signers and signatures."""

import uuid
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import any_tenant, scoped_to
from modelshare.server.ids import parse_uuid
from modelshare.server.registry.tables import SignatureRow, SignerRow, VersionRow


async def signers(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[SignerRow]:
    """Newest first."""
    statement = scoped_to(SignerRow, project_id).order_by(SignerRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(SignerRow.id < after) if after else statement))


async def signer(session: AsyncSession, project_id: str, named: str) -> SignerRow | None:
    """By its id or its name; the id comes first."""
    of_project = scoped_to(SignerRow, project_id)
    if (uid := parse_uuid(named)) and (found := await session.scalar(of_project.where(SignerRow.id == uid))):
        return found
    return await session.scalar(of_project.where(SignerRow.name == named))


async def signer_of_key(session: AsyncSession, project_id: str, key_id: str) -> SignerRow | None:
    return await session.scalar(scoped_to(SignerRow, project_id).where(SignerRow.key_id == key_id))


async def public_key(session: AsyncSession, key_id: str) -> str | None:
    """The key with this id, whichever project registered it: an id fits one key only."""
    statement = select(any_tenant(SignerRow).public_key).where(SignerRow.key_id == key_id).limit(1)
    return await session.scalar(statement)


async def signature(session: AsyncSession, version_id: uuid.UUID) -> SignatureRow | None:
    return await session.get(SignatureRow, version_id)


async def delete_signature(session: AsyncSession, version_id: uuid.UUID) -> None:
    await session.execute(delete(SignatureRow).where(SignatureRow.version_id == version_id))


async def signed_models(session: AsyncSession, key_id: str) -> list[uuid.UUID]:
    """IDs of models of all projects with versions that claim to be signed with the key, in order."""
    statement = (
        select(VersionRow.model_id)
        .join(SignatureRow, SignatureRow.version_id == VersionRow.id)
        .where(SignatureRow.key_id == key_id)
    )
    return list(await session.scalars(statement.distinct().order_by(VersionRow.model_id)))


async def signed_versions(
    session: AsyncSession, model_id: uuid.UUID, key_id: str
) -> list[tuple[VersionRow, SignatureRow]]:
    """Those of a model that claim to be signed with the key. Lock the model first."""
    statement = (
        select(VersionRow, SignatureRow)
        .join(SignatureRow, SignatureRow.version_id == VersionRow.id)
        .where(VersionRow.model_id == model_id, SignatureRow.key_id == key_id)
        .options(joinedload(VersionRow.model))
        .execution_options(populate_existing=True)
    )
    return [(version, row) for version, row in await session.execute(statement)]


async def proven(session: AsyncSession, version_ids: Collection[uuid.UUID]) -> list[SignatureRow]:
    """Signatures of these versions whose key is proven."""
    statement = (
        select(SignatureRow)
        .join(VersionRow, VersionRow.id == SignatureRow.version_id)
        .where(SignatureRow.version_id.in_(version_ids), VersionRow.signature_key.is_not(None))
    )
    return list(await session.scalars(statement))
