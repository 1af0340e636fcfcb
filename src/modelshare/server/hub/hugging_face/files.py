"""Sends files of a version: inline, by redirect to a signed URL, or streamed."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from starlette.responses import Response, StreamingResponse

from modelshare.server.hub.access import (
    EndpointReader,
    ReadableVersion,
    Reader,
    SignatureFile,
    download_url,
    record_pull,
)
from modelshare.server.hub.hugging_face.calls import HubCall, HubError
from modelshare.server.hub.hugging_face.git_objects import git_oid, is_large
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.storages import stores
from modelshare.server.storage.base import RangeReader
from modelshare.server.storage.ranges import UnsatisfiableRangeError, parse_range

_CARRIES_AUTHORIZATION: Final = ("Python-urllib/", "Wget/")
"""User agents that send the Authorization header to the redirect's target, which buckets reject."""
_PIECE: Final = 1 << 20
_AT_ONCE: Final = 8
_REMEMBERED: Final = 100_000
_AUDITED_AGAIN: Final = 600
"""Seconds until another request for the same file counts as another pull: clients repeat requests."""


async def contents(call: HubCall, file: StoredFile) -> bytes:
    """All of a small file."""
    if isinstance(file, SignatureFile):
        return file.content
    return await stores.read_file(call.platform, file)


async def git_oids(call: HubCall, files: Sequence[StoredFile]) -> Mapping[str, str]:
    """Git object IDs of the small files, by SHA-256. Reads the files that are not cached."""
    known = call.state.git_oids
    wanted = {file.sha256: file for file in files if not is_large(file.size)}
    unknown = [file for sha256, file in wanted.items() if sha256 not in known]
    room = asyncio.Semaphore(_AT_ONCE)

    async def learn(file: StoredFile) -> None:
        async with room:
            known[file.sha256] = git_oid(await contents(call, file))

    await asyncio.gather(*map(learn, unknown))
    found = {sha256: known[sha256] for sha256 in wanted}
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
    return found


async def head(call: HubCall, version: ReadableVersion, file: StoredFile) -> Response:
    """Responds 200 without a redirect, so that the client sends its GET and every retry here."""
    headers = await _headers(call, version, file)
    return Response(None, 200, headers | {"Content-Length": str(file.size)})


async def send(call: HubCall, version: ReadableVersion, file: StoredFile) -> Response:
    headers = await _headers(call, version, file)
    agent = call.request.headers.get("user-agent", "")
    if not is_large(file.size) or isinstance(file, SignatureFile):
        part = _part(call, file)
        content = await contents(call, file)
        return Response(content[part.start : part.stop] if part else content, *_start(file, part, headers))
    await _audit(call, version, file)
    if not agent.startswith(_CARRIES_AUTHORIZATION):
        url = await download_url(call.platform, version, file, base_url=call.own_url)
        return Response(None, 302, headers | {"Location": url, "Content-Length": "0"})
    return await _stream(call, file, headers)


async def _headers(call: HubCall, version: ReadableVersion, file: StoredFile) -> dict[str, str]:
    headers = {
        "X-Repo-Commit": version.commit,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "Vary": "Authorization",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
    }
    if is_large(file.size):
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        return headers | linked | {"ETag": f'"{file.sha256}"'}
    return headers | {"ETag": f'"{(await git_oids(call, [file]))[file.sha256]}"'}


async def _stream(call: HubCall, file: StoredFile, headers: dict[str, str]) -> Response:
    part = _part(call, file)
    if call.state.streams.locked():
        raise HubError(429, None, "Too many downloads through this server at once.", headers={"Retry-After": "5"})
    reader = await stores.open_file(call.platform, file)
    return StreamingResponse(_pieces(call, reader, part or range(file.size)), *_start(file, part, headers))


async def _pieces(call: HubCall, reader: RangeReader, part: range) -> AsyncIterator[bytes]:
    async with call.state.streams:
        for at in range(part.start, part.stop, _PIECE):
            piece = await asyncio.to_thread(reader.read_at, at, min(_PIECE, part.stop - at))
            call.state.streamed.inc(len(piece))
            yield piece


def _part(call: HubCall, file: StoredFile) -> range | None:
    """The requested range; None for the whole file."""
    try:
        return parse_range(call.request.headers.get("range"), file.size)
    except UnsatisfiableRangeError:
        headers = {"Content-Range": f"bytes */{file.size}"}
        raise HubError(416, None, f"The file has {file.size:,} bytes.", headers=headers) from None


def _start(file: StoredFile, part: range | None, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Status and headers for this part of the file."""
    if part is None:
        return 200, headers | {"Content-Length": str(file.size)}
    content_range = f"bytes {part.start}-{part.stop - 1}/{file.size}"
    return 206, headers | {"Content-Length": str(len(part)), "Content-Range": content_range}


async def _audit(call: HubCall, version: ReadableVersion, file: StoredFile) -> None:
    reader, now = call.known, call.platform.now()
    pulls = call.state.pulls
    this = (_named(reader), str(version.version.id), file.path)
    if now - pulls.get(this, 0) < _AUDITED_AGAIN:
        return
    async with call.platform.database.write() as session:
        record_pull(session, reader, version, file, "hugging_face", now=now)
    pulls[this] = now
    pulls.move_to_end(this)
    while len(pulls) > _REMEMBERED:
        pulls.popitem(last=False)


def _named(reader: Reader) -> str:
    return str(reader.endpoint_id if isinstance(reader, EndpointReader) else reader.id)
