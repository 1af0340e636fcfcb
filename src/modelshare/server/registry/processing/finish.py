"""Ends processing: the version becomes ready, with its manifest, or fails, with the reason."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM
from modelshare.server.http import Platform
from modelshare.server.jobs import Lease, lease_is_valid
from modelshare.server.registry import manifest, versions
from modelshare.server.registry import service as registry
from modelshare.server.registry.inspection import Facts
from modelshare.server.registry.latest import latest_after, why_not_latest
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.signatures import service as signatures
from modelshare.server.registry.tables import LEFT_OUT, SOURCE, SOURCE_LICENSE, ModelRow, VersionRow
from modelshare.wire.models import ModelStatus
from modelshare.wire.signers import SignatureState


async def ready(
    platform: Platform,
    lease: Lease,
    job: ProcessingJob,
    files: Sequence[StoredFile],
    facts: Facts,
    signature: bytes | None = None,
    *,
    verified: bool = False,
) -> None:
    """Marks the version as ready. An existing manifest is kept; facts that are new since then are added.

    `verified`: the platform has just read all bytes and compared their digests.
    `signature`: the one among the version's files. A signature that the version already has is kept.
    """
    async with platform.database.write() as session:
        bundle = await signatures.read_and_lock(session, signature) if signature is not None else None
        locked = await _locked(session, lease, job)
        if locked is None:
            return
        model, version = locked
        if version.status == ModelStatus.FAILED:  # its files changed meanwhile
            return
        if verified:
            version.digests = "platform"
        if version.manifest is None:
            _describe(version, model, files, facts)
        else:
            version.facts = facts.to_dict() | version.facts
        if signature is not None and bundle is not None and version.signature_state == SignatureState.NONE:
            await signatures.take(session, model, version, signature, bundle)
        was_ready = version.status == ModelStatus.READY
        version.status, version.status_reason = ModelStatus.READY, None
        if not was_ready:
            await _decide_latest(session, model, version, platform.now())
        registry.record(
            session,
            "model.ready",
            model,
            SYSTEM,
            platform.now(),
            version=version.version,
            digest=version.manifest_digest,
            latest=version.is_latest,
            latest_note=version.latest_note,
            version_notes=version.notes,
        )


async def failed(platform: Platform, lease: Lease, job: ProcessingJob, reason: str) -> None:
    async with platform.database.write() as session:
        locked = await _locked(session, lease, job)
        if locked is None:
            return
        model, version = locked
        await versions.fail(session, model, version, reason, now=platform.now())


async def waits(platform: Platform, lease: Lease, job: ProcessingJob, reason: str) -> None:
    """Shows the owner why the version is still being processed."""
    if job.status != ModelStatus.PROCESSING or job.waits == reason:
        return
    async with platform.database.write() as session:
        locked = await _locked(session, lease, job)
        if locked is not None:
            locked[1].status_reason = reason
            registry.model_changed(session, job.model_id)


async def _locked(session: AsyncSession, lease: Lease, job: ProcessingJob) -> tuple[ModelRow, VersionRow] | None:
    """The version and its model, locked; None if one is gone or the lease is lost."""
    model = await registry.find_any(session, job.model_id, lock=True)
    if model is None or not await lease_is_valid(session, lease):
        return None
    version = next((row for row in model.versions if row.id == job.version_id), None)
    return None if version is None else (model, version)


def _describe(version: VersionRow, model: ModelRow, files: Sequence[StoredFile], facts: Facts) -> None:
    source = {SOURCE: version.facts[SOURCE]} if SOURCE in version.facts else {}
    facts = replace(facts, license=facts.license or version.facts.get(SOURCE_LICENSE))
    digests = {} if version.digests == "platform" else {"digests": version.digests}
    new_manifest = manifest.Manifest.of(
        name=model.name,
        version=version.version,
        files=[manifest.ManifestFile(file.path, file.size, file.sha256) for file in files],
        facts=facts.for_manifest() | digests | source,
        license=facts.license,
        created=version.created_at,
    )
    version.manifest = manifest.canonical_bytes(new_manifest)
    version.manifest_digest = manifest.digest(version.manifest)
    version.size_bytes = new_manifest.total_bytes
    if left_out := version.facts.get(LEFT_OUT):
        facts = replace(facts, warnings=(*facts.warnings, left_out))
    version.facts = facts.to_dict() | source
    version.format = facts.format
    version.architecture = facts.architecture
    version.family = facts.family
    version.parameters = facts.parameters or None
    version.context_length = facts.context_length
    version.quantization = facts.quantization
    version.task = facts.task


async def _decide_latest(session: AsyncSession, model: ModelRow, version: VersionRow, now: int) -> None:
    latest = registry.resolve(model, None)
    others = [each for each in registry.ready(model) if each is not version]
    wanted, note = latest_after(version, latest, others), why_not_latest(version, latest, others)
    if wanted is version:
        await versions.set_latest(session, model, version)
    elif wanted is not None and wanted is not latest:
        why = f"{version.version} does not become the latest: {wanted.version} was pushed after it and is higher."
        await versions.move_latest(session, model, wanted, "model.promote", SYSTEM, now, why)
    version.latest_note = note
