"""POST /v1/keys/{id}/rotate."""

import uuid
from collections.abc import Awaitable, Callable

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
DAY = 24 * 3600


async def made_key(tenant: Tenant, **fields: object) -> dict[str, str]:
    made: dict[str, str] = (await tenant.http.post("/v1/keys", json={"name": "turning", **fields})).json()
    return made


async def works(app: Application, value: str) -> bool:
    async with client_of(app, value) as http:
        return (await http.get("/v1/models")).status_code == 200


async def test_the_old_value_works_for_a_day(app: Application, owner: Tenant, clock: Clock) -> None:
    old = await made_key(owner)
    answer = await owner.http.post(f"/v1/keys/{old['id']}/rotate")
    assert answer.status_code == 200
    new = answer.json()
    assert new["id"] == old["id"]
    assert new["key"] != old["key"]
    assert new["hint"] != old["hint"]
    assert new["old_value_valid_until"] == int(clock()) + DAY
    clock.now += DAY - 1
    assert (await works(app, old["key"]), await works(app, new["key"])) == (True, True)
    clock.now += 1
    assert (await works(app, old["key"]), await works(app, new["key"])) == (False, True)


async def test_turned_twice_only_the_newest_old_value_stays(app: Application, owner: Tenant) -> None:
    first = await made_key(owner)
    second = (await owner.http.post(f"/v1/keys/{first['id']}/rotate")).json()
    third = (await owner.http.post(f"/v1/keys/{first['id']}/rotate")).json()
    assert [await works(app, key["key"]) for key in (first, second, third)] == [False, True, True]


async def test_a_revoked_key_cannot_be_rotated(app: Application, owner: Tenant) -> None:
    key = await made_key(owner)
    await owner.http.delete(f"/v1/keys/{key['id']}")
    answer = await owner.http.post(f"/v1/keys/{key['id']}/rotate")
    assert problem(answer) == (409, "conflict_error", None)
    assert not await works(app, key["key"])


async def test_a_lesser_key_cannot_take_over_a_greater_one(
    app: Application, owner: Tenant, client_with: Callable[..., Awaitable[httpx.AsyncClient]]
) -> None:
    key = await made_key(owner)
    every = ["models", "endpoints", "agents", "inference", "keys"]
    for own in (
        {"scopes": ["keys"]},
        {"endpoint": "chat", "scopes": every},
        {"expires_in": 60},
        {"allowed_ips": ["127.0.0.1/32"]},
    ):
        lesser = await client_with(**own)
        assert problem(await lesser.post(f"/v1/keys/{key['id']}/rotate")) == (403, "permission_error", None)
    assert await works(app, key["key"])


@pytest.mark.parametrize("key_id", [str(uuid.UUID(int=7)), "no-id", "%00"])
async def test_no_such_key(owner: Tenant, key_id: str) -> None:
    assert problem(await owner.http.post(f"/v1/keys/{key_id}/rotate")) == (404, "not_found_error", None)


async def test_anothers_key_looks_absent(app: Application, owner: Tenant, deployer: Tenant) -> None:
    key = await made_key(owner)
    foreign = await deployer.http.post(f"/v1/keys/{key['id']}/rotate")
    assert message(foreign) == message(await deployer.http.post(f"/v1/keys/{uuid.uuid4()}/rotate"))
    assert await works(app, key["key"])


async def test_without_a_key(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    key = await made_key(owner)
    assert problem(await anonymous.post(f"/v1/keys/{key['id']}/rotate")) == ANONYMOUS
