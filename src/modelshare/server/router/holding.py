"""Reads files that stay on their owners' machines, over the connections of the agents that hold them."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from modelshare.server.db import Database
from modelshare.server.fleet import holding
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream, StreamBrokenError
from modelshare.server.router.relay import LONGEST_STREAM
from modelshare.server.router.target_selection import TargetSelector
from modelshare.server.storage_errors import BlobChangedError, HolderAwayError
from modelshare.wire.held import READ_ROUTE, HeldRead, encode_read
from modelshare.wire.link import Answer, Chunk, End, Head

_SILENT_SECONDS: Final = 60.0
"""A holder with a rate limit sends small pieces, but more often than this."""
_OFFLINE: Final = "The owner's machine is not connected."
_LOST: Final = "The connection to the owner's machine was lost."
_MISSING: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})


class HolderConnections:
    """Implements `registry.storages.held.Holders`."""

    def __init__(self, database: Database, links: AgentLinks, selector: TargetSelector) -> None:
        self._database = database
        self._links = links
        self._selector = selector

    @asynccontextmanager
    async def read(
        self, holder_id: uuid.UUID, storage_id: uuid.UUID, wanted: HeldRead
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        target = Target(str(storage_id), holder_id, await self._addresses(holder_id), frozenset())
        if self._selector.best([target]) is None:
            raise HolderAwayError(_OFFLINE)
        body = encode_read(wanted)
        try:
            request = self._selector.request(target, READ_ROUTE, body, tenant="", timeout=LONGEST_STREAM)
            async with request as stream:
                await _begin(stream)
                yield _bytes(stream, wanted.length)
        except StreamBrokenError as error:
            raise HolderAwayError(_LOST) from error

    async def _addresses(self, holder_id: uuid.UUID) -> tuple[str, ...]:
        if self._links.get(holder_id) is not None:
            return ()
        async with self._database.read() as session:
            return await holding.addresses_of(session, holder_id)


async def _begin(stream: AnswerStream) -> None:
    """Raises what the holder says instead of the bytes."""
    match await _next(stream):
        case Head(status=HTTPStatus.OK):
            return
        case Answer(status=status) if status in _MISSING:
            raise BlobChangedError
        case Answer(data=data, retry_after=retry_after):
            raise HolderAwayError(_message(data), retry_after)
    raise HolderAwayError(_LOST)


async def _bytes(stream: AnswerStream, length: int) -> AsyncIterator[bytes]:
    left = length
    while left:
        match await _next(stream):
            case Chunk(data=data) if len(data) <= left:
                left -= len(data)
                yield data
            case End(error=str(error)):
                raise HolderAwayError(error)
            case _:
                raise HolderAwayError(_LOST)


async def _next(stream: AnswerStream) -> Head | Chunk | End | Answer:
    try:
        async with asyncio.timeout(_SILENT_SECONDS):
            return await stream.next()
    except TimeoutError as error:
        raise HolderAwayError(_LOST) from error


def _message(data: bytes) -> str:
    """Holders are other people's programs: whatever they answer is text, or the usual sentence."""
    try:
        said = json.loads(data)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return _OFFLINE
    return said[:300] if isinstance(said, str) and said.isprintable() else _OFFLINE
