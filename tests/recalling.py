"""Helpers for tests of recalls."""

import time
from typing import Any

import httpx
from sqlalchemy import select

from conftest import Tenant
from link_agent import LinkAgent
from modelshare.server.app import Application
from modelshare.server.endpoints.recalls import STOP
from modelshare.server.jobs import JobRow
from modelshare.wire.link import Chunk, Head, Request
from served import wait_until

REASON = "The licence of the training data was withdrawn."


async def begins(link: LinkAgent, request: Request, _: bytes) -> None:
    """Begins a response and never ends it."""
    await link.send(Head(request.stream, 200, "text/event-stream"))
    await link.send(Chunk(request.stream, b"data: 1\n\n"))


async def endpoint_is(tenant: Tenant, status: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        endpoint = (await tenant.http.get("/v1/endpoints/chat")).json()
        return dict(endpoint) if endpoint["status"] == status else None

    return await wait_until(look)


async def recall(tenant: Tenant, model: str, seconds: float | None, reason: str | None = REASON) -> httpx.Response:
    deadline = None if seconds is None else int(time.time() + seconds)
    return await tenant.http.post(f"/v1/models/{model}/recall", json={"deadline": deadline, "reason": reason})


async def due(app: Application) -> int | None:
    """When the job that stops endpoints is due; None if there is none."""
    async with app.database.read() as session:
        return await session.scalar(select(JobRow.run_after).where(JobRow.kind == STOP))


async def holding(owner: Tenant, model: str) -> int:
    """Number of machines with the weights, as reported to the owner."""
    return int((await owner.http.get(f"/v1/models/{model}/recall")).json()["machines_holding"])


async def actions(tenant: Tenant) -> list[str]:
    return [entry["action"] for entry in (await tenant.http.get("/v1/audit")).json()["data"]]
