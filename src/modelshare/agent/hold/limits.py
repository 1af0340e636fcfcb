"""When and how fast files leave their owner's machine."""

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from modelshare.wire.link import BODY_SLICE

LEAST_RATE: Final = 10_000
"""Bytes a second: slower, the agent that pulls would think that the connection is dead."""
_HOURS: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,9}) ?([kMG])B(?:/s)?", re.ASCII)
_UNITS: Final = {"k": 10**3, "M": 10**6, "G": 10**9}
_PIECES_A_SECOND: Final = 16
_LEAST_PIECE: Final = 4 << 10


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day, in the machine's local time. Equal ends are the whole day."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """`22:00-06:00`. Raises ValueError."""
        match = _HOURS.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"Invalid hours {text!r}. Use a form such as 22:00-06:00.")
        first, minute, last, end = map(int, match.groups())
        return cls(time(first, minute), time(last, end))

    def seconds_until(self, now: datetime) -> int:
        """0 within the hours."""
        at = now.time()
        is_open = self.begin <= at < self.end if self.begin < self.end else at >= self.begin or at < self.end
        if is_open:
            return 0
        opens = datetime.combine(now.date(), self.begin, now.tzinfo)
        if opens <= now:
            opens += timedelta(days=1)
        return max(1, int((opens - now).total_seconds()))

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


def parse_rate(text: str) -> int:
    """`50MB/s` in bytes a second. Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    rate = int(match[1]) * _UNITS[match[2]] if match else 0
    if rate < LEAST_RATE:
        raise ValueError(f"Invalid rate {text!r}. Use a form such as 50MB/s; the least is 10kB/s.")
    return rate


class Rate:
    """Spreads bytes over time, for all readers together. None: as fast as the network."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.piece = BODY_SLICE if rate is None else max(_LEAST_PIECE, min(BODY_SLICE, rate // _PIECES_A_SECOND))
        """Bytes to take at once: small enough that every reader gets some every few seconds."""

    async def take(self, count: int) -> None:
        """Waits until `count` more bytes may be sent."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free_at)
        self._free_at = begin + count / self._rate
        if begin > now:
            await asyncio.sleep(begin - now)
