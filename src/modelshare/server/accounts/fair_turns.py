"""A limit of concurrent work that prefers callers with few recent requests."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairTurns:
    """Allows `limit` at once. Callers with many recent requests wait behind others, so that a flood blocks only
    itself."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, asked: float) -> AsyncIterator[None]:
        """Waits for a turn. `asked`: the caller's number of recent requests; lower ones come first."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(asked)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, asked: float) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (asked, next(self._order), called))
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():  # cancelled when its turn had just come
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            called = heapq.heappop(self._waiting)[2]
            if not called.done():
                called.set_result(None)
                return
        self._free += 1
