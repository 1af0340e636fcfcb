"""One form for every error, and nothing of the inside in it."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from structlog.testing import capture_logs

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of, new_tenant
from factories import make_model
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.api import api
from modelshare.server.app import MAX_BODY, Application, create_app
from modelshare.server.db import for_update
from modelshare.server.http import WriteSession
from modelshare.server.settings import Settings
from postgres import postgres_server, run_sql
from served import serving

pytestmark = pytest.mark.anyio
JSON = {"Content-Type": "application/json"}


async def test_no_such_route(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    for http in (owner.http, anonymous):
        for path in ("/v1/nothing", "/nothing", "/v1", f"/{owner.project.id}/v1/nothing"):
            answer = await http.get(path)
            assert problem(answer) == (404, "not_found_error", None)
            assert "/docs" in message(answer)


async def test_a_slash_too_much_leads_nowhere(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    """A redirect would lose the project, and believe the Host that the request names."""
    for http in (owner.http, anonymous):
        for path in ("/v1/models/", f"/{owner.project.id}/v1/models/", "/models/catalog/", "/healthz/"):
            answer = await http.get(path)
            assert problem(answer) == (404, "not_found_error", None)


async def test_no_such_method(owner: Tenant) -> None:
    answer = await owner.http.put("/v1/tiers")
    assert problem(answer) == (405, "invalid_request_error", None)
    assert answer.headers["allow"] == "GET"


async def test_a_body_without_end(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            sent.append(megabyte)
            yield megabyte

    sent: list[bytes] = []
    megabyte = b" " * (1 << 20)
    announced = megabyte * (MAX_BODY // len(megabyte) + 1)
    for content in (announced, endless()):
        answer = await owner.http.post("/v1/keys", content=content, headers=JSON)
        assert problem(answer) == (413, "invalid_request_error", None)
        assert "several requests" in message(answer)
    assert 16 < len(sent) < 500
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://modelshare.test"}
    answer = await anonymous.post("/sign-in", content=b"email=" + announced, headers=form)
    assert answer.status_code == 413
    assert "too large" in answer.text


async def test_bad_bodies(owner: Tenant) -> None:
    for body in (
        b"",
        b"{",
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"name": NaN}',
        b'{"name": ' + b"9" * 10_000 + b"}",
        rb'{"name": "\ud800"}',
        rb'{"\ud800": 1, "name": "x"}',
        rb'{"name": "x\u0000"}',
    ):
        answer = await owner.http.post("/v1/keys", content=body, headers=JSON)
        assert problem(answer) == (400, "invalid_request_error", None), body[:20]
    answer = await owner.http.post("/v1/keys", content=b'{"name": "x", }', headers=JSON)
    assert answer.json()["error"]["param"] is None, "which is a field's name, not a place in the text"


async def test_validation_names_the_field(owner: Tenant) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "name"),
        ({"name": 7}, "name"),
        ({"name": "x", "surprise": 1}, "surprise"),
        ({"name": "x", "scopes": ["models", "x"]}, "scopes.1"),
    ]
    for body, param in cases:
        error = (await owner.http.post("/v1/keys", json=body)).json()["error"]
        assert error["param"] == param
        assert error["message"].startswith(f"`{param}`: ")
        assert error["message"].endswith(".")


async def test_a_message_is_said_as_it_is_meant(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    refused = await owner.http.patch(f"/v1/models/{model}", json={"name": "x..y"})
    assert message(refused).endswith("no `.` or `-` at the start or end, no `..` and no `--`.")
    refused = await owner.http.post("/v1/keys", json={"name": "x", "allowed_ips": ["..."]})
    assert message(refused).startswith("`allowed_ips.0`: ")
    assert not message(refused).endswith("..")


async def test_strange_paths_and_queries(owner: Tenant) -> None:
    for path in (
        "/v1/endpoints/%00",
        "/v1/endpoints/%F0%9F%A6%99",
        "/v1/endpoints/" + "x" * 3000,
        "/v1/keys/%00",
        "/v1/catalog/models?q=%00",
        "/v1/catalog/models?min_parameters=99999999999999999999999",
        "/proj_%00/v1/models",
    ):
        answer = await owner.http.get(path)
        assert answer.status_code < 500, path


async def test_every_answer_has_a_request_id_of_its_own(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    answers = [
        await anonymous.get("/healthz"),
        await anonymous.get("/v1/tiers"),
        await anonymous.get("/nothing"),
        await anonymous.get("/v1/models"),
        await owner.http.get("/v1/models"),
        await owner.http.post(f"/{owner.project.id}/none/v1/chat/completions", json={}),
        await anonymous.get("/openapi.json"),
        await anonymous.get("/docs"),
    ]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(answers)


async def test_a_500_tells_nothing_of_the_inside(app: Application, owner: Tenant) -> None:
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE audit_log RENAME TO lost"))
    with capture_logs() as logs:
        answer = await owner.http.get("/v1/audit")
    assert problem(answer) == (500, "server_error", None)
    for inside in ("audit_log", "SELECT", "Traceback", "sqlite", "asyncpg", "/"):
        assert inside not in answer.text.replace("application/json", "")
    (entry,) = [entry for entry in logs if entry["event"] == "request failed"]
    assert entry["path"] == "/v1/audit"
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE lost RENAME TO audit_log"))


@pytest.fixture
def own_api() -> Iterator[FastAPI]:
    """The test's own, to add routes to; applications made from then on have it."""
    api.cache_clear()
    yield api()
    api.cache_clear()


async def test_a_500_outside_the_database(own_api: FastAPI, app: Application, owner: Tenant) -> None:
    """A route that breaks in a way nobody foresaw, as the real server answers it."""

    @own_api.get("/break")
    async def break_() -> None:
        raise RuntimeError("secret words of the inside")

    with capture_logs() as logs:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://modelshare.test"
        ) as http:
            answer = await http.get("/break")
    assert problem(answer) == (500, "server_error", None)
    assert "secret words" not in answer.text
    assert [entry["event"] for entry in logs] == ["request failed"]


async def test_unauthenticated_says_how(anonymous: httpx.AsyncClient) -> None:
    for header in (None, "Bearer", "Bearer ", "Basic YTpi", "Bearer ms_acme_wrong", "ms_acme_wrong"):
        answer = await anonymous.get("/v1/models", headers={"Authorization": header} if header else {})
        assert problem(answer) == ANONYMOUS
        assert message(answer) == "Authentication required"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.fixture
async def strict(settings: Settings) -> AsyncIterator[Application]:
    limited = settings.model_copy(update={"public_requests_per_minute": 4, "trusted_proxies": ("127.0.0.1",)})
    now = iter(range(1_000_000, 2_000_000))
    application = Application(limited, lambda: next(now) / 1000)
    async with application.running():
        yield application


async def test_public_routes_are_limited_per_address(strict: Application) -> None:
    """4 a minute and half as many more at once."""
    tenant = await new_tenant(strict, "acme")
    async with client_of(strict) as http, tenant.http:

        async def status(address: str) -> int:
            return (await http.get("/v1/catalog/models", headers={"X-Forwarded-For": address})).status_code

        assert [await status("10.0.0.1") for _ in range(8)] == [200] * 6 + [429] * 2
        assert await status("10.0.0.1:5000") == 429
        assert await status("10.0.0.2") == 200
        assert [await status(f"[2001:db8::{host}]:443") for host in range(8)] == [200] * 6 + [429] * 2
        refused = await http.get("/v1/tiers", headers={"X-Forwarded-For": "10.0.0.1"})
        assert problem(refused) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 15
        assert [(await tenant.http.get("/v1/models")).status_code for _ in range(8)] == [200] * 8


async def test_a_key_is_used_from_where_the_proxy_says(strict: Application) -> None:
    """By the API and by endpoints alike, and by the whole address."""
    tenant = await new_tenant(strict, "acme")
    spec = {"name": "here", "allowed_ips": ["2001:db8::1", "10.0.0.1"]}
    async with tenant.http:
        key = (await tenant.http.post("/v1/keys", json=spec)).json()["key"]
    async with client_of(strict, key) as http:
        for address, here in (
            ("[2001:db8::1]:443", True),
            ("2001:db8::1", True),
            ("10.0.0.1:5000", True),
            ("10.0.0.1, 10.0.0.2", False),
            ("[2001:db8::2]:443", False),
        ):
            headers = {"X-Forwarded-For": address}
            listed = await http.get("/v1/models", headers=headers)
            called = await http.get(f"/{tenant.project.id}/none/v1/models", headers=headers)
            assert (listed.status_code, called.status_code) == ((200, 404) if here else (401, 401)), address


async def test_a_deadlock(own_api: FastAPI, tmp_path: Path, postgres: str) -> None:
    """Two requests that want each other's row: the database undoes one of them, which can be sent again."""
    run_sql(f"{postgres}/postgres", "CREATE DATABASE deadlock")
    app = create_app(Settings(data_dir=tmp_path, database_url=f"{postgres}/deadlock"))
    both_hold_one = asyncio.Barrier(2)

    @own_api.post("/take/{first}/{second}")
    async def take(session: WriteSession, first: str, second: str) -> None:
        await session.scalar(for_update(select(ProjectRow.id).where(ProjectRow.slug == first)))
        await both_hold_one.wait()
        await session.scalar(for_update(select(ProjectRow.id).where(ProjectRow.slug == second)))

    async with app.running(), client_of(app) as http:
        for slug in ("acme", "borg"):
            await (await new_tenant(app, slug)).http.aclose()
        answers = await asyncio.gather(http.post("/take/acme/borg"), http.post("/take/borg/acme"))
    done, undone = sorted(answers, key=lambda answer: answer.status_code)
    assert done.status_code == 200
    assert problem(undone) == (503, "server_error", None)
    assert message(undone) == "This was changed by another request; try again."


async def test_while_the_database_is_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        app = create_app(Settings(data_dir=tmp_path, database_url=f"{server}/postgres"))
        async with app.running():
            tenant = await new_tenant(app, "acme")
            async with tenant.http as http, client_of(app) as anonymous:
                assert (await http.get("/v1/models")).status_code == 200
                stack.close()
                for path in ("/v1/models", "/readyz"):
                    answer = await http.get(path)
                    assert problem(answer) == (503, "server_error", None)
                    assert "5432" not in answer.text
                assert (await anonymous.get("/healthz")).status_code == 200, "the process lives"


async def test_what_is_wrong_with_a_body_is_said(owner: Tenant) -> None:
    for body, words in (
        (b'\xef\xbb\xbf{"name": "x"}', "byte order mark"),
        (b'{"name": NaN}', "`NaN`"),
        (b'{"name": "x", "expires_in": Infinity}', "`Infinity`"),
        (rb'{"name": "\ud800"}', r"`\ud800`"),
        (b'{"name": "x"', "truncated"),
        (b'{"name": "x",}', "line 1"),
        (b'{"name": "\xe4"}', "UTF-8"),
        (gzip.compress(b'{"name": "x"}'), "compressed"),
        ('{"name": "x"}'.encode("utf-16"), "UTF-16"),
    ):
        answer = await owner.http.post("/v1/keys", content=body, headers=JSON)
        assert problem(answer) == (400, "invalid_request_error", None), body
        assert words in message(answer), message(answer)


async def test_an_encoded_body_is_not_taken(owner: Tenant) -> None:
    encoded = JSON | {"Content-Encoding": "gzip"}
    for path in ("/v1/keys", "/v1/uploads"):
        answer = await owner.http.post(path, content=gzip.compress(b"{}"), headers=encoded)
        assert problem(answer) == (415, "invalid_request_error", None)
        assert "`gzip`" in message(answer)
        assert answer.headers["accept-encoding"] == "identity"


async def test_too_long_a_body_is_refused_before_it_comes(app: Application, owner: Tenant) -> None:
    """Over a real connection, on which nothing but the head is sent."""
    inference = f"/{owner.project.id}/none/v1/chat/completions"
    async with serving(app) as url:
        for path, status in (("/v1/keys", 413), ("/sign-in", 413), (inference, 404)):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            head = f"POST {path} HTTP/1.1\r\nHost: {httpx.URL(url).netloc.decode()}\r\n"
            head += f"Authorization: Bearer {owner.project.api_key}\r\nContent-Length: {1 << 40}\r\n"
            head += "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(60):
                assert (await reader.readline()).startswith(f"HTTP/1.1 {status} ".encode()), path
            writer.close()


async def test_a_client_that_sends_on_still_hears_the_answer(app: Application, owner: Tenant) -> None:
    """Clients that send all before they listen: the connection must not be reset under them."""
    body = b" " * (MAX_BODY * 3)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers=owner.http.headers) as http:
        answer = await http.post("/v1/keys", content=body, headers=JSON)
    assert problem(answer) == (413, "invalid_request_error", None)
