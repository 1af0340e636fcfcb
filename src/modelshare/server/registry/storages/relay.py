"""`GET|HEAD /blobs/<storage>:<key>?expires=…&signature=…`: files of a relayed storage, as a plain ASGI app."""

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, Final

from modelshare.server.errors import NotFoundError
from modelshare.server.registry.storages.stores import SEPARATOR, ProjectStores, errors_for_others
from modelshare.server.storage.files import (
    CHUNK,
    Receive,
    Scope,
    Send,
    answering_errors,
    disconnected,
    require_reading,
    verify_link,
)
from modelshare.server.storage.signed_urls import PATH, LinkState, check_link
from modelshare.server.storage_errors import BlobNotFoundError, InvalidKeyError

_RANGE: Final = re.compile(r"bytes=(?:[0-9]{1,19}-[0-9]{0,19}|-[0-9]{1,19})")
_PASSED_ON: Final = ("Content-Length", "Content-Range", "ETag")
_HEADERS: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"content-disposition", b"attachment"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"accept-ranges", b"bytes"),
)


class RelayedFiles:
    """Streams as fast as the reader takes it, and holds some hundred kilobytes of a file at most."""

    def __init__(self, stores: ProjectStores, secret: bytes, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._secret = secret
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            source = None
            async with answering_errors(send):
                source = await self._open(scope, stack)
            if source is not None:
                await _pass_on(source, receive, send)

    async def _open(self, scope: Scope, stack: AsyncExitStack) -> Any:
        """The bucket's response."""
        require_reading(scope)
        name = scope["path"].partition(PATH)[2]
        verify_link(check_link(name, scope["query_string"], self._secret, self._clock()), scope)
        storage, _, key = name.partition(SEPARATOR)
        headers = {header: value.decode("latin-1") for header, value in scope["headers"]}
        wanted = headers.get(b"range", "").strip() if b"if-range" not in headers else ""
        try:
            with errors_for_others():
                store: Any = await self._stores.get(storage)
                if store.direct:  # it is no longer relayed; a new grant has its URLs
                    verify_link(LinkState.EXPIRED, scope)
                stream = store.stream(scope["method"], key, wanted if _RANGE.fullmatch(wanted) else None)
                return await stack.enter_async_context(stream)
        except (BlobNotFoundError, InvalidKeyError) as error:
            raise NotFoundError(str(BlobNotFoundError())) from error


async def _pass_on(source: Any, receive: Receive, send: Send) -> None:
    # Not every server says 206 with its Content-Range.
    is_partial = source.status == HTTPStatus.OK and "Content-Range" in source.headers
    status = HTTPStatus.PARTIAL_CONTENT if is_partial else source.status
    headers = [(name.lower().encode(), source.headers[name].encode()) for name in _PASSED_ON if name in source.headers]
    await send({"type": "http.response.start", "status": int(status), "headers": [*headers, *_HEADERS]})
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        async for chunk in source.content.iter_chunked(CHUNK):
            if gone.done():
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        gone.cancel()
