"""A database whose reads complete when a test says so, for testing what happens meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database


class SlowDatabase(Database):
    """Reads complete after `after_read`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads = 0
        self.after_read: Callable[[], Awaitable[object]] | None = None

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        async with super().read() as session:
            yield session
        self.reads += 1
        if self.after_read is not None:
            await self.after_read()

    @contextlib.contextmanager
    def held(self) -> Iterator[asyncio.Event]:
        """Delays reads until the end of the block; the event is set as soon as there was one."""
        made, released = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            made.set()
            await released.wait()

        self.after_read = hold
        try:
            yield made
        finally:
            self.after_read = None
            released.set()
