"""`/healthz`: the process lives. `/readyz`: it can serve, the database included."""

from fastapi import APIRouter
from sqlalchemy import text

from modelshare.server.clock import DatabaseClock
from modelshare.server.http import PlatformDep, ReadSession

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(session: ReadSession, platform: PlatformDep) -> dict[str, str | float]:
    """`clock_skew_seconds`: how far this machine's clock is ahead of the database's, which is gone by."""
    await session.execute(text("SELECT 1"))
    return {"status": "ready", "clock_skew_seconds": round(platform.parts[DatabaseClock].skew, 1)}
