"""Hashes a stored blob in threads, reading ahead with bounded memory."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import islice

from modelshare.server.storage.base import RangeReader


async def read_ahead(reader: RangeReader, *, step: int, ahead: int) -> AsyncGenerator[bytes]:
    """The whole content in chunks of `step` bytes, of which at most `ahead + 1` are kept. Stops promptly when closed
    or cancelled."""
    offsets = iter(range(0, reader.size, step))

    def start(count: int) -> list[asyncio.Task[bytes]]:
        return [
            asyncio.create_task(asyncio.to_thread(reader.read_at, offset, step)) for offset in islice(offsets, count)
        ]

    reads = deque(start(ahead))
    try:
        while reads:
            chunk = await reads[0]
            reads.popleft()
            reads.extend(start(1))
            yield chunk
    finally:
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def sha256_of(
    reader: RangeReader,
    *,
    step: int,
    ahead: int,
    progress: Callable[[int], None] | None = None,
    also: Callable[[bytes], None] | None = None,
) -> tuple[str, int]:
    """Returns SHA-256 (hex) and size; reads as `read_ahead` does. `also` gets every chunk, in order, in a thread."""
    hasher = hashlib.sha256()
    done = 0
    async with aclosing(read_ahead(reader, step=step, ahead=ahead)) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(hasher.update, chunk)
            if also is not None:
                await asyncio.to_thread(also, chunk)
            done += len(chunk)
            if progress is not None:
                progress(done)
    return hasher.hexdigest(), done
