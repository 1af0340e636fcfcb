"""POST /v1/keys."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from answers import ANONYMOUS, message, problem
from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.app import Application
from modelshare.server.ids import secret_hash
from modelshare.wire.keys import Scope

pytestmark = pytest.mark.anyio
ClientWith = Callable[..., Awaitable[httpx.AsyncClient]]


async def test_a_key_works_and_is_as_asked_for(app: Application, owner: Tenant, clock: Clock) -> None:
    spec = {"name": "ci", "scopes": ["models"], "expires_in": 60, "allowed_ips": ["10.0.0.0/8"], "endpoint": "chat"}
    made = await owner.http.post("/v1/keys", json=spec)
    assert made.status_code == 201
    body = made.json()
    assert body["key"].startswith("ms_acme_")
    assert len(body["key"]) == len("ms_acme_") + 43
    assert (body["name"], body["scopes"], body["allowed_ips"]) == ("ci", ["models"], ["10.0.0.0/8"])
    assert (body["endpoint"], body["revoked_at"]) == ("chat", None)
    assert body["created_at"] == int(clock())
    assert body["expires_at"] == int(clock()) + 60

    plain = (await owner.http.post("/v1/keys", json={"name": "plain"})).json()
    assert (plain["scopes"], plain["expires_at"], plain["allowed_ips"], plain["endpoint"]) == ([], None, [], None)
    async with client_of(app, plain["key"]) as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_the_value_is_shown_once_and_only_its_hash_is_stored(app: Application, owner: Tenant) -> None:
    value = (await owner.http.post("/v1/keys", json={"name": "once"})).json()["key"]
    random = value[-43:]
    for path in ("/v1/keys", "/v1/audit"):
        assert random not in (await owner.http.get(path)).text
    async with app.database.read() as session:
        tables = ("keys", "key_values", "audit_log", "projects")
        stored = [str(row) for table in tables for row in await session.execute(text(f"SELECT * FROM {table}"))]
    assert not any(random in row for row in stored)
    assert any(secret_hash(value) in row for row in stored)


async def test_an_expired_key_is_refused(client_with: ClientWith, clock: Clock) -> None:
    http = await client_with(expires_in=60)
    clock.now += 59
    assert (await http.get("/v1/models")).status_code == 200
    clock.now += 1
    assert problem(await http.get("/v1/models")) == ANONYMOUS


async def test_a_key_is_refused_from_elsewhere(client_with: ClientWith) -> None:
    """The test's client is 127.0.0.1."""
    here = await client_with(allowed_ips=["10.0.0.0/8", "127.0.0.1/32"])
    assert (await here.get("/v1/models")).status_code == 200
    elsewhere = await client_with(allowed_ips=["10.0.0.0/8", "2001:db8::/32"])
    assert problem(await elsewhere.get("/v1/models")) == ANONYMOUS
    forged = await elsewhere.get("/v1/models", headers={"X-Forwarded-For": "10.1.2.3"})
    assert problem(forged) == ANONYMOUS, "nobody vouches for the header"


async def test_a_locked_key_calls_only_its_endpoint(client_with: ClientWith, owner: Tenant) -> None:
    http = await client_with(endpoint="chat")
    other = await http.get(f"/{owner.project.id}/other/v1/models")
    assert problem(other) == (403, "permission_error", None)
    assert "`chat`" in message(other)
    own = await http.get(f"/{owner.project.id}/chat/v1/models")
    assert problem(own) == (404, "not_found_error", "endpoint_not_found"), "allowed, but there is none yet"


@pytest.mark.parametrize("scope", list(Scope))
async def test_scopes(client_with: ClientWith, owner: Tenant, scope: Scope) -> None:
    routes = {
        Scope.MODELS: "/v1/models",
        Scope.ENDPOINTS: "/v1/endpoints",
        Scope.AGENTS: "/v1/agents",
        Scope.KEYS: "/v1/keys",
        Scope.INFERENCE: f"/{owner.project.id}/none/v1/models",
    }
    http = await client_with(scopes=[scope])
    for needed, path in routes.items():
        answer = await http.get(path)
        if needed is scope:
            assert answer.status_code == (404 if scope is Scope.INFERENCE else 200)
        else:
            assert problem(answer) == (403, "permission_error", None)
            assert f"`{needed}`" in message(answer)


async def test_a_key_locked_to_an_endpoint_manages_nothing(client_with: ClientWith) -> None:
    http = await client_with(endpoint="chat")
    for path in ("/v1/models", "/v1/endpoints", "/v1/keys", "/v1/agents"):
        assert problem(await http.get(path)) == (403, "permission_error", None)


@pytest.mark.parametrize(
    ("own", "spec", "missing"),
    [
        ({"scopes": ["keys", "models"]}, {"scopes": ["endpoints"]}, "scopes"),
        ({"scopes": ["keys", "models"]}, {}, "scopes"),
        ({"endpoint": "chat", "scopes": ["keys"]}, {"scopes": ["keys"]}, "endpoint"),
        ({"endpoint": "chat", "scopes": ["keys"]}, {"scopes": ["keys"], "endpoint": "other"}, "endpoint"),
        ({"allowed_ips": ["127.0.0.0/8"]}, {}, "allowed_ips"),
        ({"allowed_ips": ["127.0.0.0/8"]}, {"allowed_ips": ["127.0.0.0/8", "10.0.0.0/8"]}, "allowed_ips"),
        ({"expires_in": 60}, {}, "expires_in"),
        ({"expires_in": 60}, {"expires_in": 61}, "expires_in"),
    ],
)
async def test_a_key_hands_out_no_more_than_it_has(
    client_with: ClientWith, own: dict[str, Any], spec: dict[str, Any], missing: str
) -> None:
    http = await client_with(**own)
    refused = await http.post("/v1/keys", json={"name": "more", **spec})
    assert problem(refused) == (403, "permission_error", None)
    assert f"`{missing}`" in message(refused)
    allowed = await http.post("/v1/keys", json={"name": "as much", **own})
    assert allowed.status_code == 201, allowed.text


async def test_bad_input(owner: Tenant) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("name", "", "name"),
        ("name", "x" * 101, "name"),
        ("name", "a\0b", "name"),
        ("scopes", ["everything"], "scopes.0"),
        ("expires_in", 0, "expires_in"),
        ("expires_in", 10**30, "expires_in"),
        ("allowed_ips", ["not an address"], "allowed_ips.0"),
        ("allowed_ips", [5], "allowed_ips.0"),
        ("allowed_ips", [True], "allowed_ips.0"),
        ("endpoint", "No Slug", "endpoint"),
        ("scope", ["models"], "scope"),
    ]
    for field, value, where in cases:
        answer = await owner.http.post("/v1/keys", json={"name": "x", field: value})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert f"`{where}" in message(answer)
    assert [key["name"] for key in (await owner.http.get("/v1/keys")).json()["data"]] == ["first key"]


async def test_without_a_key_or_scope(client_with: ClientWith, anonymous: httpx.AsyncClient) -> None:
    assert problem(await anonymous.post("/v1/keys", json={"name": "x"})) == ANONYMOUS
    http = await client_with(scopes=["models"])
    refused = await http.post("/v1/keys", json={"name": "x", "scopes": ["models"]})
    assert problem(refused) == (403, "permission_error", None)
    assert "`keys`" in message(refused)
