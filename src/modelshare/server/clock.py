"""The clock of all processes: the database's, so that machines with different clocks agree on what has expired.

A process reads it at its start and every few seconds, and uses its monotonic clock in between and during outages. The
clock is set forward immediately, but never backward: it runs at half speed until it is right. On SQLite, which only one
process uses, it is the machine's clock.
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
"""How often the database's clock is read."""
SKEW_SECONDS: Final = 5.0
"""A larger difference of the machine's clock is logged."""
_BLURRED_SECONDS: Final = 1.0
"""A slower response is too imprecise."""
_SLOWED: Final = 0.5
"""Speed while it is ahead of the database's clock."""


class _Base(NamedTuple):
    ticks: float
    shown: float
    """What the clock showed then, in Unix seconds."""
    true: float
    """What it should have shown."""


class DatabaseClock:
    """Returns Unix seconds when called."""

    def __init__(self, database: Database, told: Callable[[], float] | None = None) -> None:
        """`told`: a clock for tests, instead of the machine's. It is corrected at the start if it is far off."""
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
        """Seconds by which the machine's clock is ahead of the database's."""
        return self._machine() - self()

    async def start(self) -> None:
        """Reads the database's clock, now and regularly."""
        if self._database.is_sqlite:
            return
        await self.check()
        if self._is_test:
            if abs(self.skew) <= SKEW_SECONDS:
                self._base = None
        else:
            await self._loop.start()  # if this fails, it continues with the machine's clock

    async def stop(self) -> None:
        await self._loop.stop()

    async def check(self) -> None:
        """Reads the database's clock once."""
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
        """Logs when the machine's clock becomes wrong, and when it is right again."""
        is_off = abs(self.skew) > SKEW_SECONDS
        if is_off and not self._is_said:
            log.warning(
                "this machine's clock differs from the database's, which is the reference; set it right",
                seconds_ahead=round(self.skew, 1),
            )
        elif self._is_said and not is_off:
            log.info("this machine's clock agrees with the database's again")
        self._is_said = is_off
