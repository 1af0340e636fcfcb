"""A tenant's webhook, as tests use it."""

from typing import Any

from conftest import Tenant
from served import wait_until


class Hook:
    """A webhook that was made, with its secret."""

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
        """The newest delivery, as soon as its fields are these."""

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
