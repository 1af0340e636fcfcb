"""`/v1/uploads`: sessions that are filled part by part. `modelshare.client.push` uses them to push a path."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from modelshare.client.call import Call, Paged, Resource, Transport, at, get, listed, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.uploads import (
    BATCH_HEAD,
    FileDigest,
    FilesDone,
    PartPlace,
    PartUrl,
    PartUrls,
    PartUrlsRequest,
    Upload,
    UploadComplete,
    UploadOpen,
    UploadState,
)

BASE = "/v1/uploads"


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file small enough to be a single part."""

    n: int
    """Its number in the session."""
    content: bytes

    def framed(self) -> bytes:
        """The file in the format of a batch request."""
        return BATCH_HEAD.pack(self.n, len(self.content), hashlib.sha256(self.content).digest()) + self.content


class Uploads(Resource[Transport]):
    @sent
    def open(self, upload: UploadOpen) -> Call[Upload]:
        """Opens a session, or returns the open one of the same push."""
        return post(BASE, Upload, upload, repeatable=True)

    @listed
    def list(
        self, *, state: UploadState | None = None, name: str | None = None, limit: int = PAGE_LIMIT_MAX
    ) -> Call[Paged[Upload]]:
        """Newest first."""
        return get(BASE, Page[Upload], state=state, name=name, limit=limit)

    @sent
    def get(self, upload_id: str) -> Call[Upload]:
        """The session's state, and which parts of which files have arrived."""
        return get(at(BASE, upload_id), Upload)

    @sent
    def put_files(self, upload_id: str, files: Sequence[SmallFile]) -> Call[FilesDone]:
        """Sends up to BATCH_FILES small files, BATCH_BYTES in total, in one request; only if `direct` is false."""
        raw = b"".join(file.framed() for file in files)
        return Call("PUT", files_path(upload_id), FilesDone.model_validate_json, raw=raw, repeatable=True)

    @sent
    def part_url(self, upload_id: str, n: int, k: int) -> Call[PartUrl]:
        """The presigned URL for part `k` of file `n`; only if `direct` is true."""
        return post(at(BASE, upload_id, "files", n, "parts", k, "url"), PartUrl, repeatable=True)

    @sent
    def part_urls(self, upload_id: str, parts: Sequence[PartPlace]) -> Call[PartUrls]:
        """The presigned URLs for up to PART_URLS parts; only if `direct` is true."""
        return post(at(BASE, upload_id, "part-urls"), PartUrls, PartUrlsRequest(parts=list(parts)), repeatable=True)

    @sent
    def complete(self, upload_id: str, files: Sequence[FileDigest] = ()) -> Call[Upload]:
        """Submits the files for processing. Raises ConflictError if one in `files` does not match its digest."""
        body = UploadComplete(files=list(files)) if files else None
        return post(at(BASE, upload_id, "complete"), Upload, body, repeatable=True)

    @sent
    def cancel(self, upload_id: str) -> Call[Upload]:
        """Cancels the session and deletes its data."""
        return post(at(BASE, upload_id, "cancel"), Upload, repeatable=True)


def files_path(upload_id: str) -> str:
    """Path for several small files in one PUT."""
    return at(BASE, upload_id, "files")


def part_path(upload_id: str, n: int, k: int) -> str:
    """Path for the PUT of part `k` of file `n`; only if `direct` is false."""
    return at(BASE, upload_id, "files", n, "parts", k)
