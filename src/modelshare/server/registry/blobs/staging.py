"""Storage keys of the files of an upload session. The keys do not change when the files become blobs."""

import uuid
from collections.abc import Iterable

from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.storage.base import Multipart


def prefix(project_id: str, upload_id: uuid.UUID) -> str:
    """Common prefix of all files of a session."""
    return f"{project_id}/{upload_id.hex}/"


def file_key(project_id: str, upload_id: uuid.UUID, n: int) -> str:
    """The key of file `n` of a session."""
    return f"{prefix(project_id, upload_id)}{n}"


def prefixes(project_id: str, upload_id: uuid.UUID, keys: Iterable[str]) -> list[str]:
    """Below these lies all that came by one session, and what it took over that was sent ahead: its files' `keys`."""
    own = prefix(project_id, upload_id)
    return [own, *sorted({f"{key.rpartition('/')[0]}/" for key in keys if not key.startswith(own)})]


def unpacked_key(project_id: str, upload_id: uuid.UUID, n: int) -> str:
    """The key of file `n` in a session's archive."""
    return f"{prefix(project_id, upload_id)}unpacked/{n}"


def multipart_of(upload: UploadRow, file: UploadFileRow) -> Multipart:
    """The storage's upload of this file; its ID is empty until the upload is opened."""
    return Multipart(file.key, file.multipart_id, file.size, upload.part_size)
