"""Asking for a version to be processed: after its upload, or again."""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import service as audit
from modelshare.server.db import notify
from modelshare.server.errors import ConflictError
from modelshare.server.http import Caller
from modelshare.server.jobs import enqueue
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.wire.models import ModelStatus

PROCESS = "registry.process"
"""The job that makes an uploaded version ready; its subject is the version's id."""
REVALIDATE = "registry.revalidate"
"""The same for a version whose bytes are to be read anew."""


async def request(session: AsyncSession, version_id: uuid.UUID, *, now: int) -> None:
    """Has the version processed once this transaction is committed."""
    await enqueue(session, PROCESS, str(version_id), now=now)


async def revalidate(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> ModelRow:
    """Reads every byte of the model anew and judges it again: its newest version where that failed, else its latest.

    A failed version is `processing` meanwhile; a ready one stays ready, and fails only if its bytes have changed.
    """
    model = await registry.get_locked(session, caller, model_id)
    version = _to_judge(model)
    if version is None or version.status == ModelStatus.UPLOADING:
        raise ConflictError(
            "This model is still being uploaded. Complete or cancel the upload first (`modelshare uploads list`)."
        )
    if version.status != ModelStatus.PROCESSING:
        if version.status == ModelStatus.FAILED:
            version.status, version.status_reason = ModelStatus.PROCESSING, None
        await enqueue(session, REVALIDATE, str(version.id), now=now)
        audit.record(
            session,
            project_id=caller.project,
            now=now,
            actor=caller.actor,
            action="model.revalidate",
            target=f"model:{model.id}",
            version=version.version,
        )
        notify(session, registry.MODELS_TOPIC, str(model.id))
    return model


def _to_judge(model: ModelRow) -> VersionRow | None:
    newest = model.versions[-1] if model.versions else None
    return newest if newest is not None and newest.status == ModelStatus.FAILED else registry.current(model)
