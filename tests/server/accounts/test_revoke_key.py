"""DELETE /v1/keys/{id}."""

import uuid

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.app import Application
from modelshare.server.cache import CACHE_SECONDS
from served import wait_until

pytestmark = pytest.mark.anyio


async def made_key(tenant: Tenant) -> dict[str, str]:
    made: dict[str, str] = (await tenant.http.post("/v1/keys", json={"name": "ending"})).json()
    return made


async def test_it_is_refused_at_once_with_all_its_values(app: Application, owner: Tenant) -> None:
    old = await made_key(owner)
    new = (await owner.http.post(f"/v1/keys/{old['id']}/rotate")).json()
    async with client_of(app, old["key"]) as with_old, client_of(app, new["key"]) as with_new:
        for http in (with_old, with_new):
            assert (await http.get("/v1/models")).status_code == 200
        assert (await owner.http.delete(f"/v1/keys/{old['id']}")).status_code == 204
        for http in (with_old, with_new):
            assert problem(await http.get("/v1/models")) == ANONYMOUS
    shown = {key["id"]: key for key in (await owner.http.get("/v1/keys")).json()["data"]}
    assert shown[old["id"]]["revoked_at"] is not None


async def test_another_process_refuses_it_within_a_second(app: Application, owner: Tenant, clock: Clock) -> None:
    """By notification on PostgreSQL, where the clock stands still; a process alone has SQLite, and looks again then."""
    key = await made_key(owner)
    other = Application(app.settings.model_copy(update={"data_dir": app.settings.data_dir / "other"}), clock)
    async with other.running(), client_of(other, key["key"]) as http:
        assert (await http.get("/v1/models")).status_code == 200

        async def refused() -> bool:
            return (await http.get("/v1/models")).status_code == 401

        assert (await owner.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
        if app.database.is_sqlite:
            clock.now += CACHE_SECONDS
            assert await refused()
        else:
            await wait_until(refused)


async def test_revoking_twice_changes_nothing(owner: Tenant) -> None:
    key = await made_key(owner)
    for _ in range(2):
        assert (await owner.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("key.revoke") == 1


@pytest.mark.parametrize("key_id", [str(uuid.UUID(int=7)), "no-id"])
async def test_no_such_key(owner: Tenant, key_id: str) -> None:
    assert problem(await owner.http.delete(f"/v1/keys/{key_id}")) == (404, "not_found_error", None)


async def test_anothers_key_looks_absent(app: Application, owner: Tenant, deployer: Tenant) -> None:
    key = await made_key(owner)
    foreign = await deployer.http.delete(f"/v1/keys/{key['id']}")
    assert message(foreign) == message(await deployer.http.delete(f"/v1/keys/{uuid.uuid4()}"))
    async with client_of(app, key["key"]) as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_without_a_key_or_scope(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    key = await made_key(owner)
    assert problem(await anonymous.delete(f"/v1/keys/{key['id']}")) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "m", "scopes": ["models"]})).json()
    async with client_of(app, lesser["key"]) as http:
        assert problem(await http.delete(f"/v1/keys/{key['id']}")) == (403, "permission_error", None)
