"""Git LFS uploads of large files, by presigned PUTs to the bucket or by signed URLs of this server."""

import hashlib
import hmac
import uuid
from typing import Any, Final

from starlette.responses import Response

from modelshare.server.errors import check_encoding
from modelshare.server.front.receiving import TAKE_BODY
from modelshare.server.hub.hugging_face.calls import HubCall, HubError, answer, bad_request
from modelshare.server.hub.hugging_face.push import LARGEST, is_sha256
from modelshare.server.proven import proven
from modelshare.server.registry.tables import StagedFileRow
from modelshare.server.registry.uploads import ahead
from modelshare.wire.uploads import MAX_FILES

_PURPOSE: Final = "modelshare hub part 1"
"""Part of the signed message, so that signatures for other purposes are invalid here."""
_COMPLETE: Final = "complete"


async def batch(call: HubCall, owner: str, name: str) -> Response:
    """Returns upload URLs for the objects that the project does not store yet."""
    caller = call.writer(owner)
    request = await call.json()
    if request.get("operation") != "upload":
        raise bad_request("Only uploads are answered here; files are downloaded by their URLs.")
    objects = request.get("objects")
    if not isinstance(objects, list) or len(objects) > MAX_FILES:
        raise bad_request(f"`objects` must be a list of at most {MAX_FILES:,} entries.")
    sizes = dict(_object(each) for each in objects)
    there = await ahead.stored(call.platform, caller, _model(name), sizes)
    places = await ahead.begin(
        call.platform, caller, _model(name), {oid: size for oid, size in sizes.items() if oid not in there and size}
    )
    rows = []
    for oid, size in sizes.items():
        row: dict[str, Any] = {"oid": oid, "size": size}
        if size > LARGEST:
            row["error"] = {"code": 422, "message": "The file is larger than 50 GB, more than clients can download."}
        elif (place := places.get(oid)) is not None:
            if place.size != size:
                row["error"] = {"code": 422, "message": f"The object was announced with {place.size:,} bytes."}
            else:
                row["actions"] = await _actions(call, owner, name, place)
        rows.append(row)
    several = any("header" in row.get("actions", {}).get("upload", {}) for row in rows)
    return answer({"transfer": "multipart" if several else "basic", "objects": rows, "hash_algo": "sha256"})


async def verify(call: HubCall, owner: str, name: str) -> Response:
    """404 unless the object was uploaded completely."""
    caller = call.writer(owner)
    oid, size = _object(await call.json())
    if oid not in await ahead.stored(call.platform, caller, _model(name), {oid: size}):
        raise HubError(404, "EntryNotFound", "The object has not been uploaded completely. Push again.")
    return answer({})


async def part(call: HubCall, place: str, number: str) -> Response:
    """PUT of one part of a file, authenticated by the URL that `batch` signed."""
    row = await _signed(call, place, number)
    check_encoding(call.request.headers.get("content-encoding", "").encode())
    take_body = call.request.scope.get("extensions", {}).get(TAKE_BODY)
    body = take_body() if take_body is not None else None
    try:
        await ahead.receive(call.platform, row, int(number), call.request.stream() if body is None else body)
    finally:
        if body is not None:
            body.close()
    return Response(None, 200, {"ETag": f'"{number}"'})


async def complete(call: HubCall, place: str) -> Response:
    """POST after the last part. The file is assembled when a version uses it."""
    row = await _signed(call, place, _COMPLETE)
    await call.body()
    if not await ahead.is_complete(call.platform, row):
        raise HubError(409, None, "Some parts of the file have not arrived. Push again.")
    return answer({})


async def _actions(call: HubCall, owner: str, name: str, row: StagedFileRow) -> dict[str, Any]:
    own = (_own_url(call, row, str(number)) for number in range(ahead.multipart_of(row).count))
    urls = await ahead.part_urls(call.platform, row) or list(own)
    upload: dict[str, Any] = {"href": urls[0]}
    if len(urls) > 1:
        numbered = {str(number): url for number, url in enumerate(urls, 1)}
        upload = {
            "href": _own_url(call, row, _COMPLETE),
            "header": {"chunk_size": str(row.part_size), **numbered},
        }
    return {"upload": upload, "verify": {"href": f"{call.base_url}/{owner}/{name}/info/lfs/objects/verify"}}


def _own_url(call: HubCall, row: StagedFileRow, what: str) -> str:
    expires = str(call.platform.now() + ahead.URL_SECONDS)
    signature = _signature(call, row.id.hex, what, expires)
    return f"{call.base_url}/parts/{row.id.hex}/{what}?expires={expires}&signature={signature}"


async def _signed(call: HubCall, place: str, what: str) -> StagedFileRow:
    query = call.request.query_params
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not hmac.compare_digest(_signature(call, place, what, expires).encode(), signature.encode()):
        raise HubError(403, None, "This upload URL was modified. Start the upload again.")
    if call.platform.now() >= int(expires):
        raise HubError(403, None, "This upload URL has expired. Start the upload again.")
    proven(call.request.scope)
    return await ahead.find(call.platform, uuid.UUID(hex=place))


def _signature(call: HubCall, place: str, what: str, expires: str) -> str:
    message = f"{_PURPOSE}\n{place}\n{what}\n{expires}".encode()
    return hmac.new(call.platform.settings.signing_secret(), message, hashlib.sha256).hexdigest()


def _model(name: str) -> str:
    """Git LFS appends `.git` to the name of the repository."""
    return name.removesuffix(".git")


def _object(each: object) -> tuple[str, int]:
    oid, size = (each.get("oid"), each.get("size")) if isinstance(each, dict) else (None, None)
    if not is_sha256(oid) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= 1 << 53:
        raise bad_request("Each object needs `oid` (a SHA-256) and `size`.")
    return str(oid), size
