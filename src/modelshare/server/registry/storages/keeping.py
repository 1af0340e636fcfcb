"""Files in a project's own storage whose versions are deleted: the owner chooses whether to keep them there."""

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import InvalidRequestError
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.storages import queries
from modelshare.server.registry.storages.queries import OwnFile
from modelshare.wire.models import KeptFile, StoredBytes


async def own_storages(session: AsyncSession, project_id: str, version_ids: Collection[uuid.UUID]) -> list[str]:
    """URLs of own storages with files that only these versions have."""
    found = await queries.files_only_of(session, project_id, version_ids)
    return sorted({each.storage.url for each in found})


async def files_to_keep(
    session: AsyncSession, project_id: str, version_ids: Collection[uuid.UUID], choice: StoredBytes | None
) -> Sequence[OwnFile]:
    """The files that are to be kept when these versions are deleted. 400 if the owner has to choose and did not."""
    found = await queries.files_only_of(session, project_id, version_ids)
    if found and choice is None:
        urls = ", ".join(sorted({each.storage.url for each in found}))
        raise InvalidRequestError(
            f"Its files are in your own storage {urls}. Choose whether they are kept there or deleted: `bytes` has to "
            "be `keep` or `delete`.",
            param="bytes",
        )
    return found if choice is StoredBytes.KEEP else []


async def keep(session: AsyncSession, files: Sequence[OwnFile]) -> list[KeptFile]:
    """Forgets files that no version has any more; their bytes stay. The project is locked."""
    for storage in {each.blob.storage for each in files}:
        digests = {each.blob.sha256 for each in files if each.blob.storage == storage}
        await blobs.forget(session, files[0].blob.project_id, storage, digests)
    return [
        KeptFile(
            version=each.version,
            path=each.file.path,
            size=each.file.size,
            sha256=each.file.sha256,
            url=f"{each.storage.url}/{each.blob.key}",
        )
        for each in files
    ]
