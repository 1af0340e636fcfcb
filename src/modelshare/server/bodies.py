"""Bodies of requests that are too long."""

import asyncio
import contextlib
from typing import Final

from starlette.types import Receive

_MOST: Final = 256 << 20
"""Bytes that are read for nothing."""
_SECONDS: Final = 10.0


async def discard(receive: Receive) -> None:
    """Reads what the client still sends, for a while, before it is refused.

    A client that sends does not listen, and closing a connection with bytes unread resets it: the answer would be lost.
    """
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            while read < _MOST:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
