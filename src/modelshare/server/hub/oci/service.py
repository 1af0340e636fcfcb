"""Artifacts of versions: rendered once, when a version becomes ready, and found by tag or digest."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database
from modelshare.server.http import Platform
from modelshare.server.hub import access
from modelshare.server.hub.access import ReadableModel, ReadableVersion, Reader
from modelshare.server.hub.oci import queries, rules
from modelshare.server.hub.oci.answers import UnknownError
from modelshare.server.hub.oci.artifact import Source, digest_of, render, too_large
from modelshare.server.hub.oci.tables import OciArtifactRow
from modelshare.server.registry import file_selection
from modelshare.server.registry import service as registry
from modelshare.server.registry.manifest import ManifestFile
from modelshare.server.registry.service import MODELS_TOPIC, StoredFile
from modelshare.server.registry.tables import ModelRow, VersionRow

_ALL: Final = ""
"""The value of `file` for an artifact with all of the version's files."""
_NAMED_TAGS: Final = 20
"""Tags that an error message lists."""
_INDEX: Final = "index"
"""The role of a companion file without tensors."""


@dataclass(frozen=True, slots=True)
class OciForm:
    reference: str
    """`owner/name:tag` of the latest version."""
    refusal: str | None
    """Why OCI clients cannot pull it."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A manifest and its version."""

    version: ReadableVersion
    manifest: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a manifest: a stored file, or the config with its bytes."""

    size: int
    version: ReadableVersion | None = None
    file: StoredFile | None = None
    config: bytes = b""


def follow_changes(database: Database) -> None:
    """Renders artifacts in the transaction that makes their versions ready."""

    async def changed(session: AsyncSession, model_id: str) -> None:
        for version in await queries.versions_to_render(session, uuid.UUID(model_id)):
            await _keep(session, version, _ALL)

    database.before_commit(MODELS_TOPIC, changed)


async def form_of(session: AsyncSession, model: ModelRow) -> OciForm | None:
    """The OCI reference to show to the model's owner; None while no version is ready."""
    version = registry.resolve(model, None)
    if version is None:
        return None
    name, refusal = await _repository(session, model)
    row = await queries.artifact(session, version.id, _ALL)
    refusal = refusal or (row.refusal if row else None)
    return OciForm(f"{name}:{rules.tag_of(version.version)}", refusal)


async def _repository(session: AsyncSession, model: ModelRow) -> tuple[str | None, str | None]:
    """The model's repository, or why it has none."""
    name = rules.repository_of(model.project.slug, model.name)
    if name is None:
        return None, (
            f"The model `{model.name}` has no OCI name: OCI clients take letters and digits, with one `.`, one or two "
            "`_`, or hyphens between them. Rename it to let them pull it."
        )
    if await registry.find_named(session, model.project_id, model.name.lower()) != model.id:
        return None, (
            f"The model `{model.name}` has no OCI name: another model of the project differs in case only and has it. "
            "Rename one of them."
        )
    return name, None


async def find_repository(platform: Platform, reader: Reader, owner: str, name: str) -> ReadableModel:
    """The model of a repository; the same 404 whether it is missing or not readable."""
    async with platform.database.read() as session:
        found = await access.find_model(session, reader, owner.lower(), name.lower(), now=platform.now())
        refusal = (await _repository(session, found.model))[1] if found else None
    if found is None:
        raise UnknownError(
            "NAME_UNKNOWN",
            "There is no such repository, or you may not pull from it. Name it `project/model`, in lower case, and use "
            "a key of the model's project or the token of an endpoint that runs it.",
        )
    if refusal is not None:
        raise UnknownError("NAME_UNKNOWN", refusal)
    return found


async def find_manifest(platform: Platform, found: ReadableModel, reference: str) -> Pulled:
    """The manifest with this tag or digest; 404 if there is none or the version cannot be an artifact."""
    if rules.sha256_of(reference) is not None:
        async with platform.database.read() as session:
            row = await queries.by_digest(session, _ids(found), _part(found), reference)
        version = next((each for each in found.versions if row and each.id == row.version_id), None)
    else:
        version = _tagged(found, reference)
        row = await _artifact(platform, version.id, _part(found)) if version else None
    if version is None or row is None:
        tags = ", ".join(tags_of(found)[:_NAMED_TAGS])
        raise UnknownError(
            "MANIFEST_UNKNOWN", f"There is no version `{reference}` of this model. Tags: {tags or 'none'}."
        )
    if row.manifest is None or row.digest is None:
        raise UnknownError("MANIFEST_UNKNOWN", row.refusal or "")
    return Pulled(ReadableVersion(found.model, version, ()), row.manifest, row.digest)


async def find_blob(platform: Platform, found: ReadableModel, digest: str) -> Blob:
    """A blob that a manifest of this repository contains. Knowing a digest does not give access to others."""
    sha256 = rules.sha256_of(digest)
    async with platform.database.read() as session:
        if sha256 is not None:
            config = await queries.config(session, _ids(found), _part(found), digest)
            if config is not None:
                return Blob(len(config), config=config)
            if (pulled := await _file_named(session, found, sha256)) is not None:
                version, file = pulled
                return Blob(file.size, version, file)
    raise UnknownError("BLOB_UNKNOWN", "No manifest of this repository names this digest.")


def tags_of(found: ReadableModel) -> list[str]:
    """Sorted."""
    return sorted(
        {rules.tag_of(version.version) for version in found.versions} | ({rules.LATEST} if found.main else set())
    )


async def _file_named(
    session: AsyncSession, found: ReadableModel, sha256: str
) -> tuple[ReadableVersion, StoredFile] | None:
    version_id = await queries.version_naming(session, _ids(found), _part(found), sha256)
    version = next((each for each in found.versions if each.id == version_id), None)
    if version is None:
        return None
    readable = await access.with_files(session, found, version)
    file = next((each for each in readable.files if each.sha256 == sha256), None)
    return None if file is None else (readable, file)


def _tagged(found: ReadableModel, tag: str) -> VersionRow | None:
    if tag in {rules.LATEST, rules.MAIN}:
        return found.main
    return next((each for each in found.versions if each.version == rules.version_of(tag)), None)


async def _artifact(platform: Platform, version_id: uuid.UUID, part: str) -> OciArtifactRow | None:
    """The stored artifact, rendered now if need be. None if the version was deleted."""
    async with platform.database.read() as session:
        row = await queries.artifact(session, version_id, part)
    if row is not None:
        return row
    async with platform.database.write() as session:
        version = await queries.kept_version(session, version_id)
        if version is not None:
            await _keep(session, version, part)
        return await queries.artifact(session, version_id, part)


async def _keep(session: AsyncSession, version: VersionRow, part: str) -> None:
    source = _source(version, part)
    artifact = render(source)
    refusal = too_large(artifact, len(source.files))
    kept: dict[str, Any] = {
        "manifest": artifact.manifest,
        "digest": digest_of(artifact.manifest),
        "config": artifact.config,
        "config_digest": digest_of(artifact.config),
    }
    await queries.add(session, version_id=version.id, file=part, refusal=refusal, **({} if refusal else kept))


def _source(version: VersionRow, part: str) -> Source:
    """Reads only what never changes: the version's manifest and facts."""
    manifest = registry.manifest_of(version)
    files = _files(version)
    choice = next((each for each in file_selection.choices(version) if part in each["weights"]), None) if part else None
    selection = file_selection.find(version, part) if part else None
    companions: dict[str, str] = version.facts.get("companions") or {}
    holding = {*(version.facts.get("weights") or ()), *(path for path, role in companions.items() if role != _INDEX)}
    return Source(
        name=manifest["name"],
        version=version.version,
        created=version.created_at,
        license=manifest.get("license"),
        family=version.family,
        format=selection.format if selection else version.format or "",
        architecture=selection.architecture if selection else version.architecture,
        parameters=selection.parameters if selection else version.parameters,
        quantization=choice["quantization"] if choice else version.quantization,
        files=selection.needed(files) if selection else files,
        weights=frozenset(holding),
    )


def _part(found: ReadableModel) -> str:
    """Which of the version's models the endpoint's artifact contains, if not the whole version."""
    if found.file is None or not found.versions:
        return _ALL
    [version] = found.versions
    selection = file_selection.find(version, found.file)
    files = _files(version)
    if selection is None or not selection.weights or len(selection.needed(files)) == len(files):
        return _ALL
    return selection.weights[0]


def _files(version: VersionRow) -> list[ManifestFile]:
    return msgspec.convert(registry.manifest_of(version)["files"], list[ManifestFile])


def _ids(found: ReadableModel) -> list[uuid.UUID]:
    return [version.id for version in found.versions]
