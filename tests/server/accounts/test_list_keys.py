"""GET /v1/keys."""

import httpx
import pytest

from answers import ANONYMOUS, problem
from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.accounts.key_auth import KeyAuthenticator
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def test_pages_hold_every_key_once_newest_first(owner: Tenant, deployer: Tenant) -> None:
    for name in ("b", "c", "d"):
        await owner.http.post("/v1/keys", json={"name": name})
    seen, cursor = [], ""
    for _ in range(2):
        page = (await owner.http.get(f"/v1/keys?limit=2{cursor}")).json()
        assert page["object"] == "list"
        seen += [key["name"] for key in page["data"]]
        cursor = f"&after={page['next_cursor']}"
    assert seen == ["d", "c", "b", "first key"]
    assert (page["has_more"], page["next_cursor"]) == (False, None)
    assert [key["name"] for key in (await deployer.http.get("/v1/keys")).json()["data"]] == ["first key"]


async def test_a_hint_tells_keys_apart(owner: Tenant) -> None:
    (key,) = (await owner.http.get("/v1/keys")).json()["data"]
    assert "key" not in key
    value = owner.project.api_key
    assert key["hint"] == f"ms_acme_{value[-43:-39]}…{value[-4:]}"


async def test_when_a_key_was_last_used(app: Application, owner: Tenant, clock: Clock) -> None:
    made = (await owner.http.post("/v1/keys", json={"name": "unused"})).json()
    clock.now += 100
    await owner.http.get("/v1/models")
    await app.platform.parts[KeyAuthenticator].note_use()
    used = {key["name"]: key["last_used_at"] for key in (await owner.http.get("/v1/keys")).json()["data"]}
    assert used == {"unused": None, "first key": int(clock())}
    async with client_of(app, made["key"]) as http:
        await http.get("/v1/models")
    await app.platform.parts[KeyAuthenticator].note_use()
    used = {key["name"]: key["last_used_at"] for key in (await owner.http.get("/v1/keys")).json()["data"]}
    assert used["unused"] == int(clock())


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=many", "after=rubbish", "after=WzFd", "after=W1tbW1s"]
)
async def test_bad_input(owner: Tenant, query: str) -> None:
    answer = await owner.http.get(f"/v1/keys?{query}")
    assert problem(answer) == (400, "invalid_request_error", None)
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_without_a_key(anonymous: httpx.AsyncClient, operator: httpx.AsyncClient) -> None:
    assert problem(await anonymous.get("/v1/keys")) == ANONYMOUS
    assert problem(await operator.get("/v1/keys")) == ANONYMOUS, "a platform key has no project of its own"
