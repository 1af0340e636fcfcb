"""`/healthz`: the process runs. `/readyz`: it can serve, since the database is writable and the storage available."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter

from modelshare.server import outages
from modelshare.server.background import within
from modelshare.server.errors import ApiError, UnavailableError, unavailable
from modelshare.server.http import PlatformDep

router = APIRouter(tags=["health"])

_REMEMBERED_SECONDS: Final = 1.0
"""How long a result is cached, since the route is public."""
_ANSWER_SECONDS: Final = 3.0
"""Time limit of a check."""
_RETRY_SECONDS: Final = 5
_LEAVING: Final = "This process of the platform is about to stop."

Check = Callable[[], Awaitable[object]]
"""Raises an error if something does not work."""


class Readiness:
    """Checks what the platform needs, at most once per second."""

    def __init__(self, checks: list[Check], *, is_leaving: Callable[[], bool]) -> None:
        """`is_leaving`: whether the process is about to stop."""
        self._checks = checks
        self._is_leaving = is_leaving
        self._looking = asyncio.Lock()
        self._looked: float | None = None
        self._reasons: list[str] = []

    async def reasons(self) -> list[str]:
        """Why the platform cannot serve now, without internal details; empty if it can."""
        if self._is_leaving():
            return [_LEAVING]
        async with self._looking:
            if self._looked is None or time.monotonic() >= self._looked + _REMEMBERED_SECONDS:
                found = await asyncio.gather(*map(_reason, self._checks))
                self._reasons = list(dict.fromkeys(reason for reason in found if reason))
                self._looked = time.monotonic()
            return self._reasons


async def _reason(check: Check) -> str | None:
    try:
        await within(_ANSWER_SECONDS, check())
    except Exception as error:  # noqa: BLE001 - whatever it is, the platform is not ready
        outages.report("not ready", error)
        return (unavailable(error) or ApiError("The platform is not ready; see the server's log for details.")).message
    return None


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(platform: PlatformDep) -> dict[str, str | float]:
    """`clock_skew_seconds`: how far this machine's clock is ahead of the database's, which is the reference."""
    reasons = await platform.why_not_ready()
    if reasons:
        raise UnavailableError(" ".join(reasons), retry_after=_RETRY_SECONDS)
    return {"status": "ready", "clock_skew_seconds": round(platform.clock.skew, 1)}
