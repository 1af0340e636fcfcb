"""Access rules for Hugging Face and OCI clients: who may read which weights.

A key reads the models of its own project. An endpoint's token reads the version for which an agent of the endpoint's
project would get a grant now. Nothing else is readable, not even a model in the catalog. Every request looks up
tokens and endpoints, so that a revocation takes effect immediately.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.endpoints import service as endpoints
from modelshare.server.http import Caller, Platform
from modelshare.server.hub import queries
from modelshare.server.ids import secret_hash
from modelshare.server.paging import Paging
from modelshare.server.registry import file_selection
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.signatures import service as signatures
from modelshare.server.registry.storages import stores
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing import service as sharing
from modelshare.wire import hub_tokens
from modelshare.wire.keys import Scope
from modelshare.wire.signing import SIGNATURE_FILE
from modelshare.wire.tiers import SELF_HOSTED

MAIN = "main"
"""The revision that clients request by default."""
_COMMIT = slice(len("sha256:"), len("sha256:") + 40)


@dataclass(frozen=True, slots=True)
class Credential:
    """A key's value or an endpoint's token, without the secret itself."""

    hash: str
    is_endpoint: bool


@dataclass(frozen=True, slots=True)
class EndpointReader:
    """A client that authenticated with an endpoint's token."""

    endpoint_id: uuid.UUID
    slug: str
    project_id: str
    project_slug: str


Reader: TypeAlias = Caller | EndpointReader


@dataclass(frozen=True, slots=True)
class ReadableModel:
    """A model, and those of its ready versions that the reader may read."""

    model: ModelRow
    versions: tuple[VersionRow, ...]
    """Oldest first."""
    main: VersionRow | None
    """The default version: the latest, or the one that the endpoint should run."""
    file: str | None = None
    """For an endpoint: which of the version's models it runs. Only files that an engine needs for it are readable."""
    ends_at: int | None = None
    """When a recall ends it, in Unix seconds."""

    @property
    def name(self) -> str:
        """`owner/name`."""
        return f"{self.model.project.slug}/{self.model.name}"

    def find(self, revision: str | None) -> VersionRow | None:
        """By `main` (or None), a semantic version with or without a `v` before it, or a commit id."""
        if revision in {None, MAIN}:
            return self.main
        for version in self.versions:
            if revision in {version.version, f"v{version.version}", commit_of(version)}:
                return version
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFile(StoredFile):
    """`model.sig` of a version that was signed after its push: it is listed with the files, but not stored as one."""

    content: bytes


@dataclass(frozen=True, slots=True)
class ReadableVersion:
    """A version that the reader may read, and its files."""

    model: ModelRow
    version: VersionRow
    files: tuple[StoredFile, ...]
    """By path; a signature last."""
    ends_at: int | None = None
    """When a recall ends it, in Unix seconds."""

    @property
    def commit(self) -> str:
        return commit_of(self.version)


def commit_of(version: VersionRow) -> str:
    """40 hex digits that name a ready version for ever: the beginning of its manifest's SHA-256."""
    return (version.manifest_digest or "")[_COMMIT]


async def reader_of(platform: Platform, secret: str, address: str) -> Reader | None:
    """Authenticates an endpoint's token or a key in either form; None if it is unknown, expired or revoked.

    Raises KeySuspendedError.
    """
    return await reader_with(platform, credential_of(secret), address)


def credential_of(secret: str) -> Credential:
    if hub_tokens.is_endpoint_token(secret):
        return Credential(secret_hash(secret), is_endpoint=True)
    return Credential(secret_hash(hub_tokens.key_of(secret) or secret), is_endpoint=False)


async def reader_with(platform: Platform, credential: Credential, address: str) -> Reader | None:
    if not credential.is_endpoint:
        return await platform.authenticate_hash(credential.hash, address)
    async with platform.database.read() as session:
        row = await queries.token(session, credential.hash)
    if row is None:
        return None
    endpoint = row.endpoint
    return EndpointReader(endpoint.id, endpoint.slug, endpoint.project_id, endpoint.project.slug)


async def ends_at(session: AsyncSession, reader: EndpointReader) -> int | None:
    """When a recall ends what the endpoint may read, in Unix seconds."""
    return next((each.ends_at for each in await endpoints.active(session, [reader.endpoint_id])), None)


async def find_model(
    session: AsyncSession, reader: Reader | None, owner: str, name: str, *, now: int
) -> ReadableModel | None:
    """The model `owner/name`, if the reader owns it or may read a version of it. Missing and forbidden look alike."""
    if reader is None:
        return None
    model_id = await sharing.find_id(session, f"{owner}/{name}", own=None)
    if model_id is None:
        return None
    if isinstance(reader, EndpointReader):
        return await _wanted_by(session, reader, model_id, now)
    if reader.project_id is None or not reader.allows(Scope.MODELS):
        return None
    model = await registry.find(session, reader, model_id)
    return _of_owner(model) if model else None


async def readable_models(session: AsyncSession, reader: Reader, *, limit: int, now: int) -> list[ReadableModel]:
    """Models with a version that the reader may read, newest first."""
    if isinstance(reader, EndpointReader):
        active = await endpoints.active(session, [reader.endpoint_id])
        wanted = [await _wanted_by(session, reader, each.model_id, now) for each in active]
        return [each for each in wanted if each is not None]
    if reader.project_id is None or not reader.allows(Scope.MODELS):
        return []
    rows, _ = await registry.page(session, reader, Paging(limit, None))
    return [found for row in rows if (found := _of_owner(row)).versions]


async def find(
    session: AsyncSession, reader: Reader | None, owner: str, name: str, revision: str | None = None, *, now: int
) -> ReadableVersion | None:
    """A version of `owner/name`, if the reader may read it."""
    found = await find_model(session, reader, owner, name, now=now)
    version = found.find(revision) if found else None
    return await with_files(session, found, version) if found and version else None


async def with_files(session: AsyncSession, found: ReadableModel, version: VersionRow) -> ReadableVersion:
    """A version of `found` with its readable files."""
    files = await registry.stored_files(session, version.id)
    if found.file is not None:
        model = file_selection.find(version, found.file)
        files = model.needed(files) if model else []
    if not any(file.path == SIGNATURE_FILE for file in files):
        bundle = await signatures.fitting_bundle(session, version)
        files = [*files, *([_signature_file(version.id, bundle)] if bundle else [])]
    return ReadableVersion(found.model, version, tuple(files), found.ends_at)


async def download_url(platform: Platform, version: ReadableVersion, file: StoredFile, *, base_url: str) -> str:
    """A URL from which the file can be downloaded for some minutes."""
    until = platform.now() + platform.settings.grants_seconds
    expires_at = until if version.ends_at is None else min(until, version.ends_at)
    return await stores.download_url(platform, file, expires_at=expires_at, base_url=base_url)


def record_pull(
    session: AsyncSession, reader: Reader, found: ReadableVersion, file: StoredFile | None, form: str, *, now: int
) -> None:
    """Records a pull in the audit logs of the model's owner and of the reader's project, once per file.

    `file`: None if the list of files was read.
    """
    owner = found.model.project_id
    pulled: dict[str, Any] = {"file": file.path, "size": file.size} if file else {}
    actor = f"endpoint:{reader.endpoint_id}" if isinstance(reader, EndpointReader) else reader.actor
    logs = {owner: actor if reader.project_id == owner else f"project:{reader.project_slug}"}
    logs[reader.project_id or owner] = actor
    for project_id, named in logs.items():
        Audit(session, project_id, named, now).done(
            "weights.pull",
            f"model:{found.model.id}",
            name=found.model.name,
            version=found.version.version,
            form=form,
            **pulled,
        )


def _signature_file(version_id: uuid.UUID, bundle: bytes) -> SignatureFile:
    sha256 = hashlib.sha256(bundle).hexdigest()
    return SignatureFile(version_id, SIGNATURE_FILE, len(bundle), sha256, storage="", key="", content=bundle)


def _of_owner(model: ModelRow) -> ReadableModel:
    ready = registry.ready(model)
    return ReadableModel(model, tuple(ready), registry.resolve(model, None) or next(reversed(ready), None))


async def _wanted_by(
    session: AsyncSession, reader: EndpointReader, model_id: uuid.UUID, now: int
) -> ReadableModel | None:
    """What `fleet.service.issue_grant` would give to an agent of the endpoint's project."""
    for endpoint in await endpoints.active(session, [reader.endpoint_id]):
        is_over = endpoint.ends_at is not None and now >= endpoint.ends_at
        if endpoint.model_id != model_id or endpoint.tier != SELF_HOSTED or is_over:
            continue
        model = await registry.find_any(session, model_id)
        version = (
            next((each for each in registry.ready(model) if each.id == endpoint.version_id), None) if model else None
        )
        if model is not None and version is not None:
            return ReadableModel(model, (version,), version, endpoint.file, endpoint.ends_at)
    return None
