"""Where the bytes of an upload session lie until they are blobs (and, under the same key, afterwards)."""

import uuid

from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.storage.base import Multipart


def prefix(project_id: str, upload_id: uuid.UUID) -> str:
    """Below it lies all that came by one session."""
    return f"{project_id}/{upload_id.hex}/"


def file_key(project_id: str, upload_id: uuid.UUID, n: int) -> str:
    """Where file `n` of a session lies."""
    return f"{prefix(project_id, upload_id)}{n}"


def unpacked_key(project_id: str, upload_id: uuid.UUID, n: int) -> str:
    """Where file `n` of a session's archive lies."""
    return f"{prefix(project_id, upload_id)}unpacked/{n}"


def multipart_of(upload: UploadRow, file: UploadFileRow) -> Multipart:
    """The storage's upload of this file; its id is empty where the storage was not asked yet."""
    return Multipart(file.key, file.multipart_id, file.size, upload.part_size)
