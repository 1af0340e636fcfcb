"""`/healthz`: the process lives. `/readyz`: it can serve, the database included."""

from fastapi import APIRouter
from sqlalchemy import text

from modelshare.server.http import ReadSession

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(session: ReadSession) -> dict[str, str]:
    await session.execute(text("SELECT 1"))
    return {"status": "ready"}
