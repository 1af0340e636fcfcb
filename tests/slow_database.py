"""A database whose answers arrive when a test says so: for what happens while one is on its way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database


class SlowDatabase(Database):
    """Reads end after what `after_read` does."""

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
        """Reads end no sooner than the block; the event is set as soon as one was made."""
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
