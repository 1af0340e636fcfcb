"""Signers of a project, and the signatures of versions.

A version's columns keep what its signature is worth, so that lists, endpoints and the catalog need not check it again:
they change when a signature comes, and when its key is registered or removed. Whatever does so holds the lock of that
key first, then the model's, so that neither misses the other.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.db import advisory_lock, is_unique_violation, notify
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.server.registry import queries as models
from modelshare.server.registry import service as registry
from modelshare.server.registry.signatures import queries
from modelshare.server.registry.tables import ModelRow, SignatureRow, SignerRow, VersionRow
from modelshare.wire import signing
from modelshare.wire.base import Page
from modelshare.wire.models import ModelStatus
from modelshare.wire.signers import SignatureState, Signer, SignerAdd

SIGNATURES_TOPIC = "signatures"
"""Notification that the signature of a version, or what it is worth, changed; the subject is the version's id."""


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Signer]:
    rows, cursor = paging.cut(await queries.signers(session, caller.project, paging.fetch_limit, paging.after_id))
    return Page.of([_view(row) for row in rows], cursor)


async def get(session: AsyncSession, caller: Caller, signer: str) -> Signer:
    """By id or name; 404 for none of the project's."""
    return _view(await _own(session, caller, signer))


async def add(session: AsyncSession, caller: Caller, spec: SignerAdd, *, now: int) -> Signer:
    """Registers a key: versions of the project that it signed become `valid`. 409 where name or key is taken."""
    try:
        key = signing.read_public_key(spec.public_key)
    except signing.UnusableKeyError as error:
        raise InvalidRequestError(f"`public_key`: {error}", param="public_key") from error
    row = SignerRow(
        project_id=caller.project,
        name=spec.name,
        public_key=signing.to_pem(key),
        key_id=signing.key_id(key),
        created_at=now,
    )
    await _lock_key(session, row.key_id)
    if (same := await queries.signer_of_key(session, caller.project, row.key_id)) is not None:
        raise ConflictError(f"Your project has registered this key already, as `{same.name}`.", param="public_key")
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise ConflictError(
            f"Your project already has a signer `{spec.name}`. Choose another name, or remove that signer.",
            param="name",
        ) from error
    _record(session, caller, "signer.add", row, now)
    await _assess_again(session, row.key_id)
    return _view(row)


async def remove(session: AsyncSession, caller: Caller, signer: str, *, now: int) -> None:
    """Versions of the project that the key signed become `unknown_signer`."""
    row = await _own(session, caller, signer)
    await _lock_key(session, row.key_id)
    await session.delete(row)
    await session.flush()
    _record(session, caller, "signer.remove", row, now)
    await _assess_again(session, row.key_id)


async def sign(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, data: bytes, *, now: int
) -> VersionRow:
    """Keeps a signature of a ready version, in place of an earlier one. 400 says why it is invalid.

    One by a key that the project has not registered is kept too: it counts once the key is registered.
    """
    bundle = await read_and_lock(session, data)
    if isinstance(bundle, str):
        raise _refused(bundle)
    model = await registry.get_locked(session, caller, model_id)
    found = registry.version_of(model, version)
    if found.status != ModelStatus.READY:
        raise ConflictError(f"Version {version} is {found.status}. Only a version that is ready can be signed.")
    await take(session, model, found, data, bundle)
    if found.signature_problem is not None:
        raise _refused(found.signature_problem)
    registry.record(
        session,
        "model.sign",
        model,
        caller.actor,
        now,
        version=found.version,
        signature=found.signature_state,
        signer=found.signer,
        key_id=bundle.key_id,
    )
    return found


async def unsign(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, *, now: int) -> None:
    """Removes the signature of a version; 404 where it has none."""
    found = registry.version_of(await registry.get(session, caller, model_id), version)
    if (row := await queries.signature(session, found.id)) is not None:
        await _lock_key(session, row.key_id)
    model = await registry.get_locked(session, caller, model_id)
    found = registry.version_of(model, version)
    if found.signature_state == SignatureState.NONE:
        raise _not_signed(version)
    await queries.delete_signature(session, found.id)
    _set(found, SignatureState.NONE)
    notify(session, SIGNATURES_TOPIC, str(found.id))
    registry.record(session, "model.unsign", model, caller.actor, now, version=found.version)


async def bundle_of(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str) -> bytes:
    """The signature of a version of the caller's own; 404 where it has none."""
    found = registry.version_of(await registry.get(session, caller, model_id), version)
    row = await queries.signature(session, found.id)
    if row is None:
        raise _not_signed(version)
    return row.bundle


async def read_and_lock(session: AsyncSession, data: bytes) -> signing.Bundle | str:
    """The signature, with the lock of its key, or why it is none. Call it before the model is locked."""
    try:
        bundle = signing.read_bundle(data)
    except signing.SignatureError as error:
        return str(error)
    await _lock_key(session, bundle.key_id)
    return bundle


async def take(
    session: AsyncSession, model: ModelRow, version: VersionRow, data: bytes, bundle: signing.Bundle | str
) -> None:
    """Keeps what `read_and_lock` gave as the signature of a ready version of this locked model."""
    await queries.delete_signature(session, version.id)
    notify(session, SIGNATURES_TOPIC, str(version.id))
    if isinstance(bundle, str):
        _set(version, SignatureState.INVALID, problem=bundle)
        return
    row = SignatureRow(version_id=version.id, bundle=data, key_id=bundle.key_id)
    session.add(row)
    try:
        bundle.check_files(digests_of(version))
    except signing.SignatureError as error:
        _set(version, SignatureState.INVALID, problem=str(error))
    else:
        await _assess(session, model.project_id, version, row, bundle)
    await session.flush()


async def fitting_bundle(session: AsyncSession, version: VersionRow) -> bytes | None:
    """The signature of a version if it fits the files, regardless of whether its key is known."""
    row = await queries.signature(session, version.id)
    return row.bundle if row is not None and version.signature_problem is None else None


@dataclass(frozen=True, slots=True)
class ProvenSignature:
    """A signature that fits its version's files, and the key that made it."""

    bundle: bytes
    public_key: str
    """PEM."""


async def proven(session: AsyncSession, version_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, ProvenSignature]:
    """Signatures of versions of all projects, regardless of who registered their keys."""
    rows = await queries.proven(session, version_ids) if version_ids else []
    return {row.version_id: ProvenSignature(row.bundle, row.public_key or "") for row in rows}


def digests_of(version: VersionRow) -> dict[str, str]:
    """The files of a ready version, as signatures list them."""
    return {file["path"]: file["sha256"] for file in registry.manifest_of(version)["files"]}


async def _assess_again(session: AsyncSession, key_id: str) -> None:
    """Updates the state of all signatures with this key, in all projects. The key must be locked."""
    for model_id in await queries.signed_models(session, key_id):
        await models.lock_model(session, model_id)
        changed = False
        for version, row in await queries.signed_versions(session, model_id, key_id):
            before = version.signature_state, version.signature_key
            if row.public_key is not None or version.signature_problem is None:
                bundle = signing.read_bundle(row.bundle)
                await _assess(session, version.model.project_id, version, row, bundle)
            if before != (version.signature_state, version.signature_key):
                changed = True
                notify(session, SIGNATURES_TOPIC, str(version.id))
        if changed:
            registry.model_changed(session, model_id)


async def _assess(
    session: AsyncSession, project_id: str, version: VersionRow, row: SignatureRow, bundle: signing.Bundle
) -> None:
    """Of a signature whose statement fits the files."""
    row.public_key = row.public_key or await queries.public_key(session, bundle.key_id)
    if row.public_key is None:
        _set(version, SignatureState.UNKNOWN_SIGNER)
        return
    try:
        bundle.check_key(signing.read_public_key(row.public_key))
    except signing.SignatureError as error:
        _set(version, SignatureState.INVALID, problem=str(error))
        return
    signer = await queries.signer_of_key(session, project_id, bundle.key_id)
    state = SignatureState.VALID if signer else SignatureState.UNKNOWN_SIGNER
    _set(version, state, signer=signer.name if signer else None, key_id=bundle.key_id)


def _set(
    version: VersionRow,
    state: SignatureState,
    *,
    signer: str | None = None,
    key_id: str | None = None,
    problem: str | None = None,
) -> None:
    version.signature_state, version.signer = state, signer
    version.signature_key, version.signature_problem = key_id, problem


async def _lock_key(session: AsyncSession, key_id: str) -> None:
    await advisory_lock(session, f"signatures by {key_id}")


async def _own(session: AsyncSession, caller: Caller, signer: str) -> SignerRow:
    row = await queries.signer(session, caller.project, signer)
    if row is None:
        raise NotFoundError("There is no such signer in your project. GET /v1/signers lists them.")
    return row


def _not_signed(version: str) -> NotFoundError:
    return NotFoundError(f"Version {version} has no signature. `modelshare sign` makes one.")


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"This signature was not accepted: {reason}. Sign the version as it is stored, with `modelshare sign`."
    )


def _record(session: AsyncSession, caller: Caller, action: str, row: SignerRow, now: int) -> None:
    Audit(session, caller.project, caller.actor, now).done(action, f"signer:{row.id}", name=row.name, key_id=row.key_id)


def _view(row: SignerRow) -> Signer:
    return Signer(
        id=str(row.id), name=row.name, key_id=row.key_id, public_key=row.public_key, created_at=row.created_at
    )
