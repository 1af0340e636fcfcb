"""/v1/webhooks: making, looking, changing, deleting."""

import base64
import uuid
from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of, new_tenant
from hooks import Hook, new_hook
from modelshare.server.app import Application
from modelshare.server.audit import events
from modelshare.server.settings import Settings
from receiver import Receiver

pytestmark = pytest.mark.anyio
URL = "https://hooks.example.org/modelshare"
NOT_FOUND = (404, "not_found_error", None)
BAD = (400, "invalid_request_error", None)


async def test_a_new_one_shows_its_secret_once(owner: Tenant) -> None:
    made = await owner.http.post("/v1/webhooks", json={"url": URL, "events": ["model.ready", "agent.*", "model.ready"]})
    assert made.status_code == 201
    body = made.json()
    secret = body.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert (body["url"], body["events"], body["is_active"]) == (URL, ["agent.*", "model.ready"], True)
    assert (await owner.http.get(f"/v1/webhooks/{body['id']}")).json() == body
    assert (await owner.http.get("/v1/webhooks")).json()["data"] == [body]
    other = (await owner.http.post("/v1/webhooks", json={"url": URL})).json()
    assert other["secret"] != secret
    assert other["events"] == []


async def test_the_list_is_paged_newest_first(owner: Tenant) -> None:
    made = [(await new_hook(owner, URL)).id for _ in range(3)]
    first = (await owner.http.get("/v1/webhooks?limit=2")).json()
    rest = (await owner.http.get(f"/v1/webhooks?limit=2&after={first['next_cursor']}")).json()
    assert [item["id"] for item in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_twenty_are_enough(owner: Tenant, deployer: Tenant) -> None:
    hooks = [await new_hook(owner, URL) for _ in range(20)]
    refused = await owner.http.post("/v1/webhooks", json={"url": URL})
    assert problem(refused) == (409, "conflict_error", None)
    assert "20" in message(refused)
    await new_hook(deployer, URL)
    await owner.http.delete(hooks[0].path)
    await new_hook(owner, URL)


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a.example", "https://", "https://a b.example", "https://käse.example", "https://u:p@a.example/",
     "https://a.example/#here", "https://a.example:0/", "https://a.example:99999/", "https://[::1", "https://a.example\\@b/"],
)  # fmt: skip
async def test_what_is_no_url(owner: Tenant, url: str) -> None:
    for answer in (
        await owner.http.post("/v1/webhooks", json={"url": url}),
        await owner.http.patch((await new_hook(owner, URL)).path, json={"url": url}),
    ):
        assert problem(answer) == BAD
        assert answer.json()["error"]["param"] == "url"


@pytest.mark.parametrize(
    "url",
    ["http://a.example/", "https://127.0.0.1/", "https://10.1.2.3:8443/", "https://[::1]/", "https://[::ffff:10.0.0.1]/",
     "https://169.254.169.254/latest", "https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://010.0.0.1/",
     "https://127.0.0.1./"],
)  # fmt: skip
async def test_addresses_that_are_not_public_unless_the_platform_allows_it(settings: Settings, url: str) -> None:
    strict = Application(settings.model_copy(update={"webhooks_allow_private": False}))
    async with strict.running():
        tenant = await new_tenant(strict, "acme")
        async with tenant.http:
            assert problem(await tenant.http.post("/v1/webhooks", json={"url": url})) == BAD


async def test_unknown_events_are_named_with_those_there_are(owner: Tenant) -> None:
    refused = await owner.http.post("/v1/webhooks", json={"url": URL, "events": ["model.ready", "model.gone", "*"]})
    assert problem(refused) == BAD
    assert "`model.gone`, `*`" in message(refused)
    for type_ in (*events.TYPES, "model.*", "endpoint.*", "agent.*"):
        assert type_ in message(refused)
        await owner.http.delete((await new_hook(owner, URL, type_)).path)


async def test_changing(owner: Tenant) -> None:
    hook = await new_hook(owner, URL, "model.*")
    assert (await hook.patch(url="https://new.example/"))["url"] == "https://new.example/"
    changed = await hook.patch(events=[], is_active=False)
    assert (changed["url"], changed["events"], changed["is_active"]) == ("https://new.example/", [], False)
    assert await hook.shown() == changed
    assert await hook.patch() == changed


async def test_deleting(owner: Tenant) -> None:
    hook = await new_hook(owner, URL)
    assert (await owner.http.delete(hook.path)).status_code == 204
    assert problem(await owner.http.get(hook.path)) == NOT_FOUND
    assert problem(await owner.http.delete(hook.path)) == NOT_FOUND


async def test_it_is_in_the_audit_log_without_the_secret(owner: Tenant) -> None:
    hook = await new_hook(owner, URL)
    await hook.patch(is_active=False)
    await owner.http.delete(hook.path)
    entries = (await owner.http.get("/v1/audit")).json()["data"][:3][::-1]
    assert [entry["action"] for entry in entries] == ["webhook.create", "webhook.change", "webhook.delete"]
    assert {entry["target"] for entry in entries} == {f"webhook:{hook.id}"}
    assert hook.secret not in str(entries)
    assert entries[0]["details"] == {"url": URL, "events": []}


REQUESTS = (
    ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries"),
    ("GET", "/deliveries/{delivery}"), ("POST", "/deliveries/{delivery}/redeliver"),
)  # fmt: skip


def requests(hook: Hook, delivery: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    return [
        (method, hook.path + rest.format(delivery=delivery), {"is_active": True} if method == "PATCH" else None)
        for method, rest in REQUESTS
    ]


@pytest.mark.usefixtures("running_app")
async def test_anothers_looks_absent(owner: Tenant, deployer: Tenant, hook: Hook, receiver: Receiver) -> None:
    delivery = (await hook.test())["id"]
    await hook.delivery(state="delivered")
    none = Hook(owner, {"id": str(uuid.uuid4()), "secret": ""})
    for (method, path, body), (_, absent, _) in zip(requests(hook, delivery), requests(none, delivery), strict=True):
        foreign = await deployer.http.request(method, path, json=body)
        assert problem(foreign) == NOT_FOUND
        assert message(foreign) == message(await deployer.http.request(method, absent, json=body))
    theirs = await new_hook(deployer, receiver.url)
    assert problem(await deployer.http.get(f"{theirs.path}/deliveries/{delivery}")) == NOT_FOUND
    assert (await hook.shown())["is_active"]
    assert len(receiver.received) == 1


async def test_without_a_key_or_scope(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient, operator: httpx.AsyncClient, hook: Hook
) -> None:
    lesser = (await owner.http.post("/v1/keys", json={"name": "m", "scopes": ["models", "agents"]})).json()
    everything = [
        *requests(hook, str(uuid.uuid4())),
        ("GET", "/v1/webhooks", None),
        ("POST", "/v1/webhooks", {"url": URL}),
    ]
    async with client_of(app, lesser["key"]) as http:
        for method, path, body in everything:
            assert problem(await anonymous.request(method, path, json=body)) == ANONYMOUS
            assert problem(await operator.request(method, path, json=body)) == ANONYMOUS, "no project"
            refused = await http.request(method, path, json=body)
            assert problem(refused) == (403, "permission_error", None)
            assert "`keys`" in message(refused)


@pytest.mark.parametrize("name", ["no-id", "%00", str(uuid.UUID(int=7))])
async def test_no_such_webhook_or_delivery(owner: Tenant, hook: Hook, name: str) -> None:
    assert problem(await owner.http.get(f"/v1/webhooks/{name}")) == NOT_FOUND
    assert problem(await owner.http.get(f"{hook.path}/deliveries/{name}")) == NOT_FOUND
    assert problem(await owner.http.post(f"{hook.path}/deliveries/{name}/redeliver")) == NOT_FOUND


@pytest.mark.parametrize("query", ["limit=0", "after=x", "state=lost"])
async def test_bad_queries(hook: Hook, query: str) -> None:
    assert problem(await hook.http.get(f"{hook.path}/deliveries?{query}")) == BAD
