"""The one clock of all processes: the database's, so that machines whose own clocks differ agree on what is over.

A process asks for it at its start and every few seconds, and counts by its monotonic clock between. While the database
is away it counts on. What is heard moves it forward at once; backward it never goes, but at half speed until it is
right. On SQLite, which one process has to itself, it is the machine's own.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog
from sqlalchemy import select

from modelshare.server.background import Loop
from modelshare.server.db import Database, now_ms

log = structlog.get_logger()

LOOK_SECONDS: Final = 5.0
"""How often the database is asked."""
SKEW_SECONDS: Final = 5.0
"""A machine whose clock differs by more is told of."""
_BLURRED_SECONDS: Final = 1.0
"""An answer that took longer says too little of when it was true."""
_SLOWED: Final = 0.5
"""Speed while it is ahead of the database's."""


class _Base(NamedTuple):
    ticks: float
    shown: float
    """What the clock showed then, in Unix seconds."""
    true: float
    """What it should have shown."""


class DatabaseClock:
    """Unix seconds, when called."""

    def __init__(self, database: Database, told: Callable[[], float] | None = None) -> None:
        """`told`: a test's clock in place of the machine's. It is set right at the start, if it is far off, and what
        passes on it from then on has passed.
        """
        self._database = database
        self._machine = told or time.time
        self._ticks = told or time.monotonic
        self._is_test = told is not None
        self._base: _Base | None = None
        self._is_said = False
        self._loop = Loop("ask the database for the time", self.check, every=LOOK_SECONDS)

    def __call__(self) -> float:
        if self._base is None:
            return self._machine()
        passed = self._ticks() - self._base.ticks
        return max(self._base.true + passed, self._base.shown + passed * _SLOWED)

    @property
    def skew(self) -> float:
        """Seconds that the machine's own clock is ahead of the database's."""
        return self._machine() - self()

    async def start(self) -> None:
        """Asks the database, now and again and again."""
        if self._database.is_sqlite:
            return
        await self.check()
        if self._is_test:
            if abs(self.skew) <= SKEW_SECONDS:
                self._base = None
        else:
            await self._loop.start()  # while that fails, it counts on by itself

    async def stop(self) -> None:
        await self._loop.stop()

    async def check(self) -> None:
        """Asks the database once."""
        async with self._database.read() as session:
            await session.connection()
            before = self._ticks()
            milliseconds = (await session.execute(select(now_ms(session)))).scalar_one()
            after = self._ticks()
        if self._base is None or after - before <= _BLURRED_SECONDS:
            self._set(milliseconds / 1000, (before + after) / 2)

    def _set(self, true: float, ticks: float) -> None:
        now = self._ticks()
        shown = self() if self._base is not None else true
        self._base = _Base(now, shown, true + now - ticks)
        self._say()

    def _say(self) -> None:
        """Once when the machine's clock goes wrong, and once when it is right again."""
        is_off = abs(self.skew) > SKEW_SECONDS
        if is_off and not self._is_said:
            log.warning(
                "this machine's clock differs from the database's, which is the reference; set it right",
                seconds_ahead=round(self.skew, 1),
            )
        elif self._is_said and not is_off:
            log.info("this machine's clock agrees with the database's again")
        self._is_said = is_off
