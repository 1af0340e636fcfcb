"""A version's files for its owner, by signed URLs."""

import uuid

from modelshare.server.audit.service import Audit
from modelshare.server.errors import ConflictError
from modelshare.server.http import Caller
from modelshare.server.registry import service as registry
from modelshare.server.registry.storages.stores import RegistryPlatform, download_urls
from modelshare.wire.agents import GrantFile
from modelshare.wire.models import Download


async def download(
    platform: RegistryPlatform, caller: Caller, model_id: uuid.UUID, version: str, *, base_url: str
) -> Download:
    """URLs of all files of a ready version, valid for as long as a grant. Recorded in the audit log."""
    now = platform.now()
    async with platform.database.write() as session:
        model = await registry.get(session, caller, model_id)
        found = registry.version_of(model, version)
        if found.manifest_digest is None:
            raise ConflictError(f"Version {version} is {found.status}. It can be downloaded once it is ready.")
        files = await registry.stored_files(session, found.id)
        Audit(session, caller.project, caller.actor, now).done(
            "model.download", f"model:{model.id}", name=model.name, version=version
        )
    expires_at = now + platform.settings.grants_seconds
    urls = await download_urls(platform, files, expires_at=expires_at, base_url=base_url)
    return Download(
        model=str(model.id),
        version=version,
        manifest_digest=found.manifest_digest,
        files=[
            GrantFile(path=file.path, size=file.size, sha256=file.sha256, url=url)
            for file, url in zip(files, urls, strict=True)
        ],
        expires_at=expires_at,
    )
