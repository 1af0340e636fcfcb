"""Requests under way, by the key they came with: cut as soon as that key would be refused.

A notification that a key changed has all of them looked at, in one query; so does every half second that passes, which
finds keys that expire, a rotation whose grace is over, and what a lost notification did not tell.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from modelshare.server.accounts.keyring import KEYS_TOPIC, KeyRing, KeyUse
from modelshare.server.db import Database
from modelshare.server.errors import Unauthenticated

log = structlog.get_logger()

LOOK_SECONDS: Final = 0.5
"""How often running keys are looked at without having been told: half of the second that they have."""
_CUT: Final = "The key of this request was revoked, replaced or has expired while the request ran. Use another key."


class RunningKeys:
    """The keys of one process's requests."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._keys = keys
        self._running: dict[KeyUse, set[asyncio.Timeout]] = {}
        self._task: asyncio.Task[None] | None = None
        database.subscribe(KEYS_TOPIC, lambda _: self._cut_over() if self._running else None)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @asynccontextmanager
    async def running(self, use: KeyUse) -> AsyncIterator[None]:
        """The block ends with Unauthenticated as soon as this use of a key would be refused.

        To be entered right after the key was found good: nothing else runs between, so no change slips through.
        """
        try:
            async with asyncio.timeout(None) as timer:
                self._running.setdefault(use, set()).add(timer)
                try:
                    yield
                finally:
                    self._leave(use, timer)
        except TimeoutError as error:
            if timer.expired():
                raise Unauthenticated(_CUT) from error
            raise

    def _leave(self, use: KeyUse, timer: asyncio.Timeout) -> None:
        timers = self._running.get(use, set())
        timers.discard(timer)
        if not timers:
            self._running.pop(use, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._running:
                await self._cut_over()

    async def _cut_over(self) -> None:
        """Ends what runs with a key that is over; asks until the database answers."""
        while True:
            try:
                over = await self._keys.over(list(self._running))
                break
            except Exception as error:  # noqa: BLE001 - the database may be away for a while
                log.warning("cannot look at the keys of running requests", error=str(error))
                await asyncio.sleep(LOOK_SECONDS)
        now = asyncio.get_running_loop().time()
        for use in over:
            for timer in self._running.pop(use, ()):
                timer.reschedule(now)
