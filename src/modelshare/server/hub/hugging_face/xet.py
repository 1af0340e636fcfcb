"""Large files as hf-xet sends them: packed chunks (xorbs), then a list of the chunks of each file (a shard).

Xorbs are kept for a while after files have been rebuilt from them, because a client remembers which chunks it has sent
to a URL. The URL therefore contains a generation, which changes with time; the xorbs of a generation are deleted when
the next one has ended. Rebuilt files are stored plainly, and downloads do not use Xet.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, Final

from starlette.responses import Response, StreamingResponse

from modelshare.server.errors import ApiError, PermissionDeniedError
from modelshare.server.http import Caller, Platform, bearer
from modelshare.server.hub import queries
from modelshare.server.hub.hugging_face.calls import HubCall, HubError, answer, bad_request
from modelshare.server.hub.hugging_face.drafts import branch_name
from modelshare.server.hub.hugging_face.push import LARGEST
from modelshare.server.hub.hugging_face.xet_formats import (
    MAX_SHARD,
    MAX_XORB,
    Chunk,
    XetFile,
    XetFormatError,
    chunks_of,
    read_shard,
    unpacked,
)
from modelshare.server.hub.tables import XorbRow
from modelshare.server.ids import new_id
from modelshare.server.registry import service as registry
from modelshare.server.registry.blobs import disposal
from modelshare.server.registry.uploads import ahead
from modelshare.server.storage.base import Multipart

_TOKEN_SECONDS: Final = 3600
_HEARTBEAT_SECONDS: Final = 10.0
_BATCH: Final = 4 << 20
_MAX_AT_ONCE: Final = 100
_HASH = re.compile(r"[0-9a-f]{64}")


async def write_token(call: HubCall, owner: str, name: str, revision: str) -> Response:
    """Returns the URL for xorbs and shards. The client's own token is valid there."""
    call.writer(owner)
    branch_name(revision)
    generation = call.platform.now() // call.platform.settings.uploads_expire_seconds
    url = f"{call.base_url}/xet/{owner}/{name}/{generation}"
    token = bearer(call.request.headers.get("authorization"))
    return answer({"casUrl": url, "accessToken": token, "exp": call.platform.now() + _TOKEN_SECONDS})


async def chunk(_call: HubCall, _owner: str, _name: str, _generation: str, _hash: str) -> Response:
    """Always 404: it must not reveal what others have stored."""
    raise HubError(404, None, "Chunks are not looked up across repositories.")


async def grant(call: HubCall, owner: str, name: str, generation: str, xorb: str) -> Response:
    """Returns a presigned PUT of a xorb: 404 if the storage has none, 200 if the xorb is stored already."""
    caller = call.writer(owner)
    length = (await call.json()).get("length")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 < length <= MAX_XORB:
        raise bad_request(f"`length` must be 1 to {MAX_XORB:,} bytes.")
    known = await _find(call.platform, caller, name, generation, xorb)
    storage = known.storage if known else (await ahead.destination(call.platform, caller))[0]
    store = await call.platform.stores.get(storage)
    if not store.direct:
        raise HubError(404, None, "Xorbs are sent to this server.")
    row = known or await _place(call, caller, name, generation, xorb, length)
    if row.is_stored:
        return answer({"was_inserted": False})
    signed = store.part_url(_whole(row), 0, expires_at=call.platform.now() + _TOKEN_SECONDS)
    return answer({"id": row.id.hex, "method": "PUT", "url": signed.url, "headers": {}}, 201)


async def commit(call: HubCall, owner: str, name: str, generation: str, xorb: str, grant_id: str) -> Response:
    """The client has sent a xorb to the bucket."""
    caller = call.writer(owner)
    row = await _find(call.platform, caller, name, generation, xorb)
    if row is None or row.id.hex != grant_id:
        raise HubError(404, None, "There is no such grant. Send the xorb again.")
    await _stored(call.platform, row)
    return answer({"was_inserted": True})


async def put_xorb(call: HubCall, owner: str, name: str, generation: str, xorb: str) -> Response:
    """A xorb that comes through this server."""
    caller = call.writer(owner)
    data = await call.body(MAX_XORB)
    if not data:
        raise bad_request("The xorb is empty.")
    row = await _place(call, caller, name, generation, xorb, len(data))
    if row.is_stored:
        return answer({"was_inserted": False})
    if row.size != len(data):
        raise bad_request("This xorb was announced with another size.")
    await ahead.put_part(await call.platform.stores.get(row.storage), _whole(row), 0, data)
    await _stored(call.platform, row)
    return answer({"was_inserted": True})


async def shard(call: HubCall, owner: str, name: str, generation: str) -> Response:
    """Rebuilds the files that the shard lists, and compares them with their SHA-256.

    As that may take long, the answer begins before it is done: lines of JSON, of which the last one is the result.
    """
    caller = call.writer(owner)
    try:
        files = await asyncio.to_thread(read_shard, await call.body(MAX_SHARD))
    except XetFormatError as error:
        raise bad_request(str(error)) from error
    work = asyncio.ensure_future(_rebuild_all(call, caller, name, generation, files))
    done, _ = await asyncio.wait([work], timeout=_HEARTBEAT_SECONDS)
    if done or call.request.url.path.endswith("/v1/shards"):
        await work
        return _result(call)
    return StreamingResponse(_heartbeats(work), media_type="application/x-ndjson")


async def end_expired(platform: Platform) -> None:
    """Deletes xorbs of generations that are over. Run it every minute or so."""
    while True:
        async with platform.database.read() as session:
            rows = await queries.expired_xorbs(session, platform.now(), _MAX_AT_ONCE)
        async with platform.database.write() as session:
            for row in rows:
                folder = f"{row.key.rpartition('/')[0]}/"
                await disposal.discard_keys(session, row.project_id, row.storage, [folder], now=platform.now())
                await queries.delete_xorb(session, row.id)
        if len(rows) < _MAX_AT_ONCE:
            return


def _result(call: HubCall) -> Response:
    if call.request.url.path.endswith("/v1/shards"):
        return answer({"result": 1})
    return Response('{"type":"result","result":1}\n', media_type="application/x-ndjson")


async def _heartbeats(work: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    try:
        while not (await asyncio.wait([work], timeout=_HEARTBEAT_SECONDS))[0]:
            yield b'{"type":"working"}\n'
        work.result()
        yield b'{"type":"result","result":1}\n'
    except (HubError, ApiError) as error:
        yield json.dumps({"type": "error", "message": error.message}).encode() + b"\n"
    finally:
        work.cancel()


async def _rebuild_all(call: HubCall, caller: Caller, name: str, generation: str, files: list[XetFile]) -> None:
    if too_large := next((file for file in files if file.size > LARGEST), None):
        raise bad_request(f"A file of {too_large.size:,} bytes is larger than 50 GB, more than clients can download.")
    sizes = {file.sha256: file.size for file in files if file.size}
    there = await ahead.stored(call.platform, caller, name, sizes)
    for file in {file.sha256: file for file in files if file.size and file.sha256 not in there}.values():
        [place] = (await ahead.begin(call.platform, caller, name, {file.sha256: file.size})).values()
        try:
            await ahead.write(call.platform, place, _rebuilt(call.platform, caller, name, generation, file))
        except XetFormatError as error:
            await ahead.discard(call.platform, [place])
            raise bad_request(str(error)) from error


async def _rebuilt(
    platform: Platform, caller: Caller, name: str, generation: str, file: XetFile
) -> AsyncIterator[bytes]:
    """The file's bytes; raises XetFormatError in the end where they have another SHA-256."""
    digest = hashlib.sha256()
    async with contextlib.AsyncExitStack() as stack:
        opened: tuple[str, BinaryIO, list[Chunk]] | None = None
        for segment in file.segments:
            if opened is None or opened[0] != segment.xorb:
                await stack.aclose()
                opened = (segment.xorb, *await _open(platform, caller, name, generation, segment.xorb, stack))
            pieces = _batches(unpacked(opened[1], opened[2], segment))
            while (batch := await asyncio.to_thread(next, pieces, None)) is not None:
                digest.update(batch)
                yield batch
    if digest.hexdigest() != file.sha256:
        raise XetFormatError(f"A file does not match its announced SHA-256: it has {digest.hexdigest()}.")


async def _open(
    platform: Platform, caller: Caller, name: str, generation: str, xorb: str, stack: contextlib.AsyncExitStack
) -> tuple[BinaryIO, list[Chunk]]:
    row = await _find(platform, caller, name, generation, xorb)
    if row is None or not row.is_stored:
        raise XetFormatError("The shard names a xorb that has not been uploaded. Push again.")
    store = await platform.stores.get(row.storage)
    path = await stack.enter_async_context(store.local_copy(row.key))
    file = stack.enter_context(await asyncio.to_thread(path.open, "rb"))
    return file, await asyncio.to_thread(chunks_of, file, row.size)


def _batches(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _BATCH:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def _place(call: HubCall, caller: Caller, name: str, generation: str, xorb: str, size: int) -> XorbRow:
    """The xorb's row: the one that is there, or a new one with a place in storage."""
    platform, period = call.platform, call.platform.settings.uploads_expire_seconds
    if not _HASH.fullmatch(xorb) or not generation.isascii() or not generation.isdigit():
        raise bad_request("The xorb's URL is not one that this server gave.")
    expires_at = (int(generation[:12]) + 2) * period
    if not 0 <= expires_at - platform.now() <= 2 * period:
        raise HubError(401, None, "This session of uploads is over. Push again.")
    if (there := await _find(platform, caller, name, generation, xorb)) is not None:
        return there
    storage, quota = await ahead.destination(platform, caller)
    async with platform.database.read() as session:
        used = await queries.xorb_bytes(session, caller.project)
    if quota is not None and used + size > quota:
        raise PermissionDeniedError("Unfinished uploads use up your project's quota. Push again later.")
    store = await platform.stores.get(storage)
    await store.require_space(size)
    place = new_id()
    opened = await store.begin(f"{caller.project}/{place.hex}/xorb", size, MAX_XORB)
    row = XorbRow(
        id=place,
        project_id=caller.project,
        name_key=registry.name_key(name),
        generation=generation,
        xorb=xorb,
        storage=storage,
        size=size,
        key=opened.key,
        multipart_id=opened.id,
        is_stored=False,
        expires_at=expires_at,
    )
    async with platform.database.write() as session:
        is_first = await queries.add_xorb(session, row)
    if not is_first:
        await store.abort(opened)
    found = await _find(platform, caller, name, generation, xorb)
    assert found is not None  # noqa: S101 - it or another one was just added
    return found


async def _find(platform: Platform, caller: Caller, name: str, generation: str, xorb: str) -> XorbRow | None:
    async with platform.database.read() as session:
        return await queries.xorb(session, caller.project, registry.name_key(name), generation, xorb)


async def _stored(platform: Platform, row: XorbRow) -> None:
    store = await platform.stores.get(row.storage)
    await store.finish(_whole(row))
    async with platform.database.write() as session:
        await queries.set_stored(session, row.id)


def _whole(row: XorbRow) -> Multipart:
    return Multipart(row.key, row.multipart_id, row.size, MAX_XORB)
