"""How many requests of one pull run at once: fewer while the storage stalls or breaks off, more while it keeps up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

CONNECTIONS: Final = 8
"""Most concurrent requests of a pull, and of all pulls of a downloader."""
_SUCCESSES: Final = 8
"""Requests in a row that must succeed before one more may run. A storage that serves only a few at once would cut half
of all requests if every success raised the limit."""


class Connections:
    """Limits concurrent requests by additive increase and multiplicative decrease, as TCP does."""

    def __init__(self, maximum: int = CONNECTIONS) -> None:
        self.limit = maximum
        self.failed_rounds = 0
        """How often in a row requests failed without a new byte. Requests that ran together count once."""
        self._maximum = maximum
        self._running = self._started = self._successes = 0
        self._last_of_round = 0
        """The last request that had started when the limit was last lowered."""
        self._free = asyncio.Event()

    @asynccontextmanager
    async def request(self) -> AsyncIterator[int]:
        """Waits until one more request may run and counts it within the block. Yields its number."""
        while self._running >= self.limit:
            self._free.clear()
            await self._free.wait()
        self._running += 1
        self._started += 1
        try:
            yield self._started
        finally:
            self._running -= 1
            self._free.set()

    @property
    def is_single(self) -> bool:
        """Whether no other request runs beside this one, so that a failure is not due to their number."""
        return self._running == 1

    def progressed(self) -> None:
        """New bytes arrived."""
        self.failed_rounds = 0

    def succeeded(self) -> None:
        """A request got all its bytes."""
        self.progressed()
        self._successes += 1
        if self._successes >= _SUCCESSES and self.limit < self._maximum:
            self._successes = 0
            self.limit += 1
            self._free.set()

    def failed(self, number: int) -> None:
        """The request `number` stalled or was cut."""
        self._successes = 0
        if number > self._last_of_round:
            self._last_of_round = self._started
            self.failed_rounds += 1
            self.limit = max(1, self.limit // 2)
