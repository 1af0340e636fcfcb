"""`/v1/uploads`, and the uploads of new versions of a model."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.requests import ClientDisconnect

from modelshare.server.errors import InvalidRequestError, check_encoding
from modelshare.server.front.receiving import TAKE_BODY, RequestBody
from modelshare.server.http import ModelId, ModelsCaller, PlatformDep, ProjectRoute
from modelshare.server.paging import PagingDep
from modelshare.server.registry.uploads import completing, expiry, parts, service, small_files
from modelshare.server.storage.base import Inflow
from modelshare.wire.base import Page
from modelshare.wire.uploads import (
    FilesDone,
    PartDone,
    PartUrl,
    PartUrls,
    PartUrlsRequest,
    Upload,
    UploadComplete,
    UploadOpen,
    UploadState,
    VersionOpen,
)

router = APIRouter(prefix="/v1/uploads", route_class=ProjectRoute, tags=["uploads"])
versions = APIRouter(prefix="/v1/models", route_class=ProjectRoute, tags=["models"])
_RESUMED: dict[int | str, dict[str, Any]] = {200: {"description": "The same push is already open: resume it"}}
Number = Annotated[int, Path(ge=0, le=1 << 31)]
_CHECKSUM = (
    "Required: the part's SHA-256, 64 hex digits, or `deferred` if you compare the `sha256` of the response yourself."
)
_RAW_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", status_code=201, responses=_RESUMED)
async def open_upload(caller: ModelsCaller, platform: PlatformDep, body: UploadOpen, response: Response) -> Upload:
    """Opens an upload of a new version, after checking its paths, its version number and the quota."""
    upload, is_new = await service.open_upload(platform, caller, body)
    response.status_code = 201 if is_new else 200
    return upload


@versions.post("/{model_id}/versions", status_code=201, responses=_RESUMED)
async def open_version(
    caller: ModelsCaller, model_id: ModelId, platform: PlatformDep, body: VersionOpen, response: Response
) -> Upload:
    """Opens an upload of a new version of this model, as POST /v1/uploads does by the model's name."""
    upload, is_new = await service.open_version(platform, caller, model_id, body)
    response.status_code = 201 if is_new else 200
    return upload


@router.get("")
async def list_uploads(
    caller: ModelsCaller,
    platform: PlatformDep,
    paging: PagingDep,
    state: UploadState | None = None,
    name: str | None = None,
) -> Page[Upload]:
    """Lists the project's uploads, newest first."""
    return await service.page(platform, caller, paging, state=state, name=name)


@router.get("/{upload_id}")
async def get_upload(caller: ModelsCaller, platform: PlatformDep, upload_id: str) -> Upload:
    """Returns an upload and which parts of which files are stored, so that it can be resumed from any machine."""
    return await service.get(platform, caller, upload_id)


@router.put("/{upload_id}/files/{n}/parts/{k}", openapi_extra=_RAW_BODY)
async def put_part(
    caller: ModelsCaller,
    platform: PlatformDep,
    upload_id: str,
    n: Number,
    k: Number,
    request: Request,
    x_checksum_sha256: Annotated[str | None, Header(description=_CHECKSUM)] = None,
) -> PartDone:
    """Stores one part of one file, both counted from 0; the body contains only its bytes. Safe to repeat."""
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isascii() and declared.isdigit() else None
    with _body_of(request) as chunks:
        return await parts.receive(platform, caller, upload_id, n, k, chunks, sha256=x_checksum_sha256, length=length)


@router.put("/{upload_id}/files", openapi_extra=_RAW_BODY)
async def put_files(caller: ModelsCaller, platform: PlatformDep, upload_id: str, request: Request) -> FilesDone:
    """Many small files at once, up to 500 with 8 MiB. Safe to repeat; either all of them are taken or none.

    The body contains each complete file, preceded by its number in the upload (4 bytes), its size (8 bytes, both
    big-endian) and its SHA-256 (32 bytes).
    """
    check_encoding(request.headers.get("content-encoding", "").encode())
    try:
        return await small_files.receive(platform, caller, upload_id, request.stream())
    except ClientDisconnect as error:
        raise InvalidRequestError("The connection was closed within the files. Send them again.") from error


@contextmanager
def _body_of(request: Request) -> Iterator[AsyncIterator[bytes] | Inflow]:
    """The body, read directly from the socket if the web server supports that."""
    check_encoding(request.headers.get("content-encoding", "").encode())
    take_body = request.scope.get("extensions", {}).get(TAKE_BODY)
    body: RequestBody | None = take_body() if take_body is not None else None
    try:
        yield request.stream() if body is None else body
    except ClientDisconnect as error:
        raise InvalidRequestError("The connection was closed within the part. Send it again.") from error
    finally:
        if body is not None:
            body.close()


@router.post("/{upload_id}/files/{n}/parts/{k}/url")
async def sign_part(caller: ModelsCaller, platform: PlatformDep, upload_id: str, n: Number, k: Number) -> PartUrl:
    """Returns a presigned PUT of one part, where `direct` is true."""
    [url] = await parts.part_urls(platform, caller, upload_id, [(n, k)])
    return url


@router.post("/{upload_id}/part-urls")
async def sign_parts(caller: ModelsCaller, platform: PlatformDep, upload_id: str, body: PartUrlsRequest) -> PartUrls:
    """Returns presigned PUTs of up to 64 parts of any files, in the order of the request, where `direct` is true."""
    return PartUrls(data=await parts.part_urls(platform, caller, upload_id, [(part.n, part.k) for part in body.parts]))


@router.post("/{upload_id}/complete")
async def complete_upload(
    caller: ModelsCaller, platform: PlatformDep, upload_id: str, body: UploadComplete | None = None
) -> Upload:
    """Completes the upload; the model is `processing` from then on. Safe to repeat.

    Digests in the body, computed after everything was sent, ensure that no file changed in the meantime: 409 if the
    uploaded bytes differ.
    """
    return await completing.complete(platform, caller, upload_id, body.files if body else ())


@router.post("/{upload_id}/cancel")
async def cancel_upload(caller: ModelsCaller, platform: PlatformDep, upload_id: str) -> Upload:
    """Cancels the upload and deletes the uploaded data. Safe to repeat."""
    return await expiry.cancel(platform, caller, upload_id)
