"""Helpers for tests of webhooks."""

from typing import Any

from sqlalchemy import select

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.audit.webhooks import queries
from modelshare.server.audit.webhooks.jobs import DELIVER
from modelshare.server.db import notify
from modelshare.server.jobs import TOPIC, JobRow
from receiver import Received, Receiver, Reply
from served import wait_until


class Hook:
    """A webhook of a tenant, and its secret."""

    def __init__(self, tenant: Tenant, made: dict[str, Any]) -> None:
        self.http = tenant.http
        self.id: str = made["id"]
        self.secret: str = made["secret"]
        self.path = f"/v1/webhooks/{self.id}"

    async def shown(self) -> dict[str, Any]:
        return dict((await self.http.get(self.path)).json())

    async def patch(self, **changes: object) -> dict[str, Any]:
        answer = await self.http.patch(self.path, json=changes)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def deliveries(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.http.get(f"{self.path}/deliveries{query}")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    async def delivery(self, **fields: object) -> dict[str, Any]:
        """Waits until the newest delivery has these fields, and returns it."""

        async def look() -> dict[str, Any] | None:
            found = await self.deliveries("?limit=1")
            return found[0] if found and fields.items() <= found[0].items() else None

        return await wait_until(look)

    async def test(self) -> dict[str, Any]:
        answer = await self.http.post(f"{self.path}/test")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


async def new_hook(tenant: Tenant, url: str, *events: str) -> Hook:
    answer = await tenant.http.post("/v1/webhooks", json={"url": url, "events": list(events)})
    assert answer.status_code == 201, answer.text
    return Hook(tenant, answer.json())


async def emit(app: Application, tenant: Tenant, *names: str, type_: str = "model.ready") -> None:
    """Emits events in one transaction, as a change of a model would."""
    async with app.database.write() as session:
        for name in names:
            audit.emit(session, project_id=tenant.project.id, now=app.platform.now(), event=type_, data={"name": name})


async def wake(app: Application) -> None:
    """Makes the worker check for due jobs now instead of at its next interval."""
    async with app.database.write() as session:
        notify(session, TOPIC, DELIVER)


async def idle(app: Application) -> bool:
    """Whether nothing is being delivered, so that advancing the clock expires no lease."""
    async with app.database.read() as session:
        return await session.scalar(select(JobRow).where(JobRow.lease_token.is_not(None))) is None


async def outbox_is_empty(app: Application) -> bool:
    async with app.database.read() as session:
        return not await queries.has_events(session)


async def arrive(receiver: Receiver, count: int) -> None:
    async def there() -> bool:
        return len(receiver.received) >= count

    await wait_until(there)


def names(receiver: Receiver) -> list[str]:
    return [event["data"]["name"] for event in receiver.events]


def failing(_: Received) -> Reply:
    return Reply(500, body=b"out of order")
