"""`/v1/uploads`: sessions that are filled part by part. `modelshare.client.push` does all of it for a path on disk."""

from collections.abc import Sequence

from modelshare.client.call import Call, Paged, Resource, Transport, at, get, listed, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.uploads import FileDigest, PartUrl, Upload, UploadComplete, UploadOpen, UploadState

BASE = "/v1/uploads"


class Uploads(Resource[Transport]):
    @sent
    def open(self, upload: UploadOpen) -> Call[Upload]:
        """A new session, or the open one of the same push."""
        return post(BASE, Upload, upload, repeatable=True)

    @listed
    def list(
        self, *, state: UploadState | None = None, name: str | None = None, limit: int = PAGE_LIMIT_MAX
    ) -> Call[Paged[Upload]]:
        """Newest first."""
        return get(BASE, Page[Upload], state=state, name=name, limit=limit)

    @sent
    def get(self, upload_id: str) -> Call[Upload]:
        """Its state, and which parts of which files are there."""
        return get(at(BASE, upload_id), Upload)

    @sent
    def part_url(self, upload_id: str, n: int, k: int) -> Call[PartUrl]:
        """Where part `k` of file `n` goes, for a session whose `direct` is true."""
        return post(at(BASE, upload_id, "files", n, "parts", k, "url"), PartUrl, repeatable=True)

    @sent
    def complete(self, upload_id: str, files: Sequence[FileDigest] = ()) -> Call[Upload]:
        """Hands the files over to processing. Those in `files` are published as exactly that, or not at all."""
        body = UploadComplete(files=list(files)) if files else None
        return post(at(BASE, upload_id, "complete"), Upload, body, repeatable=True)

    @sent
    def cancel(self, upload_id: str) -> Call[Upload]:
        """Drops the session and what was sent."""
        return post(at(BASE, upload_id, "cancel"), Upload, repeatable=True)


def files_path(upload_id: str) -> str:
    """Where many small files are PUT at once."""
    return at(BASE, upload_id, "files")


def part_path(upload_id: str, n: int, k: int) -> str:
    """Where the bytes of part `k` of file `n` are PUT, for a session whose `direct` is false."""
    return at(BASE, upload_id, "files", n, "parts", k)
