"""`confirmations` and `pending` of GET /v1/audit, and GET /v1/platform/processes: one process."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from answers import ANONYMOUS, problem
from conftest import Tenant
from factories import make_model
from link_agent import enroll
from modelshare import __version__
from modelshare.server.app import Application, create_app
from modelshare.server.audit.tables import ProcessRow
from modelshare.server.db import CONFIRM_TOPIC, now_ms
from modelshare.server.settings import Settings
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def entry_of(tenant: Tenant, action: str) -> dict[str, Any]:
    """The newest entry of this action."""
    entries = (await tenant.http.get("/v1/audit")).json()["data"]
    return next(dict(entry) for entry in entries if entry["action"] == action)


async def confirmed(tenant: Tenant, action: str, by: int = 1) -> dict[str, Any]:
    """The newest entry of this action, once so many processes have confirmed it and none is pending."""

    async def check() -> dict[str, Any] | None:
        entry = await entry_of(tenant, action)
        return entry if len(entry["confirmations"]) == by and not entry["pending"] else None

    found = await wait_until(check)
    assert found is not None
    return found


async def processes(operator: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await operator.get("/v1/platform/processes")).json()["data"])


async def test_what_takes_effect_everywhere_is_confirmed(
    app: Application, owner: Tenant, operator: httpx.AsyncClient
) -> None:
    began = time.time()
    model = await make_model(app, owner.project.id)
    key = (await owner.http.post("/v1/keys", json={"name": "k"})).json()
    agent_id, _ = await enroll(owner.http)
    await owner.http.post(f"/v1/keys/{key['id']}/rotate")
    await owner.http.delete(f"/v1/keys/{key['id']}")
    await owner.http.post(f"/v1/models/{model}/share")
    await owner.http.post("/v1/endpoints", json={"slug": "e", "model": str(model), "tier": "free"})
    await owner.http.patch("/v1/endpoints/e", json={"is_active": False})
    await owner.http.delete("/v1/endpoints/e")
    await owner.http.post(f"/v1/models/{model}/unshare")
    await owner.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})
    await owner.http.delete(f"/v1/agents/{agent_id}")
    await owner.http.delete(f"/v1/models/{model}")
    (process,) = await processes(operator)
    for action in (
        "key.rotate", "key.revoke", "model.share", "endpoint.change", "endpoint.delete", "model.unshare",
        "agent.suspend", "agent.remove", "model.delete",
    ):  # fmt: skip
        entry = await confirmed(owner, action)
        (confirmation,) = entry["confirmations"]
        assert confirmation["process"] == process["name"], action
        assert 0 <= confirmation["after_ms"] <= 1000 * (time.time() - began)
    for action in ("key.create", "endpoint.create", "agent.enroll"):
        entry = await entry_of(owner, action)
        assert (entry["confirmations"], entry["pending"]) == ([], []), action


async def test_a_refused_change_needs_no_confirmation(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    assert (await deployer.http.post(f"/v1/models/{model}/unshare")).status_code == 404
    entry = await entry_of(deployer, "model.unshare")
    assert (entry["confirmations"], entry["pending"]) == ([], [])


async def test_no_confirmation_before_all_is_dropped(app: Application, owner: Tenant) -> None:
    """What takes a moment to drop, such as a link's end, is waited for."""
    dropping, dropped = asyncio.Event(), asyncio.Event()

    async def drop() -> None:
        dropping.set()
        await dropped.wait()

    app.database.subscribe("keys", lambda _: drop())
    key = (await owner.http.post("/v1/keys", json={"name": "k"})).json()
    await owner.http.delete(f"/v1/keys/{key['id']}")
    await dropping.wait()
    await asyncio.sleep(0.3)  # time enough to confirm wrongly
    entry = await entry_of(owner, "key.revoke")
    assert (entry["confirmations"], len(entry["pending"])) == ([], 1)
    dropped.set()
    await confirmed(owner, "key.revoke")


async def test_confirmations_are_asked_for_last(app: Application, owner: Tenant) -> None:
    """So that who hears of one has been told everything else of the change."""
    told: list[str] = []
    app.database.subscribe(CONFIRM_TOPIC, lambda _: told.append("confirm"))
    app.database.subscribe("keys", lambda _: told.append("drop"))
    key = (await owner.http.post("/v1/keys", json={"name": "k"})).json()
    await owner.http.delete(f"/v1/keys/{key['id']}")
    assert told[:2] == ["drop", "confirm"]


async def test_what_was_not_heard_of_is_found_and_confirmed(
    app: Application, owner: Tenant, settings: Settings, operator: httpx.AsyncClient
) -> None:
    """On SQLite no notification reaches another process; on PostgreSQL it may be lost."""
    key = (await owner.http.post("/v1/keys", json={"name": "k"})).json()
    deaf = create_app(settings.model_copy(update={"advertise_url": "http://deaf.test"}))
    deaf.database._listeners[CONFIRM_TOPIC].clear()
    async with deaf.running():
        assert len(await processes(operator)) == 2
        await owner.http.delete(f"/v1/keys/{key['id']}")
        await confirmed(owner, "key.revoke", by=2)


async def test_the_list_of_processes(app: Application, settings: Settings, operator: httpx.AsyncClient) -> None:
    (own,) = await processes(operator)
    assert own["object"] == "process"
    assert own["address"] == settings.address
    assert own["version"] == __version__
    assert abs(own["started_at"] - app.platform.now()) < 60
    assert own["started_at"] <= own["seen_at"] <= own["started_at"] + 60
    other = create_app(settings.model_copy(update={"advertise_url": "http://other.test"}))
    async with other.running():
        names = [one["name"] for one in await processes(operator)]
        assert names[0] == own["name"]
        first = (await operator.get("/v1/platform/processes?limit=1")).json()
        second = (await operator.get(f"/v1/platform/processes?limit=1&after={first['next_cursor']}")).json()
        assert [one["name"] for page in (first, second) for one in page["data"]] == names
        assert (first["has_more"], second["has_more"]) == (True, False)
    assert [one["name"] for one in await processes(operator)] == names[:1], "it ended in good order"


async def test_a_process_that_died_is_forgotten(app: Application, owner: Tenant, operator: httpx.AsyncClient) -> None:
    async with app.database.write() as session:
        now = now_ms(session)
        for name, ago in (("p-dead", 31_000), ("p-silent", 0)):
            row = ProcessRow(name=name, address=f"http://{name}.test", started_ms=now - 60_000, seen_ms=now - ago)
            session.add(row)

    async def forgotten() -> bool:
        return "p-dead" not in [one["name"] for one in await processes(operator)]

    await wait_until(forgotten)
    key = (await owner.http.post("/v1/keys", json={"name": "k"})).json()
    await owner.http.delete(f"/v1/keys/{key['id']}")

    async def own_is_there() -> bool:
        return len((await entry_of(owner, "key.revoke"))["confirmations"]) == 1

    await wait_until(own_is_there)
    assert (await entry_of(owner, "key.revoke"))["pending"] == ["p-silent"]


async def test_a_restart_at_the_same_place_takes_the_place(settings: Settings, app: Application) -> None:
    async with app.database.write() as session:
        now = now_ms(session)
        session.add(ProcessRow(name="p-killed", address="http://place.test", started_ms=now, seen_ms=now))
    again = create_app(settings.model_copy(update={"advertise_url": "http://place.test"}))
    async with again.running(), app.database.read() as session:
        assert await session.get(ProcessRow, "p-killed") is None


async def test_the_databases_clock_is_in_unix_milliseconds(app: Application) -> None:
    async with app.database.read() as session:
        value = await session.scalar(select(now_ms(session)))
    assert value is not None
    assert abs(value - app.platform.clock() * 1000) < 60_000


@pytest.mark.parametrize("query", ["limit=0", "after=x", "after=WyJ4Il0"])
async def test_bad_input(operator: httpx.AsyncClient, query: str) -> None:
    assert problem(await operator.get(f"/v1/platform/processes?{query}")) == (400, "invalid_request_error", None)


async def test_tenants_do_not_learn_of_addresses(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    assert problem(await owner.http.get("/v1/platform/processes"))[:2] == (403, "permission_error")
    assert problem(await anonymous.get("/v1/platform/processes")) == ANONYMOUS
