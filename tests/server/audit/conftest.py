"""The platform that may deliver to this machine, with a clock that the test turns, and a receiver."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from clock import Clock
from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from receiver import Receiver, receiving
from served import wait_until

Look = Callable[[], Awaitable[Any]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_allow_private": True})


@pytest.fixture
async def app(settings: Settings, clock: Clock) -> AsyncIterator[Application]:
    application = Application(settings, clock)
    async with application.running():
        yield application


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


class Hook:
    """A webhook of a tenant."""

    def __init__(self, tenant: Tenant, made: dict[str, Any]) -> None:
        self.http = tenant.http
        self.id: str = made["id"]
        self.secret: str = made["secret"]
        self.path = f"/v1/webhooks/{self.id}"

    async def shown(self) -> dict[str, Any]:
        return dict((await self.http.get(self.path)).json())

    async def deliveries(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.http.get(f"{self.path}/deliveries{query}")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    async def delivery(self, **fields: Any) -> dict[str, Any]:
        """The newest delivery, as soon as its fields are these."""

        async def look() -> dict[str, Any] | None:
            found = await self.deliveries()
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


@pytest.fixture
async def hook(owner: Tenant, receiver: Receiver) -> Hook:
    """Of the owner, for every event, to the receiver."""
    return await new_hook(owner, receiver.url)
