"""POST /v1/keys/{id}/suspend and /resume."""

import base64
import uuid

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.accounts.key_auth import KeyUse
from modelshare.server.app import Application
from modelshare.server.cache import CACHE_SECONDS
from modelshare.server.ids import secret_hash
from modelshare.wire.hub_tokens import token_of
from served import wait_until

pytestmark = pytest.mark.anyio


async def made_key(tenant: Tenant, **fields: object) -> dict[str, str]:
    made: dict[str, str] = (await tenant.http.post("/v1/keys", json={"name": "ending", **fields})).json()
    return made


async def suspend(tenant: Tenant, key_id: str, step: str = "suspend") -> httpx.Response:
    return await tenant.http.post(f"/v1/keys/{key_id}/{step}")


async def test_all_its_values_are_refused_at_once_until_it_is_resumed(app: Application, owner: Tenant) -> None:
    old = await made_key(owner)
    new = (await owner.http.post(f"/v1/keys/{old['id']}/rotate")).json()
    async with client_of(app, old["key"]) as with_old, client_of(app, new["key"]) as with_new:
        for http in (with_old, with_new):
            assert (await http.get("/v1/models")).status_code == 200
        suspended = await suspend(owner, old["id"])
        assert (suspended.status_code, suspended.json()["suspended_at"]) == (200, app.platform.now())
        for http in (with_old, with_new):
            refused = await http.get("/v1/models")
            assert problem(refused) == ANONYMOUS
            assert "This key is suspended" in message(refused)
        rotated = (await owner.http.post(f"/v1/keys/{old['id']}/rotate")).json()
        async with client_of(app, rotated["key"]) as http:
            assert (await http.get("/v1/models")).status_code == 401
            assert (await suspend(owner, old["id"], "resume")).json()["suspended_at"] is None
            assert (await http.get("/v1/models")).status_code == 200
        assert (await with_new.get("/v1/models")).status_code == 200
        assert problem(await with_old.get("/v1/models")) == ANONYMOUS  # it is the oldest of three values


async def test_every_way_in_says_so(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    key = await made_key(owner)
    await suspend(owner, key["id"])
    basic = base64.b64encode(f"x:{key['key']}".encode()).decode()
    for path, credential in (
        ("/v1/models", f"Bearer {key['key']}"),
        ("/v1/catalog/models", f"Bearer {key['key']}"),
        (f"/{owner.project.id}/v1/models", f"Bearer {key['key']}"),
        (f"/{owner.project.id}/chat/v1/models", f"Bearer {key['key']}"),
        ("/hf/api/whoami-v2", f"Bearer {token_of(key['key'])}"),
        ("/hf/acme/tiny/resolve/main/config.json", f"Bearer {token_of(key['key'])}"),
        ("/v2/token", f"Basic {basic}"),
        ("/v2/acme/tiny/manifests/latest", f"Bearer {key['key']}"),
    ):
        refused = await anonymous.get(path, headers={"Authorization": credential})
        assert refused.status_code == 401, path
        assert "This key is suspended" in refused.text, path


async def test_a_token_made_from_the_key_is_suspended_with_it(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    key = await made_key(owner)
    basic = base64.b64encode(f"x:{key['key']}".encode()).decode()
    issued = await anonymous.get("/v2/token", headers={"Authorization": f"Basic {basic}"})
    bearer = {"Authorization": f"Bearer {issued.json()['token']}"}
    assert (await anonymous.get("/v2/", headers=bearer)).status_code == 200
    await suspend(owner, key["id"])
    assert (await anonymous.get("/v2/", headers=bearer)).status_code == 401
    await suspend(owner, key["id"], "resume")
    assert (await anonymous.get("/v2/", headers=bearer)).status_code == 200


async def test_only_who_has_the_whole_key_learns_of_it(app: Application, owner: Tenant, clock: Clock) -> None:
    away = await made_key(owner, allowed_ips=["10.0.0.0/8"])
    expired, revoked = await made_key(owner, expires_in=10), await made_key(owner)
    for key in (away, expired, revoked):
        await suspend(owner, key["id"])
    await owner.http.delete(f"/v1/keys/{revoked['id']}")
    clock.now += 10
    for key in (away, expired, revoked):
        async with client_of(app, key["key"]) as http:
            assert message(await http.get("/v1/models")) == "Authentication required"


async def test_its_requests_in_progress_are_over(app: Application, owner: Tenant) -> None:
    key = await made_key(owner)
    use = KeyUse(secret_hash(key["key"]), "127.0.0.1")
    assert await app.platform.keys.revoked_among([use]) == set()
    await suspend(owner, key["id"])
    assert await app.platform.keys.revoked_among([use]) == {use}
    await suspend(owner, key["id"], "resume")
    assert await app.platform.keys.revoked_among([use]) == set()


async def test_another_process_refuses_and_takes_it_within_a_second(
    app: Application, owner: Tenant, clock: Clock
) -> None:
    """By notification on PostgreSQL, where the clock stands still; a process alone has SQLite, and looks again then."""
    key = await made_key(owner)
    other = Application(app.settings.model_copy(update={"data_dir": app.settings.data_dir / "other"}), clock)
    async with other.running(), client_of(other, key["key"]) as http:
        for step, status in (("resume", 200), ("suspend", 401), ("resume", 200)):
            await suspend(owner, key["id"], step)
            if app.database.is_sqlite:
                clock.now += CACHE_SECONDS

            async def answers(expected: int = status) -> bool:
                return (await http.get("/v1/models")).status_code == expected

            await wait_until(answers)


async def test_each_change_is_audited_once_and_suspending_is_confirmed(owner: Tenant) -> None:
    key = await made_key(owner)
    for step in ("suspend", "suspend", "resume", "resume"):
        assert (await suspend(owner, key["id"], step)).status_code == 200
    entries = [entry for entry in (await owner.http.get("/v1/audit")).json()["data"] if "key." in entry["action"]]
    assert [entry["action"] for entry in entries[:3]] == ["key.resume", "key.suspend", "key.create"]
    assert entries[1]["target"] == f"key:{key['id']}"


@pytest.mark.parametrize("step", ["suspend", "resume"])
async def test_a_revoked_key_stays_revoked(owner: Tenant, step: str) -> None:
    key = await made_key(owner)
    await owner.http.delete(f"/v1/keys/{key['id']}")
    assert problem(await suspend(owner, key["id"], step)) == (409, "conflict_error", None)


@pytest.mark.parametrize("step", ["suspend", "resume"])
async def test_who_may_not(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, step: str
) -> None:
    key = await made_key(owner)
    path = f"/v1/keys/{key['id']}/{step}"
    assert problem(await anonymous.post(path)) == ANONYMOUS
    assert problem(await deployer.http.post(path)) == (404, "not_found_error", None)
    for unknown in (uuid.UUID(int=7), "no-id"):
        assert problem(await suspend(owner, str(unknown), step)) == (404, "not_found_error", None)
    lesser = await made_key(owner, scopes=["models"])
    async with client_of(app, lesser["key"]) as http:
        assert problem(await http.post(path)) == (403, "permission_error", None)
