"""Loads the data that a processing job needs."""

import uuid
from dataclasses import dataclass, field

from modelshare.server.db import Database
from modelshare.server.registry import file_selection, queries
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import SELECTION, UploadRow
from modelshare.wire.left_out import Selection
from modelshare.wire.models import ModelStatus


@dataclass(frozen=True, slots=True)
class ProcessingJob:
    project_id: str
    model_id: uuid.UUID
    version_id: uuid.UUID
    status: ModelStatus
    staged: UploadRow | None
    """The session with its files, if their bytes are not blobs yet."""
    file: str | None = None
    """The weights file of the selected model, if the version contains several."""
    selection: Selection = field(default_factory=Selection)
    """The files to take from an archive."""
    waits: str | None = None
    """What an earlier attempt was waiting for."""


async def load_job(database: Database, version_id: uuid.UUID) -> ProcessingJob | None:
    """None if the version was deleted."""
    async with database.read() as session:
        version = await queries.version_with_model(session, version_id)
        if version is None:
            return None
        staged = await queries.staged_upload(session, version_id)
    return ProcessingJob(
        version.model.project_id,
        version.model_id,
        version_id,
        ModelStatus(version.status),
        staged,
        version.file or file_selection.own_file(version),
        Selection.of(**version.facts.get(SELECTION, {})),
        version.status_reason,
    )


async def stored_files(database: Database, version_id: uuid.UUID) -> list[registry.StoredFile]:
    """The version's files with the keys of their blobs."""
    async with database.read() as session:
        return await registry.stored_files(session, version_id)
